from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from mmdiff.audio import io
from mmdiff.audio.datasets import debian as tools
from mmdiff.audio.datasets import fetch
from mmdiff.audio.datasets.layouts import find_audio
from mmdiff.errors import InputError

RATE = 16_000
COPYRIGHT = """Format: machine-readable

Files: *
Copyright: 2000, Somebody
License: CC-BY-SA-3.0

Files: ru-*
Copyright: 2010, Somebody Else
License: CC-BY-3.0

License: CC-BY-3.0
 The full text.
"""


def prompt(path: Path, wave: torch.Tensor) -> None:
    """Write headerless G.722."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        samples = np.ascontiguousarray((wave * 32767).numpy().astype(np.int16))
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def package(root: Path, language: str, voice: str, noise) -> Path:
    """Lay out what a package unpacks to: 24 prompts, some of them of no use."""
    sounds = root / language / "usr/share/asterisk/sounds" / voice
    for n in range(24):
        prompt(sounds / ("digits" if n % 2 else "") / f"{n}.g722", noise(1, RATE * (1 + n % 3), seed=n))
    shutil.copy(sounds / "0.g722", sounds / "again.g722")
    prompt(sounds / "short.g722", noise(1, 4000))
    prompt(sounds / "nothing.g722", torch.zeros(1, 2 * RATE))
    prompt(sounds / "tt-monkeys.g722", noise(1, RATE, seed=99))
    prompt(sounds / "silence/1.g722", noise(1, RATE, seed=98))
    doc = root / language / f"usr/share/doc/asterisk-core-sounds-{language}-g722/copyright"
    doc.parent.mkdir(parents=True)
    doc.write_text(COPYRIGHT)
    return root / language


@pytest.fixture
def debian(tmp_path, monkeypatch, noise):
    """Stand in for apt-get and dpkg-deb; returns the list of commands that were run."""
    content = {
        language: package(tmp_path / "packages", language, voice, noise)
        for language, voice in (("en", "en_US_Anna"), ("ru", "ru_RU_Boris"))
    }
    commands = []

    def run(*command: str, source: str, cwd: Path | None = None) -> None:
        commands.append(command[0])
        language = command[-1 if command[0] == "apt-get" else 2].split("-g722")[0].split("-")[-1]
        if command[0] == "apt-get":
            (cwd / f"{command[-1]}_1.0_all.deb").write_text("package")
        else:
            shutil.copytree(content[language], command[3], dirs_exist_ok=True)

    monkeypatch.setattr(tools, "run", run)
    return commands


def test_the_folder_holds_every_useful_prompt_once_with_a_fixed_split(tmp_path, debian):
    folder = fetch.fetch_debian_speech(tmp_path / "speech", languages=("ru", "en"), progress=False)
    found = find_audio(folder)
    assert len(found) == 24  # the two voices say the same bytes: only the first is kept
    assert {c.speaker for c in found} == {"en_US_Anna"}
    assert (folder / "en_US_Anna/digits-1.flac").is_file()
    original, _ = io.read(tmp_path / "packages/en/usr/share/asterisk/sounds/en_US_Anna/digits/1.g722")
    assert torch.equal(io.read(folder / "en_US_Anna/digits-1.flac")[0], original)
    split = {name: find_audio(folder, split=name) for name in ("train", "valid", "test")}
    assert {name: len(part) for name, part in split.items()} == {"train": 8, "valid": 8, "test": 8}
    assert len({c.path for part in split.values() for c in part}) == 24
    eligible = {c.path: io.info(c.path).seconds for name in ("valid", "test") for c in split[name]}
    assert all(1.5 <= seconds <= 8 for seconds in eligible.values())


def test_attribution_and_sums(tmp_path, debian):
    folder = fetch.fetch_debian_speech(tmp_path / "speech", languages=("en", "ru"), progress=False)
    page = (folder / "ATTRIBUTION.md").read_text()
    assert page.index("2000, Somebody") < page.index("2010, Somebody Else")
    assert (folder / "LICENSES/asterisk-core-sounds-ru-g722.txt").read_text() == COPYRIGHT
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert set(sums) == files
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert not [name for name in files if "/." in f"/{name}"]


def test_a_finished_folder_is_kept_and_another_is_not_touched(tmp_path, debian):
    folder = fetch.fetch_debian_speech(tmp_path / "speech", languages="en", progress=False)
    count = len(debian)
    assert fetch.fetch_debian_speech(folder, languages=["en"], progress=False) == folder
    assert len(debian) == count
    with pytest.raises(InputError, match="something other than the speech of languages en, ru"):
        fetch.fetch_debian_speech(folder, languages=["en", "ru"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("text")
    with pytest.raises(InputError, match="something other"):
        fetch.fetch_debian_speech(tmp_path / "mine", languages=["en"])


def test_a_cut_short_run_goes_on_where_it_stopped(tmp_path, debian, monkeypatch):
    written = []

    def write_ten(path: Path, *arguments) -> None:
        if len(written) == 10:
            raise KeyboardInterrupt
        written.append(path.name)
        io.write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "write", write_ten)
        with pytest.raises(KeyboardInterrupt):
            fetch.fetch_debian_speech(tmp_path / "speech", languages=["en"], progress=False)
    assert not (tmp_path / "speech").exists()
    monkeypatch.setattr(fetch, "write", lambda p, *a: (written.append(p.name), io.write(p, *a)))
    fetch.fetch_debian_speech(tmp_path / "speech", languages=["en"], progress=False)
    assert sorted(written) == sorted(set(written))
    assert len(written) == 24
    assert debian.count("apt-get") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["packages", "speech"]


def test_the_split_is_the_first_by_sha1_of_the_name_and_is_never_shared():
    # models are published with this split: a change of it would put test clips into training data
    lengths = {f"{speaker}/{n}": 0.6 + n % 9 for speaker in "ab" for n in range(90)}
    split = fetch.split_of(lengths)
    for speaker in "ab":
        order = sorted(
            (key for key in lengths if key.startswith(speaker) and 1.5 <= lengths[key] <= 8),
            key=lambda key: hashlib.sha1(key.encode()).hexdigest(),
        )
        for name, expected in (("test", order[:8]), ("valid", order[8:16])):
            assert [key for key in split[name] if key.startswith(speaker)] == sorted(expected)
    assert sorted(split["train"] + split["valid"] + split["test"]) == sorted(lengths)
    assert split == fetch.split_of(dict(reversed(lengths.items())))


def test_bad_requests(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"languages=.*must be some of en, es"):
        fetch.fetch_debian_speech(tmp_path / "s", languages=["de"])
    with pytest.raises(InputError, match="must be a folder that holds"):
        fetch.fetch_debian_speech(tmp_path / "s", debs=tmp_path / "none")
    (tmp_path / "debs").mkdir()
    with pytest.raises(InputError, match=r"apt-get download asterisk-core-sounds-en-g722"):
        fetch.fetch_debian_speech(tmp_path / "s", debs=tmp_path / "debs", languages=["en"])
    with pytest.raises(InputError, match=r"`ls .*` failed: .*\n.*apt-get update.*some-source"):
        tools.run("ls", str(tmp_path / "none"), source="some-source")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"apt-get must be installed.*elsewhere fetch the .deb files"):
        fetch.fetch_debian_speech(tmp_path / "s", languages=["en"])
