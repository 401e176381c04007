"""A picture of quality against speed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mmdiff.audio.metrics import METRICS
from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.media.estimates import Estimate
from mmdiff.media.tables import Measure, Score, ScoreTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.text import Annotation

_SPEED = "real_time_factor"
_DPI = 110
_ROW, _DOT = 0.22, 6.0  # height of a row in inches, reach of a point's mark in pixels


def plot_quality(path: str | Path, table: ScoreTable) -> Path:
    """Draw the systems of a table by real-time factor and quality; those without quality below, by speed alone.

    Parameters
    ----------
    path : path
        PNG file to write.
    table : ScoreTable
        Of vocoders, as :func:`mmdiff.bench.vocoders.bench_vocoders` returns it. Its first measure of quality is shown.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        No system has both.
    """
    timed = [score for score in table.scores if _SPEED in score.measures]
    found = {name for score in timed for name in score.measures}
    quality = next((name for name in METRICS if name in found), None)
    if quality is None:
        raise InputError("a picture needs a system with a real-time factor and a quality; try --audio")
    heard = [score for score in timed if quality in score.measures]
    mute = sorted((s for s in timed if s not in heard), key=lambda s: -s.measures[_SPEED].value)
    figure = draw_quality(heard, mute, quality, table.measures[quality].label)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)


def read_results(path: str | Path) -> ScoreTable:
    """Read the scores of an earlier run from the file that it wrote.

    Parameters
    ----------
    path : path
        JSON file, as of ``mmdiff bench vocoder -o results.json``.

    Returns
    -------
    ScoreTable
        With what the scores' measures say for themselves: unit and direction.

    Raises
    ------
    InputError
        The file cannot be read, or holds something else.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        found = [Score(record["system"], _estimates(record["measures"])) for record in records]
        described = {name: value for record in records for name, value in record["measures"].items()}
        measures = {n: Measure(n, v["unit"], v["higher_is_better"]) for n, v in described.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"results={str(path)!r} must be a file of `mmdiff bench vocoder -o results.json`: {error!r}"
        ) from None
    return ScoreTable(found, measures)


def _estimates(measures: Mapping[str, Mapping[str, Any]]) -> dict[str, Estimate]:
    """What exists among values that were written; JSON has null for nan."""
    return {name: Estimate(float(v["value"])) for name, v in measures.items() if v["value"] is not None}


def draw_quality(heard: Sequence[Score], mute: Sequence[Score], quality: str, label: str) -> Figure:
    """Draw systems with a quality as points, and below them those without, a row each."""
    heights = (4.0, _ROW * (len(mute) + 1)) if mute else (4.0,)
    figure = Figure(figsize=(9, sum(heights) + 0.8), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    at = [(score.measures[_SPEED].value, score.measures[quality].value) for score in heard]
    panels[0].plot(*zip(*at, strict=True), "o", color="black")
    panels[0].set(xscale="log", ylabel=label)
    panels[0].margins(x=0.1, y=0.15)
    if mute:
        panels[1].plot([s.measures[_SPEED].value for s in mute], range(len(mute)), "o", color="0.5")
        panels[1].set_yticks(range(len(mute)), [s.name for s in mute], fontsize=8)
        panels[1].set_ylabel("speed only")
        panels[1].set_ylim(-0.8, len(mute) - 0.2)
        panels[1].grid(axis="y", linewidth=0.5)
    for axes in panels:
        axes.axvline(1.0, color="tab:red", linewidth=1)
    panels[-1].set_xlabel(
        "real-time factor: seconds of computation per second of sound; left of the line faster than real time"
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the axes have their places, and keep them
    place_labels(panels[0], [score.name for score in heard], at, canvas.get_renderer())
    return figure


def place_labels(
    axes: Axes, names: Sequence[str], at: Sequence[tuple[float, float]], renderer: RendererBase
) -> list[Annotation]:
    """Write names beside their points where they cover least of each other, of points and of what is outside.

    Each in turn takes the first of the best places, nearest first.
    """
    spots = [
        Bbox.from_extents(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in axes.transData.transform(at)
    ]
    labels, taken = [], list(spots)
    for name, point in zip(names, at, strict=True):
        label = axes.annotate(
            name, point, (0, 0), textcoords="offset points", fontsize=8, zorder=1,
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkB": 4},
        )  # fmt: skip

        def covered(place: tuple[float, float, str, str], label: Annotation = label) -> float:
            box = _put(label, place, renderer)
            outside = _area(box) - _shared(box, axes.bbox)
            return outside + sum(_shared(box, other) for other in taken)

        taken.append(_put(label, min(_places(), key=covered), renderer))
        labels.append(label)
    return labels


def _places() -> Iterator[tuple[float, float, str, str]]:
    """Offsets from a point in printer's points, and the edges of a label that go there."""
    for reach in (7.0, 14.0, 24.0, 36.0):
        yield reach, 0.0, "left", "center"
        for y, edge in ((reach, "bottom"), (-reach, "top")):
            yield reach, y, "left", edge
            yield 0.0, y, "center", edge
            yield -reach, y, "right", edge
        yield -reach, 0.0, "right", "center"


def _put(label: Annotation, place: tuple[float, float, str, str], renderer: RendererBase) -> Bbox:
    """Move a label, and tell what it covers."""
    x, y, horizontal, vertical = place
    label.set(position=(x, y), horizontalalignment=horizontal, verticalalignment=vertical)
    label.update_positions(renderer)
    return Text.get_window_extent(label)  # of the words, without the line to their point


def _shared(one: Bbox, other: Bbox) -> float:
    """Area that two boxes have in common."""
    common = Bbox.intersection(one, other)
    return 0.0 if common is None else _area(common)


def _area(box: Bbox) -> float:
    return box.width * box.height
