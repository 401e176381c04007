"""The probability-flow ODE to a tolerance, in steps that each item of a batch chooses for itself."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

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
from mmdiff.diffusion.solvers_rk import LinePoint, Method, line_slopes, on_line
from mmdiff.errors import InputError, MmdiffError

# Bogacki and Shampine (1989): order three. The last of the errors' weights is that of the slope at the step's
# end, of which the next step begins: from large noise to little, the inner stages see only large noise, and
# without the end would find any step good.
PAIR = Method((0.0, 0.5, 0.75), (2 / 9, 1 / 3, 4 / 9))
PAIR_ERROR = (-5 / 72, 1 / 12, 1 / 9, -1 / 8)


class Trial(NamedTuple):
    """One attempted step of each item."""

    x: Tensor
    x0: Tensor
    """Estimate of the data at the step's start, and"""
    x0_next: Tensor
    """at its end."""
    error: Tensor
    """Estimated error over its tolerance, (B,) on the times' device: at most 1 is good."""


Attempt: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor | None], Trial]
"""``attempt(x, start, stop, x0)``: one step from times (B,) to others, with x̂0 at its start where it is known."""


def march(
    attempt: Attempt,
    walk: Walk,
    x: Tensor,
    rtol: float,
    atol: float,
    max_steps: int,
    shown: Callable[[Tensor, Tensor], Tensor] = lambda x, t: x,
) -> tuple[Tensor, Tensor, int]:
    """Go from a walk's first time to its last, or to where the last noise is, in steps of each item's own length.

    Parameters
    ----------
    attempt : callable
        ``attempt(x, start, stop, x0) -> Trial`` of one step from times (B,) to others.
    walk : Walk
        Its first step is the first attempt; its callback is told.
    x : Tensor, shape (B, ...)
        State.
    rtol, atol, max_steps
        As for :func:`adaptive`.
    shown : callable, optional
        ``shown(x, t)``, what the callback is shown of a state at times (B,).

    Returns
    -------
    x : Tensor
    end : Tensor, shape ()
        Time that x has reached.
    done : int
        Attempts in which some item advanced.

    Raises
    ------
    InputError, MmdiffError
        As :func:`adaptive`.
    """
    if not (rtol > 0 and atol > 0):
        raise InputError(f"rtol={rtol}, atol={atol} must both be > 0; try 1e-3 and 1e-4")
    end = _before_clean(walk, atol)
    t, width = (v.repeat(len(x)) for v in (walk.times[0], walk.times[0] - walk.times[1]))
    x0, done = None, 0
    for attempts in range(max_steps + 1):
        active, goal = t > end, torch.maximum(t - width, end)
        if not bool(active.any()):
            return x, end, done
        if attempts == max_steps or bool((width < 1e-14).any()):
            break
        # Items that have arrived pretend to take one more step; their results are dropped.
        start, stop = torch.where(active, t, walk.times[0]), torch.where(active, goal, end)
        trial = attempt(x, start, stop, x0)
        good = active & (trial.error <= 1)
        moved = like(good, x).bool()
        x = torch.where(moved, trial.x, x)
        x0 = torch.where(like(good, trial.x0).bool(), trial.x0_next, trial.x0)
        t = torch.where(good, goal, t)
        factor = (0.9 * trial.error.clamp(min=1e-12) ** (-1 / 3)).clamp(0.2, 5.0)
        width = torch.where(active, (start - stop) * factor, width)
        if bool(good.any()):
            done += 1
            if walk.callback is not None:
                walk.callback(done, 0, float(t.max()), shown(x, t), trial.x0)
    raise MmdiffError(
        f"steps fell to {float(width.min()):.1e} at t={float(t.max()):.3g} within max_steps={max_steps} "
        f"attempts: the denoiser must be finite and smooth; raise rtol={rtol} and atol={atol}, or max_steps"
    )


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
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.
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
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    attempt = functools.partial(_attempt, walk, tolerance=(atol, rtol))
    x, end, done = march(attempt, walk, x, rtol, atol, max_steps)
    return _to_clean(walk, x, end, done, callback)


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
    walk: Walk, x: Tensor, start: Tensor, stop: Tensor, x0: Tensor | None, tolerance: tuple[float, float]
) -> Trial:
    line = [on_line(walk.schedule, start, stop, node) for node in PAIR.nodes]
    a, b = walk.schedule(start), walk.schedule(stop)
    rise = (like(b.alpha - a.alpha, x), like(b.sigma - a.sigma, x))
    line = [LinePoint(*(like(column, x) for column in p)) for p in line]

    def denoise(y: Tensor, t: Tensor) -> Tensor:
        return walk.denoiser(y, t.flatten().to(y), **walk.cond).to(y.dtype)

    slopes, x0 = line_slopes(denoise, x, PAIR.nodes, line, rise, x0)
    end = x + sum(w * k for w, k in zip(PAIR.weights, slopes, strict=True))
    x0_next = denoise(end, stop)
    alpha, sigma = like(b.alpha, x), like(b.sigma, x)
    slopes.append(rise[0] * x0_next + rise[1] * (end - alpha * x0_next) / sigma)
    return Trial(end, x0, x0_next, error_of(slopes, x, end, tolerance).to(start))


def error_of(slopes: Sequence[Tensor], x: Tensor, end: Tensor, tolerance: tuple[float, float]) -> Tensor:
    """Error of a step from x to end over its tolerance, (B,), of its three slopes and that at its end."""
    difference = sum(w * k for w, k in zip(PAIR_ERROR, slopes, strict=True))
    atol, rtol = tolerance
    size = torch.maximum(x.abs(), end.abs())
    error = (difference / (atol + rtol * size)).flatten(1).square().mean(1).sqrt()
    # A step so long that it overflows is merely refused.
    return error.nan_to_num(nan=math.inf)


def like(values: Tensor, x: Tensor) -> Tensor:
    """Values per item (B,) as (B, 1, ..., 1) with the device and dtype of x."""
    return values.to(x).view(-1, *[1] * (x.ndim - 1))
