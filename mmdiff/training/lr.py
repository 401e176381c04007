"""Learning-rate schedules: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mmdiff.errors import InputError


def _constant(step: int, warmup: int, steps: int) -> float:
    return 1.0


def _linear(step: int, warmup: int, steps: int) -> float:
    return 1.0 - (step - warmup) / max(1, steps - warmup)


def _cosine(step: int, warmup: int, steps: int) -> float:
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


def _inverse_sqrt(step: int, warmup: int, steps: int) -> float:
    return math.sqrt(max(1, warmup) / max(1, step + 1))


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
}
"""Factor after the warm-up, as a function of (step, warmup, steps)."""

USES_STEPS = frozenset({"linear", "cosine"})
"""Schedules that depend on the length of the run: a resumed run must keep its length."""


@dataclass(frozen=True)
class LearningRate:
    r"""Learning rate of an update: linear warm-up, then a schedule.

    .. math::
        \eta_n = \eta \cdot \begin{cases} (n + 1) / W & n < W \\ g(n) & n \ge W \end{cases}

    with g = 1 (constant), 1 - p (linear), (1 + cos πp) / 2 (cosine), sqrt(W / (n + 1)) (inverse_sqrt,
    W >= 1), where p = (n - W) / (N - W) is the finished share of what follows the warm-up.

    Parameters
    ----------
    peak : float > 0
        η, the rate at the end of the warm-up.
    schedule : {"constant", "linear", "cosine", "inverse_sqrt"}
        g.
    warmup : int >= 0
        W, updates over which the rate rises.
    steps : int > 0
        N, updates of the whole run.

    Raises
    ------
    InputError
        An argument breaks its rule.

    Examples
    --------
    >>> rate = LearningRate(1.0, "cosine", warmup=2, steps=6)
    >>> [round(rate(n), 3) for n in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """

    peak: float
    schedule: str
    warmup: int
    steps: int

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"lr_schedule={self.schedule!r} must be one of {', '.join(SCHEDULES)}")
        if not self.peak > 0:
            raise InputError(f"learning_rate={self.peak} must be positive; 1e-3 is a common start")
        if self.warmup < 0:
            raise InputError(f"warmup_steps={self.warmup} must be 0 or more")

    def __call__(self, step: int) -> float:
        """Rate of the update that follows ``step`` finished ones."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        return self.peak * SCHEDULES[self.schedule](step, self.warmup, self.steps)
