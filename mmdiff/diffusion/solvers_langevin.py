"""Samplers of critically damped Langevin diffusion: they carry a velocity beside the state, for any denoiser.

See :mod:`mmdiff.diffusion.langevin_walk` for the equations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_levels import unit_levels
from mmdiff.diffusion.langevin_walk import PairWalk, kick
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Generators,
    Stops,
    as_state,
    draw_noise,
)
from mmdiff.diffusion.solvers_adaptive import PAIR, Trial, error_of, like, march
from mmdiff.errors import InputError

# Bogacki and Shampine's: where each stage lies, and of which slopes it is made.
_STAGES = ((0.0, ()), (0.5, (0.5,)), (0.75, (0.0, 0.75)), (1.0, PAIR.weights))


class _Drift(NamedTuple):
    """Ornstein-Uhlenbeck motion backwards in time over a lapse of τ: numbers of its mean and of its noise."""

    decay: float
    lapse: float
    l_xx: float
    l_px: float
    l_pp: float

    def __call__(self, u: Tensor, root: float, draw: Callable[[], Tensor]) -> Tensor:
        """Move a pair (B, 2, C, *space) by exp(-h) [[1 + h, -h], [h, 1 - h]] and two draws."""
        x, p = u[:, 0], u[:, 1] / root
        turn = self.lapse * (x - p)
        first, second = draw(), draw()
        x = self.decay * (x + turn) + self.l_xx * first
        p = self.decay * (p + turn) - self.l_px * first + self.l_pp * second
        return torch.stack([x, root * p], 1)


def _drifts(lapse: Tensor) -> list[_Drift]:
    unit = unit_levels(lapse, 0.0)
    columns = (torch.exp(-lapse), lapse, unit.l_xx, unit.l_vx, unit.l_vv)
    return [_Drift(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


def sscs(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor | Stops,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    process: CriticallyDamped | None = None,
    sigma_data: float | None = 1.0,
    overshoot: float = 1.5,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Symmetric splitting sampler: half a step of Ornstein-Uhlenbeck motion, a kick by the score, the other half.

    The motion dx = -p dr, dp = (x - 2p) dr + 2 dW is drawn exactly. The kick is dp = 4 (p + s) dr, by one evaluation of
    the score s in the middle of the step, which is taken to fall with p as that of normal data does. For normal data of
    that deviation short kicks are exact, and the method is of order two; for others it is of order one. Its errors are
    then smaller than those of Euler's method where data have about that deviation or less, and larger where they are
    much wider: tell ``sigma_data``. Steps into σ = 0 end at the estimate.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; x (B, C, *space) is plain: a velocity is drawn to it.
    process : CriticallyDamped, optional
        For denoisers of plain states: how the pair moves; default that of the paper.
    sigma_data : float > 0, optional
        Standard deviation of the data. None keeps the score as it is during the kick: Euler's method, as in the paper.
    overshoot : float >= 1
        Bound of a kick, over what carries p to its mean where the data are known. What is known early, as plain areas
        of pictures and silence of sound, would else be thrown past it in steps that are long beside τ, and beyond 2
        further with each. math.inf leaves the kick exact for normal data of the deviation.
    noise_scale : float
        Standard deviation of the fresh noise, over the right one.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        sigma_data or overshoot is out of range, or the process is not that of the schedule.

    References
    ----------
    Dockhorn et al. 2022, arXiv:2112.07068, section 4 and appendix D.
    """
    if sigma_data is not None and not sigma_data > 0:
        raise InputError(f"sigma_data={sigma_data} must be above 0; give the data's standard deviation")
    if not overshoot >= 1:
        raise InputError(f"overshoot={overshoot} must be at least 1; leave it out")
    walk, x = PairWalk(denoiser, grid, schedule, callback, cond, process), as_state(x)
    draw = _source(x, generator, noise_scale)
    u = walk.start(x, draw)
    lapses = walk.clock[:-1] - walk.clock[1:]
    drifts, stops = _drifts(lapses / 2), walk.places(walk.clock)
    halfway = (walk.clock[:-1] + walk.clock[1:]) / 2
    middles, times = walk.places(halfway), _kick_times(walk, halfway, lapses, sigma_data, overshoot)
    for i, _, q in walk:
        if q.sigma == 0:
            x0 = walk.estimate(u, stops[i])
            x = q.alpha * x0
        else:
            u = drifts[i](u, walk.root, draw)
            x0 = walk.estimate(u, middles[i])
            u = torch.stack([u[:, 0], u[:, 1] + times[i] * kick(u, x0, middles[i])], 1)
            u = drifts[i](u, walk.root, draw)
            x = walk.state(u, stops[i + 1])
        walk.report(i, x, x0)
    return x


def _source(like: Tensor, generator: Generators, scale: float) -> Callable[[], Tensor]:
    """Make what draws noise of a tensor's shape."""
    return lambda: scale * draw_noise(like.shape, like, generator)


def _kick_times(
    walk: PairWalk, clock: Tensor, lapse: Tensor, sigma_data: float | None, overshoot: float
) -> list[float]:
    """How long a kick lasts that stays as strong as it begins and does as much as one that wanes."""
    if sigma_data is None:
        return lapse.tolist()
    at = walk.process.pair_levels(walk.process.time_of_clock(clock).clamp(0, 1))
    known = at.l_vv**2 / walk.process.mass  # variance of p given x and x_0
    unknown = 1 / (1 / sigma_data**2 + (at.mean_x / at.l_xx) ** 2)  # of x_0 given x
    waning = _lasting(lapse, known + at.pull**2 * unknown / walk.process.mass)
    return torch.minimum(waning, overshoot * _lasting(lapse, known)).tolist()


def _lasting(lapse: Tensor, variance: Tensor) -> Tensor:
    """Time in which a kick does without waning what it does in the lapse of τ if p has a variance and a fixed mean."""
    rate = 4 * lapse * (1 - 1 / variance)
    return torch.where(rate == 0, lapse, lapse * torch.expm1(rate) / rate)


def langevin_em(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor | Stops,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    process: CriticallyDamped | None = None,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Euler and Maruyama's method on the reverse process: what :func:`sscs` is measured by.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, process, noise_scale, **cond
        As for :func:`sscs`.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    walk, state = PairWalk(denoiser, grid, schedule, callback, cond, process), as_state(x)
    draw = _source(state, generator, noise_scale)
    u = walk.start(state, draw)
    places, lapses = walk.places(walk.clock), (walk.clock[:-1] - walk.clock[1:]).tolist()
    for i, _, q in walk:
        x0 = walk.estimate(u, places[i])
        if q.sigma == 0:
            state = q.alpha * x0
        else:
            (x, v), h = u.unbind(1), lapses[i]
            noise = 2 * walk.root * math.sqrt(h) * draw()
            push = walk.root * x - 2 * v + kick(u, x0, places[i])
            u = torch.stack([x - h / walk.root * v, v + h * push + noise], 1)
            state = walk.state(u, places[i + 1])
        walk.report(i, state, x0)
    return state


def langevin_ode(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    process: CriticallyDamped | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-4,
    max_steps: int = 2_000,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Probability-flow ODE of the pair to a tolerance, in log τ; noise is drawn for the first velocity alone.

    Otherwise as :func:`~mmdiff.diffusion.solvers_adaptive.adaptive`.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, process, noise_scale, **cond
        As for :func:`sscs`; of the grid only its ends and its first step matter.
    rtol, atol, max_steps
        As for :func:`~mmdiff.diffusion.solvers_adaptive.adaptive`, errors being those of x and v/√M.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError, MmdiffError
        As for the two.
    """
    walk, x = PairWalk(denoiser, grid, schedule, callback, cond, process), as_state(x)
    u = walk.start(x, _source(x, generator, noise_scale))

    def shown(u: Tensor, t: Tensor) -> Tensor:
        return walk.state(u, walk.place_like(walk.clock_of(t), u))

    attempt = functools.partial(ode_attempt, walk, tolerance=(atol, rtol))
    u, end, done = march(attempt, walk, u, rtol, atol, max_steps, shown)
    q = walk.points[-1]
    here = walk.places(walk.clock_of(end[None]))[0]
    if float(end) <= q.t:
        return walk.state(u, here)
    x0 = walk.estimate(u, here)
    if callback is not None:
        callback(done + 1, 0, q.t, q.alpha * x0, x0)
    return q.alpha * x0


def ode_attempt(
    walk: PairWalk, u: Tensor, start: Tensor, stop: Tensor, x0: Tensor | None, tolerance: tuple[float, float]
) -> Trial:
    """One step of the pair's ODE from times (B,) to others, in log τ; third order.

    It is taken in a frame that turns with dx = p dτ, dp = -x dτ: without it pairs circle even where nothing is left to
    denoise.
    """
    first, last = walk.clock_of(start), walk.clock_of(stop)
    width = (last / first).log()
    slopes: list[Tensor] = []
    estimates = [] if x0 is None else [x0]
    for node, weights in _STAGES:
        clock = first * torch.exp(node * width)
        place, angle = walk.place_like(clock, u), like(clock - first, u[:, 0])
        moved = sum(w * k for w, k in zip(weights, slopes, strict=True))
        end = walk.turned(u + moved, angle)
        if len(estimates) == len(slopes):
            estimates.append(walk.estimate(end, place))
        push = -like(width * clock, u[:, 0]) / 2 * kick(end, estimates[-1], place)
        slopes.append(walk.turned(torch.stack([torch.zeros_like(push), push], 1), -angle))
    scale = u.new_tensor([1.0, 1 / walk.root]).view(1, 2, *[1] * (u.ndim - 2))
    error = error_of([scale * k for k in slopes], scale * u, scale * end, tolerance)
    return Trial(end, estimates[0], estimates[-1], error.to(start))
