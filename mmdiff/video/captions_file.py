"""Captions beside videos (``a.mp4``, ``a.txt``) and manifests that list videos with captions and parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import InputError
from mmdiff.media.manifests import TABLES, Record, lines, records, text_of
from mmdiff.video.items import VideoItem

MANIFESTS = (*TABLES, ".txt", ".lst")
PATH_KEYS = ("file", "video", "path", "file_name", "image")
CAPTION_KEYS = ("caption", "text")
LABEL_KEYS = ("label", "class")
_INDEXES = [f"{name}{suffix}" for name in ("metadata", "captions") for suffix in TABLES]


class Listed(NamedTuple):
    """A line of a manifest: the item, its class where that is a name, and its split."""

    item: VideoItem
    class_name: str | None
    split: str | None


def caption_beside(path: Path) -> str | None:
    """Text of the file with the same stem and the ending .txt, its lines joined; None without one."""
    return tidy(text_of(path.with_suffix(".txt")))


def tidy(text: object) -> str | None:
    """Text with single spaces; None for none."""
    return None if text is None else " ".join(str(text).split()) or None


def index_of(folder: Path) -> Path | None:
    """Return the manifest that describes a folder: metadata or captions, .csv, .tsv or .jsonl.

    Raises
    ------
    InputError
        There are several.
    """
    found = [folder / name for name in _INDEXES if (folder / name).is_file()]
    if len(found) > 1:
        raise InputError(
            f"source={str(folder)!r} has {' and '.join(file.name for file in found)}: "
            "remove all but one, or give the manifest itself as the source"
        )
    return found[0] if found else None


def read_manifests(files: Sequence[Path]) -> list[list[Listed]]:
    """Read manifests that belong together; classes given by name are numbered over all of them, sorted.

    A csv or tsv has a header and jsonl has objects with the columns ``file`` (``video``, ``path``,
    ``file_name``, ``image``) and, each optional, ``caption`` (``text``), ``label`` (``class``; a number or a
    name), ``start`` and ``end`` (seconds or h:mm:ss), ``actions`` (whole numbers, one for each frame: a list, or
    in a table with spaces between) and ``split``. A txt has lines ``path`` or
    ``path|caption``. Relative paths start at the manifest's folder. A video without a caption takes the one
    in the txt beside it.

    Parameters
    ----------
    files : sequence of Path

    Returns
    -------
    list of list of Listed
        For each file its lines.

    Raises
    ------
    InputError
        A line cannot be read, or names a file that is not there.
    """
    read = [[_listed(record) for record in _records(file)] for file in files]
    names = sorted({line.class_name for lines in read for line in lines if line.class_name is not None})
    if names and any(line.item.label is not None for lines in read for line in lines):
        raise InputError(
            f"{str(files[0])!r} has both numbers and names ({names[0]!r}, ...) as labels: use one of the two"
        )
    number = {name: n for n, name in enumerate(names)}
    return [
        [
            line if line.class_name is None
            else line._replace(item=replace(line.item, label=number[line.class_name]))
            for line in lines
        ]
        for lines in read
    ]  # fmt: skip


def _records(file: Path) -> Iterator[Record]:
    if file.suffix.lower() in TABLES:
        yield from records(file)
        return
    for number, line in lines(file):
        name, _, caption = line.partition("|")
        yield Record(file, number, {"file": name.strip(), "caption": caption})


def _listed(record: Record) -> Listed:
    where, first = record.where, record.first
    path = record.path(record.name_of_file(*PATH_KEYS))
    caption = tidy(first(*CAPTION_KEYS)) or caption_beside(path)
    start, end = (_seconds(first(key, f"{key}_time"), key, where) for key in ("start", "end"))
    start = 0.0 if start is None else start
    if end is not None and end <= start:
        raise InputError(f"{where}: end={end:g} must be after start={start:g}, in seconds")
    label = first(*LABEL_KEYS)
    known = label_number(label, where)
    split = tidy(first("split"))
    class_name = str(label) if label is not None and known is None else None
    actions = read_actions(first("actions"), where)
    return Listed(VideoItem(path, caption, known, start, end, actions=actions), class_name, split)


def label_number(label: object, where: str) -> int | None:
    """Read a class number >= 0; None for a name or nothing."""
    try:
        value = float(str(label))
    except ValueError:
        return None
    if label is None or value < 0 or not value.is_integer():
        raise InputError(f"{where}: label={label!r} must be a whole number >= 0 or a name")
    return int(value)


def read_actions(value: object, where: str) -> tuple[int, ...] | None:
    """Read whole numbers from a list or a text with spaces; None for nothing."""
    if value is None:
        return None
    entries = value if isinstance(value, list) else str(value).split()
    if not entries or not all(str(entry).isdecimal() for entry in entries):
        raise InputError(f"{where}: actions must be whole numbers >= 0, one for each frame")
    return tuple(int(entry) for entry in entries)


def _seconds(value: object, key: str, where: str) -> float | None:
    if value is None:
        return None
    try:
        parts = [float(part) for part in str(value).split(":")]
    except ValueError:
        parts = [-1.0]
    seconds = sum(part * 60**power for power, part in enumerate(reversed(parts)))
    if not math.isfinite(seconds) or min(parts) < 0 or len(parts) > 3:
        raise InputError(f"{where}: {key}={value!r} must be seconds or h:mm:ss, 0 or more")
    return seconds
