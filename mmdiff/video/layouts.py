"""Find the videos or pictures of a data set: any folder, a manifest, shards, class folders, UCF-101."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Collection
from itertools import chain
from operator import attrgetter
from pathlib import Path

from mmdiff.errors import InputError
from mmdiff.media.folders import subfolders
from mmdiff.media.splits import apart, hold_out
from mmdiff.video.captions_file import MANIFESTS, Listed, caption_beside, index_of, read_manifests
from mmdiff.video.items import IMAGE_SUFFIXES, VIDEO_SUFFIXES, VideoItem
from mmdiff.video.shards import expand, read_shards
from mmdiff.video.trees import SPLITS, UCF_NAME, Items, Source, any_folder, class_folders, split_name, ucf101

LAYOUTS = ("auto", "folder", "classes", "ucf101", "manifest", "shards")


def find_videos(
    source: str | os.PathLike[str], layout: str = "auto", split: str | None = None
) -> list[VideoItem]:
    """List the videos of a data set in a fixed order.

    Layouts: ``"folder"`` is any tree of videos; the caption of ``a.mp4`` is in ``a.txt``. ``"manifest"`` is a
    file, or a folder with ``metadata`` or ``captions`` ending in ``.csv``, ``.tsv`` or ``.jsonl``, or with
    one manifest for each split (``train.csv``, ...): see
    :func:`mmdiff.video.captions_file.read_manifests`. ``"classes"`` has one folder for each class, whose
    name, split at capitals and in lower case, is the caption. ``"ucf101"`` is the same with the lists
    ``trainlist01.txt`` and ``testlist01.txt`` of ``ucfTrainTestlist`` in or beside the folder.
    ``"shards"`` are tar files as WebDataset names them: one, a folder of them, or a pattern such as
    ``shard-{0000..0009}.tar``; see :func:`mmdiff.video.shards.read_shards`. Hidden files are left out.

    Parameters
    ----------
    source : path or pattern
        Folder, manifest, shards, or one video.
    layout : {"auto", "folder", "classes", "ucf101", "manifest", "shards"}
        "auto" recognises the layout by its characteristic files; class folders are only taken for classes
        when asked for. In a tree, "auto" also honours the ``metadata`` or ``captions`` file of a subfolder.
    split : str, optional
        ``train``, ``valid`` (``val``, ``validation``, ``dev``) or ``test``: by the manifest's column
        ``split``, manifest, subfolder or shards of that name; for UCF-101 also ``train02``, ``test03``, ...

    Returns
    -------
    list of VideoItem
        Sorted by path, or in the order of the manifest or shards.

    Raises
    ------
    InputError
        The source, the split or a listed file is missing, a line cannot be read, or there is no video.
    """
    return _pick(_open(source, layout, VIDEO_SUFFIXES), source, layout, split, VIDEO_SUFFIXES)


def find_images(
    source: str | os.PathLike[str], layout: str = "auto", split: str | None = None
) -> list[VideoItem]:
    """List the pictures of a data set: as :func:`find_videos`, for png, jpg, webp, bmp and tiff."""
    return _pick(_open(source, layout, IMAGE_SUFFIXES), source, layout, split, IMAGE_SUFFIXES)


def find_train_valid(
    source: str | os.PathLike[str], layout: str = "auto"
) -> tuple[list[VideoItem], list[VideoItem]]:
    """List the videos to train on and, apart from them, those to validate on.

    They are the splits ``train`` and ``valid`` where the data set has them. What it does not split is split
    here: of every fifty videos one validates, evenly spaced, 1 to 100 of them. Parts of one file, and in
    UCF-101 the clips of one recording, stay together. A split ``test`` is in neither.

    Parameters
    ----------
    source, layout
        As for :func:`find_videos`.

    Returns
    -------
    train, valid : list of VideoItem

    Raises
    ------
    InputError
        As for :func:`find_videos`, or nothing is left to train on.
    """
    found = _open(source, layout, VIDEO_SUFFIXES)
    parts = {
        split: _pick(found, source, layout, split, VIDEO_SUFFIXES)
        for split in ("train", "valid", "test") if split in found.splits
    }  # fmt: skip
    train = parts.get("train")
    if train is None:
        train = _pick(found, source, layout, None, VIDEO_SUFFIXES)
        train = apart(train, chain.from_iterable(parts.values()), attrgetter("group"))
    valid = parts.get("valid")
    if valid is None:
        train, valid = hold_out(train, attrgetter("group"))
    if not train:
        raise InputError(f"source={str(source)!r} must hold two videos or more: one of them validates")
    return train, valid


def _pick(
    found: Source,
    source: str | os.PathLike[str],
    layout: str,
    split: str | None,
    suffixes: Collection[str],
) -> list[VideoItem]:
    if split is not None and split_name(split) not in found.splits:
        raise InputError(
            f"split={split!r} must be one that {str(source)!r} has ({', '.join(found.splits) or 'none'}): "
            "a subfolder, manifest or shards of that name, or a column split in the manifest. Or leave it out"
        )
    items = found.every() if split is None else found.splits[split_name(split)]()
    items = [item for item in items if item.suffix in suffixes]
    if not items:
        what = "videos" if suffixes is VIDEO_SUFFIXES else "pictures"
        raise InputError(
            f"source={str(source)!r} (layout={layout!r}, split={split!r}) has no {what}: "
            f"known endings are {' '.join(sorted(suffixes))}"
        )
    return items


def _open(source: str | os.PathLike[str], layout: str, suffixes: Collection[str]) -> Source:
    if layout not in LAYOUTS:
        raise InputError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    text, root = str(source), Path(source).expanduser()
    if "://" in text or text.startswith("pipe:"):
        raise InputError(f"source={text!r} must lie on this machine: fetch the files first")
    if not root.exists() and "{" in text:
        return _shards([Path(name).expanduser() for name in expand(text)], suffixes)
    if not root.exists():
        raise InputError(f"source={text!r} does not exist: give a folder of videos, a manifest or shards")
    if root.is_file():
        return _file(root, suffixes)
    if layout == "auto":
        layout = _recognise(root)
    readers: dict[str, Callable[[], Source]] = {
        "folder": lambda: any_folder(root, suffixes, captions_files=False),
        "tree": lambda: any_folder(root, suffixes, captions_files=True),
        "classes": lambda: class_folders(root, suffixes),
        "ucf101": lambda: ucf101(root),
        "manifest": lambda: _manifests(root),
        "shards": lambda: _shards(sorted(root.glob("[!.]*.tar")), suffixes),
    }
    return readers[layout]()


def _recognise(root: Path) -> str:
    if index_of(root) or _split_manifests(root):
        return "manifest"
    if any(root.glob("[!.]*.tar")):
        return "shards"
    if (root / "UCF-101").is_dir():
        return "ucf101"
    first = next(iter(subfolders(root)), root)
    return "ucf101" if any(UCF_NAME.fullmatch(file.name) for file in first.iterdir()) else "tree"


def _file(file: Path, suffixes: Collection[str]) -> Source:
    suffix = file.suffix.lower()
    if suffix == ".tar":
        return _shards([file], suffixes)
    if suffix in MANIFESTS:
        return _listed(read_manifests([file])[0])
    if suffix in suffixes:
        return Source(lambda: [VideoItem(file, caption_beside(file))], {})
    raise InputError(f"source={str(file)!r} must be a video, a .tar or a manifest ({' '.join(MANIFESTS)})")


def _listed(lines: list[Listed]) -> Source:
    parts: dict[str, list[VideoItem]] = {}
    for line in lines:
        if line.split is not None:
            parts.setdefault(split_name(line.split), []).append(line.item)
    splits: dict[str, Items] = {name: functools.partial(list, part) for name, part in parts.items()}
    return Source(lambda: [line.item for line in lines], splits)


def _split_manifests(root: Path) -> dict[str, Path]:
    """Manifests named after splits; a txt beside a video of the same stem is that video's caption."""
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        files = [root / f"{name}{suffix}" for name in names for suffix in MANIFESTS]
        for file in filter(Path.is_file, files):
            if not any(file.with_suffix(suffix).is_file() for suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES):
                found.setdefault(split, file)
    return found


def _manifests(root: Path) -> Source:
    index = index_of(root)
    if index is not None:
        return _listed(read_manifests([index])[0])
    files = _split_manifests(root)
    if not files:
        raise InputError(f"source={str(root)!r} must be a manifest or hold metadata.csv or captions.jsonl")
    parts = [[line.item for line in lines] for lines in read_manifests(list(files.values()))]
    splits: dict[str, Items] = {
        split: functools.partial(list, part) for split, part in zip(files, parts, strict=True)
    }
    return Source(lambda: list(chain.from_iterable(parts)), splits)


def _shards(shards: list[Path], suffixes: Collection[str]) -> Source:
    parts: dict[str, list[Path]] = {}
    for shard in shards:
        split = split_name(re.split(r"[^A-Za-z]", shard.stem)[0])
        if split in SPLITS:
            parts.setdefault(split, []).append(shard)
    splits: dict[str, Items] = {
        name: functools.partial(read_shards, part, suffixes) for name, part in parts.items()
    }
    return Source(lambda: read_shards(shards, suffixes), splits)
