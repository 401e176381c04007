from __future__ import annotations

import pytest

from mmdiff.commands.fetch import fetch


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("speech-16k", "mmdiff.audio.datasets.fetch.fetch_debian_speech"),
        ("outside-16k", "mmdiff.audio.datasets.fetch_outside.fetch_outside_speech"),
        ("digits-16k", "mmdiff.audio.datasets.fetch_digits.fetch_spoken_digits"),
    ],
)
def test_each_name_builds_its_own_folder_and_says_where(tmp_path, monkeypatch, capsys, name, function):
    called = []
    monkeypatch.setattr(function, lambda *arguments: (called.append(arguments), arguments[0])[1])
    fetch(name, str(tmp_path / "data"), debs="Downloads")
    assert called == [(str(tmp_path / "data"), "Downloads")]
    assert capsys.readouterr().out == f"{tmp_path / 'data'}\n"
