"""Waveform losses on several time-frequency resolutions, and one as hearing has it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.stft import Stft, hann


class MultiResolutionLoss(nn.Module):
    """Log-magnitude, spectral-convergence and log-mel distance, averaged over window lengths.

    The first two are those of Yamamoto et al. (2020), eqs. 4-5; the third weighs them as hearing does.

    Parameters
    ----------
    sample_rate : int, Hz
    windows : tuple of int, samples
        Each with a hop of a quarter.
    bands : tuple of int
        Mel bands for each window.
    """

    def __init__(
        self,
        sample_rate: int,
        windows: tuple[int, ...] = (256, 512, 1024, 2048),
        bands: tuple[int, ...] = (32, 56, 80, 110),
    ) -> None:
        super().__init__()
        self.stfts = [Stft(sample_rate, n, n // 4) for n in windows]
        for i, (n, count) in enumerate(zip(windows, bands, strict=True)):
            mel = MelSpec(sample_rate, n, n, n // 4, count, f_max=sample_rate / 2)
            self.register_buffer(f"filters_{i}", mel.filterbank().T.contiguous(), persistent=False)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Distance of waveforms (B, samples), averaged over the batch; a scalar."""
        total = estimate.new_zeros(())
        for i, stft in enumerate(self.stfts):
            filters = getattr(self, f"filters_{i}")
            ours, theirs = _magnitude(stft(estimate)), _magnitude(stft(reference))
            error = (ours - theirs).square().sum((1, 2)) / (theirs.square().sum((1, 2)) + 1e-6)
            total = total + 0.5 * _log_distance(ours, theirs, 1e-4) + 0.25 * (error + 1e-9).sqrt().mean()
            total = total + _log_distance(ours @ filters, theirs @ filters, 1e-5)
        return total / len(self.stfts)


def _magnitude(spectrum: Tensor) -> Tensor:
    return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()


def _log_distance(ours: Tensor, theirs: Tensor, floor: float) -> Tensor:
    # One per cent of the item's level as floor: what is 40 dB below it hardly counts.
    reference = theirs.square().mean((1, 2), keepdim=True).sqrt()
    offset = 0.01 * reference + floor
    return ((ours + offset).log() - (theirs + offset).log()).abs().mean()


class LoudnessLoss(nn.Module):
    """How much louder or softer a sound is heard than its reference, in the manner of PESQ's model of hearing.

    Frames of 32 ms are brought to loudness in sone per Bark band by Zwicker's law above the threshold of hearing.
    As in ITU-T P.862, differences below a quarter of the softer loudness are not heard (eq. 6), what is added
    weighs more than what is missing (eq. 7), and the two disturbances are summed with the standard's weights. Bands
    and thresholds come from formulas (Schroeder et al. 1979; Terhardt 1979) instead of the standard's tables, frames
    count by root mean square, not by the worst of each third of a second, since single quiet frames would then make
    most of the gradient, and nothing is compensated or aligned.

    Parameters
    ----------
    sample_rate : int, Hz
    bands : int > 0
        From 50 Hz to 8 kHz or half the rate.
    """

    filters: Tensor
    threshold: Tensor

    def __init__(self, sample_rate: int, bands: int = 49) -> None:
        super().__init__()
        length = 2 * round(0.016 * sample_rate)
        self.stft = Stft(sample_rate, length, length // 2)
        edges = 650 * torch.linspace(_bark(50.0), _bark(min(8000.0, sample_rate / 2)), bands + 1).sinh()
        self.register_buffer("filters", _overlaps(self.stft, edges), persistent=False)
        kilohertz = (edges[1:] * edges[:-1]).sqrt() / 1000
        decibels = 3.64 * kilohertz**-0.8 - 6.5 * (-0.6 * (kilohertz - 3.3) ** 2).exp() + 1e-3 * kilohertz**4
        self.register_buffer("threshold", 10 ** (decibels / 10), persistent=False)

    def loudness(self, wave: Tensor, rms: Tensor) -> Tensor:
        """Loudness (B, T, bands) of sound (B, samples) played so that a level of ``rms`` (B, 1) is 79 dB SPL."""
        power = _magnitude(self.stft(wave / rms)).square()
        window = hann(self.stft.n_fft, wave.device).square().sum()
        pressure = 10**7.9 * 2 / (self.stft.n_fft * window) * (power @ self.filters)
        law = (0.5 + 0.5 * pressure / self.threshold) ** 0.23 - 1
        return 0.19 * (2 * self.threshold) ** 0.23 * law.clamp_min(0)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Disturbance of waveforms (B, samples), averaged over the batch; a scalar, about MOS lost."""
        rms = reference.square().mean(1, keepdim=True).sqrt().clamp_min(3e-3)
        ours, theirs = self.loudness(estimate, rms), self.loudness(reference, rms)
        difference = ours - theirs
        heard = difference.sign() * (difference.abs() - 0.25 * torch.minimum(ours, theirs)).clamp_min(0)
        bark = 24.0 / heard.shape[-1]
        with torch.no_grad():
            ratio = ((ours + 0.5) / (theirs + 0.5)) ** (1.2 / 0.23)
            added = torch.where(ratio < 3, 0.0, ratio.clamp_max(12))
        symmetric = bark * (24 * heard.square().sum(-1) + 1e-8).sqrt()
        asymmetric = bark * (added * heard.abs()).sum(-1)
        return (0.1 * _rms(symmetric) + 0.0309 * _rms(asymmetric)).mean()


def _bark(hertz: float) -> float:
    """Bark over seven."""
    return math.asinh(hertz / 650)


def _rms(frames: Tensor) -> Tensor:
    return (frames.square().mean(1) + 1e-8).sqrt()


def _overlaps(stft: Stft, edges: Tensor) -> Tensor:
    """Share of every bin, as wide as bins are apart, that lies between two edges in Hz: (K, edges - 1)."""
    width = stft.sample_rate / stft.n_fft
    centres = stft.frequencies().float()[:, None]
    upper = torch.minimum(centres + width / 2, edges[1:])
    return (upper - torch.maximum(centres - width / 2, edges[:-1])).clamp_min(0) / width
