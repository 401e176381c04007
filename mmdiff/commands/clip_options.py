"""What ``mmdiff clip`` is told in words and numbers: prompts, sizes and margins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmdiff.errors import InputError


def read_prompts(prompt: str | None, file: str | None) -> list[str | None]:
    """Prompts of the command line, or of a text file's lines.

    Raises
    ------
    InputError
        Both are given, or the file cannot be read or is empty.
    """
    if file is None:
        return [prompt]
    if prompt is not None:
        raise InputError(f"prompt={prompt!r} and prompts={file!r} must not both be given; keep one")
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"prompts={file!r} cannot be read as text: {error}") from None
    texts: list[str | None] = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise InputError(f"prompts={file!r} must have at least one line of text")
    return texts


def read_size(size: str | None) -> tuple[int, int] | None:
    """Height and width of "32" or "32x48"."""
    if size is None:
        return None
    sides = size.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise InputError(f"size={size!r} must be a number of pixels, or height x width such as 32x48")
    return int(sides[0]), int(sides[-1])


def read_margins(given: Sequence[int]) -> dict[str, int]:
    """Pixels to add on each side, and frames before and after, of 1, 4 or 6 numbers."""
    sides = ("left", "right", "top", "bottom", "before", "after")
    if len(given) not in (1, 4, 6):
        raise InputError(
            f"margins={list(given)} must be 1 number for all sides, 4 for {', '.join(sides[:4])}, or 6 with frames "
            "before and after"
        )
    return dict(zip(sides, list(given) * 4 if len(given) == 1 else given, strict=False)) | (
        {"before": 0, "after": 0} if len(given) == 1 else {}
    )


def option(name: str) -> str:
    """Name of an option as the user writes it."""
    return f"--{name.replace('_', '-')}"
