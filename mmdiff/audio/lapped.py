"""An orthonormal lapped transform of sound: blocks of samples in, as many numbers over time and frequency out.

It is the modified discrete cosine transform of audio coding (Princen, Johnson & Bradley 1987) with a sine window, in
the form that Malvar (1990, "Lapped transforms for efficient transform/subband coding") gives it: neighbouring blocks
are turned into each other where they meet, and each block's DCT-IV is taken. Both are rotations, so that the inverse is
the transpose, white noise stays white, and what is scaled number by number is undone number by number. A short-time
Fourier spectrum, which has more numbers than the sound, has none of these properties.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.devices import full_precision
from mmdiff.errors import InputError


@dataclass(frozen=True)
class LappedTransform:
    """Transform of sound in blocks.

    Number k of a block belongs to the frequency (k + 1/2) / (2 block) of the sampling rate. Nothing lies before the
    first block or after the last. Cosines are even at the outer edges, so that sound that is cut there is not taken for
    a jump: the last block's are those of a DCT-II, of the frequencies k / (2 block).

    Parameters
    ----------
    block : int >= 2, samples
        Length of a block; a number is made of two blocks' samples, half of them its neighbours'.

    Raises
    ------
    InputError
        Blocks are shorter.
    """

    block: int

    def __post_init__(self) -> None:
        if self.block < 2:
            raise InputError(f"block={self.block} must be at least 2")

    def forward(self, wave: Tensor) -> Tensor:
        """Transform sound (..., T block) into numbers (..., T, block)."""
        blocks = wave.reshape(*wave.shape[:-1], -1, self.block)
        cosines, last, turn = _constants(self.block, wave.device, wave.dtype)
        with full_precision(wave.device):  # high frequencies are 60 dB fainter than low ones
            turned = _turned(blocks, turn)
            return torch.where(_is_last(turned), turned @ last, turned @ cosines)

    def inverse(self, numbers: Tensor) -> Tensor:
        """Undo :meth:`forward`: sound (..., T block) of numbers (..., T, block)."""
        cosines, last, turn = _constants(self.block, numbers.device, numbers.dtype)
        with full_precision(numbers.device):
            blocks = torch.where(_is_last(numbers), numbers @ last.T, numbers @ cosines)
            return _turned(blocks, -turn).reshape(*numbers.shape[:-2], -1)


def _is_last(blocks: Tensor) -> Tensor:
    count = blocks.shape[-2]
    return (torch.arange(count, device=blocks.device) == count - 1)[:, None]


def _turned(blocks: Tensor, turn: Tensor) -> Tensor:
    """Rotate samples that mirror each other across the edges between blocks (..., T, block) by angles (half,)."""
    half, count = len(turn), blocks.shape[-2]
    starts, ends = blocks[..., :half], blocks[..., -half:].flip(-1)  # both away from their edge
    nothing = torch.zeros_like(starts[..., :1, :])
    before, after = torch.cat([nothing, ends], -2), torch.cat([starts, nothing], -2)
    edge = torch.arange(count + 1, device=turn.device)
    angle = turn * ((edge > 0) & (edge < count))[:, None]  # nothing is turned into what is not there
    cos, sin = angle.cos(), angle.sin()
    starts, ends = (cos * after + sin * before)[..., :-1, :], (cos * before - sin * after)[..., 1:, :]
    return torch.cat([starts, blocks[..., half : blocks.shape[-1] - half], ends.flip(-1)], -1)


@functools.lru_cache(maxsize=16)
def _constants(block: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices (block, block) of the DCT-IV, its own inverse, and the DCT-II; angles (block // 2,) of the window."""
    with torch.inference_mode(False):  # the cached tensors must also serve training
        half, whole = block // 2, torch.arange(block, dtype=torch.float64)
        places = whole + 0.5
        fourth, second = (
            math.sqrt(2 / block) * torch.cos(math.pi / block * places[:, None] * n) for n in (places, whole)
        )
        second[:, 0] /= math.sqrt(2)
        angles = math.pi / 4 * (1 - places[:half] / half)  # 45° at the edge, nothing half a block away
        return fourth.to(device, dtype), second.to(device, dtype), angles.to(device, dtype)
