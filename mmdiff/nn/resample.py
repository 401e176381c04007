"""Change of resolution by whole factors, without weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}  # PyTorch's names, by number of axes


def decimate(x: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Shrink each spatial dimension by keeping every ``factor``-th value, without a filter.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        Any number of spatial dimensions.
    factor : int > 0, or one for each dimension
        Input values per output value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *ceil(space / factor))
        A view: ``y[..., n] = x[..., n * factor]``.
    """
    return x[(slice(None), slice(None), *(slice(None, None, n) for n in _each(x, factor)))]


def stretch(x: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Enlarge each spatial dimension by linear interpolation between the values' centres.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        One to three spatial dimensions.
    factor : int > 0, or one for each dimension
        Output values per input value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *(factor * space))
        ``y[..., n]`` is x at position (n + ½) / factor - ½; beyond the first and last centre, x's end values.
    """
    return _linear(x, [n * times for n, times in zip(x.shape[2:], _each(x, factor), strict=True)])


def condense(x: Tensor, factor: int | Sequence[int]) -> Tensor:
    """Shrink each spatial dimension to the values, linearly interpolated, at the middle of every ``factor``.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        One to three spatial dimensions, multiples of ``factor``.
    factor : int > 0, or one for each dimension
        Input values per output value, along each dimension.

    Returns
    -------
    Tensor, shape (B, C, *(space / factor))
        The middle one of an odd number of values, the mean of the middle two of an even one: no filter.
    """
    sizes = list(zip(x.shape[2:], _each(x, factor), strict=True))
    assert all(n % times == 0 for n, times in sizes), f"{tuple(x.shape)} must be multiples of {factor}"
    return _linear(x, [n // times for n, times in sizes])


def fold(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Put each cell of neighbours into the channels of one place: nothing is lost.

    Parameters
    ----------
    x : Tensor, shape (B, C, *space)
        Whose sizes are multiples of the factors.
    factors : sequence of int > 0
        Neighbours along each dimension that become one place.

    Returns
    -------
    Tensor, shape (B, C · prod(factors), *(space / factors))
        Channels-last in memory where x is; a channel's neighbours lie side by side, the last dimension's closest.

    Examples
    --------
    >>> import torch
    >>> fold(torch.arange(6.0).view(1, 1, 6), (2,))
    tensor([[[0., 2., 4.],
             [1., 3., 5.]]])
    """
    dims, (batch, channels) = len(factors), x.shape[:2]
    cells = [size // factor for size, factor in zip(x.shape[2:], factors, strict=True)]
    split = [n for pair in zip(cells, factors, strict=True) for n in pair]
    places, within = [2 + 2 * d for d in range(dims)], [3 + 2 * d for d in range(dims)]
    parted = x.reshape(batch, channels, *split).permute(0, *places, 1, *within)
    return parted.reshape(batch, *cells, channels * math.prod(factors)).movedim(-1, 1)


def unfold(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Take the cells that :func:`fold` made apart again.

    Parameters
    ----------
    x : Tensor, shape (B, C · prod(factors), *space)
    factors : sequence of int > 0

    Returns
    -------
    Tensor, shape (B, C, *(space · factors))
    """
    dims, space = len(factors), x.shape[2:]
    channels = x.shape[1] // math.prod(factors)
    parted = x.movedim(1, -1).reshape(len(x), *space, channels, *factors)
    order = [axis for d in range(dims) for axis in (1 + d, 2 + dims + d)]
    sizes = [size * factor for size, factor in zip(space, factors, strict=True)]
    return parted.permute(0, *order, 1 + dims).reshape(len(x), *sizes, channels).movedim(-1, 1)


def _each(x: Tensor, factor: int | Sequence[int]) -> Sequence[int]:
    return (factor,) * (x.ndim - 2) if isinstance(factor, int) else factor


def _linear(x: Tensor, size: list[int]) -> Tensor:
    if list(x.shape[2:]) == size:
        return x
    return functional.interpolate(x, size=size, mode=_LINEAR[x.ndim], align_corners=False)
