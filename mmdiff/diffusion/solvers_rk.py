"""Runge-Kutta along straight lines in the (α, σ) plane: fixed steps of order four, and adaptive steps.

Between two times the schedule's curve is replaced by the straight line between its ends (legal, because the
ODE does not depend on the path): no derivative of the schedule is needed, tables are as smooth as formulas,
and for the linear flow and for EDM the line is the curve. A point of the line is taken to the time of the
same log-SNR and scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Generators,
    Walk,
    as_state,
    first_order_step,
    points_at,
)
from mmdiff.errors import InputError, MmdiffError


class Method(NamedTuple):
    """Explicit method in which stage k starts from the state plus ``nodes[k]`` times slope k − 1."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


CLASSIC = Method((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical method of order four."""
# Heun's method of order three never asks for the end of the step, where σ may be 0. One step of order three
# (local error h⁴) leaves the whole at order four.
_OPEN = Method((0.0, 1 / 3, 2 / 3), (1 / 4, 0.0, 3 / 4))
# Bogacki and Shampine (1989): order three. The last of the errors' weights is that of the slope at the step's
# end, of which the next step begins: from large noise to little, the inner stages see only large noise, and
# without the end would find any step good.
_PAIR = Method((0.0, 0.5, 0.75), (2 / 9, 1 / 3, 4 / 9))
_PAIR_ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)


class LinePoint(NamedTuple):
    """Point on a step's straight line, and the time of its log-SNR: floats, or tensors per item."""

    t: Any
    alpha: Any
    sigma: Any
    scale: Any
    """Level on the line over the schedule's level at t."""


def on_line(schedule: Schedule, start: Tensor, stop: Tensor, node: float) -> LinePoint:
    """Points a fraction of the way from some times (N,) to others, in float64."""
    a, b = schedule(start), schedule(stop)
    alpha = a.alpha + node * (b.alpha - a.alpha)
    sigma = a.sigma + node * (b.sigma - a.sigma)
    if node in (0.0, 1.0):
        return LinePoint(stop if node else start, alpha, sigma, torch.ones_like(alpha))
    t = schedule.time_of_log_snr(2 * (alpha.log() - sigma.log())).clamp(0, 1)
    there = schedule(t)
    return LinePoint(t, alpha, sigma, torch.hypot(alpha, sigma) / torch.hypot(there.alpha, there.sigma))


def _slopes(
    denoise: Callable[[Tensor, Any], Tensor],
    x: Tensor,
    nodes: Sequence[float],
    line: Sequence[LinePoint],
    rise: tuple[Any, Any],
    x0: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Slopes Δα x̂0 + Δσ ε̂ at the stages, and x̂0 of the first (which may be given)."""
    slopes: list[Tensor] = []
    first = x0
    for node, p in zip(nodes, line, strict=True):
        y = x + node * slopes[-1] if slopes else x
        x0 = x0 if x0 is not None and not slopes else denoise(y / p.scale, p.t)
        first = x0 if first is None else first
        slopes.append(rise[0] * x0 + rise[1] * (y - p.alpha * x0) / p.sigma)
    assert first is not None
    return slopes, first


class ClassicSteps:
    """Steps of the classical fourth-order method between a walk's points, their lines laid out beforehand."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self._lines = {m: self._lay(m) for m in (CLASSIC, _OPEN)}

    def _lay(self, method: Method) -> list[list[LinePoint]]:
        start, stop = self.walk.times[:-1], self.walk.times[1:]
        stages = [on_line(self.walk.schedule, start, stop, node) for node in method.nodes]
        rows = [zip(*(column.tolist() for column in stage), strict=True) for stage in stages]
        return [[LinePoint(*row) for row in step] for step in zip(*rows, strict=True)]

    def step(self, i: int, x: Tensor, x0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Advance x (B, ...) over step i; also returns x̂0 at its beginning, computed unless given."""
        p, q = self.walk.points[i : i + 2]
        method = CLASSIC if q.sigma > 0 else _OPEN
        rise = (q.alpha - p.alpha, q.sigma - p.sigma)
        slopes, x0 = _slopes(self.walk.x0, x, method.nodes, self._lines[method][i], rise, x0)
        return x + sum(w * k for w, k in zip(method.weights, slopes, strict=True) if w), x0


def rk4(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Classical Runge-Kutta method of order four on the probability-flow ODE; four evaluations a step.

    A step into σ = 0 takes Heun's third-order method (three evaluations), which does not ask for the end.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As for the other samplers; deterministic, so the generator is not used.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    classic = ClassicSteps(walk)
    for i, _, _ in walk:
        x, x0 = classic.step(i, x)
        walk.report(i, x, x0)
    return x


class _Trial(NamedTuple):
    """One attempted step of each item."""

    x: Tensor
    x0: Tensor
    """Estimate of the data at the step's start, and"""
    x0_next: Tensor
    """at its end."""
    error: Tensor
    """Estimated error over its tolerance, (B,) on the times' device: at most 1 is good."""


def adaptive(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-4,
    max_steps: int = 2_000,
    **cond: Any,
) -> Tensor:
    """Probability-flow ODE to a tolerance: embedded pair of orders 3 and 2 (Bogacki and Shampine, 1989).

    Every item of the batch has steps of its own, so its result does not depend on its neighbours. An
    attempted step costs three evaluations, the first one four; wrap the denoiser in
    :class:`~mmdiff.diffusion.samplers.CountEvaluations` to learn their number.

    Where the grid ends at σ = 0 the last step is of first order, from σ/α = √atol / 10 or a table's first
    step: networks are not exact enough near clean data for an equation that divides by σ.

    Parameters
    ----------
    denoiser, x, schedule, generator, **cond
        As for the other samplers; deterministic, so the generator is not used.
    grid : Tensor (N + 1,)
        Only its ends are kept; its first step is the first attempt.
    callback : callable, optional
        Called after each attempt in which some item advanced, with ``steps = 0`` (unknown) and t the largest
        time in the batch.
    rtol, atol : float > 0
        A step is good when the root mean square of error / (atol + rtol |x|) over an item is at most 1.
    max_steps : int
        Attempts before giving up.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        A tolerance is not positive.
    MmdiffError
        The attempts are used up, or no step is short enough, as when the denoiser returns NaN.
    """
    if not (rtol > 0 and atol > 0):
        raise InputError(f"rtol={rtol}, atol={atol} must both be > 0; try 1e-3 and 1e-4")
    walk, x = Walk(denoiser, grid, schedule, None, cond), as_state(x)
    end = _before_clean(walk, atol)
    t, width = (v.repeat(len(x)) for v in (walk.times[0], walk.times[0] - walk.times[1]))
    x0, done = None, 0
    for attempts in range(max_steps + 1):
        active, goal = t > end, torch.maximum(t - width, end)
        if not bool(active.any()):
            return _to_clean(walk, x, end, done, callback)
        if attempts == max_steps or bool((width < 1e-14).any()):
            break
        # Items that have arrived pretend to take one more step; their results are dropped.
        start, stop = torch.where(active, t, walk.times[0]), torch.where(active, goal, end)
        trial = _attempt(walk, x, start, stop, (atol, rtol), x0)
        good = active & (trial.error <= 1)
        moved = _like(good, x).bool()
        x, x0 = torch.where(moved, trial.x, x), torch.where(moved, trial.x0_next, trial.x0)
        t = torch.where(good, goal, t)
        factor = (0.9 * trial.error.clamp(min=1e-12) ** (-1 / 3)).clamp(0.2, 5.0)
        width = torch.where(active, (start - stop) * factor, width)
        if bool(good.any()):
            done += 1
            if callback is not None:
                callback(done, 0, float(t.max()), x, trial.x0)
    raise MmdiffError(
        f"steps fell to {float(width.min()):.1e} at t={float(t.max()):.3g} within max_steps={max_steps} "
        f"attempts: the denoiser must be finite and smooth; raise rtol={rtol} and atol={atol}, or max_steps"
    )


def _before_clean(walk: Walk, atol: float) -> Tensor:
    """Time to stop at: where σ/α = √atol / 10 or a table begins if the grid ends at σ = 0, else its end."""
    end = walk.times[-1]
    if walk.points[-1].sigma > 0:
        return end
    low_noise = -2 * torch.log(end.new_tensor(0.1 * math.sqrt(atol)))
    # A network trained on a table knows nothing below its first step.
    low = walk.schedule.time_of_log_snr(low_noise).clamp(min=walk.schedule.first_time)
    return torch.minimum(low, walk.times[0])


def _to_clean(walk: Walk, x: Tensor, t: Tensor, done: int, callback: Callback | None) -> Tensor:
    """Step from t to the grid's end, where that is further: first order, with an error of order σ²."""
    p, q = *points_at(walk.schedule, t[None]), walk.points[-1]
    if p.t <= q.t:
        return x
    x0 = walk.x0(x, p.t)
    x = first_order_step(x, x0, p, q)
    if callback is not None:
        callback(done + 1, 0, q.t, x, x0)
    return x


def _attempt(
    walk: Walk, x: Tensor, start: Tensor, stop: Tensor, tolerance: tuple[float, float], x0: Tensor | None
) -> _Trial:
    line = [on_line(walk.schedule, start, stop, node) for node in _PAIR.nodes]
    a, b = walk.schedule(start), walk.schedule(stop)
    rise = (_like(b.alpha - a.alpha, x), _like(b.sigma - a.sigma, x))
    line = [LinePoint(*(_like(column, x) for column in p)) for p in line]

    def denoise(y: Tensor, t: Tensor) -> Tensor:
        return walk.denoiser(y, t.flatten().to(y), **walk.cond).to(y.dtype)

    slopes, x0 = _slopes(denoise, x, _PAIR.nodes, line, rise, x0)
    end = x + sum(w * k for w, k in zip(_PAIR.weights, slopes, strict=True))
    x0_next = denoise(end, stop)
    alpha, sigma = _like(b.alpha, x), _like(b.sigma, x)
    slopes.append(rise[0] * x0_next + rise[1] * (end - alpha * x0_next) / sigma)
    difference = sum(w * k for w, k in zip(_PAIR_ERROR, slopes, strict=True))
    atol, rtol = tolerance
    size = torch.maximum(x.abs(), end.abs())
    error = (difference / (atol + rtol * size)).flatten(1).square().mean(1).sqrt()
    # A step so long that it overflows is merely refused.
    return _Trial(end, x0, x0_next, error.nan_to_num(nan=math.inf).to(start))


def _like(values: Tensor, x: Tensor) -> Tensor:
    """Values per item (B,) as (B, 1, ..., 1) with the device and dtype of x."""
    return values.to(x).view(-1, *[1] * (x.ndim - 1))
