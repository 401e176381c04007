from __future__ import annotations

from pathlib import Path

import pytest

from mmdiff.commands.jobs import plan
from mmdiff.errors import InputError

SETTINGS = {"accepts": {".wav", ".flac"}, "writes": (".wav", ".mp3"), "tag": "made"}


@pytest.fixture
def tree(tmp_path):
    for name in ("in/a.wav", "in/b/c.FLAC", "in/b/notes.txt", "in/.hidden/d.wav", "in/.e.wav", "single.ogg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def _names(jobs, root: Path) -> dict[str, str]:
    return {str(j.source.relative_to(root)): str(j.target.relative_to(root)) for j in jobs}


@pytest.mark.parametrize(
    ("inputs", "out", "expected"),
    [
        (["in"], None, {"in/a.wav": "in.made/a.wav", "in/b/c.FLAC": "in.made/b/c.wav"}),
        (["in"], "out", {"in/a.wav": "out/a.wav", "in/b/c.FLAC": "out/b/c.wav"}),
        (["in/a.wav"], None, {"in/a.wav": "in/a.made.wav"}),
        (["in/a.wav"], "x.mp3", {"in/a.wav": "x.mp3"}),
        (["in/a.wav"], "out", {"in/a.wav": "out/a.wav"}),
        (["in/a.wav"], "out.v2/", {"in/a.wav": "out.v2/a.wav"}),
        (["in/a.wav", "single.ogg"], "out", {"in/a.wav": "out/a.wav", "single.ogg": "out/single.wav"}),
        (["in/b", "single.ogg"], None, {"in/b/c.FLAC": "in/b.made/c.wav", "single.ogg": "single.made.wav"}),
        (["gone.wav"], None, {"gone.wav": "gone.made.wav"}),
    ],
)
def test_where_results_go(tree, inputs, out, expected):
    jobs = plan([str(tree / name) for name in inputs], out and f"{tree}/{out}", **SETTINGS)
    assert _names(jobs, tree) == expected


def test_folder_named_by_a_dot(tree, monkeypatch):
    monkeypatch.chdir(tree / "in")
    assert str(plan(["."], None, **SETTINGS)[0].target) == str(tree / "in.made" / "a.wav")


def test_same_stems_keep_their_suffix(tree):
    (tree / "in" / "a.flac").write_bytes(b"")
    jobs = plan([str(tree / "in")], None, **SETTINGS)
    assert [job.target.name for job in jobs] == ["a.flac.wav", "a.wav.wav", "c.wav"]


@pytest.mark.parametrize(
    ("inputs", "out", "complaint"),
    [
        (["in"], "one.wav", "names one file, but there are 2 inputs"),
        (["in/a.wav"], "x.xyz", "must be a folder or end in .wav, .mp3"),
        (["in/a.wav"], "in/a.wav", "is an input"),
        (["in"], "in", "is an input"),
        (["in/b/../b"], "nothing", None),
        (["in/.hidden/none"], None, None),
        (["in/a.wav", "in/a.wav"], None, "several inputs"),
    ],
)
def test_plans_that_make_no_sense(tree, inputs, out, complaint):
    def make():
        return plan([str(tree / name) for name in inputs], out and str(tree / out), **SETTINGS)

    if complaint is None:
        assert make()
    else:
        with pytest.raises(InputError, match=complaint):
            make()


def test_empty_folder_is_an_error_that_names_what_is_accepted(tmp_path):
    with pytest.raises(InputError, match=r"has no file ending in \.flac, \.wav"):
        plan([str(tmp_path)], None, **SETTINGS)
