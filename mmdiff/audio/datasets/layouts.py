"""Find the clips of a dataset: any folder, a manifest, or the trees of LJSpeech, VCTK and LibriTTS."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from mmdiff.errors import InputError
from mmdiff.media.folders import subfolders, walk
from mmdiff.media.manifests import TABLES, Record, existing, lines, records, text_of
from mmdiff.media.splits import apart, hold_out

_ENDINGS = (
    ".wav .flac .ogg .oga .opus .mp3 .m4a .aac .aiff .aif .au .caf .w64 .g722 .gsm .wma .ape .wv "
    ".mp4 .mkv .webm .mov .avi"
)
SUFFIXES = frozenset(_ENDINGS.split())
LAYOUTS = ("auto", "folder", "ljspeech", "vctk", "libritts", "manifest")
_MANIFESTS = (".txt", ".lst", ".psv", *TABLES)
_PATH_KEYS = ("path", "audio", "file", "file_name", "audio_filepath", "wav")
_TEXT_KEYS = ("text", "sentence", "transcript", "transcription")
_SECONDS_KEYS = ("seconds", "duration")


@dataclass(frozen=True)
class Clip:
    """One recording of a dataset: its file, who speaks, what is said and how long, where that is known."""

    path: Path
    speaker: str = ""
    text: str | None = None
    seconds: float | None = None


def find_audio(source: str | os.PathLike[str], layout: str = "auto", split: str | None = None) -> list[Clip]:
    """List the clips of a dataset in a fixed order.

    Layouts: ``"folder"`` is any tree of sound files, whose first folder level names the speaker.
    ``"ljspeech"`` has ``metadata.csv`` and ``wavs/``, ``"vctk"`` has ``wav48*/`` and ``txt/`` (of two
    microphones the first is taken), ``"libritts"`` has ``{part}/{speaker}/{chapter}/``. ``"manifest"`` is a
    file: one path per line, optionally ``path|text`` or ``path|speaker|text``; or csv, tsv or jsonl with a
    column ``path`` (``audio``, ``file``, ``audio_filepath``) and optionally ``speaker``, ``text``,
    ``duration``. Relative paths start at the manifest's folder. Hidden files are left out.

    Parameters
    ----------
    source : path
        Folder or manifest.
    layout : {"auto", "folder", "ljspeech", "vctk", "libritts", "manifest"}
        "auto" recognises the layout by its characteristic files.
    split : str, optional
        Part of the dataset: the manifest ``{split}.txt``, ``.csv``, ``.tsv`` or ``.jsonl`` in the folder,
        else the subfolder of that name; for LibriTTS every part whose name begins with it.

    Returns
    -------
    list of Clip
        Sorted by path, or in the manifest's order.

    Raises
    ------
    InputError
        The source, the split or a listed file is missing, a line cannot be read, or there is no clip.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    root = Path(source).expanduser()
    if not root.exists():
        raise InputError(f"source={str(root)!r} does not exist: give a folder of sound files or a manifest")
    is_manifest = root.is_file() or layout == "manifest"
    clips = _of_manifest(root, split) if is_manifest else _of_folder(root, layout, split)
    if not clips:
        raise InputError(
            f"source={str(root)!r} (layout={layout!r}, split={split!r}) has no sound files: "
            f"known endings are {' '.join(sorted(SUFFIXES))}"
        )
    return clips


def find_train_valid(source: str | os.PathLike[str], layout: str = "auto") -> tuple[list[Clip], list[Clip]]:
    """List the clips to train on and, apart from them, those to validate on.

    They are the splits ``train`` and ``valid`` (LibriTTS: ``dev``) where the dataset has them. What it does not
    split is split here: of every fifty clips one validates, evenly spaced, 1 to 100 of them.

    Parameters
    ----------
    source, layout
        As for :func:`find_audio`.

    Returns
    -------
    train, valid : list of Clip

    Raises
    ------
    InputError
        As for :func:`find_audio`, or nothing is left to train on.
    """
    splits = {name: _has_split(Path(source).expanduser(), layout, name) for name in ("train", "valid", "dev")}
    train = find_audio(source, layout, "train" if splits["train"] else None)
    named = next((name for name in ("valid", "dev") if splits[name]), None)
    if named is None:
        train, valid = hold_out(train, attrgetter("path"))
    else:
        valid = find_audio(source, layout, named)
        train = train if splits["train"] else apart(train, valid, attrgetter("path"))
    if not train:
        raise InputError(f"source={str(source)!r} must hold two recordings or more: one of them validates")
    return train, valid


def _has_split(root: Path, layout: str, split: str) -> bool:
    if not root.is_dir():
        return False
    if any((root / f"{split}{suffix}").is_file() for suffix in _MANIFESTS):
        return True
    if layout == "libritts" or (layout == "auto" and _recognise(root) == "libritts"):
        return any(_is_libritts_part(p) and p.name.startswith(split) for p in (root, *subfolders(root)))
    return (root / split).is_dir()


def _of_folder(root: Path, layout: str, split: str | None) -> list[Clip]:
    if split is not None:
        for suffix in _MANIFESTS:
            if (root / f"{split}{suffix}").is_file():
                return _read_manifest(root / f"{split}{suffix}")
    if layout == "auto":
        layout = _recognise(root)
    if split is not None and layout != "libritts":
        if not (root / split).is_dir():
            raise InputError(
                f"split={split!r} must be a manifest {split}.txt (or .csv, .tsv, .jsonl) or a subfolder of "
                f"{str(root)!r}: write one path per line into {split}.txt, or leave split out"
            )
        root = root / split
    readers: dict[str, Callable[[], Iterable[Clip]]] = {
        "folder": lambda: _tree(root),
        "ljspeech": lambda: _ljspeech(root),
        "vctk": lambda: _vctk(root),
        "libritts": lambda: _libritts(root, split),
    }
    return list(readers[layout]())


def _recognise(root: Path) -> str:
    if (root / "metadata.csv").is_file() and (root / "wavs").is_dir():
        return "ljspeech"
    if (root / "txt").is_dir() and any(root.glob("wav48*")):
        return "vctk"
    if any(_is_libritts_part(part) for part in (root, *subfolders(root))):
        return "libritts"
    return "folder"


def _is_libritts_part(folder: Path) -> bool:
    """Say whether a folder holds {speaker number}/{chapter number}/ and is named like a LibriTTS part."""
    if not folder.name.startswith(("train-", "dev-", "test-")):
        return False
    speakers = subfolders(folder)
    return bool(speakers) and all(speaker.name.isdecimal() for speaker in speakers)


def _sounds(root: Path) -> Iterator[Path]:
    """Yield the visible sound files below a folder, sorted, each folder's files before its subfolders'."""
    for folder in walk(root):
        yield from folder.ending_in(SUFFIXES)


def _tree(root: Path) -> Iterator[Clip]:
    for path in _sounds(root):
        parents = path.relative_to(root).parts[:-1]
        yield Clip(path, parents[0] if parents else "", _text_beside(path))


def _text_beside(path: Path) -> str | None:
    normalised = text_of(path.with_suffix(".normalized.txt"))
    return text_of(path.with_suffix(".txt")) if normalised is None else normalised


def _ljspeech(root: Path) -> Iterator[Clip]:
    metadata = root / "metadata.csv"
    for number, line in lines(metadata):
        name, *texts = line.split("|")
        path = existing(root / "wavs" / f"{name}.wav", metadata, number)
        yield Clip(path, "LJ", texts[-1] if texts else None)


def _vctk(root: Path) -> Iterator[Clip]:
    folders = sorted(p for p in root.glob("wav48*") if p.is_dir())
    for path in _sounds(folders[0]) if folders else ():
        stem = path.stem
        if stem.endswith("_mic2") and path.with_stem(f"{stem[:-1]}1").is_file():
            continue
        speaker = path.parent.name
        take = stem.removesuffix("_mic1").removesuffix("_mic2")
        yield Clip(path, speaker, text_of(root / "txt" / speaker / f"{take}.txt"))


def _libritts(root: Path, split: str | None) -> Iterator[Clip]:
    parts = [root] if _is_libritts_part(root) else [p for p in subfolders(root) if _is_libritts_part(p)]
    for part in parts:
        if split is None or part.name.startswith(split):
            yield from _tree(part)


def _of_manifest(file: Path, split: str | None) -> list[Clip]:
    if not file.is_file() or file.suffix.lower() not in _MANIFESTS:
        raise InputError(f"source={str(file)!r} must be a manifest ending in {' '.join(_MANIFESTS)}")
    if split is not None:
        raise InputError(f"split={split!r} must be left out when the source is itself a manifest")
    return _read_manifest(file)


def _read_manifest(file: Path) -> list[Clip]:
    if file.suffix.lower() in TABLES:
        return [_of_record(record) for record in records(file)]
    return [_of_line(line, file, n) for n, line in lines(file)]


def _of_record(record: Record) -> Clip:
    name = record.name_of_file(*_PATH_KEYS)
    path, text, seconds = record.path(name), record.first(*_TEXT_KEYS), record.first(*_SECONDS_KEYS)
    try:
        known = None if seconds is None else float(str(seconds))
    except ValueError:
        raise InputError(f"{record.where}: duration={seconds!r} must be in seconds") from None
    speaker = record.first("speaker", "speaker_id")
    known_speaker = _speaker_of(name) if speaker is None else str(speaker)
    return Clip(path, known_speaker, None if text is None else str(text), known)


def _of_line(line: str, file: Path, number: int) -> Clip:
    name, *rest = (part.strip() for part in line.split("|"))
    speaker = rest.pop(0) if len(rest) > 1 else _speaker_of(name)
    return Clip(existing(file.parent / name, file, number), speaker, "|".join(rest) if rest else None)


def _speaker_of(name: str) -> str:
    """Take the first folder of a relative path for the speaker."""
    parts = Path(name).parts
    return "" if Path(name).is_absolute() or len(parts) < 2 else parts[0]


def pick_recordings(source: str | Path, split: str | None = None, limit: int | None = None) -> list[Path]:
    """Files of a folder or manifest, ``limit`` of them evenly spaced in the list; or the one file given."""
    path = Path(source)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return [path]
    return spaced([clip.path for clip in find_audio(source, split=split)], limit)


def spaced(files: list[Path], limit: int | None) -> list[Path]:
    """``limit`` of the files, evenly spaced in the list; or all."""
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]
