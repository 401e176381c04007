from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmdiff import recipes
from mmdiff.errors import RecipeError

SCRIPT = '''"""A recipe that counts.

More about it.
"""
from __future__ import annotations
from pathlib import Path
import json

def main(
    out: Path, steps: int = 3, sizes: tuple[int, ...] = (1, 2), resume: bool = False, name: str | None = None
):
    """Count.

    Parameters
    ----------
    out : Path
        File to write.
    steps : int
        How far.
    """
    out.write_text(json.dumps([steps, list(sizes), resume, name]))

if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
'''


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "recipes" / "audio"
    folder.mkdir(parents=True)
    (folder / "counting.py").write_text(SCRIPT)
    (folder / "counting.yaml").write_text("# The usual one.\nsteps: 10\n")
    (folder / "counting.tiny.yaml").write_text("# In seconds.\nsteps: 1\nsizes: [5]\n")
    (folder / "_shared.py").write_text("")
    monkeypatch.setattr(recipes, "PLACES", (tmp_path / "recipes",))
    return folder


def test_list_tells_names_summaries_and_variants(mmdiff_command, shelf):
    outcome = mmdiff_command("recipes")
    assert outcome.status == 0
    assert outcome.out.splitlines() == [
        "counting  A recipe that counts.",
        "  counting  The usual one.",
        "  counting.tiny  In seconds.",
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["counting"], "[10, [1, 2], false, null]"),
        (["counting.tiny"], "[1, [5], false, null]"),
        (["counting.tiny", "--steps", "7", "--resume"], "[7, [5], true, null]"),
        (["counting", "--resume", "true", "--sizes", "[3, 4]", "--name=x"], '[10, [3, 4], true, "x"]'),
    ],
)
def test_settings_come_from_the_variant_and_then_the_command_line(
    mmdiff_command, shelf, tmp_path, arguments, expected
):
    outcome = mmdiff_command("run", *arguments, "--out", tmp_path / "result.json")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "result.json").read_text() == expected


def test_own_configuration_overrides_the_variant(mmdiff_command, shelf, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"steps: 4\nout: {tmp_path / 'result.json'}\n")
    outcome = mmdiff_command("run", "counting.tiny", "--config", tmp_path / "mine.yaml")
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "result.json").read_text() == "[4, [5], false, null]"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["sorting"], "name='sorting' must be one of counting"),
        (["counting.huge"], "name='counting.huge' must be one of counting, counting.tiny"),
        (["./nothing.py"], "must be a script"),
        (["counting", "--out", "x", "--stepz", "3"], "--stepz"),
        (["counting", "--out", "x", "--steps", "three"], "steps"),
        (["counting"], "out"),
    ],
)
def test_slips_end_with_status_2(mmdiff_command, shelf, arguments, complaint):
    outcome = mmdiff_command("run", *arguments)
    assert outcome.status == 2
    assert complaint in outcome.err


def test_unknown_key_in_a_configuration_is_an_error(mmdiff_command, shelf, tmp_path):
    (tmp_path / "mine.yaml").write_text("stepz: 4\n")
    outcome = mmdiff_command("run", "counting", "--out", "x", "--config", tmp_path / "mine.yaml")
    assert outcome.status == 2
    assert "stepz" in outcome.err


def test_help_of_a_recipe_lists_its_settings(mmdiff_command, shelf):
    outcome = mmdiff_command("run", "counting", "--help")
    assert outcome.status == 0
    assert "--steps" in outcome.out
    assert "How far." in outcome.out


def test_copy_can_be_renamed_and_run_by_path_and_by_python(mmdiff_command, shelf, tmp_path):
    outcome = mmdiff_command("cp", "counting", tmp_path / "mine" / "my_count.py")
    assert outcome.status == 0, outcome.err
    names = ["my_count.py", "my_count.tiny.yaml", "my_count.yaml"]
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == names
    result = tmp_path / "result.json"
    outcome = mmdiff_command("run", tmp_path / "mine" / "my_count.tiny.yaml", "--out", result)
    assert outcome.status == 0, outcome.err
    assert result.read_text() == "[1, [5], false, null]"
    command = [sys.executable, "my_count.py", "--config", "my_count.yaml", "--out", str(result)]
    environment = {"PYTHONPATH": str(Path(recipes.__file__).parent.parent)}
    subprocess.run(command, cwd=tmp_path / "mine", env=environment, check=True)
    assert result.read_text() == "[10, [1, 2], false, null]"


def test_copy_replaces_nothing_unless_told(mmdiff_command, shelf, tmp_path):
    assert mmdiff_command("cp", "counting", tmp_path).status == 0
    (tmp_path / "counting.py").write_text("changed")
    assert mmdiff_command("cp", "counting", tmp_path).status == 2
    assert (tmp_path / "counting.py").read_text() == "changed"
    assert mmdiff_command("cp", "counting", tmp_path, "--overwrite").status == 0
    assert (tmp_path / "counting.py").read_text() == SCRIPT


def test_script_without_main_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text('"""Nothing."""\n')
    with pytest.raises(RecipeError, match="must define a function main"):
        recipes.run_recipe(str(tmp_path / "empty.py"))
