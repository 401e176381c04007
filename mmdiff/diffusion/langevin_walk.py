"""A pair of data and velocity on its way along a grid, and what steps backwards need to know on it.

With r running backwards in the clock τ of :mod:`mmdiff.diffusion.langevin` and p = v/√M, the reverse process and its
probability-flow ODE are

    dx = -p dr,    dp = (x + 2p + 4 s) dr + 2 dW        dx = -p dr,    dp = (x + 2p + 2 s) dr

where s is the score of p, (m - p)/r² for the mean m and the variance r² that p has given x and the estimate of x_0.
Both are what pure noise does, dp = (x - 2p) dr + 2 dW or dp = x dr, and a kick by 4 (p + s) or half of it.

The denoiser of a :class:`~mmdiff.diffusion.langevin.CriticallyDamped` schedule sees the pair. That of any other
schedule is told the state of its own that says as much of x_0 as the pair does, which is exact: a model of plain
diffusion can be sampled by Langevin diffusion as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import Callback, DenoiserFn, Stops, Walk
from mmdiff.diffusion.solvers_adaptive import like
from mmdiff.errors import InputError

_FAINT = -6.0  # log-SNR below which signal does not matter


class Place(NamedTuple):
    """What steps need to know of a time on the way: numbers, or tensors per item."""

    t: Any
    """Time that the denoiser is told."""
    slope: Any
    pull: Any
    """The mean of v given x and x_0 is slope x - pull x_0."""
    variance: Any
    """r², over M the variance of v given x and x_0."""
    of_x: Any
    of_v: Any
    """Weights of the schedule's own state."""


class PairWalk(Walk):
    """A walk of a pair u = (x, v), a tensor (B, 2, C, *space), along a grid of plain states or of pairs.

    Parameters
    ----------
    denoiser, grid, schedule, callback, cond
        As the samplers take them.
    process : CriticallyDamped, optional
        How the pair moves. Default: the schedule if it is one of pairs, else the paper's.

    Raises
    ------
    InputError
        Another process is asked for than the one that the denoiser of pairs was trained with, or one that ends with
        more signal than the grid begins with.
    """

    def __init__(
        self,
        denoiser: DenoiserFn,
        grid: Tensor | Stops,
        schedule: Schedule,
        callback: Callback | None,
        cond: Mapping[str, Any],
        process: CriticallyDamped | None,
    ) -> None:
        super().__init__(denoiser, grid, schedule, callback, cond)
        own = schedule if isinstance(schedule, CriticallyDamped) else None
        if own is not None and process not in (None, own):
            raise InputError(f"process={process} must be left out, or equal the denoiser's, {own}")
        self.process = own or process or CriticallyDamped()
        self._check_length()
        self.root = math.sqrt(self.process.mass)
        self.clock = self.clock_of(self.times)

    def _check_length(self) -> None:
        """Complain of a process that ends with much more signal than the grid begins with."""
        first = self.points[0]  # numbers: nothing waits for an accelerator
        begun = max(2 * math.log(max(first.alpha, 1e-30) / max(first.sigma, 1e-30)), _FAINT)
        least = float(self.process.log_snr(torch.ones((), dtype=torch.float64)))
        if not self.schedule.paired and least > begun + 1:
            raise InputError(
                f"process={self.process} must end with as little signal as the grid begins with, and its log-SNR falls "
                f"to {least:.3g} only; raise beta_max, or leave it out"
            )

    def clock_of(self, times: Tensor) -> Tensor:
        """Clock τ at which a pair knows as much of the data as the schedule's states do; float64 times."""
        if not self.schedule.paired:
            times = self.process.time_of_log_snr(self.schedule.log_snr(times))
        return self.process.clock(times)

    def place(self, clock: Tensor) -> Place:
        """Coefficients at τ, of its shape and dtype."""
        own = self.process.time_of_clock(clock).clamp(0, 1)
        at = self.process.pair_levels(own)
        t = own if self.schedule.paired else self.schedule.time_of_log_snr(at.log_snr)
        alpha = self.schedule(t).alpha
        of_x, of_v = at.readout
        return Place(t, at.slope, at.pull, at.l_vv**2 / self.process.mass, alpha * of_x, alpha * of_v)

    def place_like(self, clock: Tensor, u: Tensor) -> Place:
        """As :meth:`place`, for τ (B,), what multiplies the parts (B, C, *space) of a pair."""
        return Place(*(like(column, u[:, 0]) for column in self.place(clock)))

    def places(self, clock: Tensor) -> list[Place]:
        """As :meth:`place`, numbers for each τ of (N,)."""
        columns = (column.tolist() for column in self.place(clock))
        return [Place(*row) for row in zip(*columns, strict=True)]

    def start(self, x: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        """Draw a pair to a state (B, C, *space) at the grid's first time."""
        first = self.points[0]
        own = self.process.time_of_clock(self.clock[0])
        return self.process.lift(x / math.hypot(first.alpha, first.sigma), own, draw())

    def state(self, u: Tensor, place: Place) -> Tensor:
        """What the pair says of the data, as a state (B, C, *space) of the schedule."""
        return place.of_x * u[:, 0] + place.of_v * u[:, 1]

    def turned(self, u: Tensor, angle: Tensor) -> Tensor:
        """Where dx = p dτ, dp = -x dτ carries a pair in a lapse of τ, the angle (B, 1, ...)."""
        x, v = u.unbind(1)
        cos, sin = torch.cos(angle), torch.sin(angle)
        return torch.stack([cos * x + sin / self.root * v, cos * v - self.root * sin * x], 1)

    def estimate(self, u: Tensor, place: Place) -> Tensor:
        """Denoise the pair: x0 (B, C, *space)."""
        t = place.t.flatten().to(u) if isinstance(place.t, Tensor) else u.new_full(u.shape[:1], place.t)
        seen = u if self.schedule.paired else self.state(u, place)
        return self.denoiser(seen, t, **self.cond).to(u.dtype)


def kick(u: Tensor, x0: Tensor, at: Place) -> Tensor:
    """4 (v + M s) (B, C, *space): what the score s of v adds to the motion of pure noise."""
    x, v = u.unbind(1)
    return 4 * (v + (at.slope * x - at.pull * x0 - v) / at.variance)
