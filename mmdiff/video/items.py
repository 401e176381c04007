"""One entry of a data set of videos or pictures: where it lies, what it shows, which part of it counts."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmdiff.errors import InputError
from mmdiff.video.io import READABLE
from mmdiff.video.stills import IMAGES

IMAGE_SUFFIXES = frozenset(IMAGES)
VIDEO_SUFFIXES = frozenset(READABLE) - IMAGE_SUFFIXES - {".ts", ".npy"}
"""Endings looked for. Files that end in .ts are more often code, and in .npy features."""


@dataclass(frozen=True)
class Member:
    """A file inside an uncompressed tar: its name, and where its bytes lie in the tar."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class VideoItem:
    """One video or picture, or a part of a video.

    Attributes
    ----------
    path : Path
        The file, or the tar that holds it.
    caption : str, optional
        What it shows.
    label : int >= 0, optional
        Its class.
    start : float >= 0, seconds
    end : float > start, seconds, optional
        The part that counts; by default all.
    member : Member, optional
        Which file of the tar.
    actions : tuple of int >= 0, optional
        What is done in each frame of the part that counts.
    """

    path: Path
    caption: str | None = None
    label: int | None = None
    start: float = 0.0
    end: float | None = None
    member: Member | None = None
    actions: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The path, for messages; ``tar/member`` inside a tar."""
        return str(self.path if self.member is None else self.path / self.member.name)

    @property
    def suffix(self) -> str:
        """Ending in lower case, with its dot."""
        return Path(self.name).suffix.lower()

    @property
    def group(self) -> str:
        """What training and validation may not share: the file; in UCF-101 all clips of one recording."""
        recording = re.fullmatch(r"(v_.+_g\d+)_c\d+", Path(self.name).stem)
        return recording[1] if recording else self.name


@contextlib.contextmanager
def local_file(item: VideoItem) -> Iterator[Path]:
    """Give a path at which the item's bytes can be read; members of a tar are copied out for the while.

    Raises
    ------
    InputError
        The tar cannot be read, or ends before the member does.
    """
    if item.member is None:
        yield item.path
        return
    with tempfile.NamedTemporaryFile(suffix=item.suffix) as copy:
        left = _copy(item.path, item.member, copy)
        if left:
            raise InputError(f"path={item.name!r} is cut short by {left} bytes: make or fetch the tar again")
        copy.flush()
        yield Path(copy.name)


def _copy(tar: Path, member: Member, target: IO[bytes]) -> int:
    """Copy a member's bytes; return how many are missing."""
    left = member.size
    try:
        with tar.open("rb") as source:
            source.seek(member.offset)
            while left and (block := source.read(min(left, 1 << 20))):
                target.write(block)
                left -= len(block)
    except OSError as error:
        raise InputError(
            f"path={str(tar / member.name)!r} cannot be copied: {error.strerror or error}"
        ) from None
    return left
