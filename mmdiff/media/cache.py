"""Keeping what was decoded: names that change with the source, work on threads, and what to say of broken files."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mmdiff.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 4  # decoders have threads of their own
_MOST_BROKEN = 0.1  # share of unusable files above which something else is wrong
_TOLD = 10  # complaints that are quoted


def default_folder(kind: str) -> Path:
    """Return the user's folder for decoded media: ``$XDG_CACHE_HOME/mmdiff/{kind}``, ``~/.cache`` by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmdiff" / kind


def state_of(path: Path) -> str:
    """Return a line that changes with a file: its place, size and modification time.

    Raises
    ------
    InputError
        The file is gone or out of reach.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"path={str(path)!r} cannot be read: {error.strerror}") from None
    return f"{path.absolute()}\t{status.st_size}\t{status.st_mtime_ns}"


def fingerprint(lines: Iterable[str], length: int) -> str:
    """Return so many hexadecimal digits, up to 64, that stand for these lines (SHA-256)."""
    digest = hashlib.sha256()
    for number, line in enumerate(lines):
        text = f"\n{line}" if number else line
        digest.update(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:length]


def on_threads(work: Callable[[T], R], items: Iterable[T], *, bounded: bool = False) -> Iterator[R]:
    """Do work on a few threads and yield the results in the order of the items.

    Parameters
    ----------
    work : callable
        What it raises, this raises, and begins nothing more.
    items : iterable
    bounded : bool
        Begin only a few items ahead of who takes the results: for results that fill the memory. Else none
        waits for a slow one before it.

    Yields
    ------
    object
        What ``work`` returns.
    """
    waiting: collections.deque[Future[R]] = collections.deque()
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if bounded and len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def report_broken(complaints: Sequence[str], total: int, *, stacklevel: int) -> None:
    """Say which of ``total`` files cannot be used, if any.

    Parameters
    ----------
    complaints : sequence of str
        One for each of them.
    total : int
    stacklevel : int
        Of the warning that they are left out, as if the caller gave it.

    Raises
    ------
    InputError
        More than a tenth of the files, and more than one, cannot be used, or none can.
    """
    if not complaints:
        return
    quoted = [*complaints[:_TOLD], *([f"{len(complaints) - _TOLD} more"] if len(complaints) > _TOLD else [])]
    text = f"{len(complaints)} of {total} clips cannot be used: {'; '.join(quoted)}"
    if len(complaints) > max(_MOST_BROKEN * total, 1) or len(complaints) == total:
        raise InputError(f"{text}. Repair or remove them")
    warnings.warn(f"{text}. They are left out", stacklevel=stacklevel + 1)


@contextlib.contextmanager
def writing_to(folder: Path, needs: str) -> Iterator[None]:
    """Turn what the disk refuses in the block into an InputError that says what room is needed."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cache={str(folder)!r} cannot be written: {error.strerror or error}. It needs {needs}; name "
            "another folder"
        ) from None
