"""Data sets that are told apart by their folders: any tree, class folders, UCF-101."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from mmdiff.media.folders import subfolders, walk
from mmdiff.media.manifests import lines
from mmdiff.video.captions_file import caption_beside, index_of, read_manifests
from mmdiff.video.items import VideoItem

SPLITS = {
    "train": ("train", "training"),
    "valid": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
_UCF_LISTS = "ucfTrainTestlist"
UCF_NAME = re.compile(r"v_.+_g\d+_c\d+\.avi")

Items = Callable[[], list[VideoItem]]


class Source(NamedTuple):
    """A data set as recognised: all its items, and those of each split it has; read when asked for."""

    every: Items
    splits: dict[str, Items]


def split_name(name: str) -> str:
    """Return the one name of a split that has several; any other name as it is."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), name)


def split_folders(root: Path) -> dict[str, Path]:
    """Return the subfolders that are named after splits."""
    found: dict[str, Path] = {}
    for folder in subfolders(root):
        if (split := split_name(folder.name)) in SPLITS:
            found.setdefault(split, folder)
    return found


def any_folder(root: Path, suffixes: Collection[str], captions_files: bool) -> Source:
    """Take any tree, whose subfolders may be splits; see :func:`files_below`."""

    def read(folder: Path) -> list[VideoItem]:
        return list(files_below(folder, suffixes, captions_files))

    splits: dict[str, Items] = {
        name: functools.partial(read, folder) for name, folder in split_folders(root).items()
    }
    return Source(lambda: read(root), splits)


def files_below(root: Path, suffixes: Collection[str], captions_files: bool = False) -> Iterator[VideoItem]:
    """Yield visible files below a folder, sorted, each folder's files before its subfolders'.

    With ``captions_files`` a folder that has a file of captions holds what that file lists, and nothing else.
    """
    for folder in walk(root):
        index = index_of(folder.path) if captions_files else None
        if index is not None:
            folder.subfolders.clear()
            yield from (line.item for line in read_manifests([index])[0])
            continue
        for file in folder.ending_in(suffixes):
            if file.is_file():
                yield VideoItem(file, caption_beside(file))


def class_folders(root: Path, suffixes: Collection[str]) -> Source:
    """Number the class folders, over all splits where there are split folders."""
    parts = split_folders(root) or {"": root}
    folders = {split: subfolders(part) for split, part in parts.items()}
    number = {name: n for n, name in enumerate(sorted({f.name for part in folders.values() for f in part}))}

    def read(split: str) -> list[VideoItem]:
        return [
            replace(item, caption=item.caption or spoken(folder.name), label=number[folder.name])
            for folder in folders[split]
            for item in files_below(folder, suffixes)
        ]

    splits: dict[str, Items] = {split: functools.partial(read, split) for split in parts if split}
    return Source(lambda: [item for split in parts for item in read(split)], splits)


def spoken(name: str) -> str:
    """Write a class name as a caption: split at capitals, in lower case.

    Examples
    --------
    >>> spoken("ApplyEyeMakeup"), spoken("playing_TV-games2D")
    ('apply eye makeup', 'playing tv games2 d')
    """
    parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_-]+", " ", name)
    return " ".join(parts.split()).lower()


def ucf101(root: Path) -> Source:
    """Take UCF-101: class folders, the official lists as splits, classes numbered as in its ``classInd.txt``."""
    videos = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    places = (videos / _UCF_LISTS, videos.parent / _UCF_LISTS)
    lists = next((place for place in places if place.is_dir()), None)
    if lists is None:
        return class_folders(videos, frozenset({".avi"}))
    names = [folder.name for folder in subfolders(videos) if folder.name != _UCF_LISTS]
    if (lists / "classInd.txt").is_file():  # the numbers stay the same where only some classes are here
        names = [line.split()[-1] for _, line in lines(lists / "classInd.txt")]
    number = {name: n for n, name in enumerate(names)}
    every = [
        VideoItem(path, spoken(folder.name), number.get(folder.name))
        for folder in subfolders(videos)
        if folder.name in number
        for path in sorted(folder.glob("[!.]*.avi"))
    ]
    splits: dict[str, Items] = {}
    for file in sorted(lists.glob("[!.]*list??.txt")):
        splits[file.stem.replace("list", "")] = functools.partial(_ucf_split, every, videos, file)
    for split in ("train", "test"):
        if f"{split}01" in splits:
            splits[split] = splits[f"{split}01"]
    return Source(lambda: every, splits)


def _ucf_split(every: list[VideoItem], videos: Path, file: Path) -> list[VideoItem]:
    here = {item.path: item for item in every}
    named = [videos / line.split()[0] for _, line in lines(file)]
    missing = [path for path in named if path not in here]
    if missing:
        warnings.warn(
            f"{len(missing)} of {len(named)} videos of {str(file)!r} are not there, {str(missing[0])!r} first. "
            "They are left out",
            stacklevel=5,
        )
    return [here[path] for path in named if path in here]
