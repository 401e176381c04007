from __future__ import annotations

import json
import subprocess
import sys
import venv

import pytest
import torch

from mmdiff.bench.environment import default_folder, peers_python
from mmdiff.errors import InputError


def test_libraries_are_shared_and_nothing_is_installed_twice(tmp_path):
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    (tmp_path / "env" / "mmdiff-peers.json").write_text(json.dumps(["some==1.0"]))
    python = peers_python(tmp_path / "env", ["some==1.0"])
    code = "import sys, importlib.util as u; print(sys.prefix, u.find_spec('torch').origin)"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(tmp_path / "env"), torch.__file__]


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="new or empty folder"):
        peers_python(tmp_path, ["some==1.0"])
    with pytest.raises(InputError, match="new or empty folder"):
        peers_python(tmp_path / "notes.txt", ["some==1.0"])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_no_index_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match=r"wavegrad==0\.1\.5 cannot be installed.*PyPI") as error:
        peers_python(tmp_path / "env", ["wavegrad==0.1.5"])
    assert "No matching distribution" in str(error.value)
    with pytest.raises(
        InputError, match="cannot be installed"
    ):  # and what is half there is not taken for whole
        peers_python(tmp_path / "env", ["wavegrad==0.1.5"])


def test_environment_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder().parent == tmp_path / "mmdiff"
    assert default_folder().name.endswith(f"{sys.version_info.major}.{sys.version_info.minor}")
