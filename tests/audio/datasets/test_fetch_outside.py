from __future__ import annotations

import hashlib
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.datasets import debian, fetch_outside
from mmdiff.audio.datasets.fetch_outside import (
    FADE,
    GAP,
    SAMPLE_RATE,
    fetch_outside_speech,
    group,
    join,
    treble,
)
from mmdiff.audio.datasets.layouts import find_audio
from mmdiff.errors import InputError

RATE = 44_100
WORDS = 12
COPYRIGHT = "Format: machine-readable\n\nFiles: *\nCopyright: 2000, Somebody\nLicense: GPL-2+\n"


def decibel(wave: Tensor) -> float:
    return 10 * math.log10(float(wave.double().square().mean()))


def word(seed: int, seconds: float = 0.8, background: float = 1e-3, rate: int = RATE) -> Tensor:
    """White noise, loud in its middle half."""
    wave = torch.randn(round(seconds * rate), generator=torch.Generator().manual_seed(seed))
    loud = slice(len(wave) // 4, 3 * len(wave) // 4)
    return torch.cat((background * wave[: loud.start], 0.1 * wave[loud], background * wave[loud.stop :]))


def telephone(wave: Tensor) -> Tensor:
    return io.resample(io.resample(wave, RATE, 8000), 8000, RATE)[: len(wave)]


def language(folder: Path, first_seed: int, count: int = WORDS, rate: int = RATE, change=lambda x: x) -> None:
    folder.mkdir(parents=True)
    for n in range(count):
        io.write(folder / f"{n:02}.wav", change(word(first_seed + n, rate=rate)), rate)


@pytest.fixture
def ktuberling(tmp_path, monkeypatch):
    """Stand in for the package; returns the list of commands that were run."""
    root = tmp_path / "package"
    sounds = root / "usr/share/ktuberling/sounds"
    language(sounds / "aa", 0)
    language(sounds / "bb", 100)
    language(sounds / "few", 200, WORDS - 1)
    language(sounds / "slow", 300, rate=22_050)
    language(sounds / "telephone", 400, change=telephone)
    (sounds / "aa.soundtheme").write_text("<xml/>")
    (sounds / "aa/readme.txt").write_text("not sound")
    shutil.copy(sounds / "few/00.wav", sounds / "few/again.wav")
    useless = {
        "clipped": (40 * word(900)).clamp(-1, 1),
        "clipped-left": torch.stack([(40 * word(901)).clamp(-1, 1), 0 * word(901)]),
        "quiet": 0.05 * word(902, background=4e-3),
        "gated": word(903, background=0),
        "noisy": word(904, background=0.05),
        "telephone": telephone(word(905)),
        "short": word(906, seconds=0.25),
        "long": word(907, seconds=4.6),
    }
    for name, wave in useless.items():
        io.write(sounds / "few" / f"{name}.wav", wave, RATE)
    doc = root / "usr/share/doc/ktuberling-data/copyright"
    doc.parent.mkdir(parents=True)
    doc.write_text(COPYRIGHT)
    commands = []

    def run(*command: str, source: str, cwd: Path | None = None) -> None:
        commands.append(command[0])
        if command[0] == "apt-get":
            (cwd / "ktuberling-data_1.0_all.deb").write_text("package")
        else:
            shutil.copytree(root, command[3], dirs_exist_ok=True)

    monkeypatch.setattr(debian, "run", run)
    monkeypatch.setattr(fetch_outside, "FEWEST", WORDS)
    return commands


def test_languages_with_enough_useful_words_give_equally_many_utterances(tmp_path, ktuberling):
    folder = fetch_outside_speech(tmp_path / "outside", progress=False)
    found = find_audio(folder, split="test")
    names = [c.path.relative_to(folder).as_posix() for c in found]
    # 12 words of 0.4 + 0.2 s and gaps of 0.25 s: five of them fit into 5 s, the last two make no 2.5 s
    assert names == ["aa/utt01.flac", "aa/utt02.flac", "bb/utt01.flac", "bb/utt02.flac"]
    assert sorted(c.path for c in find_audio(folder)) == sorted(c.path for c in found)
    for clip in found:
        wave, rate = io.read(clip.path)
        assert rate == SAMPLE_RATE
        assert 2.5 <= wave.shape[-1] / rate <= 5.0
        assert decibel(wave) == pytest.approx(-26, abs=0.01)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_the_words_of_an_utterance_are_the_recordings_in_order(tmp_path, ktuberling):
    folder = fetch_outside_speech(tmp_path / "outside", progress=False)
    wave = io.read(folder / "aa/utt01.flac")[0][0]
    position = 0
    for n in range(3):
        original = io.read(tmp_path / f"package/usr/share/ktuberling/sounds/aa/{n:02}.wav")[0][0]
        loud = io.resample(original, RATE, SAMPLE_RATE)[4000:8000]
        size = len(wave) + len(loud)
        both = torch.fft.rfft(wave, size) * torch.fft.rfft(loud, size).conj()
        lag = int(torch.fft.irfft(both, size)[: len(wave)].argmax())
        piece = wave[lag : lag + len(loud)]
        gain = (piece @ loud) / (loud @ loud)
        torch.testing.assert_close(piece, gain * loud, atol=1e-4, rtol=0)
        assert lag > position
        position = lag


def test_attribution_sums_and_determinism(tmp_path, ktuberling):
    folder = fetch_outside_speech(tmp_path / "outside", progress=False)
    page = (folder / "ATTRIBUTION.md").read_text()
    assert "2000, Somebody" in page
    assert "ktuberling-data_1.0_all.deb" in page
    assert (folder / "LICENSES/ktuberling-data.txt").read_text() == COPYRIGHT
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"SHA256SUMS"}
    assert set(sums) == files
    assert all(hashlib.sha256((folder / n).read_bytes()).hexdigest() == d for n, d in sums.items())
    again = fetch_outside_speech(tmp_path / "again", progress=False)
    assert (again / "SHA256SUMS").read_text() == (folder / "SHA256SUMS").read_text()


def test_a_finished_folder_is_kept_and_another_is_not_touched(tmp_path, ktuberling):
    (tmp_path / "debs").mkdir()
    with pytest.raises(InputError, match=r"debs=.* must hold ktuberling-data_\*\.deb: `apt-get download"):
        fetch_outside_speech(tmp_path / "outside", tmp_path / "debs")
    (tmp_path / "debs/ktuberling-data_2.0_all.deb").write_text("package")
    folder = fetch_outside_speech(tmp_path / "outside", tmp_path / "debs", progress=False)
    assert ktuberling == ["dpkg-deb"]
    assert fetch_outside_speech(folder, progress=False) == folder
    assert ktuberling == ["dpkg-deb"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("text")
    with pytest.raises(InputError, match="something other than the speech of ktuberling-data"):
        fetch_outside_speech(tmp_path / "mine")


def test_a_cut_short_run_goes_on_where_it_stopped(tmp_path, ktuberling, monkeypatch):
    written = []

    def write_three(path: Path, *arguments) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path.name)
        io.write(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fetch_outside, "write", write_three)
        with pytest.raises(KeyboardInterrupt):
            fetch_outside_speech(tmp_path / "outside", progress=False)
    assert not (tmp_path / "outside").exists()
    monkeypatch.setattr(fetch_outside, "write", lambda p, *a: (written.append(p.name), io.write(p, *a)))
    fetch_outside_speech(tmp_path / "outside", progress=False)
    assert len(written) == 4
    assert ktuberling.count("apt-get") == 1


def test_a_package_without_enough_recordings_is_refused(tmp_path, ktuberling, monkeypatch):
    monkeypatch.setattr(fetch_outside, "FEWEST", WORDS + 1)
    with pytest.raises(InputError, match=r"ktuberling-data has no language with 13 usable"):
        fetch_outside_speech(tmp_path / "outside", progress=False)
    assert not (tmp_path / "outside").exists()


def test_words_come_through_unchanged_with_their_own_background_between():
    generator = torch.Generator().manual_seed(0)
    words = [word(1, 0.5, 1e-3, SAMPLE_RATE), word(2, 0.7, 1e-2, SAMPLE_RATE)]
    joined = join(words, generator)
    assert len(joined) == sum(map(len, words)) + 2 * GAP
    starts = (GAP // 2, GAP // 2 + len(words[0]) + GAP)
    for w, start in zip(words, starts, strict=True):
        inner = slice(FADE, len(w) - FADE)
        torch.testing.assert_close(joined[start : start + len(w)][inner], w[inner])
    gap = joined[starts[0] + len(words[0]) : starts[1]]
    eighth = GAP // 8  # power fades as a cosine squared from the first background's to the second's
    assert decibel(gap[:eighth]) == pytest.approx(-60, abs=4)
    assert decibel(gap[-eighth:]) == pytest.approx(-40, abs=2)
    middle = gap[GAP // 2 - eighth : GAP // 2 + eighth]
    assert decibel(middle) == pytest.approx(10 * math.log10((1e-6 + 1e-4) / 2), abs=2)


def test_the_background_between_words_has_the_spectrum_of_the_recording():
    n = torch.arange(SAMPLE_RATE)
    hum = 1e-3 * torch.sin(2 * math.pi * 1000 * n / SAMPLE_RATE)
    hummed = hum + word(0, 1.0, 0.0, SAMPLE_RATE)
    gap = join([hummed, hummed], torch.Generator().manual_seed(0))[GAP // 2 + SAMPLE_RATE :][:GAP]
    power = torch.fft.rfft(gap).abs().square()
    frequency = torch.fft.rfftfreq(GAP, 1 / SAMPLE_RATE)
    near = (frequency - 1000).abs() < 100
    assert float(power[near].sum() / power.sum()) > 0.99


def test_groups_hold_as_many_words_as_fit():
    lengths = [3, 0.5, 0.5, 4.5, 0.4, 1.2, 1.2, 1.2, 0.3, 0.3]
    words = [torch.full((round(s * SAMPLE_RATE),), float(i)) for i, s in enumerate(lengths)]
    kept = [[int(w[0]) for w in utterance] for utterance in group(words)]
    assert kept == [[0, 1, 2], [3], [4, 5, 6, 7]]  # 8 and 9 together are no 2.5 s


def test_treble_tells_full_band_speech_from_telephones_and_clicks(speech):
    burst = word(0, 1.0, 0.0, SAMPLE_RATE)
    share = 10 * math.log10(500 / 8000)  # of white noise; a little less for what lasts
    assert share - 10 < treble(burst) < share
    narrow = io.resample(io.resample(burst, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
    assert treble(narrow) < -70
    narrow[::800] += 0.1  # twenty clicks a second
    assert treble(narrow) < fetch_outside.LEAST_TREBLE
    assert treble(speech[0]) > fetch_outside.LEAST_TREBLE


def test_silence_around_a_word_is_cut_but_for_a_margin():
    recorded = word(0, 2.0, 1e-3, SAMPLE_RATE)  # loud from 0.5 to 1.5 s
    length = len(fetch_outside._trimmed(recorded))
    longest = SAMPLE_RATE + 2 * (fetch_outside.MARGIN + fetch_outside.FRAME)
    assert SAMPLE_RATE + 2 * fetch_outside.MARGIN <= length <= longest
