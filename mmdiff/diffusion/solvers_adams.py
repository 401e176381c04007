"""Adams-Bashforth samplers in t: DEIS, which integrates the schedule exactly, and PLMS, which does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Frame,
    Generators,
    Walk,
    as_state,
    check_choice,
    eps_of,
    frame_ratio,
)
from mmdiff.diffusion.solvers_multistep import Start
from mmdiff.diffusion.solvers_rk import ClassicSteps

Moments = npt.NDArray[np.float64]

_MANY_STEPS = 30


def deis(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    order: int | None = None,
    frame: Frame = "line",
    start: Start = "low_order",
    **cond: Any,
) -> Tensor:
    """DEIS with polynomials in t (tAB-DEIS; Zhang and Chen 2204.13902, eq. 15); one evaluation a step.

    The polynomial through the last ``order`` estimates is integrated exactly against the schedule.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.
    order : {1, 2, 3, 4}, optional
        Number of estimates, and the order. By default 2 for fewer than 30 steps, where more extrapolation is
        unsafe under guidance that pulls hard near the data, and else 3.
    frame : {"line", "noise"}
        Where the equation is integrated: "noise" is the paper's, ε̂ against σ/α; "line" integrates x̂0
        against α and ε̂ against σ, and keeps its order from α = 0 on.
    start : {"low_order", "rk4"}
        The first ``order - 1`` steps: as many estimates as there are, whose errors limit the order to two, or
        :func:`~mmdiff.diffusion.solvers_rk.rk4` at three more evaluations each.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        The order, frame or start is unknown.
    """
    walk = Walk(denoiser, grid, schedule, callback, cond)
    if order is None:
        order = 2 if walk.steps < _MANY_STEPS else 3
    return _adams(walk, x, order, frame, start, exact=True)


def plms(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    order: int = 4,
    frame: Frame = "line",
    start: Start = "low_order",
    **cond: Any,
) -> Tensor:
    """Pseudo linear multistep (PNDM; Liu et al. 2202.09778, eq. 12), for any grid; one evaluation a step.

    The last four estimates are averaged with the weights of Adams and Bashforth in t (55, −59, 37, −9 over 24
    on a uniform grid), then a DDIM step is taken with the average. That is of order four where the levels are
    straight in t (the linear flow with "line"), and of order two elsewhere.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.
    order : {1, 2, 3, 4}
        Number of estimates.
    frame : {"line", "noise"}
        As for :func:`deis`; "noise" is the paper's transfer.
    start : {"low_order", "rk4"}
        As for :func:`deis`; "rk4" stands for the paper's pseudo Runge-Kutta steps.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        The order, frame or start is unknown.
    """
    walk = Walk(denoiser, grid, schedule, callback, cond)
    return _adams(walk, x, order, frame, start, exact=False)


def _adams(walk: Walk, x: Tensor, order: int, frame: Frame, start: Start, *, exact: bool) -> Tensor:
    check_choice("order", order, (1, 2, 3, 4))
    check_choice("frame", frame, ("line", "noise"))
    check_choice("start", start, ("low_order", "rk4"))
    x = as_state(x)
    classic = ClassicSteps(walk) if start == "rk4" else None
    of_x0, of_eps = _moments(walk, order, frame, exact=exact)
    history: list[tuple[Tensor, Tensor]] = []  # (x̂0, ε̂), newest first
    for i, p, q in walk:
        x0 = walk.x0(x, p.t)
        history = [(x0, eps_of(x, x0, p)), *history][:order]
        if classic is not None and i < order - 1:
            x, _ = classic.step(i, x, x0)
        else:
            nodes = [(walk.points[i - k].t - p.t) / (q.t - p.t) for k in range(len(history))]
            x = frame_ratio(p, q, frame) * x
            weights = zip(_weights(nodes, of_x0[i]), _weights(nodes, of_eps[i]), strict=True)
            for (for_x0, for_eps), (past_x0, past_eps) in zip(weights, history, strict=True):
                x = x + for_x0 * past_x0 + for_eps * past_eps
        walk.report(i, x, x0)
    return x


def _weights(nodes: Sequence[float], moments: Moments) -> list[float]:
    """Weights with which values at the nodes integrate polynomials to the moments."""
    return np.linalg.solve(np.vander(nodes, increasing=True).T, moments[: len(nodes)]).tolist()


def _moments(walk: Walk, order: int, frame: Frame, *, exact: bool) -> tuple[Moments, Moments]:
    """∫ τʲ dα and ∫ τʲ dσ over each step, τ in [0, 1], j < order, in the frame and scaled to the step's end.

    By parts, ``∫ τʲ dα = α_q − j ∫ τ^{j−1} α dτ``: no derivative, and exact for constants whatever the
    quadrature. Without ``exact``, dα is taken to be uniform in τ.
    """
    roots, gauss = np.polynomial.legendre.leggauss(16)
    tau = np.array([0.0, *(roots + 1) / 2, 1.0])
    p, q = walk.times[:-1, None], walk.times[1:, None]
    inner = walk.schedule(p + (q - p) * walk.times.new_tensor(tau))
    levels = np.array([inner.alpha.tolist(), inner.sigma.tolist()])  # (2, steps, nodes)
    if frame == "noise":
        has_signal = np.array([a.alpha > 0 for _, a, _ in walk])
        alpha = np.where(has_signal[:, None], levels[0], 1.0)
        levels = levels * alpha[:, -1:] / alpha
    powers = np.arange(order)
    if exact:
        falling = powers * tau[1:-1, None] ** np.maximum(powers - 1, 0) * gauss[:, None] / 2
        moments = levels[..., -1:] - levels[..., 1:-1] @ falling
        moments[..., 0] -= levels[..., 0]
    else:
        moments = (levels[..., -1:] - levels[..., :1]) / (powers + 1)
    return moments[0], moments[1]
