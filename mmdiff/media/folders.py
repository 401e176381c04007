"""Walking folders of media, in a fixed order and without what is hidden."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import InputError

_DEEPEST = 32  # folders within each other: more is a link in a circle


class Folder(NamedTuple):
    """A folder met by :func:`walk`: its visible files, and the names of its visible subfolders; both sorted.

    Names removed from ``subfolders`` are not entered.
    """

    path: Path
    files: list[Path]
    subfolders: list[str]

    def ending_in(self, suffixes: Collection[str]) -> list[Path]:
        """Return the files with one of these endings, given in small letters with their dot."""
        return [file for file in self.files if file.suffix.lower() in suffixes]


def walk(root: Path, *, links: bool = True) -> Iterator[Folder]:
    """Yield a folder and all visible ones below it, each before its subfolders.

    Parameters
    ----------
    root : Path
        It may itself be hidden.
    links : bool
        Whether to enter folders through links.

    Yields
    ------
    Folder
        One that cannot be listed is left out with a warning.

    Raises
    ------
    InputError
        A link leads in a circle.
    """
    for name, subfolders, names in os.walk(root, followlinks=links, onerror=_left_out):
        path = Path(name)
        if links and len(path.parts) - len(root.parts) > _DEEPEST:
            raise InputError(
                f"source={str(root)!r} has folders more than {_DEEPEST} deep: is there a link in a circle?"
            )
        subfolders[:] = sorted(filter(_is_visible, subfolders))
        yield Folder(path, [path / file for file in sorted(filter(_is_visible, names))], subfolders)


def subfolders(root: Path) -> list[Path]:
    """Return the visible folders in a folder, sorted."""
    return sorted(path for path in root.iterdir() if path.is_dir() and _is_visible(path.name))


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _left_out(error: OSError) -> None:
    warnings.warn(f"folder {error.filename!r} is left out: {error.strerror}", stacklevel=3)
