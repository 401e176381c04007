"""Conjugate gradients, item by item: what measurements without a simple inverse are solved by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]


def conjugate_gradients(system: Operator, target: Tensor, iterations: int, tolerance: float = 1e-6) -> Tensor:
    """Solve ``system(v) = target`` item by item, for a symmetric positive semi-definite system.

    Parameters
    ----------
    system : callable
        Linear map of tensors shaped like target.
    target : Tensor, shape (B, ...)
        In the range of the system; may be complex.
    iterations : int > 0
        At most so many steps.
    tolerance : float, default 1e-6
        Stop when every item's residual is below this share of its target.

    Returns
    -------
    Tensor, shape of target
    """
    solution = torch.zeros_like(target)
    rest, direction = target, target
    power = item_dot(rest, rest)
    enough = tolerance**2 * power
    for _ in range(iterations):
        if (power <= enough).all():
            break
        image = system(direction)
        curvature = item_dot(direction, image)
        # An item that is solved stands still while the others go on.
        active = (power > enough) & (curvature > 0)
        step = torch.where(active, power / torch.where(active, curvature, 1.0), 0.0)
        solution = solution + column(step, target) * direction
        rest = rest - column(step, target) * image
        previous, power = power, item_dot(rest, rest)
        ratio = torch.where(active, power / torch.where(active, previous, 1.0), 0.0)
        direction = rest + column(ratio, target) * direction
    return solution


def item_dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each item of a with that of b, real, shape (B,)."""
    return (a.conj() * b).real.flatten(1).sum(1)


def column(value: Tensor | float, like: Tensor) -> Tensor | float:
    """Shape numbers per item (B,) to multiply a tensor (B, ...); what has its axes already stays as it is."""
    if not isinstance(value, Tensor) or value.ndim == like.ndim > 1:
        return value
    return value.reshape(-1, *(1,) * (like.ndim - 1))
