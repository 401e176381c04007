"""Writing files and folders so that a reader sees the old one or the new one, never half of one; checksums."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from mmdiff.errors import InputError

TEMPORARY = ".tmp-"
"""Start of the name of everything that is still being written; safe to delete when nothing is running."""


def _temporary(path: Path) -> Path:
    # In the target's own folder: a rename across file systems would be a copy. The suffix stays last
    # because writers choose a format by it.
    return path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: str | Path) -> str:
    """SHA-256 checksum of a file's bytes, 64 hexadecimal digits; the file may be larger than the memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def check_writable(path: str | Path) -> None:
    """Complain before long work if no file can be written there: it names a folder.

    Raises
    ------
    InputError
    """
    if Path(path).is_dir():
        raise InputError(f"out={str(path)!r} must be a file to write, and is a folder; add a name to it")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to; rename it to ``path`` when the block ends without an error.

    Parameters
    ----------
    path : str or Path
        Where the file shall be. Missing parent folders are made; an old file is replaced.

    Yields
    ------
    Path
        A path with the same suffix in the same folder. After an error it is removed; ``path`` is as before.

    Examples
    --------
    >>> with atomic_file("notes.txt") as temporary:
    ...     _ = temporary.write_text("whole or not at all")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder to fill; rename it to ``path`` when the block ends without an error.

    An existing folder is moved aside first, because a folder cannot be renamed onto a full one, and deleted
    after the new one is in its place.

    Parameters
    ----------
    path : str or Path
        Where the folder shall be. Missing parent folders are made.

    Yields
    ------
    Path
        An empty folder beside ``path``. After an error it is removed and ``path`` is as before.
    """
    path = Path(path)
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush_to_disk(file)
        if path.exists():
            aside = _temporary(path)
            os.replace(path, aside)
            os.replace(temporary, path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
