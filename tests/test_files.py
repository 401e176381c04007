from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmdiff.files import atomic_file, atomic_folder


def test_a_file_appears_whole_with_its_suffix_kept_for_writers(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.wav"
    with atomic_file(target) as temporary:
        assert temporary.suffix == ".wav"
        assert temporary.parent == target.parent
        temporary.write_bytes(b"one")
        assert not target.exists()
    assert target.read_bytes() == b"one"
    assert os.listdir(target.parent) == ["a.wav"]


def test_after_an_error_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_replaces_an_older_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text, name in (("one", "a"), ("two", "b")):
        with atomic_folder(target) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).write_text(text)
        assert os.listdir(target / "sub") == [name]
    assert os.listdir(tmp_path) == ["model"]


def test_after_an_error_the_old_folder_stays(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "kept").touch()

    def fail() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "half").touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert os.listdir(target) == ["kept"]
    assert os.listdir(tmp_path) == ["model"]
