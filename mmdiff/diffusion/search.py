"""Search of sampling grids: where a sampler of few steps should stop, for one denoiser and one measure.

Any measure of what a grid makes, such as the quality of the sound, is lowered by coordinate search, one noise
level after the other: some ten evaluations for each level, where the grid search of WaveGrad (Chen et al. 2020,
arXiv:2009.00713) takes 9^steps for all. Good starts are the named grids, and those that
:mod:`mmdiff.diffusion.routes` finds by dynamic programming where a cost is a sum over steps.

Nothing here draws numbers of its own, so a search can be repeated, and one that was interrupted goes on where
its scores were kept.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from torch import Tensor

from mmdiff.diffusion.coordinates import NoiseLevels, descend
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_grid
from mmdiff.errors import InputError

Quality: TypeAlias = Callable[[Tensor], float]
"""``quality(grid) -> score`` of times (steps + 1,); lower is better, and nan is worst."""


class Best(NamedTuple):
    """What was best after so many evaluations."""

    evaluations: int
    score: float


class Spent(Exception):
    """As many grids have been scored as were allowed."""


class Ledger:
    """Scores of grids: each is measured once, the best is remembered.

    Parameters
    ----------
    quality : callable
        See :data:`Quality`.
    evaluations : int > 0
        Different grids that may be asked for, whether or not their scores were known.
    scores : mutable mapping, optional
        Scores by :func:`grid_key` that are known already; new ones are added at once. A mapping that keeps
        them on disk makes a search resumable.
    tick : callable, optional
        Called with the ledger after each new grid.
    prefix : str
        Of the keys in ``scores``, where the grid alone does not say what is scored.

    Attributes
    ----------
    history : list of Best
        Each time the score fell; it never rises.
    grid : Tensor or None
        The best so far.
    asked : int
        Different grids so far.
    """

    def __init__(
        self,
        quality: Quality,
        evaluations: int,
        scores: MutableMapping[str, float] | None = None,
        tick: Callable[[Ledger], None] | None = None,
        prefix: str = "",
    ) -> None:
        if evaluations < 1:
            raise InputError(f"evaluations={evaluations} must be at least 1; try 60")
        self.quality, self.evaluations, self.tick, self.prefix = quality, evaluations, tick, prefix
        self.scores = {} if scores is None else scores
        self.history: list[Best] = []
        self.grid: Tensor | None = None
        self._seen: set[str] = set()

    @property
    def asked(self) -> int:
        """Different grids so far."""
        return len(self._seen)

    @property
    def score(self) -> float:
        """The best so far."""
        return self.history[-1].score if self.history else math.inf

    def __call__(self, grid: Tensor) -> float:
        """Score a grid, inf where the measure does not exist; raises Spent where no more are allowed."""
        key = self.prefix + grid_key(grid)
        fresh = key not in self._seen
        if fresh and self.asked >= self.evaluations:
            raise Spent
        if key not in self.scores:
            self.scores[key] = float(self.quality(grid))
        score = self.scores[key]
        score = math.inf if math.isnan(score) else score
        if fresh:
            self._seen.add(key)
            if score < self.score:
                self.grid = grid
                self.history.append(Best(self.asked, score))
            if self.tick is not None:
                self.tick(self)
        return score


def grid_key(grid: Tensor) -> str:
    """Name of a grid: its times with ten digits."""
    return " ".join(f"{t:.10g}" for t in grid.tolist())


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes
    ----------
    grid : Tensor, shape (steps + 1,)
    score : float
        Lower is better.
    evaluations : int
        Grids that were scored.
    history : tuple of Best
        Score against evaluations: falling.
    starts : dict from str to float
        Scores of the grids it was given.
    """

    grid: Tensor
    score: float
    evaluations: int
    history: tuple[Best, ...]
    starts: Mapping[str, float]


def coordinate_search(
    quality: Quality,
    start: Tensor,
    schedule: Schedule,
    *,
    evaluations: int = 60,
    probes: int = 6,
    resolution: float = 0.02,
    move_start: bool = False,
    scores: MutableMapping[str, float] | None = None,
) -> Search:
    """Lower any measure of a grid, one noise level after the other.

    As :func:`search_grid` from a single grid.

    Examples
    --------
    >>> from mmdiff.diffusion.grids import make_grid
    >>> from mmdiff.diffusion.schedules import LinearFlow
    >>> found = coordinate_search(
    ...     lambda grid: abs(float(grid[1]) - 0.8), make_grid("uniform", LinearFlow(), 2), LinearFlow()
    ... )
    >>> round(float(found.grid[1]), 2)
    0.8
    """
    return search_grid(
        quality, {"start": start}, schedule, evaluations=evaluations, probes=probes, resolution=resolution,
        move_start=move_start, scores=scores,
    )  # fmt: skip


def search_grid(
    quality: Quality,
    starts: Mapping[str, Tensor],
    schedule: Schedule,
    *,
    evaluations: int = 60,
    probes: int = 6,
    resolution: float = 0.02,
    move_start: bool = False,
    scores: MutableMapping[str, float] | None = None,
    tick: Callable[[Ledger], None] | None = None,
    prefix: str = "",
) -> Search:
    """Score some grids of as many steps, and lower the best one's score by coordinate search.

    Each noise level in turn is moved between its neighbours in log-SNR, by Brent's method (golden sections and
    parabolas); from the second round on within a radius around it, which shrinks when nothing moves far. A
    move is kept only if the score falls.

    Parameters
    ----------
    quality : callable
        See :data:`Quality`. It must give the same score for the same grid: use fixed seeds.
    starts : mapping of str to Tensor (steps + 1,)
        Grids by name.
    schedule : Schedule
    evaluations : int > 0
        Different grids to score at most, ``starts`` included.
    probes : int > 2
        At most so many for one level in one round.
    resolution : float > 0
        Of the levels, in log-SNR, at which the search ends.
    move_start : bool
        Move the first time too, as published tables of variance-preserving models do; else both ends stay.
    scores, tick, prefix
        See :class:`Ledger`.

    Returns
    -------
    Search
        Never worse than the best start.

    Raises
    ------
    InputError
        There is no start, their numbers of steps differ, or none of them can be measured.
    """
    grids = {name: check_grid(grid).cpu() for name, grid in starts.items()}
    if len({len(grid) for grid in grids.values()}) != 1:
        raise InputError(
            f"starts={', '.join(grids) or 'none'} must be one grid or more, all of as many steps, got "
            f"{', '.join(str(len(grid) - 1) for grid in grids.values()) or 'none'}"
        )
    if probes < 3 or not resolution > 0:
        raise InputError(f"probes={probes} must be at least 3 and resolution={resolution} positive")
    ledger = Ledger(quality, max(evaluations, len(grids)), scores, tick, prefix)
    found = {name: ledger(grid) for name, grid in grids.items()}
    if ledger.grid is None:
        raise InputError(f"quality must be a number for one of {', '.join(grids)} at least; it never is")
    levels = NoiseLevels(schedule, ledger.grid, move_start)
    with contextlib.suppress(Spent):
        descend(ledger, levels, probes=probes, resolution=resolution)
    return Search(ledger.grid, ledger.score, ledger.asked, tuple(ledger.history), found)
