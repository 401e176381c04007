"""Group normalisation, modulation and activation in one step that keeps only its input."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn.pieces import piece_size


def group_norm_silu(
    x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Return ``silu(scale · norm(x) + shift)``.

    Normalisation and modulation together are one factor and one constant for each item and channel, so there
    is one pass over x to measure it and one to apply them. For the gradient only x is kept: written one after
    the other, the four steps would keep four tensors of its size.

    Parameters
    ----------
    x : Tensor, shape (N, C, H, W)
    norm : nn.GroupNorm
        With learned gain and bias.
    scale, shift : Tensor, shape (N, C), optional
        Both or none.

    Returns
    -------
    Tensor, shape (N, C, H, W)
        Of x's dtype; statistics and factors are computed in float32 at least.
    """
    result: Tensor = _GroupNormSilu.apply(x, norm.num_groups, norm.eps, norm.weight, norm.bias, scale, shift)
    return result


class _Statistics(NamedTuple):
    """Of each item's groups, (N, groups, 1)."""

    mean: Tensor
    inverse: Tensor  # 1 / standard deviation


class _GroupNormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, eps: float, *weights: Any) -> Tensor:
        statistics = _measure(x, groups, eps)
        ctx.save_for_backward(x, *statistics, *weights)
        factor, constant = _columns(_modulated(*_normalising(statistics, *weights[:2]), *weights[2:]), x)
        y = torch.empty_like(x)
        for piece in _pieces(x):
            affine = torch.addcmul(constant[piece], x[piece], factor[piece], out=y[piece])
            functional.silu(affine, inplace=True)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, inverse, gain, bias, scale, shift = ctx.saved_tensors
        statistics = _Statistics(mean, inverse)
        plain = _normalising(statistics, gain, bias)
        factor, constant = _columns(_modulated(*plain, scale, shift), x)
        to_x = torch.empty_like(x)
        to_factor, to_constant = torch.empty_like(plain[0]), torch.empty_like(plain[1])
        for piece in _pieces(x):
            before = torch.addcmul(constant[piece], x[piece], factor[piece])
            inner = torch.ops.aten.silu_backward(grad[piece], before, grad_input=to_x[piece])
            to_constant[piece] = inner.sum((2, 3))
            to_factor[piece] = torch.mul(inner, x[piece], out=before).sum((2, 3))
        modulation: tuple[Tensor | None, Tensor | None] = (None, None)
        if scale is not None:
            modulation = (to_factor * plain[0] + to_constant * plain[1], to_constant)
            to_factor, to_constant = to_factor * scale, to_constant * scale
        to_gain, to_bias, each, times_x = _through_statistics(
            to_factor, to_constant, statistics, gain, plain[0], x[0, 0].numel()
        )
        each, times_x = _columns((each, times_x), x)
        for piece in _pieces(x):
            indirect = torch.addcmul(each[piece], x[piece], times_x[piece])
            torch.addcmul(indirect, to_x[piece], factor[piece], out=to_x[piece])
        return to_x, None, None, to_gain, to_bias, *modulation


def _measure(x: Tensor, groups: int, eps: float) -> _Statistics:
    dtype = torch.promote_types(x.dtype, torch.float32)
    sums = torch.empty(2, *x.shape[:2], dtype=dtype, device=x.device)
    for piece in _pieces(x):
        exact = x[piece].to(dtype)
        sums[0, piece] = exact.sum((2, 3))
        sums[1, piece] = (exact * exact if exact.dtype == x.dtype else exact.square_()).sum((2, 3))
    count = x[0].numel() // groups
    mean, power = sums.unflatten(-1, (groups, -1)).sum(-1, keepdim=True) / count
    return _Statistics(mean, torch.rsqrt((power - mean.square()).clamp_min(0) + eps))


def _normalising(statistics: _Statistics, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and constant (N, C) of the normalisation."""
    groups = statistics.mean.shape[1]
    factor = statistics.inverse * gain.unflatten(0, (groups, -1))
    constant = bias.unflatten(0, (groups, -1)) - statistics.mean * factor
    return factor.flatten(1), constant.flatten(1)


def _modulated(
    factor: Tensor, constant: Tensor, scale: Tensor | None, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    if scale is None or shift is None:
        return factor, constant
    return factor * scale, constant * scale + shift


def _through_statistics(
    to_factor: Tensor,
    to_constant: Tensor,
    statistics: _Statistics,
    gain: Tensor,
    factor: Tensor,
    positions: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of gain and bias, and those of x through mean and deviation: a constant plus a multiple of x."""
    mean, inverse = statistics
    groups = mean.shape[1]
    at_constant = to_constant.unflatten(1, (groups, -1))
    at_factor = to_factor.unflatten(1, (groups, -1)) - mean * at_constant
    to_gain, to_bias = (at_factor * inverse).sum(0).flatten(), to_constant.sum(0)
    to_inverse = (at_factor * gain.unflatten(0, (groups, -1))).sum(-1, keepdim=True)
    to_mean = -(at_constant * factor.unflatten(1, (groups, -1))).sum(-1, keepdim=True)
    to_variance = -0.5 * to_inverse * inverse**3
    count = positions * to_factor.shape[1] // groups
    each = (to_mean - 2 * mean * to_variance) / count
    times_x = 2 * to_variance / count
    shape = at_constant.shape
    return to_gain, to_bias, each.expand(shape).flatten(1), times_x.expand(shape).flatten(1)


def _columns(pair: tuple[Tensor, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    one, other = (each.to(x.dtype)[:, :, None, None] for each in pair)
    return one, other


def _pieces(x: Tensor) -> list[slice]:
    step = piece_size(2 * x[0].numel(), x.device)
    return [slice(n, n + step) for n in range(0, len(x), step)]
