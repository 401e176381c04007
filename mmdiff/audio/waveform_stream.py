"""Sound of a mel that is still coming, by waveform vocoders: windows that hear a few frames to either side.

All noise belongs to a place, so that neighbouring windows agree but for what they cannot hear; over the first frame
of a block one fades into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmdiff.audio.noise import PlacedNoise
from mmdiff.audio.sampling import item_generators
from mmdiff.audio.vocoder_model import BlockMaker

if TYPE_CHECKING:
    from mmdiff.audio.waveform_vocoder import WaveformVocoder


class WaveformBlocks(BlockMaker):
    """Make sound block by block; see :meth:`mmdiff.audio.vocoder_model.VocoderModel.block_maker`."""

    def __init__(
        self,
        model: WaveformVocoder,
        *,
        grid: Tensor,
        sampler: str,
        temperature: float,
        lookahead: int,
        block: int,
    ) -> None:
        self.model, self.grid, self.sampler, self.temperature = model, grid, sampler, temperature
        self.lookahead, self.block = lookahead, block
        self.block_seconds = block * model.mel.hop_seconds
        self.delay = (block + lookahead - 1) * model.mel.hop_seconds
        self._done = 0
        self._ahead: Tensor | None = None  # the window before's idea of the first frame to come

    @property
    def span(self) -> tuple[int, int]:
        """Frames of the mel, from and up to, that the next block is made of."""
        return max(0, self._done - self.lookahead), self._done + self.block + self.lookahead

    def __call__(self, mel: Tensor, seeds: Sequence[int], samples: int | None = None) -> Tensor:
        """Make the next block, or all that is left; see :class:`BlockMaker`."""
        low, hop, first = self.span[0], self.model.mel.hop_length, self._done
        end = (first + self.block) * hop if samples is None else samples
        noise = PlacedNoise(seeds, low, low + mel.shape[-1], hop)
        start = noise().to(mel) / self.model.denoiser.schedule.prior_std
        wave = self.model.sample_window(
            mel,
            start,
            noise,
            grid=self.grid,
            sampler=self.sampler,
            temperature=self.temperature,
            latents=item_generators(seeds, mel.device),  # the same in all blocks
        )
        wave = wave[:, (first - low) * hop :]
        if self._ahead is not None:
            n = min(hop, wave.shape[1])
            ramp = torch.linspace(0, 1, hop, device=wave.device)[:n]
            wave = torch.cat([self._ahead[:, :n].lerp(wave[:, :n], ramp), wave[:, n:]], 1)
        length = max(0, end - first * hop)
        self._ahead = wave[:, length : length + hop]
        self._done += self.block
        return wave[:, :length]
