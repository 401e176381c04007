"""Change of resolution by whole factors, without weights."""

from __future__ import annotations

from torch import Tensor


def repeat(x: Tensor, factor: int) -> Tensor:
    """Enlarge each spatial dimension by repeating every value (nearest neighbour).

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        Any number of spatial dimensions.
    factor : int > 0
        Output values per input value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *(factor * space))
        ``y[..., n] = x[..., n // factor]``.
    """
    for dim in range(2, x.ndim) if factor > 1 else ():
        x = x.repeat_interleave(factor, dim)
    return x


def decimate(x: Tensor, factor: int) -> Tensor:
    """Shrink each spatial dimension by keeping every ``factor``-th value, without a filter.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        Any number of spatial dimensions.
    factor : int > 0
        Input values per output value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *ceil(space / factor))
        A view: ``y[..., n] = x[..., n * factor]``.
    """
    every = slice(None, None, factor)
    return x[(slice(None), slice(None)) + (every,) * (x.ndim - 2)]
