from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from mmdiff.audio import io
from mmdiff.audio.datasets import debian
from mmdiff.audio.datasets.fetch_digits import DIGITS, OTHER, VOICES, cut_out, fetch_spoken_digits
from mmdiff.audio.datasets.layouts import find_audio
from mmdiff.audio.loudness import loudness
from mmdiff.errors import InputError

RATE = 16_000


def word(frequency: float, seconds: float = 0.4, before: float = 0.2, after: float = 0.3) -> torch.Tensor:
    """A tone between silences, (1, samples)."""
    tone = 0.3 * torch.sin(2 * torch.pi * frequency * torch.arange(round(seconds * RATE)) / RATE)
    return torch.nn.functional.pad(tone, (round(before * RATE), round(after * RATE)))[None]


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """Stand in for apt-get and dpkg-deb; returns the folder of packages' contents."""
    root = tmp_path / "packages"
    for number, voice in enumerate(VOICES):
        place = root / voice.package
        sounds = place / "usr/share/asterisk/sounds" / voice.folder
        for n in range(10):
            (sounds / "digits").mkdir(parents=True, exist_ok=True)
            io.write(sounds / f"digits/{n}.wav", word(300 + 40 * n + number), RATE)
        for name in ("digits/2n", "digits/h-2", "digits/20", "digits/28", "letters/b", "phonetic/9_p"):
            (sounds / name).parent.mkdir(exist_ok=True)
            io.write(sounds / f"{name}.wav", word(800 + number), RATE)
        doc = place / "usr/share/doc" / voice.package / "copyright"
        doc.parent.mkdir(parents=True)
        doc.write_text(f"Files: *\nCopyright: 2000, {voice.name}\n")

    def run(*command: str, source: str, cwd: Path | None = None) -> None:
        if command[0] == "apt-get":
            (cwd / f"{command[-1]}_1.0_all.deb").write_text("package")
        else:
            shutil.copytree(root / Path(command[2]).name.split("_")[0], command[3], dirs_exist_ok=True)

    monkeypatch.setattr(debian, "run", run)
    return root


def test_digits_of_every_voice_with_whole_voices_held_out(tmp_path, prompts):
    folder = fetch_spoken_digits(tmp_path / "digits", progress=False)
    assert fetch_spoken_digits(folder, progress=False) == folder
    parts = {name: find_audio(folder, split=name) for name in ("train", "test")}
    voices = {name: {clip.speaker for clip in part} for name, part in parts.items()}
    assert voices["train"] == {voice.name for voice in VOICES if voice.heard}
    assert voices["test"] == {voice.name for voice in VOICES if not voice.heard}
    for part in parts.values():
        for speaker in {clip.speaker for clip in part}:
            said = [clip.text for clip in part if clip.speaker == speaker]
            # ordinals, compound numbers and "niner" are neither digits nor surely something else
            assert sorted(said) == sorted([*DIGITS, "two", OTHER, OTHER])
    clip = next(c for c in parts["train"] if c.text == "seven" and c.speaker == VOICES[0].name)
    wave, rate = io.read(clip.path)
    assert (wave.shape, rate) == ((1, RATE), RATE)
    assert float(torch.fft.rfft(wave[0]).abs().argmax()) == pytest.approx(580, abs=2)
    assert all(voice.name in (folder / "ATTRIBUTION.md").read_text() for voice in VOICES)


def test_a_package_without_a_digit_is_named(tmp_path, prompts):
    (prompts / "asterisk-prompt-es-co/usr/share/asterisk/sounds/es/digits/3.wav").unlink()
    with pytest.raises(InputError, match="asterisk-prompt-es-co lacks recordings of three"):
        fetch_spoken_digits(tmp_path / "digits", progress=False)


def test_a_word_is_centred_and_as_loud_as_the_others():
    quiet = cut_out(0.05 * word(500, before=0.05, after=0.6)[0])
    plain = cut_out(word(500)[0])
    assert quiet.shape == plain.shape == (RATE,)
    torch.testing.assert_close(quiet, plain, atol=2e-3, rtol=0)
    assert loudness(plain[4000:12000], RATE) == pytest.approx(-23, abs=1.5)
    heard = plain.abs().gt(0.01).nonzero()[:, 0]
    assert (int(heard[0]) + int(heard[-1])) / 2 == pytest.approx(RATE / 2, abs=200)
    assert cut_out(word(500, seconds=0.05)[0]) is None
    assert cut_out(word(500, seconds=1.2)[0]) is None


def test_hum_and_the_first_step_of_telephones_are_no_part_of_the_word():
    wave = word(500, before=0.4, after=0.4)[0]
    hum = 0.2 * torch.sin(2 * torch.pi * 50 * torch.arange(len(wave)) / RATE)
    wave[:100] += 0.3
    cleaned = cut_out(wave + hum, telephone=True)
    spectrum = torch.fft.rfft(cleaned).abs()  # a bin is a Hertz
    assert int(spectrum.argmax()) == pytest.approx(500, abs=2)
    assert spectrum[:80].max() < 0.05 * spectrum.max()
    heard = cleaned.abs().gt(0.02).sum()
    assert int(heard) == pytest.approx(0.4 * RATE, rel=0.1)


def test_gsm_files_are_read(tmp_path):
    silence = bytes.fromhex("d820a2e15a50004924924924500049249249245000492492492450004924924924")
    (tmp_path / "quiet.gsm").write_bytes(50 * silence)
    wave, rate = io.read(tmp_path / "quiet.gsm")
    assert (wave.shape, rate) == ((1, 8000), 8000)
    assert wave.abs().max() < 1e-2
