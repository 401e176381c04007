"""Showing how a run goes: a bar on a terminal, plain lines in a file or a pipe."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


class Reporter:
    """Tells a person about a run on standard output.

    Parameters
    ----------
    last : int
        Step the run ends with.
    quiet : bool
        Say nothing: every process but the main one.
    """

    def __init__(self, last: int, *, quiet: bool) -> None:
        self._last = last
        self._quiet = quiet
        self._console = Console(highlight=False, soft_wrap=True, markup=False)
        self._began, self._first = time.monotonic(), 0
        status = TextColumn("{task.fields[status]}")
        columns = (BarColumn(bar_width=30), MofNCompleteColumn(), TimeRemainingColumn(), status)
        shown = self._console.is_terminal and not quiet
        self._bar = Progress(*columns, console=self._console, disable=not shown)
        self._task = self._bar.add_task("train", total=last, status="")

    def start(self, step: int) -> None:
        """Begin to count the time, at ``step``."""
        self._began, self._first = time.monotonic(), step
        self._bar.update(self._task, completed=step)
        self._bar.start()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.stop()

    def say(self, text: str) -> None:
        """Show one line."""
        if not self._quiet:
            self._console.print(text)

    def advance(self, step: int) -> None:
        """Move the bar to ``step``."""
        self._bar.update(self._task, completed=step)

    def row(self, step: int, row: Mapping[str, float]) -> None:
        """Show the figures of a log row, with the time that is left at the mean speed so far."""
        speed = (step - self._first) / max(1e-9, time.monotonic() - self._began)
        left = datetime.timedelta(seconds=round((self._last - step) / speed)) if speed else "?"
        figures = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        if self._bar.disable:
            self.say(f"step {step}/{self._last}  {figures}  left {left}")
        else:
            self._bar.update(self._task, completed=step, status=figures)


class Means:
    """Means over the updates since the last log row; until then nothing leaves the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._steps = 0
        self._began = time.monotonic()

    def add(self, totals: Mapping[str, Tensor]) -> None:
        """Count one update, with nothing if it was skipped; a name need not come every time."""
        self._steps += 1
        self._counts.update(totals.keys())
        for name, value in totals.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def values(self) -> dict[str, float]:
        """Each name's mean over the updates that had it."""
        return {name: value.item() / self._counts[name] for name, value in self._sums.items()}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out of the speed."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

    def steps_per_second(self) -> float:
        """Count updates, skipped ones too, by time since this was made, without pauses."""
        return self._steps / max(1e-9, time.monotonic() - self._began)
