"""Change of resolution by whole factors, without weights."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}  # PyTorch's names, by number of axes


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


def stretch(x: Tensor, factor: int) -> Tensor:
    """Enlarge each spatial dimension by linear interpolation between the values' centres.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        One to three spatial dimensions.
    factor : int > 0
        Output values per input value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *(factor * space))
        ``y[..., n]`` is x at position (n + ½) / factor - ½; beyond the first and last centre, x's end values.
    """
    return _linear(x, [factor * n for n in x.shape[2:]])


def condense(x: Tensor, factor: int) -> Tensor:
    """Shrink each spatial dimension to the values, linearly interpolated, at the middle of every ``factor``.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        One to three spatial dimensions, multiples of ``factor``.
    factor : int > 0
        Input values per output value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *(space / factor))
        The middle one of an odd number of values, the mean of the middle two of an even one: no filter.
    """
    assert all(n % factor == 0 for n in x.shape[2:]), f"{tuple(x.shape)} must be multiples of {factor}"
    return _linear(x, [n // factor for n in x.shape[2:]])


def _linear(x: Tensor, size: list[int]) -> Tensor:
    if list(x.shape[2:]) == size:
        return x
    return functional.interpolate(x, size=size, mode=_LINEAR[x.ndim], align_corners=False)
