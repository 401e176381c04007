"""Searched grids: at which noise levels a sampler of few steps should stop, and how good that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.grids import searched_grid
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_grid
from mmdiff.errors import InputError

_SAME = 1e-6  # times that differ by less are those of the schedule they were searched for


@dataclass(frozen=True)
class SearchedGrid:
    """One grid and how good it is.

    Attributes
    ----------
    times : tuple of float
        Of the schedule it was searched for: falling, in [0, 1].
    log_snr : tuple of float
        The same in log(alpha²/sigma²): rising; -inf and inf at the ends of many schedules.
    score : float
        By the table's measure; nan if it is not known.
    others : mapping of str to float
        Scores of other grids of as many steps.
    history : tuple of (int, float)
        The best score after so many grids were tried.
    asked : int
        The number that users of the searched model give for these steps, where they count evaluations that are not
        the sampler's too, as those of a spectral vocoder do. Default: the sampler's steps.
    """

    times: tuple[float, ...]
    log_snr: tuple[float, ...]
    score: float = math.nan
    others: Mapping[str, float] = field(default_factory=dict)
    history: tuple[tuple[int, float], ...] = ()
    asked: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "asked", self.asked or self.steps)

    @property
    def steps(self) -> int:
        """Steps of the sampler."""
        return len(self.times) - 1

    @classmethod
    def of(cls, grid: Tensor, schedule: Schedule, **known: Any) -> SearchedGrid:
        """Describe times (steps + 1,) of a schedule."""
        times = check_grid(grid).cpu()
        return cls(tuple(times.tolist()), tuple(schedule.log_snr(times).tolist()), **known)

    def on(self, schedule: Schedule) -> Tensor:
        """Times of a schedule: these very ones of its own, those of the same log-SNR of any other.

        Returns
        -------
        Tensor, shape (steps + 1,), float64
        """
        ends = [-math.inf if self.times[0] == 1 else self.log_snr[0], *self.log_snr[1:]]
        ends[-1] = math.inf if self.times[-1] == 0 else ends[-1]
        found, own = searched_grid(schedule, ends), torch.tensor(self.times, dtype=torch.float64)
        return own if bool((found - own).abs().max() < _SAME) else found


@dataclass(frozen=True)
class GridTable:
    """Searched grids of one model and sampler, at most one for each number of steps.

    Attributes
    ----------
    grids : tuple of SearchedGrid
    model, schedule, sampler : str
        What they were searched for, in words.
    measure : str
        What their scores are.
    higher_is_better : bool
    data : mapping
        What the scores were measured with: JSON values.
    """

    grids: tuple[SearchedGrid, ...]
    model: str = ""
    schedule: str = ""
    sampler: str = ""
    measure: str = ""
    higher_is_better: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)

    def grid(self, schedule: Schedule, steps: int | None = None) -> Tensor:
        """Times of a sampler with so many steps, or of the table's only grid.

        Parameters
        ----------
        schedule : Schedule
            What the times shall belong to; not necessarily the one of the search.
        steps : int, optional

        Returns
        -------
        Tensor, shape (steps + 1,), float64

        Raises
        ------
        InputError
            There is no such grid, or several to choose from, or it does not fit the schedule.
        """
        fit = [grid for grid in self.grids if steps is None or grid.steps == steps]
        if len(fit) != 1:
            counts = ", ".join(
                f"{grid.steps}" + (f" (asked for as {grid.asked})" if grid.asked != grid.steps else "")
                for grid in self.grids
            )
            more = any(grid.asked != grid.steps for grid in self.grids)
            of = ", the sampler's, without evaluations for other things," if more else ""
            raise InputError(f"steps={steps}{of} must be one of those the table has grids of: {counts}")
        return fit[0].on(schedule)
