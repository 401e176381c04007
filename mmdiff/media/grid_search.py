"""Search of sampling grids for any adapter: what one says of its model, and the table that comes of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.grids import GRIDS, make_grid
from mmdiff.diffusion.routes import cheapest_grid
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.search import Ledger, Search, search_grid
from mmdiff.errors import InputError
from mmdiff.media.searched_grids import GridTable, SearchedGrid

OWN, ROUTE = "the model's own", "dynamic programming"
"""Names of the starts that are no names of grids."""
CANDIDATES = 32
"""Times that dynamic programming chooses from, at least: each asks the network twice."""


class GridProblem(ABC):
    """What a grid is wanted for: a model, a sampler, and a measure of what they make together.

    Parameters
    ----------
    schedule : Schedule
        The model's.
    sampler : str
        A key of :data:`mmdiff.diffusion.samplers.SAMPLERS` that keeps to a grid.
    measure : str
        What the scores are.
    higher_is_better : bool

    Raises
    ------
    InputError
        The sampler is unknown or chooses its own steps.
    """

    def __init__(self, schedule: Schedule, sampler: str, measure: str, higher_is_better: bool) -> None:
        if sampler not in SAMPLERS or not SAMPLERS[sampler].keeps_grid:
            fit = ", ".join(name for name, info in SAMPLERS.items() if info.keeps_grid)
            raise InputError(f"sampler={sampler!r} must be one that keeps to a grid: {fit}")
        self.schedule, self.sampler = schedule, sampler
        self.measure, self.higher_is_better = measure, higher_is_better

    @property
    def deterministic_sampler(self) -> str:
        """Sampler whose local errors stand for those of this one: itself unless it draws noise."""
        return "ddim" if SAMPLERS[self.sampler].stochastic else self.sampler

    @abstractmethod
    def own_grid(self, steps: int) -> Tensor:
        """Times that the model uses unless told otherwise, for ``steps`` as its users count them."""

    def published(self, steps: int) -> dict[str, Tensor]:
        """Grids of so many steps of the sampler that others have published for such models, by name."""
        return {}

    @abstractmethod
    def score(self, grid: Tensor, steps: int) -> float:
        """Measure what a grid makes; nan where the measure does not exist. The same grid has the same score."""

    @abstractmethod
    def errors(self, candidates: Tensor) -> Tensor | None:
        """Errors of single steps between candidate times (N,), see :func:`mmdiff.diffusion.routes.local_errors`.

        None where nothing can say them, as of pairs whose samplers all draw noise.
        """


def candidate_times(schedule: Schedule, count: int) -> Tensor:
    """Times from 1 to 0 to choose from: one half of them equally spaced in t, the other in log-SNR."""
    half = (count + 1) // 2
    times = torch.cat([make_grid(name, schedule, half) for name in ("uniform", "log_snr")])
    times = times.sort(descending=True).values
    far = torch.ones(len(times), dtype=torch.bool)
    far[1:] = times.diff() < -1e-6
    return times[far]


def search_table(
    problem: GridProblem,
    steps: Sequence[int],
    *,
    evaluations: int = 60,
    scores: MutableMapping[str, float] | None = None,
    move_start: bool | None = None,
    tick: Callable[[int, Ledger], None] | None = None,
    model: str = "",
    data: Mapping[str, Any] | None = None,
) -> GridTable:
    """Search a grid for each of some numbers of steps.

    The model's own grid, published and named ones, and the best by dynamic programming are scored; coordinate
    search goes on from the best of them (:func:`mmdiff.diffusion.search.search_grid`).

    Parameters
    ----------
    problem : GridProblem
    steps : sequence of int
        As the model's users count them.
    evaluations : int > 0
        Different grids to score for each, at most; the starts are always scored.
    scores : mutable mapping, optional
        Known scores by :func:`mmdiff.diffusion.search.grid_key`, after the number of steps where that is not the
        sampler's; new ones are added.
    move_start : bool, optional
        Whether the first time may move. Default: where the schedule preserves variance and ends with some
        signal, as tables of betas do, whose published grids begin later than training ended.
    tick : callable, optional
        Called with the number of steps and the ledger after each new grid.
    model, data
        For the table.

    Returns
    -------
    GridTable

    Raises
    ------
    InputError
        Two numbers of steps mean the same number of the sampler's steps, or one leaves it none.
    """
    own = {count: problem.own_grid(count) for count in steps}
    lengths = [len(grid) - 1 for grid in own.values()]
    if not steps or len(set(lengths)) < len(steps) or min(lengths) < 1:
        raise InputError(
            f"steps={list(steps)} must be one number or more, that differ in the sampler's steps and leave it one at "
            f"least: {lengths}"
        )
    if move_start is None:
        schedule = problem.schedule
        move_start = schedule.variance_preserving and schedule.log_snr_range[0] > -20
    candidates = candidate_times(problem.schedule, max(CANDIDATES, 2 * max(lengths)))
    costs = problem.errors(candidates) if max(lengths) > 1 else None  # one step has nothing to choose
    found = []
    for count, grid in own.items():
        starts = {OWN: grid, **problem.published(len(grid) - 1), **_named(problem.schedule, len(grid) - 1)}
        if costs is not None:
            starts[ROUTE] = cheapest_grid(costs, candidates, len(grid) - 1)
        result = _search(problem, count, starts, evaluations, scores, move_start, tick)
        found.append(_described(problem, count, result))
    return GridTable(
        tuple(found), model, repr(problem.schedule), problem.sampler, problem.measure, problem.higher_is_better,
        dict(data or {}),
    )  # fmt: skip


def _named(schedule: Schedule, steps: int) -> dict[str, Tensor]:
    grids = {}
    for name in GRIDS:
        try:
            grids[name] = make_grid(name, schedule, steps)
        except InputError:  # too many or too few steps for this one
            continue
    return grids


def _search(
    problem: GridProblem,
    steps: int,
    starts: Mapping[str, Tensor],
    evaluations: int,
    scores: MutableMapping[str, float] | None,
    move_start: bool,
    tick: Callable[[int, Ledger], None] | None,
) -> Search:
    sign = -1 if problem.higher_is_better else 1
    own = len(starts[OWN]) - 1
    return search_grid(
        lambda grid: sign * problem.score(grid, steps),
        starts,
        problem.schedule,
        evaluations=evaluations,
        move_start=move_start,
        scores=scores,
        tick=None if tick is None else lambda ledger: tick(steps, ledger),
        prefix="" if steps == own else f"{steps}: ",  # other evaluations of the model may use the same grid
    )


def _described(problem: GridProblem, asked: int, found: Search) -> SearchedGrid:
    sign = -1 if problem.higher_is_better else 1
    return SearchedGrid.of(
        found.grid,
        problem.schedule,
        score=sign * found.score,
        others={name: sign * score for name, score in found.starts.items()},
        history=(
            *(
                (best.evaluations, sign * best.score)
                for best in found.history
                if best.evaluations < found.evaluations
            ),
            (found.evaluations, sign * found.score),
        ),
        asked=asked,
    )
