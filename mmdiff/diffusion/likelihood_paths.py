"""The ways that probability-flow ODEs take from data to noise, with their divergence.

A marginal of plain diffusion depends on σ/α = tan φ, apart from its scale, so that any schedule's can be followed on
the unit circle, by y = cos φ x0 + sin φ ε:

    dy/dφ = (cos φ y - x̂0) / sin φ,    div dy/dφ = (D cos φ - tr dx̂0/dy) / sin φ.

Both are finite up to pure noise, φ = π/2. Pairs of critically damped Langevin diffusion follow (see
:mod:`~mmdiff.diffusion.langevin_walk`), in p = v/√M and the clock τ,

    dx/dτ = p,    dp/dτ = -x - k/2,    div = -(div_p k)/2,    k = 4 (p + (m - p)/r²),    m = slope x - pull x̂0.

The turning dx = p dτ, dp = -x dτ keeps volumes and is left out, in a frame that turns along; the rest changes evenly in
log τ.

A pair is made of its reduced state z and of w, what it does not say of the data
(:meth:`~mmdiff.diffusion.langevin.CriticallyDamped.unsaid`), which is standard normal and independent of z whatever the
data. So log p(z) = log p(u) + log volume - log N(w) at any w where the model is exact, and at least so much on average
over w where it is not, by Jensen's inequality.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.divergence import Probes
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_walk import PairWalk, Place, kick
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, draw_noise
from mmdiff.diffusion.vlb import gaussian_nll


class Path(ABC):
    """A way from t_min to t = 1.

    Attributes
    ----------
    knots : list of float
        Where steps begin and end, from data to noise, in the path's own coordinate.
    """

    knots: list[float]

    @abstractmethod
    def begin(self, x0: Tensor, generator: Generators) -> tuple[Tensor, Tensor | float]:
        """State at the first knot, and what to add to its log-density for that of x0, (B,) in nats."""

    @abstractmethod
    def slope(self, y: Tensor, place: float, vectors: Probes) -> tuple[Tensor, Tensor]:
        """Derivative of the state by the coordinate, and its divergence for each probe, (P, B)."""

    @abstractmethod
    def end(self, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """Plain state of the schedule at t = 1, and what to add to its log-density for that of y, (B,) in nats."""


def make_path(denoiser: DenoiserFn, schedule: Schedule, grid: Tensor, cond: dict[str, Any]) -> Path:
    """Make the way of a schedule along a grid of falling times."""
    if isinstance(schedule, CriticallyDamped):
        return _PairPath(denoiser, schedule, grid, cond)
    return _Circle(denoiser, schedule, grid, cond)


class _Circle(Path):
    """Angles φ = atan(σ/α)."""

    def __init__(self, denoiser: DenoiserFn, schedule: Schedule, grid: Tensor, cond: dict[str, Any]) -> None:
        self.denoiser, self.schedule, self.cond = denoiser, schedule, cond
        levels = schedule(grid.flip(0))
        self.knots = torch.atan2(levels.sigma, levels.alpha).tolist()
        self._ends = {self.knots[0]: float(grid[-1]), self.knots[-1]: float(grid[0])}

    def begin(self, x0: Tensor, generator: Generators) -> tuple[Tensor, Tensor | float]:
        cos = math.cos(self.knots[0])
        return cos * x0, x0[0].numel() * math.log(cos)

    def slope(self, y: Tensor, place: float, vectors: Probes) -> tuple[Tensor, Tensor]:
        x0, trace = vectors.trace(functools.partial(self._denoise, phi=place), y)
        cos, sin = math.cos(place), math.sin(place)
        return (cos * y - x0) / sin, (cos * vectors.squares - trace) / sin

    def end(self, y: Tensor) -> tuple[Tensor, Tensor | float]:
        scale = self._place(self.knots[-1])[1]
        return scale * y, y[0].numel() * math.log(scale)

    def _denoise(self, y: Tensor, phi: float) -> Tensor:
        t, scale = self._place(phi)
        state = scale * y
        return self.denoiser(state, state.new_full(state.shape[:1], t), **self.cond).to(y.dtype)

    def _place(self, phi: float) -> tuple[float, float]:
        """Time of an angle, and the scale of the schedule's states over the circle's."""
        t = self._ends.get(phi)
        if t is None:
            t = float(self.schedule.time_of_log_snr(-2 * math.log(math.tan(phi))))
        levels = self.schedule(t)
        return t, math.hypot(levels.alpha, levels.sigma)


class _PairPath(Path):
    """log τ; states are pairs (B, 2, C, *space) in a frame that stands still at τ = 0."""

    def __init__(
        self, denoiser: DenoiserFn, schedule: CriticallyDamped, grid: Tensor, cond: dict[str, Any]
    ) -> None:
        self.walk, self.times = PairWalk(denoiser, grid, schedule, None, cond, None), grid
        self.knots = self.walk.clock.flip(0).log().tolist()
        self._place = functools.cache(self._found)

    def begin(self, x0: Tensor, generator: Generators) -> tuple[Tensor, Tensor | float]:
        process, first = self.walk.process, self.times[-1]
        unsaid, alpha = draw_noise(x0.shape, x0, generator), float(process(first).alpha)
        u = process.lift(alpha * x0, first, unsaid)
        units = x0[0].numel() * math.log(alpha)
        return self._turned(u, -math.exp(self.knots[0])), units - self._apart(unsaid, first)

    def slope(self, y: Tensor, place: float, vectors: Probes) -> tuple[Tensor, Tensor]:
        clock, at = self._place(place)
        x, v = self._turned(y, clock).unbind(1)
        x0, trace = vectors.trace(lambda v: self.walk.estimate(torch.stack([x, v], 1), at), v)
        push = -clock / 2 * kick(torch.stack([x, v], 1), x0, at)
        growth = -2 * clock * (vectors.squares - (vectors.squares + at.pull * trace) / at.variance)
        return self._turned(torch.stack([torch.zeros_like(push), push], 1), -clock), growth

    def end(self, y: Tensor) -> tuple[Tensor, Tensor | float]:
        process, last = self.walk.process, self.times[0]
        u = self._turned(y, math.exp(self.knots[-1]))
        return process.reduce(u, last), self._apart(process.unsaid(u, last), last)

    def _found(self, place: float) -> tuple[float, Place]:
        """Clock, and what to know at it."""
        clock = math.exp(place)
        return clock, self.walk.places(torch.tensor([clock], dtype=torch.float64))[0]

    def _apart(self, unsaid: Tensor, t: Tensor) -> Tensor:
        """Log-density of a pair over that of its reduced state, (B,)."""
        volume = unsaid[0].numel() * math.log(float(self.walk.process.volume(t)))
        return -gaussian_nll(unsaid, *unsaid.new_tensor([0.0, 1.0])).flatten(1).sum(1) - volume

    def _turned(self, u: Tensor, angle: float) -> Tensor:
        return self.walk.turned(u, u.new_tensor(angle))
