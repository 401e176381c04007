"""Samplers that remember nothing between steps: Euler and Heun with churn, and DPM-Solver++(2S)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Frame,
    Generators,
    Point,
    Walk,
    as_state,
    check_choice,
    draw_noise,
    eps_of,
    first_order_step,
    frame_ratio,
    points_at,
)


def euler(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Euler's method on the probability-flow ODE, with EDM's churn (Karras et al. 2206.00364, algorithm 2).

    The step is DDIM's: Euler in σ/α (EDM's choice for every process), Euler in t for the linear flow.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; the generator serves churn alone.
    s_churn, s_tmin, s_tmax, s_noise : float
        As for :func:`heun`.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    churned = _churned(walk, s_churn, s_tmin, s_tmax)
    for i, p, q in walk:
        x, p = _add_noise(x, p, churned[i], generator, s_noise), churned[i]
        x0 = walk.x0(x, p.t)
        x = first_order_step(x, x0, p, q)
        walk.report(i, x, x0)
    return x


def heun(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    frame: Frame = "line",
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Heun's method with churn (Karras et al. 2206.00364, algorithm 2), for any process; order two.

    Two evaluations a step; a step into σ = 0 is Euler's and takes one.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; the generator serves churn alone.
    frame : {"line", "noise"}
        Where slopes are averaged: along the straight line between levels (t of the linear flow, σ of EDM), or
        for x/α against σ/α, as EDM does for every process. The same for processes with α = 1.
    s_churn : float >= 0
        Noise added over the whole run, spread over the steps: each raises σ/α by a factor ``1 + min(s_churn /
        steps, √2 − 1)``, but not above its value at t = 1. 0 makes the sampler deterministic.
    s_tmin, s_tmax : float
        Churn acts where σ/α lies between these.
    s_noise : float
        Standard deviation of the added noise, over the right one.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        The frame is unknown.
    """
    check_choice("frame", frame, ("line", "noise"))
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    churned = _churned(walk, s_churn, s_tmin, s_tmax)
    for i, p, q in walk:
        x, p = _add_noise(x, p, churned[i], generator, s_noise), churned[i]
        x0 = walk.x0(x, p.t)
        x_next = first_order_step(x, x0, p, q)
        if q.sigma > 0:
            x0_next = walk.x0(x_next, q.t)
            x0_mean = (x0 + x0_next) / 2
            eps_mean = (eps_of(x, x0, p) + eps_of(x_next, x0_next, q)) / 2
            ratio = frame_ratio(p, q, frame)
            x_next = (
                ratio * x + (q.alpha - p.alpha * ratio) * x0_mean + (q.sigma - p.sigma * ratio) * eps_mean
            )
        x = x_next
        walk.report(i, x, x0)
    return x


def _churned(walk: Walk, s_churn: float, s_tmin: float, s_tmax: float) -> list[Point]:
    """Return the points from which the steps leave once noise is added; the same objects where none is."""
    points = walk.points[:-1]
    gamma = min(s_churn / walk.steps, math.sqrt(2) - 1)
    chosen = [i for i, p in enumerate(points) if p.alpha > 0 and s_tmin <= p.sigma / p.alpha <= s_tmax]
    if gamma <= 0 or not chosen:
        return points
    log_snr = torch.tensor([points[i].lam for i in chosen], dtype=torch.float64) - math.log1p(gamma)
    raised = points_at(walk.schedule, walk.schedule.time_of_log_snr(2 * log_snr).clamp(0, 1))
    points = list(points)
    for i, p in zip(chosen, raised, strict=True):
        points[i] = p
    return points


def _add_noise(x: Tensor, p: Point, raised: Point, generator: Generators, s_noise: float) -> Tensor:
    if raised is p:
        return x
    ratio = raised.alpha / p.alpha
    std = math.sqrt(max(raised.sigma**2 - (ratio * p.sigma) ** 2, 0.0))
    return ratio * x + s_noise * std * draw_noise(x.shape, x, generator)


def dpmpp_2s(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """DPM-Solver++(2S), singlestep (Lu et al. 2211.01095, algorithm 1 with r = 1/2); order two.

    With r = 1/2 it is the midpoint rule in λ: x̂0 is asked for half way, and used over the whole step. Two
    evaluations a step, one in a step into σ = 0. From α = 0, where λ is infinite, half way is meant in α/σ.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    middles = _middles(walk)
    for i, p, q in walk:
        x0 = walk.x0(x, p.t)
        if q.sigma > 0:
            x_middle = first_order_step(x, x0, p, middles[i])
            x0 = walk.x0(x_middle, middles[i].t)
        x = first_order_step(x, x0, p, q)
        walk.report(i, x, x0)
    return x


def _middles(walk: Walk) -> list[Point]:
    lam = [
        q.lam - math.log(2) if math.isinf(p.lam) else p.lam if math.isinf(q.lam) else (p.lam + q.lam) / 2
        for _, p, q in walk
    ]
    times = walk.schedule.time_of_log_snr(2 * torch.tensor(lam, dtype=torch.float64))
    return points_at(walk.schedule, times.clamp(0, 1))
