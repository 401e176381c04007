"""Spoken digits to train and test with: single words that Debian's telephone prompts hold, labelled by their names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import track
from torch import Tensor

from mmdiff.audio.datasets import debian
from mmdiff.audio.io import read, write
from mmdiff.audio.loudness import loudness
from mmdiff.errors import InputError

SAMPLE_RATE = 16_000  # Hz
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OTHER = "other"
"""What words that are no digits are called."""
WINDOW = SAMPLE_RATE  # samples
LOUDNESS = -23.0  # LUFS
PEAK = 0.95
FRAME = SAMPLE_RATE // 100  # samples, for finding the word
BELOW, BELOW_NOISY = 35.0, 28.0  # dB below the loudest frame: quieter frames at both ends are cut off
LOWEST = 80.0  # Hz: telephone recordings have steps and hum below it
EDGE = SAMPLE_RATE // 33  # samples at both ends of telephone recordings, which begin with a step
MARGIN = SAMPLE_RATE // 25  # samples kept before and after the word
FADE = SAMPLE_RATE // 200  # samples
SHORTEST = SAMPLE_RATE // 10  # samples of a word


class Voice(NamedTuple):
    """Who says the digits, in which package."""

    name: str
    """Language, speaker."""
    package: str
    source: str
    folder: str
    """Of the voice, in the package's folder of sounds."""
    heard: bool
    """Whether it is for training; the others are for tests."""


VOICES = (
    Voice("en-allison", "asterisk-core-sounds-en-g722", "asterisk-core-sounds", "en_US_f_Allison", True),
    Voice("es-allison", "asterisk-core-sounds-es-g722", "asterisk-core-sounds", "es_MX_f_Allison", True),
    Voice("fr-june", "asterisk-core-sounds-fr-g722", "asterisk-core-sounds", "fr_CA_f_June", True),
    Voice("it-carlo", "asterisk-core-sounds-it-g722", "asterisk-core-sounds", "it_IT_m_Carlo", True),
    Voice("ru-maxim", "asterisk-core-sounds-ru-g722", "asterisk-core-sounds", "ru_RU_f_IvrvoiceRU", True),
    Voice("es-july", "asterisk-prompt-es-co", "asterisk-prompt-es-co", "es", False),
    Voice("fr-armelle", "asterisk-prompt-fr-armelle", "asterisk-prompt-fr-armelle", "fr", False),
    Voice(
        "it-menardi", "asterisk-prompt-it-menardi-wav", "asterisk-prompt-it-menardi", "it_IT_f_Menardi", False
    ),
)
INTRODUCTION = f"""\
Single words out of telephone prompts, as packaged by Debian: the digits from 0 to 9, named {DIGITS[0]} to {DIGITS[-1]}
whatever the language, and other short words, named {OTHER}. Changes made here: decoded, resampled to {SAMPLE_RATE} Hz,
the silence before and after the word cut off, brought to {LOUDNESS:g} LUFS, put into the middle of a second of digital
silence, written as 16-bit FLAC. Those of `test.csv` are recordings for telephones, which hold nothing above 4 kHz.
Sound made out of them must credit the same people; the Italian ones of `it-menardi` are by Marco Menardi and Paola
Dal Zot, http://www.voip.ammdomus.it."""

_VARIANT = re.compile(r"([0-9])(F|M|n)?")  # feminine, masculine and neuter forms of Spanish and Russian
_OTHERS = {
    # ordinals (h-*), 21 to 29 and the like hold digits or sound like them
    "digits": re.compile(
        r"1[0-9]|[2-9]0|hundred|thousand|million|minus|pound|star|today|tomorrow|day-\d|mon-\d+"
    ),
    "letters": re.compile(r"[a-z]"),
    "phonetic": re.compile(r"[a-z]_p"),
}


def fetch_spoken_digits(folder: str | Path, debs: str | Path | None = None, progress: bool = True) -> Path:
    """Build a folder of spoken digits in five languages, a second at 16 kHz each.

    There is one recording of each digit and voice, and one more of some that have several forms (uno, un, una): 55
    recordings of five voices to train on in ``train.csv``, and 30 of three other voices, recorded for telephones in
    Spanish, French and Italian, in ``test.csv``. So few can be learned by heart: a model of them shows how labels
    steer sound, not how people speak. The tables also list short words that are no digits, for a recogniser.

    The result holds ``{voice}/{word}.flac``, the tables (columns path, speaker and text, which is the digit's English
    name, or "other"), ``ATTRIBUTION.md``, ``LICENSES/`` and ``SHA256SUMS``. As with
    :func:`mmdiff.audio.datasets.fetch.fetch_debian_speech`, a finished folder is returned as it is, and an interrupted
    run goes on from its ``.partial`` folder.

    Parameters
    ----------
    folder : str | Path
        Where the dataset goes; must not exist, be empty, or be what an earlier call made.
    debs : str | Path | None
        Folder that already holds the .deb files of :data:`VOICES`. None downloads them with ``apt-get download``
        (76 MB).
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The finished folder.

    Raises
    ------
    InputError
        A package or a tool is missing, a voice lacks a digit, or the folder holds something else.

    Examples
    --------
    >>> folder = fetch_spoken_digits("data/digits-16k")  # doctest: +SKIP
    """

    def write_words(unpacked: Path, partial: Path) -> None:
        _write_words(unpacked / "usr/share/asterisk/sounds", partial, progress)

    sources = {voice.package: voice.source for voice in VOICES}
    sections = {
        voice.package: f"{voice.name[:2]}-*" for voice in VOICES if voice.source == "asterisk-core-sounds"
    }
    return debian.build_folder(
        folder, "spoken digits", "digits", sources, INTRODUCTION, write_words, debs, sections
    )


def _write_words(sounds: Path, out: Path, progress: bool) -> None:
    rows: dict[bool, list[tuple[str, str, str]]] = {True: [], False: []}
    words = [(voice, *word) for voice in VOICES for word in _words(sounds / voice.folder)]
    for voice, name, text, source in track(words, "Cutting out words", disable=not progress):
        target = out / voice.name / f"{name}.flac"
        if not target.exists():
            word = cut_out(read(source, sample_rate=SAMPLE_RATE)[0][0], telephone=not voice.heard)
            if word is None:
                continue
            target.parent.mkdir(exist_ok=True)
            write(target, word, SAMPLE_RATE)
        rows[voice.heard].append((f"{voice.name}/{name}.flac", voice.name, text))
    for voice in VOICES:
        spoken = {text for _, speaker, text in rows[voice.heard] if speaker == voice.name}
        if missing := [digit for digit in DIGITS if digit not in spoken]:
            raise InputError(
                f"{voice.package} lacks recordings of {', '.join(missing)}: try another version of it"
            )
    for heard, name in ((True, "train"), (False, "test")):
        with (out / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "speaker", "text"), *rows[heard]])


def _words(place: Path) -> Iterator[tuple[str, str, Path]]:
    """Name, text and file of each word of a voice."""
    for path in sorted((place / "digits").glob("*.*")):
        if form := _VARIANT.fullmatch(path.stem):
            yield f"{path.stem}", DIGITS[int(form[1])], path
    if (place / "digits/un.g722").is_file():  # Italian
        yield "1un", DIGITS[1], place / "digits/un.g722"
    for kind, pattern in _OTHERS.items():
        for path in sorted((place / kind).glob("*.*")):
            if pattern.fullmatch(path.stem):
                yield f"{kind}-{path.stem}", OTHER, path


def cut_out(wave: Tensor, telephone: bool = False) -> Tensor | None:
    """Put the word of a recording into the middle of a second.

    Parameters
    ----------
    wave : Tensor, shape (samples,), 16 kHz
    telephone : bool
        The recording has a noisy background, hum, and a step where it begins; of a longer one the loudest second
        is taken.

    Returns
    -------
    Tensor, shape (16000,), or None
        None if the word is too short or too long.
    """
    if telephone:
        wave = _loudest_second(_without_hum(wave[EDGE:-EDGE]))
    frames = wave[: len(wave) // FRAME * FRAME].view(-1, FRAME)
    if len(frames) == 0:
        return None
    level = 10 * frames.square().mean(1).clamp_min(1e-12).log10()
    loud = (level > level.max() - (BELOW_NOISY if telephone else BELOW)).nonzero()[:, 0]
    first, last = int(loud[0]) * FRAME, (int(loud[-1]) + 1) * FRAME
    if not SHORTEST <= last - first <= WINDOW:
        return None
    word = wave[max(0, first - MARGIN) : last + MARGIN].clone()
    word = word[max(0, len(word) - WINDOW) // 2 :][:WINDOW]
    ramp = torch.linspace(0, 1, FADE)
    word[:FADE] *= ramp
    word[-FADE:] *= ramp.flip(0)
    gain = 10 ** ((LOUDNESS - loudness(word, SAMPLE_RATE)) / 20)
    word *= min(gain, PEAK / float(word.abs().max().clamp_min(1e-9)))
    spare = WINDOW - len(word)
    return torch.nn.functional.pad(word, (spare // 2, spare - spare // 2))


def _without_hum(wave: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(wave)
    spectrum[torch.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE) < LOWEST] = 0
    return torch.fft.irfft(spectrum, len(wave))


def _loudest_second(wave: Tensor) -> Tensor:
    if len(wave) <= WINDOW:
        return wave
    energy = torch.nn.functional.pad(wave.double().square().cumsum(0), (1, 0))
    start = int((energy[WINDOW:] - energy[:-WINDOW]).argmax())
    return wave[start : start + WINDOW]
