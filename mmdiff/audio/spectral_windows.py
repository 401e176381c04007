"""Long sound through the spectral vocoder: windows whose results are those of the whole.

Every part of the pipeline looks a bounded number of frames ahead and back, except the start phases, which are
carried from window to window, and the noise, which belongs to a place. So a window with margins gives, in its
middle, what the whole would have given, and blocks join without a seam.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mmdiff.audio.noise import PlacedNoise
from mmdiff.audio.phase import single_pass_phase
from mmdiff.audio.prior import Bands

if TYPE_CHECKING:
    from mmdiff.audio.spectral import SpectralVocoder

WINDOW = 1024
"""Frames of a window without its margins: 16 s at 16 ms a frame."""
FADING = 87
"""Frames to either side beyond which Griffin-Lim's influence has faded."""


def count_windows(frames: int) -> int:
    """Number of windows that ``frames`` are cut into; what is left over joins the last."""
    return max(1, frames // WINDOW)


def windowed_blocks(
    model: SpectralVocoder,
    bands: Bands,
    *,
    seeds: Sequence[int],
    samples: int,
    steps: int,
    grid: Tensor,
    sampler: str,
    temperature: float,
) -> Iterator[Tensor]:
    """Yield the waveform (B, samples) of ``bands`` window by window.

    Parameters
    ----------
    model : SpectralVocoder
    bands : Bands
        Of the whole utterance.
    seeds : sequence of int
        One per item.
    samples, steps : int
    grid : Tensor
        Times of the magnitude's sampler.
    sampler : str
    temperature : float

    Yields
    ------
    Tensor, shape (B, n)
    """
    frames, hop = bands.values.shape[1], model.stft.hop_length
    count, levels = count_windows(frames), model.phase_levels(steps)
    overlapping = model.stft.n_fft // hop - 1  # frames to either side that share samples with one
    margin = FADING + (model.phase_reach + overlapping) * len(levels)
    outer = model.hearing(grid, sampler)
    turns: Tensor | None = None  # at the first frame whose phases the next window makes
    for i in range(count):
        first, last = i * WINDOW, frames if i == count - 1 else (i + 1) * WINDOW
        low, high = max(0, first - margin), min(frames, last + margin)
        outer_low, outer_high = max(0, low - outer), min(frames, high + outer)
        conditions = model.condition_on(bands.part(outer_low, outer_high))
        source = magnitude_noise(model, seeds, outer_low, outer_high)
        magnitude = model.draw_magnitude(source, conditions, grid, sampler, temperature)
        inner = slice(low - outer_low, high - outer_low)
        magnitude, conditions = magnitude[:, inner], conditions.part(inner)
        start, window_turns = single_pass_phase(magnitude, model.stft, turns)
        if i < count - 1:
            turns = window_turns[:, max(0, last - margin) - low]
        length = min(samples, (high - 1) * hop if high < frames else samples) - low * hop
        spectrum = model.spectrum(magnitude, start, conditions, length, levels)
        wave = model.stft.inverse(spectrum, length)
        end = samples if i == count - 1 else last * hop
        yield wave[:, (first - low) * hop : end - low * hop]


def magnitude_noise(model: SpectralVocoder, seeds: Sequence[int], first: int, last: int) -> PlacedNoise:
    """Source of the noise that the magnitudes of frames ``first`` … ``last - 1`` are sampled from: (B, 1, T, K-1)."""
    return PlacedNoise(seeds, first, last, model.stft.bins - 1, flat=False)
