"""Tar shards that follow WebDataset's naming convention: listed by their headers, read at random, written.

Files of one sample stand together in the tar and share their path up to the first dot of the file's name:
``a/0007.mp4``, ``a/0007.txt``, ``a/0007.cls``. Only headers are read to list them, and each video stays where it
is: dataset[n] is then as exact, and a run as resumable, as with plain files, which streaming cannot offer.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.progress import track
from mmdiff.video.captions_file import CAPTION_KEYS, label_number, read_actions, tidy
from mmdiff.video.items import VIDEO_SUFFIXES, Member, VideoItem, local_file

_LARGEST_TEXT = 1 << 20  # bytes of a caption or json: more is something else
_MOST_NAMES = 100_000  # that one pattern may stand for


def expand(pattern: str) -> list[str]:
    """Write out braces as a shell does.

    Parameters
    ----------
    pattern : str
        ``{000..123}`` counts, with as many digits as are written; ``{a,b}`` lists. Braces may be repeated
        and nested.

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        It stands for more than 100,000 names, or has a brace too many.

    Examples
    --------
    >>> expand("{train,test}-{08..10}.tar")[1:4]
    ['train-09.tar', 'train-10.tar', 'test-08.tar']
    """
    names = list(itertools.islice(_expanded(pattern), _MOST_NAMES + 1))
    if len(names) > _MOST_NAMES:
        raise InputError(f"source={pattern!r} stands for too many names: {_MOST_NAMES} at most")
    return names


def _expanded(pattern: str) -> Iterator[str]:
    first = pattern.find("{")
    if first < 0:
        yield pattern
        return
    depth, cuts, last = 0, [first], -1
    for place in range(first, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[place], 0)
        if pattern[place] == "," and depth == 1:
            cuts.append(place)
        if depth == 0:
            last = place
            break
    if last < 0:
        raise InputError(f"source={pattern!r} has a brace that is not closed")
    cuts.append(last)
    for choice in _choices(pattern, [pattern[i + 1 : j] for i, j in itertools.pairwise(cuts)]):
        for rest in _expanded(pattern[last + 1 :]):
            yield f"{pattern[:first]}{choice}{rest}"


def _choices(pattern: str, parts: list[str]) -> Iterator[str]:
    """Yield what one pair of braces stands for, given what its commas part."""
    if len(parts) > 1:
        for part in parts:
            yield from _expanded(part)
        return
    count = re.fullmatch(r"(\d+)\.\.(\d+)", parts[0])
    if count is None:
        raise InputError(f"source={pattern!r}: braces hold {{first..last}} or {{this,that}}")
    first, last = int(count[1]), int(count[2])
    padded = any(len(number) > 1 and number[0] == "0" for number in count.groups())
    width = max(map(len, count.groups())) if padded else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{number:0{width}}"


def read_shards(shards: Iterable[Path], suffixes: Collection[str] = VIDEO_SUFFIXES) -> list[VideoItem]:
    """List the videos of shards, in their order.

    A sample's caption is its ``.txt``, or ``caption`` or ``text`` of its ``.json``; its label is its ``.cls``, or
    ``label`` of its json; ``start`` and ``end`` of its json, in seconds, say which part counts; ``actions`` of
    its json are whole numbers, one for each frame.

    Parameters
    ----------
    shards : iterable of Path
        Uncompressed tar files.
    suffixes : collection of str
        Endings that count as video, or as pictures.

    Returns
    -------
    list of VideoItem

    Raises
    ------
    InputError
        A shard is missing, compressed or broken, or a caption in it cannot be read.
    """
    return [item for shard in shards for item in _read_shard(shard, suffixes)]


def _read_shard(shard: Path, suffixes: Collection[str]) -> Iterator[VideoItem]:
    try:
        with tarfile.open(shard, "r:") as tar:
            members = (member for member in tar if member.isreg())
            for _, group in itertools.groupby(members, key=lambda member: _split(member.name)[0]):
                item = _sample(tar, shard, list(group), suffixes)
                if item is not None:
                    yield item
    except tarfile.ReadError as error:
        raise InputError(
            f"source={str(shard)!r} must be an uncompressed tar ({error}): unpack .gz with gunzip, or fetch it again"
        ) from None
    except OSError as error:
        raise InputError(f"source={str(shard)!r} cannot be read: {error.strerror or error}") from None


def _split(name: str) -> tuple[str, str]:
    """Part a member's name at the first dot of its last component; the ending is in lower case."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _sample(
    tar: tarfile.TarFile, shard: Path, members: list[tarfile.TarInfo], suffixes: Collection[str]
) -> VideoItem | None:
    endings = {_split(member.name)[1]: member for member in members}
    videos = [m for ending, m in endings.items() if f".{ending.rpartition('.')[2]}" in suffixes]
    if not videos or _split(videos[0].name)[0].rpartition("/")[2] == "":  # hidden files
        return None
    texts = {
        ending: _text(tar, shard, endings[ending]) for ending in ("txt", "json", "cls") if ending in endings
    }
    where = f"{str(shard)!r}, {videos[0].name!r}"
    record = _record(texts["json"], where) if "json" in texts else {}
    named = next((record[key] for key in CAPTION_KEYS if record.get(key)), None)
    caption = tidy(texts.get("txt")) or tidy(named)
    given = texts.get("cls", record.get("label"))
    label = None if given is None else label_number(str(given).strip(), where)
    if given is not None and label is None:
        raise InputError(f"{where}: label={given!r} must be a whole number >= 0")
    start, end = record.get("start") or 0.0, record.get("end")
    if not all(isinstance(t, int | float) for t in (start, end) if t is not None) or not 0 <= start < (
        float("inf") if end is None else end
    ):
        raise InputError(f"{where}: start={start!r}, end={end!r} must be seconds, the end after the start")
    member = Member(videos[0].name, videos[0].offset_data, videos[0].size)
    actions = read_actions(record.get("actions"), where)
    return VideoItem(
        shard, caption, label, float(start), None if end is None else float(end), member, actions
    )


def _text(tar: tarfile.TarFile, shard: Path, member: tarfile.TarInfo) -> str:
    if member.size > _LARGEST_TEXT:
        raise InputError(
            f"{str(shard)!r}, {member.name!r} has {member.size} bytes: a caption has 1 MiB at most"
        )
    stream = tar.extractfile(member)
    assert stream is not None  # regular files only come here
    return stream.read().decode("utf-8", errors="replace")


def _record(text: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: its json cannot be read: {error}") from None
    return record if isinstance(record, dict) else {}


def write_shards(
    items: Sequence[VideoItem],
    folder: str | Path,
    *,
    name: str = "shard",
    most_items: int = 1000,
    most_bytes: int = 1 << 30,
    progress: bool = True,
) -> list[Path]:
    """Copy videos with their captions and labels into shards ``{name}-000000.tar``, ...

    The files are copied as they are, so reading gives the same frames. The same items give the same bytes. A
    shard that is being written is invisible until it is whole.

    Parameters
    ----------
    items : sequence of VideoItem
    folder : path
        Where the shards go; shards of the same number are replaced.
    name : str
        Start of their names; ``train``, ``valid`` and ``test`` are recognised as splits by
        :func:`mmdiff.video.layouts.find_videos`.
    most_items : int > 0
        In one shard.
    most_bytes : int > 0
        Of videos in one shard, which holds one video at least.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        There is nothing to write, an argument breaks its rule, or a video cannot be read.
    """
    if not items or most_items < 1 or most_bytes < 1:
        raise InputError(f"{len(items)} items, {most_items=}, {most_bytes=} must each be at least 1")
    written = []
    ready = track(_parted(items, most_items, most_bytes), "Writing shards", show=progress)
    for number, part in enumerate(ready):
        shard = Path(folder) / f"{name}-{number:06}.tar"
        with atomic_file(shard) as temporary, tarfile.open(temporary, "w") as tar:
            for place, item in part:
                _add_item(tar, f"{place:09}", item)
        written.append(shard)
    return written


def _parted(
    items: Sequence[VideoItem], most_items: int, most_bytes: int
) -> list[list[tuple[int, VideoItem]]]:
    parts: list[list[tuple[int, VideoItem]]] = []
    size = most_bytes
    for place, item in enumerate(items):
        try:
            own = item.member.size if item.member else item.path.stat().st_size
        except OSError as error:
            raise InputError(f"path={item.name!r} cannot be read: {error.strerror}") from None
        if not parts or size + own > most_bytes or len(parts[-1]) >= most_items:
            parts.append([])
            size = 0
        parts[-1].append((place, item))
        size += own
    return parts


def _add_item(tar: tarfile.TarFile, key: str, item: VideoItem) -> None:
    with local_file(item) as path, path.open("rb") as video:
        _add(tar, f"{key}{item.suffix}", video, path.stat().st_size)
    texts = {}
    if item.caption is not None:
        texts["txt"] = item.caption
    if item.label is not None:
        texts["cls"] = str(item.label)
    record = {"start": item.start or None, "end": item.end, "actions": item.actions}
    if any(value is not None for value in record.values()):
        texts["json"] = json.dumps({key: value for key, value in record.items() if value is not None})
    for ending, text in texts.items():
        data = text.encode()
        _add(tar, f"{key}.{ending}", io.BytesIO(data), len(data))


def _add(tar: tarfile.TarFile, name: str, stream: Any, size: int) -> None:
    header = tarfile.TarInfo(name)  # time, owner and mode are fixed: the same items give the same bytes
    header.size = size
    tar.addfile(header, stream)
