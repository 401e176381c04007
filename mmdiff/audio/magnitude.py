"""The spectral vocoder's denoiser of magnitudes: its network, and what that is told of a mel spectrogram."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmdiff.audio.networks.spectral import SubBandNet
from mmdiff.audio.prior import Bands
from mmdiff.audio.stft import Stft
from mmdiff.registry import register

# Mean and deviation of sqrt(|X| / M) over speech; with them the diffused state has about zero mean, unit variance.
ROOT_MEAN, ROOT_DEVIATION = 0.9, 0.35


@dataclass(frozen=True)
class Conditions:
    """What a mel spectrogram tells the networks.

    Attributes
    ----------
    bands : Bands
    prior : Tensor, shape (B, T, K)
    context : Tensor, shape (B, T, C)
        Log bands of the prior, about unit variance.
    """

    bands: Bands
    prior: Tensor
    context: Tensor

    def agreeing(self, magnitude: Tensor, iterations: int = 2) -> Tensor:
        """Bring a magnitude (B, T, K) to the mel's bands, where they were measured with the STFT's window and hop.

        Only then are they a constraint that can be met exactly; else it stays as it is.
        """
        return self.bands.rescale(magnitude, iterations) if self.bands.native else magnitude

    def part(self, frames: slice) -> Conditions:
        """The same for a range of frames."""
        bands = self.bands.part(frames.start, frames.stop)
        return Conditions(bands, self.prior[:, frames], self.context[:, frames])


def to_state(magnitude: Tensor, prior: Tensor) -> Tensor:
    """Magnitude (B, T, K) to what is diffused (B, 1, T, K-1); the Nyquist bin is left to the prior."""
    root = (magnitude / prior).clamp_max(16.0).sqrt()
    return ((root - ROOT_MEAN) / ROOT_DEVIATION)[:, None, :, :-1]


def from_state(state: Tensor, conditions: Conditions) -> Tensor:
    """Diffused state (B, 1, T, K-1) to a magnitude (B, T, K) that agrees with the mel's bands."""
    root = (state[:, 0] * ROOT_DEVIATION + ROOT_MEAN).clamp_min(0.02)
    prior = conditions.prior
    return conditions.agreeing(torch.cat([root.square() * prior[..., :-1], prior[..., -1:]], -1))


@register
class MagnitudeNet(nn.Module):
    """The denoiser's network: standardised magnitudes given prior and context.

    Parameters
    ----------
    stft : Stft
    context, channels, depth, bands, overlap : int
        As for :class:`SubBandNet`.
    """

    def __init__(
        self,
        stft: Stft,
        context: int = 80,
        channels: int = 96,
        depth: int = 8,
        bands: int = 16,
        overlap: int = 8,
    ) -> None:
        super().__init__()
        self.network = SubBandNet(2, 1, stft.bins - 1, bands, overlap, context, channels, depth=depth)

    def forward(self, x: Tensor, level: Tensor, prior: Tensor, context: Tensor) -> Tensor:
        """Evaluate on ``x`` (B, 1, T, K-1) at noise ``level`` (B,); shape of x."""
        log_prior = prior[..., :-1].log()
        shape = (log_prior - log_prior.mean(-1, keepdim=True)) / 1.5
        return self.network(torch.cat([x, shape[:, None]], 1), level, context)

    def regress(self, prior: Tensor, context: Tensor) -> Tensor:
        """Answer (B, 1, T, K-1) at the highest noise level to no noise at all, where the answer is the clean state."""
        nothing = torch.zeros_like(prior)[:, None, :, :-1]
        return self(nothing, torch.ones(prior.shape[0], device=prior.device), prior, context)
