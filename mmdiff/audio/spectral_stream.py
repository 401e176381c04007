"""Sound of a mel that is still coming, by the spectral vocoder: blocks that are final after a short look-ahead.

Where the windows of :mod:`mmdiff.audio.spectral_windows` hear so far beyond themselves that they equal the whole,
a block here hears a few frames, and what has been given out binds what follows, as in real-time inversion with
look-ahead (Zhu, Beauregard & Wyse 2007): Griffin-Lim keeps the spectrum of past frames and begins with the phases
that the block before found for those it looked ahead at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.phase import griffin_lim, single_pass_phase
from mmdiff.audio.prior import bands_on_grid, delay_frames, frames_for
from mmdiff.audio.spectral_windows import magnitude_noise
from mmdiff.audio.vocoder_model import BlockMaker

if TYPE_CHECKING:
    from mmdiff.audio.spectral import SpectralVocoder

PAST = 12
"""Frames before those to be made that the networks hear again: more were not found to help."""
SETTLED = 1
"""Frames after a block that become final with it, since they sound in it: the next one sounds there hardly."""


@dataclass
class _Frames:
    """What is known of consecutive frames, each (B, n, K)."""

    magnitude: Tensor
    turns: Tensor
    found: Tensor
    """Spectrum that Griffin-Lim found."""
    final: Tensor
    """Spectrum that is heard."""

    def part(self, first: int, last: int) -> _Frames:
        return _Frames(*(field[:, first:last] for field in vars(self).values()))


class SpectralBlocks(BlockMaker):
    """Make sound block by block; see :meth:`mmdiff.audio.vocoder_model.VocoderModel.block_maker`."""

    def __init__(
        self,
        model: SpectralVocoder,
        spec: MelSpec,
        *,
        steps: int,
        grid: Tensor,
        sampler: str,
        temperature: float,
        lookahead: int,
        block: int,
    ) -> None:
        self.model, self.spec, self.steps, self.grid, self.sampler = model, spec, steps, grid, sampler
        self.temperature, self.lookahead, self.block = temperature, lookahead, block
        frame_seconds = model.stft.hop_length / model.stft.sample_rate
        self.block_seconds = block * frame_seconds
        self.delay = (block + lookahead - 1) * frame_seconds
        self.delay += delay_frames(spec, model.stft) * spec.hop_seconds
        self._given, self._settled = 0, 0  # frames given out, frames whose spectrum is final
        self._past: _Frames | None = None
        self._ahead = grid.new_zeros(0)  # phasors that were found for frames not yet given out

    @property
    def span(self) -> tuple[int, int]:
        """Frames of the mel, from and up to, that the next block is made of."""
        last = self._given + self.block + self.lookahead
        return frames_for(self.spec, self.model.stft, self._low, last)

    @property
    def _low(self) -> int:
        return self._settled - (0 if self._past is None else self._past.magnitude.shape[1])

    def __call__(self, mel: Tensor, seeds: Sequence[int], samples: int | None = None) -> Tensor:
        """Make the next block, or all that is left; see :class:`BlockMaker`."""
        stft, low = self.model.stft, self._low
        hop, first, last = stft.hop_length, self._given, self._given + self.block
        if samples is None:
            high, end = last + self.lookahead, last * hop
            length = (high - 1 - low) * hop
        else:
            high, end, length = stft.frames(samples), samples, samples - low * hop
        if end <= first * hop:
            return mel.new_zeros(len(mel), 0)
        frames = self._frames(mel, seeds, low, high, length)
        self._given, self._settled = last, last + SETTLED
        known = self._settled - low
        self._past, self._ahead = frames.part(max(0, known - PAST), known), frames.found[:, known:].sgn()
        return stft.inverse(frames.final, length)[:, (first - low) * hop : end - low * hop]

    def _frames(self, mel: Tensor, seeds: Sequence[int], low: int, high: int, length: int) -> _Frames:
        """All that is known of the frames ``low`` … ``high - 1``, of which the past is not changed."""
        model, past = self.model, self._past
        offset = self.span[0]
        bands = bands_on_grid(mel, self.spec, model.stft, high - low, first=low, offset=offset)
        conditions = model.condition_on(bands)
        source = magnitude_noise(model, seeds, low, high)
        magnitude = model.draw_magnitude(source, conditions, self.grid, self.sampler, self.temperature)
        if past is not None:
            magnitude = torch.cat([past.magnitude, magnitude[:, past.magnitude.shape[1] :]], 1)
        phasors, turns = self._start(magnitude)
        found = self._invert(magnitude, phasors, length)
        held = None if past is None else past.final
        levels = model.phase_levels(self.steps)
        final = model.correct(found, magnitude, conditions, length, levels, held)
        return _Frames(magnitude, turns, found, final)

    def _start(self, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Phasors to start from and turns, of all frames."""
        if self._past is None:
            return single_pass_phase(magnitude, self.model.stft)
        past, known = self._past, self._past.magnitude.shape[1]
        fresh, turns = single_pass_phase(magnitude[:, known - 1 :], self.model.stft, past.turns[:, -1])
        begun = torch.cat([past.found, self._ahead], 1)  # the past is held, whatever its modulus
        phasors = torch.cat([begun, fresh[:, 1 + begun.shape[1] - known :]], 1)
        return phasors, torch.cat([past.turns, turns[:, 1:]], 1)

    def _invert(self, magnitude: Tensor, phasors: Tensor, length: int) -> Tensor:
        """Griffin-Lim, of which only so much of the past as overlaps what is new takes part."""
        stft, iterations = self.model.stft, self.model.iterations
        if self._past is None:
            return griffin_lim(magnitude, phasors, stft, length, iterations)
        held = self._past.found
        skip = max(0, held.shape[1] - (stft.n_fft // stft.hop_length - 1))
        rest = griffin_lim(
            magnitude[:, skip:], phasors[:, skip:], stft, length - skip * stft.hop_length, iterations,
            held=held[:, skip:],
        )  # fmt: skip
        return torch.cat([held[:, :skip], rest], 1)
