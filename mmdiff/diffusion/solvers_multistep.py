"""Exponential multistep samplers in λ = log(α/σ): what they share, and DPM-Solver++.

Exactly, ``x_q = (σ_q/σ_p) x_p + α_q ∫ h e^{−h(1−τ)} x̂0(τ) dτ`` over τ in [0, 1], where h = λ_q − λ_p and τ
is the fraction of the step in λ. The samplers put polynomials through past values of x̂0 for x̂0(τ).

A point with infinite λ (α = 0 at the start, σ = 0 at the end) is no node of a polynomial: steps from or into
it are of first order, which is exact in that limit where x̂0 is constant.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Generators,
    Point,
    Walk,
    as_state,
    check_choice,
    draw_noise,
    step_in_lambda,
)
from mmdiff.diffusion.solvers_rk import ClassicSteps

Start: TypeAlias = Literal["low_order", "rk4"]
History: TypeAlias = list[tuple[float, Tensor]]  # (λ, x̂0), newest first

# Below this the last two steps lose an order each, as the papers advise: long extrapolation is unsafe.
FEW_STEPS = 15


def moment(h: float, j: int) -> float:
    """∫₀¹ h e^{−h(1−τ)} τʲ dτ for h in [0, inf], to float64's accuracy."""
    if math.isinf(h):
        return 1.0
    if h < 2:  # all terms positive, where the recursion would cancel
        term, total = h * math.exp(-h), 0.0
        for n in range(40):
            total += term / (n + j + 1)
            term *= h / (n + 1)
        return total
    value = -math.expm1(-h)
    for k in range(1, j + 1):
        value = 1 - k / h * value
    return value


def usable_order(order: int, p: Point, q: Point, history: History, steps_left: int, *, careful: bool) -> int:
    """Nodes to use in a step: as many as asked for, known and finite; if careful, at most the steps left."""
    if math.isinf(p.lam) or math.isinf(q.lam):
        return 1
    finite = sum(not math.isinf(lam) for lam, _ in history)
    return min(order, finite, steps_left if careful else order)


def dpmpp_2m(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2211.01095, algorithm 2): order two at one evaluation a step.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    return dpmpp(denoiser, x, grid, schedule, order=2, eta=0.0, callback=callback, **cond)


def dpmpp_2m_sde(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    eta: float = 1.0,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2211.01095, section 5): the diffusion SDE at one evaluation a step.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them.
    eta : float >= 0
        Amount of fresh noise: 1 is the reverse SDE of the paper, 0 is 2M.
    noise_scale : float
        Standard deviation of the fresh noise, over the right one.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    return dpmpp(
        denoiser, x, grid, schedule, order=2, eta=eta,
        noise_scale=noise_scale, generator=generator, callback=callback, **cond,
    )  # fmt: skip


def dpmpp_3m(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    start: Start = "low_order",
    halved: bool = False,
    **cond: Any,
) -> Tensor:
    """DPM-Solver++(3M): the multistep solver with a quadratic through three values; order three.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.
    start : {"low_order", "rk4"}
        The first two steps: of order one and two as usual, whose errors (small when the grid starts in pure
        noise) limit the order to two, or by :func:`~mmdiff.diffusion.solvers_rk.rk4` at 6 more evaluations.
    halved : bool
        Give the quadratic term half its weight, as the solver's released code and diffusers do. It then has
        order two, with a smaller error than 2M.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        The start is unknown.
    """
    return dpmpp(
        denoiser, x, grid, schedule, order=3, eta=0.0, start=start, halved=halved, callback=callback, **cond
    )


def dpmpp(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    order: int,
    eta: float,
    noise_scale: float = 1.0,
    start: Start = "low_order",
    halved: bool = False,
    generator: Generators = None,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Multistep DPM-Solver++ of order 1, 2 or 3, ODE (eta = 0) or SDE: the body of the named samplers."""
    check_choice("start", start, ("low_order", "rk4"))
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    classic = ClassicSteps(walk) if start == "rk4" else None
    history: History = []
    for i, p, q in walk:
        x0 = walk.x0(x, p.t)
        history = [(p.lam, x0), *history][:order]
        if classic is not None and i < order - 1:
            x, _ = classic.step(i, x, x0)
        else:
            h = step_in_lambda(p, q)
            kept = q.sigma / p.sigma * (math.exp(-eta * h) if eta else 1.0)
            careful = walk.steps < FEW_STEPS
            n = usable_order(order, p, q, history, walk.steps - i, careful=careful)
            x = kept * x + q.alpha * _dpmpp_integral(history[:n], h, (1 + eta) * h, halved)
            if eta and q.sigma > 0:
                std = q.sigma * math.sqrt(-math.expm1(-2 * eta * h))
                x = x + noise_scale * std * draw_noise(x.shape, x, generator)
        walk.report(i, x, x0)
    return x


def _dpmpp_integral(history: History, h: float, h_eta: float, halved: bool) -> Tensor:
    """Integral of the polynomial through the history over a step of length h, with exponential rate h_eta."""
    (lam0, m0), *past = history
    whole = moment(h_eta, 0)
    if not past:
        return whole * m0
    r0 = (lam0 - past[0][0]) / h
    slope = (m0 - past[0][1]) / r0
    if len(past) == 1:
        # The midpoint form of the paper: the slope's weight is half the whole, not its moment. Both are order
        # two.
        return whole * (m0 + slope / 2)
    r1 = (past[0][0] - past[1][0]) / h
    bend = (slope - (past[0][1] - past[1][1]) / r1) / (r0 + r1)
    return (
        whole * m0
        + moment(h_eta, 1) * (slope + r0 * bend)
        + moment(h_eta, 2) * (0.5 if halved else 1.0) * bend
    )
