"""Attention over tokens on a grid of any dimension, with rotary positions that know distances only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn.positions import rotate

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


def rotary_turns(positions: Sequence[Tensor], width: int, period: float = 100.0) -> Tensor:
    """Unit complex numbers of :func:`rotary_angles`, shape (L, width / 2), for :class:`Attention`."""
    angles = rotary_angles(positions, width, period)
    return torch.polar(torch.ones_like(angles), angles)


class Block(NamedTuple):
    """Queries that are attended for together.

    Attributes
    ----------
    queries, keys : slice
        Of the tokens; none of these queries sees a key outside of ``keys``.
    mask : Tensor of bool, shape (queries, keys)
        Which of them it sees.
    """

    queries: slice
    keys: slice
    mask: Tensor


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
        turns: Tensor | None = None,
        mask: Tensor | None = None,
        blocks: Sequence[Block] = (),
    ) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor, shape (B, L, channels)
        context : Tensor, shape (B, M, context), optional
            Default: ``x``.
        turns : Tensor of complex, shape (L, head_width / 2), optional
            Of :func:`rotary_turns`; for self-attention. They turn the channel pairs (i, i + head_width / 2).
        mask : Tensor of bool, broadcastable to (B, heads, L, M), optional
            What each token may attend to.
        blocks : sequence of Block, optional
            The same for long sequences that see only what is near: together they hold all queries, in order.

        Returns
        -------
        Tensor, shape (B, L, channels)
        """
        source = x if context is None else context
        query = _normalise(self._heads(self.query(x)), self.scale_query)
        key, value = (self._heads(part) for part in self.key_value(source).chunk(2, -1))
        key = _normalise(key, self.scale_key)
        if turns is not None:
            query, key = (rotate(_pairs(each), turns[:, None]) for each in (query, key))
        query, key, value = (each.transpose(1, 2) for each in (query, key, value.to(query.dtype)))
        if blocks:
            parts = [attend(query[:, :, q], key[:, :, k], value[:, :, k], near) for q, k, near in blocks]
            mixed = torch.cat(parts, 2)
        else:
            mixed = attend(query, key, value, mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width))


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


def _pairs(x: Tensor) -> Tensor:
    """Put channels i and i + width/2 side by side, where :func:`rotate` wants them; products stay the same."""
    return x.unflatten(-1, (2, -1)).mT.flatten(-2)


def _normalise(x: Tensor, scale: Tensor) -> Tensor:
    return functional.rms_norm(x, (x.shape[-1],), scale.to(x.dtype), 1e-6)
