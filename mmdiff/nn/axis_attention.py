"""Attention along one axis of a grid, every other place for itself, with relative positions if wanted."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn.norm import ChannelNorm
from mmdiff.nn.pieces import Piece, in_pieces, piece_size
from mmdiff.nn.positions import rotate

_REGISTER = 16
"""Numbers of single precision in the widest vector registers of today's processors."""


class AxisAttention(nn.Module):
    """Multi-head attention of the normalised input along dimension 1, added to the input.

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
        self.out = nn.Linear(heads * head_width, channels, bias=False)

    def forward(self, x: Tensor, turns: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend.

        Parameters
        ----------
        x : Tensor, shape (B, L, P, channels)
            L places along the axis, for each of B · P sequences.
        turns : Tensor of complex, shape (L, R), optional
            Rotation of queries and keys: see :func:`mmdiff.nn.positions.rotate`.
        bias : Tensor, shape (heads, L, L) or (B, heads, L, L), optional
            Added to the logits; -inf where a query does not see a key.

        Returns
        -------
        Tensor, shape (B, L, P, channels)
        """
        inner = self.out.in_features
        scale: float = (inner // self.heads) ** -0.5
        query, key_value = self.query_key_value.weight.tensor_split([inner])
        weights = [self.norm.gain, torch.cat((scale * query, key_value)), self.out.weight]
        biased, rotated = bias is not None, turns is not None
        function = functools.partial(
            _attend, heads=self.heads, eps=self.norm.eps, biased=biased, rotated=rotated
        )
        weights += [tensor for tensor in (bias, turns) if tensor is not None]
        return in_pieces(function, x, self._pieces(x, inner), *weights)

    def _pieces(self, x: Tensor, inner: int) -> list[Piece]:
        """Cut B, or P where one of B is too much already."""
        batch, length, places, _ = x.shape
        step = piece_size(length * (4 * inner + 2 * self.heads * length), x.device)
        whole = slice(None)
        if step >= places:
            step //= max(1, places)
            return [(slice(n, n + step), whole, whole) for n in range(0, batch, step)]
        cuts = [slice(p, p + step) for p in range(0, places, step)]
        return [(slice(n, n + 1), whole, cut) for n in range(batch) for cut in cuts]


def _attend(
    x: Tensor,
    piece: Piece,
    gain: Tensor,
    query_key_value: Tensor,
    out: Tensor,
    *relative: Tensor,
    heads: int,
    eps: float,
    biased: bool,
    rotated: bool,
) -> Tensor:
    y = functional.layer_norm(x.transpose(1, 2), gain.shape, gain, None, eps)  # (B, P, L, channels)
    parts = functional.linear(y, query_key_value).unflatten(-1, (3, heads, -1))
    turns = relative[-1] if rotated else None
    bias = relative[0] if biased else None
    if bias is not None and bias.ndim == 4:
        bias = bias[piece[0], None]
    # Many small products: a CPU gains nothing from half precision there, and has to convert.
    single = x.device.type == "cpu"
    dtype = torch.promote_types(parts.dtype, torch.float32) if single else parts.dtype
    with torch.autocast("cpu", enabled=not single and torch.is_autocast_enabled("cpu")):
        query, key, value = _ByHeads.apply(parts, turns, dtype)
        mixed = _mix(query, key, value, bias)
    return x + functional.linear(mixed.transpose(2, 3).flatten(3), out).transpose(1, 2)


def _mix(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend: all (B, P, heads, L, d), of one dtype."""
    if bias is not None:
        return _softmax(query @ key.mT + bias).to(value.dtype) @ value
    flat = [part.flatten(0, 1) for part in (query, key, value)]
    return functional.scaled_dot_product_attention(flat[0], flat[1], flat[2], scale=1.0).view(value.shape)


class _ByHeads(torch.autograd.Function):
    """(B, P, L, 3, heads, d) to queries, keys (both rotated) and values, each (B, P, heads, L, d), in one pass."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, turns: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
        ctx.turns, ctx.dtype = turns, parts.dtype
        parts = parts.permute(3, 0, 1, 4, 2, 5)
        out = torch.empty_like(parts, dtype=dtype, memory_format=torch.contiguous_format)
        _move(parts.unbind(), out, turns)
        return out[0], out[1], out[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        batch, places, heads, length, width = grads[0].shape
        whole = grads[0].new_empty(batch, places, length, 3, heads, width, dtype=ctx.dtype)
        back = None if ctx.turns is None else ctx.turns.conj().resolve_conj()
        _move(grads, whole.permute(3, 0, 1, 4, 2, 5), back)
        return whole, None, None


def _move(parts: Sequence[Tensor], to: Tensor, turns: Tensor | None) -> None:
    for n, (part, target) in enumerate(zip(parts, to.unbind(), strict=True)):
        if turns is not None and n < 2:
            rotate(part, turns, out=target)
        else:
            target.copy_(part)


def _softmax(x: Tensor) -> Tensor:
    if x.shape[-1] >= _REGISTER or x.device.type != "cpu":
        return x.softmax(-1)
    result: Tensor = _ShortSoftmax.apply(x)
    return result


class _ShortSoftmax(torch.autograd.Function):
    """Softmax of rows shorter than a vector register, which the library takes number by number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = (x - x.amax(-1, keepdim=True)).exp_()
        y /= y.sum(-1, keepdim=True)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        along = (grad * y).sum(-1, keepdim=True)
        return (grad - along).mul_(y)
