"""Opening media files that nobody vouches for: paths, containers, and what to say of damaged ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av

from mmdiff.errors import InputError

PathLike = str | os.PathLike[str]
AV_ERRORS = (av.error.FFmpegError, ValueError, OSError, IndexError, RuntimeError, AssertionError)
"""What PyAV raises on files that are wrong."""
CUT_SLACK = 0.25
"""Seconds that encoder padding may take away from a stated length."""


def check_path(path: PathLike) -> Path:
    """Return the path of a media file that can be read, or raise InputError."""
    file = Path(path).expanduser()
    if os.path.isdir(file):  # unlike Path.is_dir, says no to a name that cannot be
        raise InputError(f"path={str(file)!r} is a folder: name one file in it")
    try:
        size = file.stat().st_size
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"path={str(file)!r} cannot be read: {reason}. Check the name") from None
    if not file.is_file():
        raise InputError(f"path={str(file)!r} must be a file that can be read twice: save the stream first")
    if size == 0:
        raise InputError(f"path={str(file)!r} is empty (0 bytes): copy or export it again")
    if not os.access(file, os.R_OK):
        raise InputError(f"path={str(file)!r} may not be read by this user: change its permissions")
    return file


def open_container(file: Path, formats: str, refusal: str, *, only: str | None = None) -> Any:
    """Open a file with FFmpeg so that it cannot make other files, or the network, be opened (play lists).

    Parameters
    ----------
    file : Path
    formats : str
        FFmpeg's names of the containers to try, with commas between.
    refusal : str
        What to say of a file that is none of them, after its name.
    only : str, optional
        The container of a file that does not say it itself.

    Returns
    -------
    av.container.InputContainer

    Raises
    ------
    InputError
        It is none of these, or damaged.
    """
    options = {"format_whitelist": formats, "protocol_whitelist": "file"}
    try:
        return av.open(str(file), format=only, container_options=options)
    except AV_ERRORS:
        raise InputError(f"path={str(file)!r} {refusal}") from None


def container_name(container: Any) -> str:
    """Return the first of FFmpeg's names for an open container: "mov" for all of QuickTime's family."""
    return str(container.format.name.split(",")[0])


def damaged(path: Path, reason: str) -> InputError:
    """Return the error for a file whose content is wrong."""
    return InputError(f"path={str(path)!r} is damaged: {reason}. Copy or export it again")


def cut_short(path: Path, seconds: float, reason: str, argument: str) -> InputError:
    """Return the error for a file that can only be read for so many seconds, which an argument can ask for."""
    return InputError(
        f"path={str(path)!r} is damaged or cut short after {seconds:.2f} s: {reason}. "
        f"Copy it again, or read only what is there with {argument}={max(seconds - 0.05, 0):.2f}"
    )
