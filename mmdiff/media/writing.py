"""Writing media files: what to say where the disk or the codec refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mmdiff.errors import InputError


@contextlib.contextmanager
def naming_errors(path: Path, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn these errors in the block into an InputError that says which file could not be written, and why."""
    try:
        yield
    except InputError:
        raise
    except errors as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or error
        raise InputError(
            f"path={str(path)!r} cannot be written: {reason}. Check the folder, its permissions and free space"
        ) from None
