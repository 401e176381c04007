"""Normalisation over channels, and a pass that normalises, modulates and activates at once."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_SMALLEST_NORM = 1e-12


class ChannelNorm(nn.Module):
    """Zero mean and unit variance over the channels at every position, times a gain for each channel.

    It is layer normalisation (Ba et al. 2016, 1607.06450) over dimension 1, without a constant. Nothing is
    copied where the input lies channels last in memory.

    Parameters
    ----------
    channels : int > 0
    eps : float >= 0
        Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (B, channels, *space)``."""
        return self.rows(x.movedim(1, -1)).movedim(-1, 1)

    def rows(self, x: Tensor) -> Tensor:
        """Normalise ``x (..., channels)``, whose channels lie last."""
        return functional.layer_norm(x, self.gain.shape, self.gain, None, self.eps)


class RMSNorm(nn.Module):
    """Unit root mean square over the channels at every position, times a gain for each channel.

    ``y = gain · √channels · x / ‖x‖`` (Zhang and Sennrich 2019, 1910.07467); zero stays zero.

    Parameters
    ----------
    channels : int > 0
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x (B, channels, *space)``."""
        return self.rows(x.movedim(1, -1)).movedim(-1, 1)

    def rows(self, x: Tensor) -> Tensor:
        """Normalise ``x (..., channels)``, whose channels lie last."""
        return x * (_inverse_rms(x) * self.gain)


def _inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square over the last dimension, which is kept with size 1."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return math.sqrt(x.shape[-1]) / norm.clamp_min(_SMALLEST_NORM)


def rms_silu(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Return ``silu(gain · x / rms(x) + shift)``, keeping for the gradient only what was given.

    The four steps written one after the other would keep four tensors of x's size until the backward pass;
    here they are computed again from x.

    Parameters
    ----------
    x : Tensor, shape (B, N, C)
        Positions in rows, channels last.
    gain, shift : Tensor, shape (B, 1, C) or (1, 1, C)
        Factor and constant after the normalisation; in float32 they make it compute so.

    Returns
    -------
    Tensor, shape (B, N, C)
        Of x's dtype.
    """
    result: Tensor = _RmsSilu.apply(x, gain, shift)
    return result


class _RmsSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        scale = _inverse_rms(x)
        ctx.save_for_backward(x, scale, gain, shift)
        return functional.silu(torch.addcmul(shift, x * scale, gain), inplace=True).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale, gain, shift = ctx.saved_tensors
        unit = x * scale
        before = torch.addcmul(shift, unit, gain)
        grad = torch.ops.aten.silu_backward(grad.to(before.dtype), before)
        to_shift = grad.sum_to_size(shift.shape)
        to_gain = torch.mul(grad, unit, out=before).sum_to_size(gain.shape)
        # d(x / rms) projects out x's own direction: rms does not let it change.
        grad = grad.mul_(gain)
        along = torch.mul(grad, unit, out=before).mean(-1, keepdim=True)
        return grad.addcmul_(unit, along, value=-1).mul_(scale).to(x.dtype), to_gain, to_shift
