"""Learning-rate schedules: pure functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def factor(name: str, step: int, *, warmup: int, steps: int) -> float:
    r"""Multiplier of the learning rate at the update that follows ``step`` finished ones.

    .. math::
        f(n) = \begin{cases} (n + 1) / W & n < W \\ g(n) & n \ge W \end{cases}

    with g = 1 (constant), 1 - p (linear), (1 + cos πp) / 2 (cosine), sqrt(W / (n + 1)) (inverse_sqrt), where
    p = (n - W) / (N - W) is the finished share of what follows the warm-up.

    Parameters
    ----------
    name : {"constant", "linear", "cosine", "inverse_sqrt"}
    step : int >= 0
        n, finished updates.
    warmup : int >= 0
        W, updates over which the rate rises linearly.
    steps : int > 0
        N, updates of the whole run.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    InputError
        The name is unknown.

    Examples
    --------
    >>> [round(factor("cosine", n, warmup=2, steps=6), 3) for n in range(6)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if name not in SCHEDULES:
        raise InputError(f"lr_schedule={name!r} must be one of {', '.join(SCHEDULES)}")
    if step < warmup:
        return (step + 1) / warmup
    return SCHEDULES[name](step, warmup, steps)
