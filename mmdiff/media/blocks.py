"""Parts of media too long to be held at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mmdiff.errors import InputError


def rebuffer(pieces: Iterable[Tensor], size: int, dim: int) -> Iterator[Tensor]:
    """Cut a stream of pieces of any length into blocks of one; the last may be shorter.

    Parameters
    ----------
    pieces : iterable of Tensor
        Alike but for their length along ``dim``.
    size : int > 0
        Length of a block.
    dim : int

    Yields
    ------
    Tensor
        Contiguous, with memory of its own. Two blocks and a piece are held at most.
    """
    held: list[Tensor] = []
    count = 0
    for piece in pieces:
        for part in torch.split(piece, size, dim):
            held.append(part)
            count += part.shape[dim]
            if count < size:
                continue
            joined = torch.cat(held, dim)
            held, count = [joined.narrow(dim, size, count - size)], count - size
            yield (joined.narrow(dim, 0, size).clone() if count else joined).contiguous()
    if count:
        yield torch.cat(held, dim).contiguous()


def check_span(start: float, length: float | None, argument: str) -> None:
    """Raise InputError unless these are the begin and the length, called ``argument``, of a part in seconds."""
    if not (math.isfinite(start) and start >= 0):
        raise InputError(f"start={start!r} must be a time in seconds, zero or later")
    if length is not None and not (math.isfinite(length) and length > 0):
        raise InputError(f"{argument}={length!r} must be a positive number of seconds, or None for all")
