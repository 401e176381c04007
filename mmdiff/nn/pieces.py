"""Functions applied piece by piece: what they need on the way is small, and never lasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Piece = tuple[slice, ...]
Function = Callable[..., Tensor]

_ELEMENTS = {"cpu": 2**20}
_ELEMENTS_ELSEWHERE = 2**26


def piece_size(elements: int, device: torch.device) -> int:
    """Rows that a piece should have when each needs ``elements`` numbers on the way; at least 1.

    On a CPU a piece then stays in the cache of its core; elsewhere it only bounds the memory.
    """
    budget = _ELEMENTS.get(device.type, _ELEMENTS_ELSEWHERE)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return max(1, budget * threads // max(1, elements))


def in_pieces(function: Function, x: Tensor, pieces: Sequence[Piece], *tensors: Tensor) -> Tensor:
    """Apply a function to each piece of a tensor, and keep for the gradient only what was given.

    The backward pass computes each piece again before it differentiates it. This costs one more evaluation,
    and is often repaid by what is not written to memory.

    Parameters
    ----------
    function : callable
        ``function(x[piece], piece, *tensors) -> y[piece]``, of the same shape; pure, and a function of
        nothing else that needs a gradient.
    x : Tensor
    pieces : sequence of tuples of slices
        Together they cover x, each place once.
    *tensors : Tensor
        What else the function depends on, whole.

    Returns
    -------
    Tensor
        y, of x's shape and dtype.
    """
    result: Tensor = _InPieces.apply(function, pieces, x, *tensors)
    return result


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, pieces: Sequence[Piece], x: Tensor, *tensors: Tensor) -> Tensor:
        ctx.function, ctx.pieces = function, pieces
        ctx.save_for_backward(x, *tensors)
        kind = x.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        y = torch.empty_like(x)
        for piece in pieces:
            y[piece] = function(x[piece], piece, *tensors)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        x, *tensors = (
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, wanted, strict=True)
        )
        to_x = torch.empty_like(x) if wanted[0] else None
        sums: list[Tensor | None] = [None] * len(tensors)
        kind, dtype, enabled = ctx.autocast
        for piece in ctx.pieces:
            part = x[piece].detach().requires_grad_(wanted[0])
            given = [tensor for tensor in (part, *tensors) if tensor.requires_grad]
            with torch.enable_grad(), torch.autocast(kind, dtype=dtype, enabled=enabled):
                y = ctx.function(part, piece, *tensors)
            grads = iter(torch.autograd.grad(y, given, grad[piece].to(y.dtype)))
            if to_x is not None:
                to_x[piece] = next(grads)
            for n in (n for n, tensor in enumerate(tensors) if tensor.requires_grad):
                sums[n] = _plus(sums[n], next(grads))
        return None, None, to_x, *sums


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total.add_(term)
