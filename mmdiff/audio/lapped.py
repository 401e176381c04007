"""An orthonormal lapped transform of sound: blocks of samples in, as many coefficients in time and frequency out.

It is the modified discrete cosine transform of audio coding (Princen, Johnson & Bradley 1987) with a sine window, in
the form that Malvar (1990, "Lapped transforms for efficient transform/subband coding") gives it: neighbouring blocks
are turned into each other where they meet, and each block's DCT-IV is taken. Both are rotations, so that the inverse is
the transpose, white noise stays white, and what is scaled one by one is undone one by one. A short-time
Fourier spectrum, which has more coefficients than the sound has samples, has none of these properties.
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

    Coefficient k of a block belongs to the frequency (k + 1/2) / (2 block) of the sampling rate. Nothing lies before
    the first block or after the last. Cosines are even at the outer edges, so that sound that is cut there is not taken
    for a jump: the last block's are those of a DCT-II, of the frequencies k / (2 block).

    Parameters
    ----------
    block : int >= 2, samples
        Length of a block; a coefficient is made of as many samples again, half a block to either side.

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
        """Transform sound (..., T block) into coefficients (..., T, block).

        Raises
        ------
        InputError
            The sound is no whole number of blocks.
        """
        if wave.shape[-1] % self.block:
            raise InputError(f"samples={wave.shape[-1]} must be a multiple of block={self.block}; pad or cut")
        blocks = wave.reshape(*wave.shape[:-1], -1, self.block)
        cosines, last, turn = _constants(self.block, wave.device, wave.dtype)
        with full_precision(wave.device):  # high frequencies are 60 dB fainter than low ones
            turned = _turned(blocks, turn)
            return _product(turned, cosines, last)

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Undo :meth:`forward`: sound (..., T block) of coefficients (..., T, block)."""
        cosines, last, turn = _constants(self.block, coefficients.device, coefficients.dtype)
        with full_precision(coefficients.device):
            blocks = _product(coefficients, cosines, last.T)
            return _turned(blocks, -turn).reshape(*coefficients.shape[:-2], -1)


def _product(blocks: Tensor, matrix: Tensor, of_last: Tensor) -> Tensor:
    """Multiply blocks (..., T, block) by a matrix, the last by another."""
    count = blocks.shape[-2]
    is_last = (torch.arange(count, device=blocks.device) == count - 1)[:, None]
    return torch.where(is_last, blocks[..., -1:, :] @ of_last, blocks @ matrix)


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
        angles = math.pi / 4 * (1 - 2 * places[:half] / block)  # 45° at the edge, nothing half a block away
        return fourth.to(device, dtype), second.to(device, dtype), angles.to(device, dtype)
