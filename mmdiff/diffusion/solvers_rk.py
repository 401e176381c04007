"""Runge-Kutta along straight lines in the (α, σ) plane, in fixed steps of order four.

Between two times the schedule's curve is replaced by the straight line between its ends (legal, because the
ODE does not depend on the path): no derivative of the schedule is needed, tables are as smooth as formulas,
and for the linear flow and for EDM the line is the curve. A point of the line is taken to the time of the
same log-SNR and scaled. Steps to a tolerance, by the same lines: :mod:`mmdiff.diffusion.solvers_adaptive`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import Callback, DenoiserFn, Generators, Walk, as_state


class Method(NamedTuple):
    """Explicit method in which stage k starts from the state plus ``nodes[k]`` times slope k − 1."""

    nodes: tuple[float, ...]
    weights: tuple[float, ...]


CLASSIC = Method((0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical method of order four."""
# Heun's method of order three never asks for the end of the step, where σ may be 0. One step of order three
# (local error h⁴) leaves the whole at order four.
_OPEN = Method((0.0, 1 / 3, 2 / 3), (1 / 4, 0.0, 3 / 4))


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


def line_slopes(
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
        slopes, x0 = line_slopes(self.walk.x0, x, method.nodes, self._lines[method][i], rise, x0)
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
        As :mod:`~mmdiff.diffusion.sampler_table` has them; deterministic, so the generator is not used.

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
