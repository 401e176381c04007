"""What README and examples say is true: commands parse, code runs, links lead somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import mmdiff
from mmdiff.audio.mel import PRESETS
from mmdiff.cli import COMMANDS
from mmdiff.parsing import build_parser
from mmdiff.video.generator import ClipGenerator

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SETUP = [line for line in README.splitlines() if line.startswith("python3 -m venv ")]


@pytest.fixture
def some_model(monkeypatch):
    """Let ``mmdiff.load`` give the models as shipped, on the CPU; those of clips take two steps, to save time."""
    load = mmdiff.load

    def load_quick(source: str) -> object:
        pipeline = load(source, "cpu")
        if isinstance(pipeline, ClipGenerator):
            pipeline.model.steps = 2
        return pipeline

    monkeypatch.setattr(mmdiff, "load", load_quick)


def test_there_are_two_commands_to_set_up_and_ci_runs_them():
    assert len(SETUP) == 2
    assert "pip install . " in SETUP[0]
    assert "mmdiff vocode examples/speech.flac" in SETUP[0]
    assert "'.[dev]'" in SETUP[1]
    assert SETUP[1].endswith("-m pytest")
    assert (ROOT / "examples" / "speech.flac").is_file()
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep '^python3 -m venv ' README.md" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def _commands() -> list[list[str]]:
    lines = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
    words = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [w[1:] for w in words if w and Path(w[0]).name == "mmdiff"]


@pytest.mark.parametrize("words", _commands(), ids=" ".join)
def test_commands_parse(words):
    module, _, name = COMMANDS[words[0]].partition(":")
    parser = build_parser(getattr(import_module(module), name), words[0])
    parser.parse_args(words[1:2] if words[0] == "run" else words[1:])


@pytest.mark.parametrize(
    "code", [text for kind, text in BLOCKS if kind == "python"], ids=["vocoder", "clips", "core"]
)
def test_code_runs(code, some_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    if "points" in namespace:
        assert abs(namespace["points"].mean() - 3) < 0.06
        assert abs(namespace["points"].std() - 0.5) < 0.04
    elif "longer" in namespace:
        assert namespace["clip"].shape == (1, 3, 16, 32, 32)
        assert namespace["longer"].shape == (1, 3, 40, 32, 32)
    else:
        assert (tmp_path / "made.wav").stat().st_size > 1000


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_within_the_repository_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / document).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_table_of_presets_is_complete_and_right():
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([\d,]+) Hz \| (\d+) \| ([\d,]+) Hz \| (\d+) \|", README, re.MULTILINE
    )
    said = {name: tuple(int(n.replace(",", "")) for n in numbers) for name, *numbers in rows}
    assert said == {
        name: (spec.sample_rate, spec.n_mels, round(spec.f_max), spec.hop_length)
        for name, spec in PRESETS.items()
    }


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_examples_run(script, some_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = {
        "core": {"items": 50},
        "denoising_gan": {"updates": 20},
        "picture": {"picture": str(tmp_path / "x.png")},
        "vocode": {"folder": tmp_path / "out"},
        "edit_sound": {"folder": tmp_path / "edited"},
        "other_sounds": {"folder": tmp_path / "others"},
        "any_mel": {},
        "clips": {"steps": 2},
        "record_game": {"folder": tmp_path / "games", "clips": 1, "seconds": 0.5},
    }
    runpy.run_path(str(script))["main"](**arguments[script.stem])
    assert capsys.readouterr().out
