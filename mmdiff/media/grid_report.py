"""What a search of grids found, for readers: a table and a picture of quality against steps and grids tried."""

from __future__ import annotations

import math
from pathlib import Path

from mmdiff.files import atomic_file
from mmdiff.media.searched_grids import GridTable
from mmdiff.media.tables import markdown_table

SEARCHED = "searched"


def grid_rows(table: GridTable) -> dict[str, list[float]]:
    """Scores by the name of the grid, one for each number of steps; the searched grid's come last."""
    names = dict.fromkeys(name for grid in table.grids for name in grid.others)
    rows = {name: [grid.others.get(name, math.nan) for grid in table.grids] for name in names}
    return {**rows, SEARCHED: [grid.score for grid in table.grids]}


def grid_markdown(table: GridTable) -> str:
    """Scores of the grids, as a Markdown table with a column for each number of steps that was asked for."""
    better = "↑" if table.higher_is_better else "↓"
    counts = [f"{grid.asked} step{'s' * (grid.asked > 1)}" for grid in table.grids]
    rows = [
        [name, *("" if not math.isfinite(score) else f"{score:.4g}" for score in scores)]
        for name, scores in grid_rows(table).items()
    ]
    tried = ["grids tried", *(str(_tried(grid.history)) for grid in table.grids)]
    return markdown_table([f"{table.measure} {better}", *counts], [*rows, tried])


def _tried(history: tuple[tuple[int, float], ...]) -> int:
    return history[-1][0] if history else 0


def plot_table(path: str | Path, table: GridTable) -> Path:
    """Draw quality against the steps asked for, and the best quality against the grids tried.

    Parameters
    ----------
    path : path
        PNG file to write.
    table : GridTable

    Returns
    -------
    Path
        The file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    counts = [grid.asked for grid in table.grids]
    for name, scores in grid_rows(table).items():
        style = {"color": "black", "linewidth": 2} if name == SEARCHED else {"linewidth": 1, "alpha": 0.8}
        left.plot(counts, scores, marker="o", markersize=3, label=name, **style)
    left.set(xlabel="steps", ylabel=table.measure)
    left.legend(fontsize="small")
    for grid in table.grids:
        tried, best = zip(*grid.history, strict=True) if grid.history else ((), ())
        right.step(tried, best, where="post", label=f"{grid.asked} steps")
    right.set(xlabel="grids tried", ylabel=f"best {table.measure}")
    right.legend(fontsize="small")
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.suptitle(f"{table.model}, {table.sampler}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(path)
