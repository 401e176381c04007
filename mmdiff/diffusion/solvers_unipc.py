"""UniPC: predictor and corrector in λ; read :mod:`~mmdiff.diffusion.solvers_multistep` first."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
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
    step_in_lambda,
)
from mmdiff.diffusion.solvers_multistep import FEW_STEPS, History, Start, moment, usable_order
from mmdiff.diffusion.solvers_rk import ClassicSteps


def unipc(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    order: int = 2,
    variant: Literal["bh1", "bh2"] = "bh2",
    start: Start = "low_order",
    **cond: Any,
) -> Tensor:
    """UniPC, predictor and corrector in data prediction (Zhao et al. 2302.04867); one evaluation a step.

    UniP of order p predicts, the denoiser looks at the prediction, and UniC corrects with what it saw: order
    p + 1. The last step is not corrected, which would cost one more evaluation.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.
    order : {1, 2, 3}
        p above.
    variant : {"bh1", "bh2"}
        B(h) = h or 1 − e^{−h}, which counts where one difference is used and the paper sets its weight to
        B(h)/2.
    start : {"low_order", "rk4"}
        The first p − 1 steps: of lower order as usual, which is enough for order three, or by Runge-Kutta.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        The order, variant or start is unknown.
    """
    check_choice("order", order, (1, 2, 3))
    check_choice("variant", variant, ("bh1", "bh2"))
    check_choice("start", start, ("low_order", "rk4"))
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    classic = ClassicSteps(walk) if start == "rk4" else None
    # The authors always lower the order of the last steps; where λ is finite at the end that costs an order.
    careful = walk.steps < FEW_STEPS or walk.points[-1].sigma == 0
    history: History = []
    x0 = walk.x0(x, walk.points[0].t)
    for i, p, q in walk:
        history = [(p.lam, x0), *history][:order]
        begun = i >= order - 1 or classic is None
        n = usable_order(order, p, q, history, walk.steps - i, careful=careful)
        if begun:
            x_next = _unipc_step(x, p, q, history[:n], None, variant)
        else:
            assert classic is not None
            x_next, _ = classic.step(i, x, x0)
        x0_here = x0
        if i + 1 < walk.steps:
            x0 = walk.x0(x_next, q.t)
            if begun:
                x_next = _unipc_step(x, p, q, history[:n], x0, variant)
        x = x_next
        walk.report(i, x, x0_here)
    return x


def _unipc_step(x: Tensor, p: Point, q: Point, history: History, seen: Tensor | None, variant: str) -> Tensor:
    """UniP from p to q, or UniC when x̂0 at the predicted end has been seen."""
    (lam0, m0), *past = history
    h = step_in_lambda(p, q)
    nodes = [(lam - lam0) / h for lam, _ in past] + [1.0] * (seen is not None)
    values = [m for _, m in past] + ([] if seen is None else [seen])
    total = moment(h, 0) * m0
    if len(nodes) == 1:
        scale = h if variant == "bh1" and math.isfinite(h) else moment(h, 0)
        weights = [scale / 2 / nodes[0]]
    elif nodes:
        powers = np.arange(1, len(nodes) + 1)
        rows = np.array(nodes)[None, :] ** powers[:, None]
        weights = np.linalg.solve(rows, [moment(h, int(j)) for j in powers]).tolist()
    else:
        weights = []
    for weight, value in zip(weights, values, strict=True):
        total = total + weight * (value - m0)
    return q.sigma / p.sigma * x + q.alpha * total
