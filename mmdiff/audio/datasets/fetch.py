"""Speech to start with: two hours of free studio prompts that Debian packages carry, as a dataset folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import track

from mmdiff.audio.datasets import debian
from mmdiff.audio.io import info, read, write
from mmdiff.errors import InputError

SOURCE = "asterisk-core-sounds"  # Debian's source package
SAMPLE_RATE = 16_000  # Hz, that of G.722
LANGUAGES = ("en", "es", "fr", "it", "ru")
HELD_OUT = 8  # clips per speaker in the test split, and again in the validation split
HELD_OUT_SECONDS = (1.5, 8.0)
SHORTEST = 0.5  # seconds; below it there are beeps and single clicks
NOT_SPEECH = ("tt-monkeys",)  # sixteen seconds of screaming monkeys, one of Asterisk's jokes
QUIETEST = 1e-3  # peak: -60 dBFS, which no prompt is below
INTRODUCTION = (
    "Telephone prompts of the Asterisk project, as packaged by Debian. Changes made here: decoded from "
    "G.722 to 16-bit FLAC,\nrenamed; clips under half a second, silent ones and noises left out. Sound "
    "made out of them must credit the same people."
)


def fetch_debian_speech(
    folder: str | Path,
    debs: str | Path | None = None,
    languages: Sequence[str] = LANGUAGES,
    progress: bool = True,
) -> Path:
    """Build a folder of 16 kHz speech clips out of Debian's telephone-prompt packages.

    The result holds ``{speaker}/{name}.flac`` (mono, 16 bit), the fixed split ``train.txt``, ``valid.txt``
    and ``test.txt`` (one relative path per line), ``ATTRIBUTION.md`` and ``LICENSES/`` from the packages' own
    copyright files, and ``SHA256SUMS`` for ``sha256sum -c``. A finished folder is returned as it is; a run
    that was cut short goes on where it stopped, since everything happens in a ``.partial`` folder beside the
    final one, which appears only when complete.

    Parameters
    ----------
    folder : str | Path
        Where the dataset goes; must not exist, be empty, or be what an earlier call made.
    debs : str | Path | None
        Folder that already holds the ``asterisk-core-sounds-*-g722*.deb`` files. None downloads them with
        ``apt-get download`` (54 MB for five languages).
    languages : Sequence[str]
        Some of ``en, es, fr, it, ru``: one speaker each (English and Spanish are the same person).
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The finished folder.

    Raises
    ------
    InputError
        A language is unknown, a package or a tool is missing, or the folder holds something else.
    """
    languages = _check_languages(languages)
    sources = {_package(language): SOURCE for language in languages}

    def write_clips(unpacked: Path, partial: Path) -> None:
        _write_split(partial, _decode_all(unpacked / "usr/share/asterisk/sounds", partial, progress))

    return debian.build_folder(
        folder,
        f"the speech of languages {', '.join(languages)}",
        "-".join(languages),
        sources,
        INTRODUCTION,
        write_clips,
        debs,
        {_package(language): f"{language}-*" for language in languages},
    )


def split_of(clips: dict[str, float]) -> dict[str, list[str]]:
    """Divide clips into train, valid and test by a hash of their names, the same on every machine.

    Within each speaker the clips of 1.5 to 8 seconds are ordered by the SHA-1 of ``speaker/name``: the first
    eight are the test split, the next eight the validation split, everything else is for training.

    Parameters
    ----------
    clips : dict[str, float]
        Seconds of each ``speaker/name``.

    Returns
    -------
    dict[str, list[str]]
        Sorted keys under ``"train"``, ``"valid"`` and ``"test"``.
    """
    low, high = HELD_OUT_SECONDS
    split: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for speaker in sorted({key.split("/")[0] for key in clips}):
        own = [key for key in clips if key.split("/")[0] == speaker]
        eligible = [key for key in own if low <= clips[key] <= high]
        eligible.sort(key=lambda key: hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest())
        split["test"] += eligible[:HELD_OUT]
        split["valid"] += eligible[HELD_OUT : 2 * HELD_OUT]
        split["train"] += set(own) - set(eligible[: 2 * HELD_OUT])
    return {name: sorted(keys) for name, keys in split.items()}


def _check_languages(languages: Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(sorted({languages} if isinstance(languages, str) else set(languages)))
    if not chosen or not set(chosen) <= set(LANGUAGES):
        raise InputError(f"languages={list(languages)} must be some of {', '.join(LANGUAGES)}")
    return chosen


def _package(language: str) -> str:
    return f"{SOURCE}-{language}-g722"


def _decode_all(sounds: Path, out: Path, progress: bool) -> dict[str, float]:
    """Decode every prompt once; return the seconds of each ``speaker/name`` that was kept."""
    seconds: dict[str, float] = {}
    seen: set[str] = set()
    sources = list(_prompts(sounds))
    for speaker, name, source in track(sources, "Decoding speech", disable=not progress):
        coded = source.read_bytes()
        digest = hashlib.md5(coded, usedforsecurity=False).hexdigest()
        if digest in seen or len(coded) * 2 < SHORTEST * SAMPLE_RATE:  # one byte codes two samples
            continue
        seen.add(digest)
        target = out / speaker / f"{name}.flac"
        if not target.exists():
            wave, rate = read(source)
            if wave.shape[-1] < SHORTEST * rate or wave.abs().max() < QUIETEST:
                continue
            target.parent.mkdir(exist_ok=True)
            write(target, wave, rate)
        seconds[f"{speaker}/{name}"] = info(target).seconds
    if not seconds:
        raise InputError("the packages hold no G.722 prompts: were they built for another sound format?")
    return seconds


def _prompts(sounds: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield (speaker, flat name, file): the folder of a voice names the speaker."""
    for source in sorted(sounds.glob("*/**/*.g722")):
        speaker, *parts = source.relative_to(sounds).with_suffix("").parts
        name = "-".join(parts)
        if "silence" in parts[:-1] or name in NOT_SPEECH or source.is_symlink() or not source.is_file():
            continue
        yield speaker, name, source


def _write_split(folder: Path, seconds: dict[str, float]) -> None:
    for name, keys in split_of(seconds).items():
        (folder / f"{name}.txt").write_text("".join(f"{key}.flac\n" for key in keys), encoding="utf-8")
