"""A picture of quality against speed."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmdiff.audio.metrics import METRICS
from mmdiff.files import atomic_file
from mmdiff.media.tables import Score, ScoreTable

_SPEED = "real_time_factor"


def plot_quality(path: str | Path, table: ScoreTable) -> Path:
    """Draw the systems of a table by real-time factor and quality; those without quality as lines.

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
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    quality = next(name for name in METRICS if name in table.measures)
    timed = [score for score in table.scores if _SPEED in score.measures]
    heard = sorted((s for s in timed if quality in s.measures), key=lambda s: s.measures[_SPEED].value)
    for number, score in enumerate(heard):
        at = (score.measures[_SPEED].value, score.measures[quality].value)
        axes.plot(*at, "o", color="black")
        axes.annotate(
            score.name, at, xytext=(6, 8 if number % 2 else -12), textcoords="offset points", fontsize=8
        )
    for number, score in enumerate(s for s in timed if s not in heard):
        _draw_line(axes, score, number)
    axes.margins(y=0.1)
    axes.set(xscale="log", xlabel="real-time factor: seconds of computation per second of sound")
    axes.set_ylabel(table.measures[quality].label)
    axes.axvline(1.0, color="tab:red", linewidth=1)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(path)


def _draw_line(axes, score: Score, number: int) -> None:  # type: ignore[no-untyped-def]
    """Draw the speed of what has random weights, and so no quality."""
    speed = score.measures[_SPEED].value
    axes.axvline(speed, color=f"C{number}", linestyle=":", linewidth=1)
    label = f"{score.name} (speed only)"
    axes.text(speed, 0.02, label, rotation=90, fontsize=7, ha="right", transform=axes.get_xaxis_transform())
