"""Attention within a frame whose cost grows with its size, not with the square of it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn.norm import ChannelNorm
from mmdiff.nn.pieces import Piece, in_pieces, piece_size


class LinearAttention(nn.Module):
    """Softmax over a query's channels and over a key's positions, added to the input.

    ``y = x + out(qᵀ (k vᵀ))`` of the normalised input: each frame is summed up in one small matrix for each
    head, which every position reads (Shen et al. 2018, "Efficient attention", 1812.01243).

    Parameters
    ----------
    channels : int > 0
    heads : int > 0
    head_width : int > 0
        Channels of a head.
    """

    def __init__(self, channels: int, heads: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelNorm(channels)
        self.query_key_value = nn.Linear(channels, 3 * heads * head_width, bias=False)
        self.out = nn.Linear(heads * head_width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x (N, positions, channels)`` to the same shape."""
        positions, inner = x.shape[1], self.out.in_features
        step = piece_size(3 * inner * positions, x.device)
        pieces: list[Piece] = [(slice(n, n + step),) for n in range(0, len(x), step)]
        query, key, value = self.query_key_value.weight.chunk(3)
        scale: float = (inner // self.heads) ** -0.5
        function = functools.partial(_attend, heads=self.heads, eps=self.norm.eps)
        weights = (self.norm.gain, query, key, value, scale * self.out.weight)
        assert self.out.bias is not None
        return in_pieces(function, x, pieces, *weights, self.out.bias)


def _attend(
    x: Tensor,
    piece: Piece,
    gain: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    constant: Tensor,
    *,
    heads: int,
    eps: float,
) -> Tensor:
    y = functional.layer_norm(x, gain.shape, gain, None, eps)
    q = functional.linear(y, query).unflatten(-1, (heads, -1)).softmax(-1).to(y.dtype)
    k = torch.matmul(key, y.mT).softmax(-1).to(y.dtype)  # (N, heads · d, positions)
    out = out.mT.unflatten(0, (heads, -1))  # (heads, d, channels)
    if x.shape[1] > x.shape[2]:
        # Many positions: sum them up first, and apply the small matrices to the sum.
        value = value.unflatten(0, (heads, -1)).mT
        summary = torch.matmul(k, y).unflatten(1, (heads, -1)) @ value
        mixed = torch.matmul(q.flatten(2), (summary @ out).flatten(1, 2))
    else:
        v = functional.linear(y, value).unflatten(-1, (heads, -1)).transpose(1, 2)
        summary = k.unflatten(1, (heads, -1)) @ v
        mixed = torch.matmul((q.transpose(1, 2) @ summary).transpose(1, 2).flatten(2), out.flatten(0, 1))
    return x + (mixed + constant)
