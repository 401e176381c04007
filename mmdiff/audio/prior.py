"""From a mel spectrogram of any definition to a prior for the magnitude on a model's own STFT grid.

A spectral model never sees the mel itself, only what it says about |STFT|. So one model serves every mel:
band count, filter shapes, logarithm, level, hop, window and sampling rate are all undone here.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.lengths import resampled_length
from mmdiff.audio.stft import Stft
from mmdiff.devices import full_precision

SMALLEST_MAGNITUDE = 1e-4  # of |STFT| with a 1024-sample window: -134 dB of a full-scale sine


@dataclass(frozen=True)
class Bands:
    """Band values of a mel spectrogram, moved to a model's frames and bins.

    Attributes
    ----------
    values : Tensor, shape (B, T, n), >= 0
        What ``filters`` applied to |STFT|^power on the model's grid should give.
    filters : Tensor, shape (n, K)
    power : float
    native : bool
        The mel was measured with the model's own window and hop, so that ``values`` can be met exactly.
    """

    values: Tensor
    filters: Tensor
    power: float
    native: bool

    def of(self, magnitude: Tensor) -> Tensor:
        """Bands of a magnitude spectrogram (B, T, K); shape (B, T, n)."""
        return self._powered(magnitude) @ self.filters.T

    def part(self, first: int, last: int) -> Bands:
        """The frames first … last - 1."""
        return replace(self, values=self.values[:, first:last])

    def magnitude_prior(self, iterations: int = 3) -> Tensor:
        """Smooth positive magnitude with these bands, by multiplicative (Richardson-Lucy) iterations.

        Returns
        -------
        Tensor, shape (B, T, K)
        """
        weights, covered = _spreading(self.filters)
        energy = self.values.mean(-1, keepdim=True) / self.filters.sum(1).mean()
        estimate = energy.expand(*self.values.shape[:2], self.filters.shape[1])
        with full_precision(estimate.device):  # differences of small numbers matter here
            for _ in range(iterations):
                ratio = self.values / (estimate @ self.filters.T).clamp_min(1e-10)
                estimate = estimate * (ratio @ weights)
        estimate = estimate[..., covered]
        if self.power != 1.0:
            estimate = estimate.sqrt()
        return estimate.clamp_min(SMALLEST_MAGNITUDE)

    def rescale(self, magnitude: Tensor, iterations: int = 2, largest: float = 5.0) -> Tensor:
        """Multiply a magnitude (B, T, K) by smooth factors in [1/largest, largest] so that its bands agree."""
        weights, covered = _spreading(self.filters)
        for _ in range(iterations):
            ratio = (self.values / self.of(magnitude).clamp_min(1e-10)).clamp(1 / largest, largest)
            factor = (ratio @ weights)[..., covered]
            magnitude = magnitude * (factor if self.power == 1.0 else factor.sqrt())
        return magnitude

    def _powered(self, magnitude: Tensor) -> Tensor:
        return magnitude if self.power == 1.0 else magnitude.square()


@functools.lru_cache(maxsize=16)
def _spreading(filters: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (n, K) that spread band ratios over bins, and for each bin the nearest bin some filter covers."""
    with torch.inference_mode(False):  # the cached tensors must also serve training
        total = filters.sum(0)
        inside = (total > 1e-3 * total.amax()).nonzero()[:, 0]
        bins = torch.arange(filters.shape[1], device=filters.device)
        nearest = inside[(bins[:, None] - inside[None]).abs().argmin(1)]
        return filters / total.clamp_min(1e-10), nearest


@functools.lru_cache(maxsize=16)
def _filters(spec: MelSpec, stft: Stft, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Filters (n, K) of a mel on the grid's bins, and the numbers (n,) of the mel's bands that reach any."""
    with torch.inference_mode(False):
        spacing = (stft.sample_rate / stft.n_fft) / (spec.sample_rate / spec.n_fft)
        filters = spec.filters_at(stft.frequencies(device)) * spacing
        reached = (filters.sum(1) > 1e-3 * filters.sum(1).amax()).nonzero()[:, 0]
        return filters[reached].to(dtype), reached


def context_filters(stft: Stft, width: int) -> Tensor:
    """Mel filters (K, width) on a grid, through which networks are told the whole spectrum of each frame."""
    mel = MelSpec(
        stft.sample_rate, stft.n_fft, stft.n_fft, stft.hop_length, width, f_max=stft.sample_rate / 2
    )
    return mel.filterbank().T.contiguous()


def context_of(prior: Tensor, filters: Tensor) -> Tensor:
    """Log bands (B, T, width) of a prior (B, T, K) by :func:`context_filters`, about standard normal for speech."""
    with full_precision(prior.device):
        bands = prior @ filters.to(prior)
    return (bands.clamp_min(1e-5).log() + 5) / 2.5


def log_magnitude(magnitude: Tensor) -> Tensor:
    """Logarithm of magnitudes of any shape, about standard normal for speech."""
    return (magnitude.log() + 2) / 2.5


def bands_on_grid(
    mel: Tensor, spec: MelSpec, stft: Stft, frames: int | None = None, first: int = 0, offset: int = 0
) -> Bands:
    """Undo a mel definition's compression and move its bands to the frames and bins of ``stft``.

    Band values of another window are rescaled by the sampling-rate ratio and, for magnitudes, the fourth root
    of the window-length ratio: half way (in dB) between what a steady tone and what noise would ask for.
    For powers both ask for the same.

    Parameters
    ----------
    mel : Tensor, shape (B, n_mels, frames)
    spec : MelSpec
    stft : Stft
    frames : int, optional
        Frames of the result; by default ``stft.frames(n)`` for the n samples, at the model's rate, that the mel
        stands for. Frames past the end repeat the last.
    first : int
        The result's first frame; those that it is made of are told by :func:`frames_for`.
    offset : int
        The frame of an utterance that ``mel`` begins with.

    Returns
    -------
    Bands
        In the mel's dtype, at least float32.
    """
    mel = mel.to(torch.promote_types(mel.dtype, torch.float32))
    values = spec.expand(mel).transpose(1, 2) * spec.level() ** spec.power
    rate = stft.sample_rate / spec.sample_rate
    window = stft.n_fft / stft.sample_rate / spec.window_seconds
    values = values * (rate * window ** (0.25 if spec.power == 1.0 else 0.5)) ** spec.power
    filters, reached = _filters(spec, stft, mel.device, mel.dtype)
    values = values[..., reached]
    native = _is_native(spec, stft)
    frames = frames or stft.frames(resampled_length(spec, mel.shape[-1], stft.sample_rate))
    if not (native and frames == values.shape[1] and first == offset):
        values = _interpolate_frames(values, spec, stft, frames, first, offset)
    return Bands(values, filters, spec.power, native)


def _is_native(spec: MelSpec, stft: Stft) -> bool:
    window = stft.n_fft / stft.sample_rate / spec.window_seconds
    same_hop = math.isclose(spec.hop_seconds * stft.sample_rate, stft.hop_length, rel_tol=1e-3)
    return spec.centred and same_hop and math.isclose(window, 1, rel_tol=0.02)


def frames_for(spec: MelSpec, stft: Stft, first: int, last: int) -> tuple[int, int]:
    """Frames of a mel, from and up to, that the model's frames ``first`` … ``last - 1`` are made of."""
    if _is_native(spec, stft):
        return first, last
    ends = torch.tensor([first, last - 1], dtype=torch.float64)
    nearest = _position(ends, spec, stft).round().long().tolist()
    reach = math.ceil(_reach(spec, stft))
    return max(0, nearest[0] - reach), nearest[1] + reach + 1


def delay_frames(spec: MelSpec, stft: Stft) -> float:
    """How many frames of a mel after a model's frame must be known before that can be made, at most."""
    return 0.0 if _is_native(spec, stft) else 0.5 + math.ceil(_reach(spec, stft))


def _position(frames: Tensor, spec: MelSpec, stft: Stft) -> Tensor:
    """Where the model's frames are centred, in frames of the mel; float64."""
    seconds = frames * (stft.hop_length / stft.sample_rate)
    return (seconds / spec.hop_seconds - (0.0 if spec.centred else 0.5)).clamp_min(0)


def _reach(spec: MelSpec, stft: Stft) -> float:
    """Half-width in frames of the triangle that :func:`_interpolate_frames` averages over."""
    missing = 0.01 * ((stft.n_fft / stft.sample_rate) ** 2 - spec.window_seconds**2)
    return max(1.0, math.sqrt(6 * max(missing, 0.0)) / spec.hop_seconds)


def _interpolate_frames(
    values: Tensor, spec: MelSpec, stft: Stft, frames: int, first: int, offset: int
) -> Tensor:
    """Band values (B, frames', n) from frame ``offset`` on, at the centres of the model's from ``first`` on.

    A longer window sees an average over time of what a shorter one saw. The average is over a triangle that makes
    up half the difference of the two windows' variances (that of a squared Hann window of length T is about
    0.02 T²), and never narrower than linear interpolation: half, because a network can smooth what it is given
    but not sharpen it. Powers are averaged, as noise would have it.
    """
    device, reach = values.device, _reach(spec, stft)
    places = torch.arange(first, first + frames, device=device, dtype=torch.float64)
    position = _position(places, spec, stft).clamp_max(offset + values.shape[1] - 1)
    squared = values if spec.power == 2.0 else values.square()
    total = values.new_zeros(values.shape[0], frames, values.shape[2])
    weights = values.new_zeros(frames, 1)
    nearest = position.round().long()
    for step in range(-math.ceil(reach), math.ceil(reach) + 1):
        index = nearest + step
        weight = (1 - (position - index).abs() / reach).clamp_min(0).to(values.dtype)[:, None]
        index = index - offset
        weight = weight * ((index >= 0) & (index < values.shape[1]))[:, None]
        total = total + weight * squared[:, index.clamp(0, values.shape[1] - 1)]
        weights = weights + weight
    average = total / weights
    return average if spec.power == 2.0 else average.sqrt()
