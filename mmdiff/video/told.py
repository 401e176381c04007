"""What a network is told of a clip: the three things that every condition comes down to, and how they are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Told(NamedTuple):
    """A condition in the network's terms. S is 1, or 1 + stills: the clip, then each still.

    Attributes
    ----------
    vector : Tensor, shape (B, S, V), or (B, F, V) for conditions given per frame, or None
    tokens : Tensor, shape (B, S, L, E), or None
    seen : Tensor of bool, shape (B, S, L), or None
        Which tokens are not padding.
    planes : Tensor, shape (B, P, F, H, W), or None
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    seen: Tensor | None = None
    planes: Tensor | None = None


def longest(filled: Tensor) -> int:
    """Tokens up to the last that any row of ``filled (..., L)`` fills: what lies beyond need not be computed.

    On other devices than the CPU it is L: to read the number back would make them wait.
    """
    if filled.device.type != "cpu":
        return filled.shape[-1]
    used = filled.flatten(0, -2).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 0


def join(told: Sequence[Told], frames: int, stills: int) -> dict[str, Tensor]:
    """Sum vectors, put tokens one after the other, stack planes: the network's keywords."""
    joined: dict[str, Tensor] = {}
    for each in told:
        if each.vector is not None:
            vector = _per_frame(each.vector, frames, stills)
            joined["vector"] = joined["vector"] + vector if "vector" in joined else vector
    tokens = [each for each in told if each.tokens is not None]
    if tokens:
        joined["tokens"] = torch.cat([_for_all(each.tokens, stills) for each in tokens], 2)
        joined["seen"] = torch.cat([_for_all(_seen(each), stills) for each in tokens], 2)
    planes = [each.planes for each in told if each.planes is not None]
    if planes:
        joined["planes"] = torch.cat(planes, 1)
    return joined


def _per_frame(vector: Tensor, frames: int, stills: int) -> Tensor:
    if vector.shape[1] == frames:
        return vector
    if vector.shape[1] == 1:
        return vector.expand(-1, frames, -1)
    assert vector.shape[1] == 1 + stills, f"vector={tuple(vector.shape)}, stills={stills}"
    return torch.cat((vector[:, :1].expand(-1, frames - stills, -1), vector[:, 1:]), 1)


def _for_all(value: Tensor | None, stills: int) -> Tensor:
    """What is said once holds for the clip and for each still."""
    assert value is not None
    return value.expand(-1, 1 + stills, *value.shape[2:])


def _seen(told: Told) -> Tensor:
    assert told.tokens is not None
    if told.seen is not None:
        return told.seen
    return torch.ones(told.tokens.shape[:3], dtype=torch.bool, device=told.tokens.device)
