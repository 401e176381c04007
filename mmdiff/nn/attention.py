"""Attention over tokens on a grid of any dimension, with rotary positions that know distances only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_SHORT = 512
"""Up to so many keys, the backward pass of PyTorch's fused attention on the CPU takes longer (up to tenfold in
bfloat16, for sequences of 16) than two matrix products."""


def rotary_angles(positions: Sequence[Tensor], width: int, period: float = 100.0) -> Tensor:
    """Angles by which queries and keys are turned, so that their product depends on distances only.

    Each axis of the grid gets its share of the ``width / 2`` planes, at geometric frequencies from one
    radian a step down to ``1 / period`` (RoFormer, 2104.09864, section 3.2, applied axis by axis).

    Parameters
    ----------
    positions : sequence of A Tensors, shape (L,)
        Coordinate of each token along each axis, in steps.
    width : int
        Channels of a head; ``width / 2`` must be at least A. Planes that do not divide evenly go to the
        first axis.
    period : float > 1
        Of the slowest plane, over 2π, in steps.

    Returns
    -------
    Tensor, shape (L, width / 2), radians

    Examples
    --------
    >>> rotary_angles([torch.tensor([0.0, 1.0])], 4, period=100.0)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100]])
    """
    axes, planes = len(positions), width // 2
    assert planes >= axes, f"width={width} must be at least {2 * axes}: two channels for each axis"
    shares = [planes - (axes - 1) * (planes // axes), *[planes // axes] * (axes - 1)]
    angles = []
    for position, share in zip(positions, shares, strict=True):
        steps = torch.arange(share, device=position.device, dtype=torch.float32) / max(1, share - 1)
        angles.append(position.float()[:, None] * torch.exp(-math.log(period) * steps))
    return torch.cat(angles, -1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the channel pairs (i, i + width/2) of ``x (..., L, width)`` by ``angles (L, width / 2)``."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys; self- or cross-attention.

    Parameters
    ----------
    channels : int > 0
        Of the tokens, in and out.
    head_width : int
        Channels of a head; divides ``channels``.
    context : int, optional
        Channels of the tokens attended to; default: the tokens attend to themselves.

    Notes
    -----
    The last layer starts at zero: added to its input, the module starts as the identity. Normalising
    queries and keys (2010.04245) keeps the products bounded in half precision.
    """

    def __init__(self, channels: int, head_width: int = 32, context: int | None = None) -> None:
        super().__init__()
        assert channels % head_width == 0, f"head_width={head_width} must divide channels={channels}"
        self.head_width = head_width
        self.query = nn.Linear(channels, channels, bias=False)
        self.key_value = nn.Linear(context or channels, 2 * channels, bias=False)
        self.scale_query = nn.Parameter(torch.ones(head_width))
        self.scale_key = nn.Parameter(torch.ones(head_width))
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        angles: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor, shape (B, L, channels)
        context : Tensor, shape (B, M, context), optional
            Default: ``x``.
        angles : Tensor, shape (L, head_width / 2), optional
            Of :func:`rotary_angles`; for self-attention.
        mask : Tensor of bool, broadcastable to (B, heads, L, M), optional
            What each token may attend to.

        Returns
        -------
        Tensor, shape (B, L, channels)
        """
        source = x if context is None else context
        query = self._heads(self.query(x))
        key, value = (self._heads(part) for part in self.key_value(source).chunk(2, -1))
        query, key = _normalise(query, self.scale_query), _normalise(key, self.scale_key)
        if angles is not None:
            query, key = rotate(query, angles), rotate(key, angles)
        mixed = attend(query, key, value.to(query.dtype), mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention by whichever kernel is faster.

    Parameters
    ----------
    query : Tensor, shape (B, heads, L, width)
    key, value : Tensor, shape (B, heads, M, width)
    mask : Tensor of bool, broadcastable to (B, heads, L, M), optional
        True where a key may be seen.

    Returns
    -------
    Tensor, shape (B, heads, L, width)
    """
    short = key.shape[-2] <= _SHORT and query.device.type == "cpu" and torch.is_grad_enabled()
    if not short:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    products = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        products = products.masked_fill(~mask, -torch.inf)
    return products.softmax(-1) @ value


def _normalise(x: Tensor, scale: Tensor) -> Tensor:
    return functional.rms_norm(x, (x.shape[-1],), scale.to(x.dtype), 1e-6)
