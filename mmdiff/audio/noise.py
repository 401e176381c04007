"""Gaussian noise that depends only on a seed and a place, not on how the work is cut into windows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_BLOCK = 64  # frames drawn at once


def frame_noise(seed: int, first: int, last: int, width: int) -> Tensor:
    """Unit Gaussian noise for the frames first … last - 1 of an endless sequence.

    Drawn on the CPU, so that a seed means the same on every device.

    Parameters
    ----------
    seed : int
    first, last : int, 0 <= first < last
    width : int
        Values per frame.

    Returns
    -------
    Tensor, shape (last - first, width)
    """
    start = first // _BLOCK
    blocks = []
    for block in range(start, (last - 1) // _BLOCK + 1):
        generator = torch.Generator().manual_seed(_mix(seed, block))
        blocks.append(torch.randn(_BLOCK, width, generator=generator))
    return torch.cat(blocks)[first - start * _BLOCK : last - start * _BLOCK]


class PlacedNoise:
    """Noise for all draws of a sampler, of which each belongs to its place in time: a source for the samplers.

    Parameters
    ----------
    seeds : sequence of int
        One per item.
    first, last : int
        Frames drawn for.
    width : int
        Values per frame.
    flat : bool
        Whether frames follow each other in one dimension, as those of a waveform do.
    """

    def __init__(self, seeds: Sequence[int], first: int, last: int, width: int, flat: bool = True) -> None:
        self.seeds, self.first, self.last, self.width, self.draws = seeds, first, last, width, 0
        self.flat = flat

    def __call__(self) -> Tensor:
        """Draw again: (B, 1, frames * width) or (B, 1, frames, width), the first time as :func:`frame_noise` does."""
        places = (self.first, self.last, self.width)
        drawn = torch.stack([frame_noise(seed + (self.draws << 40), *places) for seed in self.seeds])[:, None]
        self.draws += 1
        return drawn.flatten(2) if self.flat else drawn


def _mix(seed: int, block: int) -> int:
    """A 63-bit seed of its own for every (seed, block), by the finaliser of SplitMix64."""
    mask = 2**64 - 1
    z = (seed * 0x9E3779B97F4A7C15 + (block + 1) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) >> 1
