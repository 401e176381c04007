"""What a comparison of methods finds, kept as it is found: rows in a file, times taken in turn, tables, a picture."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from mmdiff.errors import RecipeError
from mmdiff.files import atomic_file
from mmdiff.media.estimates import Estimate
from mmdiff.media.tables import Measure, Score, ScoreTable, finite
from mmdiff.progress import track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 110
QUALITIES = ("frechet", "coverage")
"""Measures that are drawn against time, and shown by seed."""


class RowFile:
    """Scores in a JSON file that is rewritten whole whenever one is added.

    Parameters
    ----------
    path : path
    measures : mapping from str to Measure
        What scores say, in the order of the tables.
    shared : mapping
        JSON values that all scores depend on.

    Attributes
    ----------
    scores : list of Score

    Raises
    ------
    RecipeError
        The file is broken, or of other settings.
    """

    def __init__(self, path: str | Path, measures: Mapping[str, Measure], shared: Mapping[str, Any]) -> None:
        self.path, self.measures = Path(path), measures
        self.shared: dict[str, Any] = json.loads(json.dumps(dict(shared)))
        self.scores = list(self._read()) if self.path.exists() else []

    def find(self, **about: Any) -> list[Score]:
        """Scores of which these things are said."""
        return [score for score in self.scores if about.items() <= score.about.items()]

    def add(self, score: Score) -> None:
        """Add a score to the file."""
        self.scores.append(score)
        self.save()

    def save(self) -> None:
        """Write the scores as they are."""
        with atomic_file(self.path) as temporary:
            temporary.write_text(json.dumps(finite(self._table(self.scores).records()), indent=1) + "\n")

    def markdown(self, scores: Sequence[Score]) -> str:
        """Table of some scores, a block for each task."""
        return self._table(scores).markdown()

    def _table(self, scores: Sequence[Score]) -> ScoreTable:
        return ScoreTable(scores, self.measures, "method", intervals=False, group="task", shared=self.shared)

    def _read(self) -> Iterator[Score]:
        try:
            for record in json.loads(self.path.read_text(encoding="utf-8")):
                self._check({key: record.pop(key, None) for key in self.shared})
                name, measures = record.pop("system"), record.pop("measures")
                yield Score(name, {key: _estimate(value) for key, value in measures.items()}, record)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RecipeError(f"{self.path} is no file of scores ({error!r}); move it away") from None

    def _check(self, stored: Mapping[str, Any]) -> None:
        for key, value in self.shared.items():
            if stored[key] != value:
                raise RecipeError(
                    f"{key}={value!r} must be {stored[key]!r}, as in {self.path}, to go on; change it back, or "
                    "begin anew in another folder"
                )


def _estimate(value: Mapping[str, Any]) -> Estimate:
    found, low, high = (
        math.nan if value[key] is None else float(value[key]) for key in ("value", "low", "high")
    )
    return Estimate(found, low, high, value["samples"], value["real"])


def across_seeds(scores: Sequence[Score]) -> list[Score]:
    """Average the scores that differ in nothing but their seed.

    Parameters
    ----------
    scores : sequence of Score
        With "seed" told, but for what does not depend on it.

    Returns
    -------
    list of Score
        In the order in which they come first, with the number of "seeds" told. Of several seeds, estimates are the
        mean, the least and the greatest; those of one stay as they are.
    """
    groups: dict[tuple[Any, ...], list[Score]] = {}
    for score in scores:
        key = (score.name, *(score.about.get(name) for name in ("task", "share")))
        groups.setdefault(key, []).append(score)
    return [_averaged(group) for group in groups.values()]


def _averaged(scores: Sequence[Score]) -> Score:
    about = {key: value for key, value in scores[0].about.items() if key != "seed"} | {"seeds": len(scores)}
    if len(scores) == 1:
        return Score(scores[0].name, dict(scores[0].measures), about)
    if "updates" in about:
        about["updates"] = round(fmean(score.about["updates"] for score in scores))
    measures: dict[str, Estimate] = {}
    for name, (_, _, _, samples, real) in scores[0].measures.items():
        values = [score.measures[name].value for score in scores if name in score.measures]
        measures[name] = Estimate(fmean(values), min(values), max(values), samples, real)
    return Score(scores[0].name, measures, about)


def by_seed(scores: Sequence[Score], measure: str, about: Measure) -> str:
    """Lay out one measure in a Markdown table with a column for each seed, and a block for each task.

    Parameters
    ----------
    scores : sequence of Score
        With "task" and "seed" told; those without a seed, or that measure, are left out.
    measure : str
        Its key,
    about : Measure
        and how to show it.
    """
    rows: dict[tuple[str, str], Score] = {}
    for score in scores:
        if "seed" in score.about and measure in score.measures:
            row = rows.setdefault(
                (score.about["task"], score.name), Score(score.name, {}, {"task": score.about["task"]})
            )
            row.measures[f"seed {score.about['seed']}"] = Estimate(score.measures[measure].value)
    columns = {name: about._replace(title=name, note="") for row in rows.values() for name in row.measures}
    return ScoreTable([*rows.values()], columns, "method", intervals=False, group="task").markdown()


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
    progress: bool = True,
) -> dict[str, Estimate]:
    """Time calls in turn, A B C, A B C, ..., so that what else the machine does meets all of them.

    Parameters
    ----------
    calls : mapping from str to callable
    repeats : int > 0
        Of each, after one that does not count.
    clock : callable
        Time in seconds; by default of the processor.
    progress : bool
        Show a bar.

    Returns
    -------
    dict from str to Estimate
        Median of each, between the least and the greatest.
    """
    assert repeats > 0
    times: dict[str, list[float]] = {name: [] for name in calls}
    for name in track([*calls] * (repeats + 1), "timing", show=progress):
        begin = clock()
        calls[name]()
        times[name].append(clock() - begin)
    counted = {name: torch.tensor(found[1:], dtype=torch.float64) for name, found in times.items()}
    return {
        name: Estimate(float(found.quantile(0.5)), float(found.min()), float(found.max()), repeats)
        for name, found in counted.items()
    }


def draw_tradeoffs(
    path: str | Path, final: Sequence[Score], courses: Sequence[Score], measures: Mapping[str, Measure]
) -> Path:
    """Draw quality against seconds a sample, and against minutes of training; a row of panels for each task.

    Parameters
    ----------
    path : path
        PNG file to write.
    final : sequence of Score
        With the measures "seconds", "frechet" and "coverage", and "task" and "method" told; grouped by task.
    courses : sequence of Score
        After each time of training: the same, with the measure "minutes" instead of "seconds".
    measures : mapping from str to Measure
        Their titles.

    Returns
    -------
    Path
        The file.
    """
    tasks = list(dict.fromkeys(score.about["task"] for score in final))
    methods = list(dict.fromkeys(score.about["method"] for score in final))
    colours = {method: f"C{number}" for number, method in enumerate(methods)}
    figure = Figure(figsize=(15, 3.6 * len(tasks) + 0.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(tasks), 4, squeeze=False)
    for row, task in zip(panels, tasks, strict=True):
        kinds = [(*kind, up) for kind in (("seconds", final), ("minutes", courses)) for up in QUALITIES]
        for axes, (across, scores, up) in zip(row, kinds, strict=True):
            shown = [score for score in scores if score.about["task"] == task]
            _draw(axes, shown, across, up, colours)
            axes.set(xlabel=measures[across].label, ylabel=f"{task}: {measures[up].label}")
    marks = [Line2D([], [], color=colour, marker="o", label=method) for method, colour in colours.items()]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=9)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)


def _draw(axes: Axes, scores: Sequence[Score], across: str, up: str, colours: Mapping[str, str]) -> None:
    """Points of each method; those of a course are joined."""
    for method, group in groupby(scores, key=lambda score: str(score.about["method"])):
        measured = [score.measures for score in group]
        points = sorted((m[across].value, m[up].value) for m in measured if {across, up} <= {*m})
        if points:
            # samplers differ by more than their steps: only a course is a line
            style = "o" if across == "seconds" else "o-"
            axes.plot(*zip(*points, strict=True), style, color=colours.get(method, "black"), markersize=5)
    if across == "seconds" and axes.lines:
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    lowest = min((score.measures[up].value for score in scores if up in score.measures), default=0.0)
    if up != "frechet":
        axes.set_ylim(bottom=0)
    elif lowest > 0:
        axes.set_yscale("log")
    else:  # the extrapolated distance may be 0
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(bottom=0)
    axes.grid(linewidth=0.3)
