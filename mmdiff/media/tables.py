"""Scores: what was measured of several systems or files, laid out for readers and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mmdiff.media.estimates import Estimate

SHARE = "share"
"""Unit of what lies in [0, 1] and is shown in percent."""
_BETTER = {None: "", True: " ↑", False: " ↓"}


class Measure(NamedTuple):
    """What one number of a score says, and how to show it."""

    title: str
    unit: str = ""
    """Of the value; empty for a pure number, :data:`SHARE` for a part of a whole."""
    higher_is_better: bool | None = None
    """Direction; None where neither end is good."""
    decimals: int | None = None
    """Shown; default: as many as make three digits that count."""
    note: str = ""
    """What the title cannot say."""

    @property
    def label(self) -> str:
        """Title with unit, and an arrow towards what is better."""
        unit = f", {self.unit}" if self.unit not in ("", SHARE) else ""
        return f"{self.title}{unit}{_BETTER[self.higher_is_better]}"


@dataclass
class Score:
    """How one system, or one file, did.

    Attributes
    ----------
    name : str
    measures : dict from str to Estimate
        What was measured.
    about : dict
        How it was run and on how much: task, steps, numbers of clips. What a table names of it is shown.
    details : dict
        For files of results only, such as the measures of each recording.
    """

    name: str
    measures: dict[str, Estimate] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreTable:
    """Scores with what they say.

    Attributes
    ----------
    scores : sequence of Score
    measures : mapping from str to Measure
        What is shown, in this order: keys of the scores' ``measures`` or ``about``. What no score has is left out.
    corner : str
        Heading of the names.
    kind : str
        What the names are of, for programs.
    turned : bool
        A row for each measure and a column for each system, instead of the other way round.
    intervals : bool
        Show them.
    group : str
        Key of ``about`` that changes from one block of rows to the next, and heads each block.
    shared : mapping
        What all the scores have in common, for programs.
    """

    scores: Sequence[Score]
    measures: Mapping[str, Measure]
    corner: str = ""
    kind: str = "system"
    turned: bool = False
    intervals: bool = True
    group: str = ""
    shared: Mapping[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Lay the scores out as a Markdown table."""
        columns = list(self._columns())
        if self.turned:
            return markdown_table([self.corner, *(score.name for score in self.scores)], columns)
        header = [self.corner, *(column[0] for column in columns)]
        rows, group = [], None
        for number, score in enumerate(self.scores):
            if self.group and score.about[self.group] != group:
                group = score.about[self.group]
                rows.append([f"**{group}**", *("" for _ in columns)])
            rows.append([score.name, *(column[number + 1] for column in columns)])
        return markdown_table(header, rows)

    def notes(self) -> list[str]:
        """Say what the titles of the table cannot."""
        return [f"{m.title}: {m.note}" for name, m in self.measures.items() if m.note and self._has(name)]

    def records(self, details: bool = True) -> list[dict[str, Any]]:
        """Return an object for each score, of what JSON knows and of numbers that may be nan.

        Parameters
        ----------
        details : bool
            Include the scores' ``details``.
        """
        return [
            {
                **self.shared,
                self.kind: score.name,
                **score.about,
                "measures": {name: self._described(name, value) for name, value in score.measures.items()},
                **(score.details if details else {}),
            }
            for score in self.scores
        ]

    def _described(self, name: str, value: Estimate) -> dict[str, Any]:
        measure = self.measures[name]
        return {**value._asdict(), "unit": measure.unit, "higher_is_better": measure.higher_is_better}

    def _has(self, name: str) -> bool:
        return any(name in score.measures or score.about.get(name) is not None for score in self.scores)

    def _columns(self) -> Iterator[list[str]]:
        """Label and values of each measure."""
        for name, measure in self.measures.items():
            if self._has(name):
                values = [score.measures.get(name, score.about.get(name)) for score in self.scores]
                real = {getattr(value, "real", None) for value in values if isinstance(value, tuple)} - {None}
                label = f"{measure.label} ({real.pop()} real)" if len(real) == 1 else measure.label
                yield [label, *(self._cell(value, measure) for value in values)]

    def _cell(self, value: Estimate | float | None, measure: Measure) -> str:
        """A number as a person reads it: with its interval, shares in percent, nothing where it does not exist."""
        if value is None or isinstance(value, int):
            return "" if value is None else str(value)
        found, low, high = value[:3] if isinstance(value, tuple) else (value, math.nan, math.nan)
        if not math.isfinite(found):
            return ""
        numbers, decimals, unit = (found, low, high), measure.decimals, ""
        if measure.unit == SHARE:
            numbers, decimals, unit = (100 * found, 100 * low, 100 * high), 1, " %"
        elif decimals is None:
            size = math.floor(math.log10(abs(found))) if found else 0
            decimals = min(5, max(0, 2 - size))
        text = f"{numbers[0]:.{decimals}f}{unit}"
        if not self.intervals or math.isnan(low):
            return text
        return f"{text} [{numbers[1]:.{decimals}f}, {numbers[2]:.{decimals}f}]"


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold, nan and infinity, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table; columns after the first are numbers, set to the right."""
    cells = [[_one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rules = [f":{'-' * (w - 1)}" if i == 0 else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    aligned = [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (cells[0], rules, *cells[1:])
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def _one_line(cell: str) -> str:
    """What stays one cell of one line: names of files may hold anything."""
    return " ".join(cell.splitlines()).replace("|", "\\|")
