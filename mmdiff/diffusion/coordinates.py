"""Coordinate descent over the noise levels of a grid; :mod:`mmdiff.diffusion.search` is its user's side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from mmdiff.diffusion.grids import LAMBDA_MAX, LAMBDA_MIN
from mmdiff.diffusion.schedules import Schedule


class NoiseLevels:
    """The log-SNRs of a grid as numbers that can be moved, each between its neighbours.

    Parameters
    ----------
    schedule : Schedule
    grid : Tensor, shape (steps + 1,), float64
    move_start : bool
        Whether the first time moves too; the last one never does.

    Attributes
    ----------
    values : list of float
        Log-SNR of every time of the grid.
    free : range
        Those that move.
    """

    def __init__(self, schedule: Schedule, grid: Tensor, move_start: bool) -> None:
        self.schedule, self.grid = schedule, grid
        self.values: list[float] = schedule.log_snr(grid).tolist()
        self.free = range(0 if move_start else 1, len(grid) - 1)
        low, high = schedule.log_snr_range
        self.low, self.high = max(low, LAMBDA_MIN), min(high, LAMBDA_MAX)
        if schedule.first_time > 0:  # a network trained on a table knows nothing below its first step
            self.high = min(self.high, float(schedule.log_snr(schedule.first_time)))

    @property
    def span(self) -> float:
        """Usual distance between neighbours."""
        return (self.high - self.low) / (len(self.grid) - 1)

    def bounds(self, i: int, radius: float) -> tuple[float, float]:
        """Between which values level i may move: its neighbours', and no further than the radius."""
        value = self.values[i]
        low = self.values[i - 1] if i > 0 else -math.inf
        high = self.values[i + 1]
        low = self.low if math.isinf(low) else low
        high = self.high if math.isinf(high) else high
        inset = 1e-3 * (high - low)  # neighbours must not meet
        return max(low + inset * (i > 0), value - radius), min(high - inset, value + radius)

    def grid_of(self, values: list[float]) -> Tensor:
        """Times of these levels, those that do not move being the grid's own to the last digit."""
        grid, free = self.grid.clone(), list(self.free)
        grid[free] = self.schedule.time_of_log_snr(torch.tensor([values[i] for i in free]).double())
        return grid

    def ordered(self, values: list[float]) -> bool:
        """Whether levels rise and stay within what the search may use."""
        rising = all(a < b for a, b in itertools.pairwise(values))
        return rising and all(self.low <= values[i] <= self.high for i in self.free)


def descend(
    score_of: Callable[[Tensor], float], levels: NoiseLevels, *, probes: int, resolution: float
) -> float:
    """Move one level after the other to where the score is lowest, until nothing moves by the resolution.

    Parameters
    ----------
    score_of : callable
        Of a grid; what it raises ends the search.
    levels : NoiseLevels
        Left at the best that was found.
    probes : int
        Scores asked for in one move.
    resolution : float
        In log-SNR.

    Returns
    -------
    float
        The score.
    """
    score = score_of(levels.grid)
    radius = math.inf
    while levels.free and radius >= resolution:
        before = list(levels.values)
        for i in levels.free:
            score = _move(score_of, levels, i, radius, score, probes, resolution)
        further = [b if math.isinf(b) else 2 * b - a for a, b in zip(before, levels.values, strict=True)]
        # levels that depend on each other move together
        if levels.ordered(further) and (trial := score_of(levels.grid_of(further))) < score:
            levels.values, score = further, trial
        moved = max([0.0, *(abs(a - b) for a, b in zip(before, levels.values, strict=True) if a != b)])
        radius = min(radius, levels.span)
        radius = radius if moved > radius / 2 else radius / 2
    return score


def _move(
    score_of: Callable[[Tensor], float],
    levels: NoiseLevels,
    i: int,
    radius: float,
    score: float,
    probes: int,
    resolution: float,
) -> float:
    """Move level i alone, if that lowers the score; return the score."""

    def at(value: float) -> float:
        return score_of(levels.grid_of([*levels.values[:i], float(value), *levels.values[i + 1 :]]))

    bounds = levels.bounds(i, radius)
    if not bounds[0] < bounds[1]:
        return score
    with np.errstate(all="ignore"):  # scores may be infinite
        found = minimize_scalar(
            at, bounds=bounds, method="bounded", options={"maxiter": probes, "xatol": resolution / 4}
        )
    if not found.fun < score:
        return score
    levels.values[i] = float(found.x)
    return float(found.fun)
