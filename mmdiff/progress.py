"""Progress bars: one look for everything long, on the error stream, only on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def track(items: Iterable[T], what: str, *, total: int | None = None, show: bool = True) -> Iterator[T]:
    """Yield ``items``, with a bar when ``show`` is true, there is a terminal, and more than one item to come.

    Parameters
    ----------
    items : iterable
    what : str
        Label of the bar.
    total : int, optional
        Number of items, where ``items`` has no length.
    show : bool
    """
    console = Console(stderr=True)
    if total is None and isinstance(items, Sized):
        total = len(items)
    if not show or not console.is_terminal or total == 1:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=total, description=what)
