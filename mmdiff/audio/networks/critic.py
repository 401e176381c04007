"""A critic of sound: small convolutional networks on spectra of several window lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from mmdiff.audio.stft import Stft
from mmdiff.training.adversarial import critic_hinge, feature_distance, frozen, generator_hinge


class Judgement(NamedTuple):
    """What one view of the sound says."""

    score: Tensor
    """One for every frame and band, (B, 1, T, bands): high for recordings."""
    features: list[Tensor]


class SpectrumCritic(nn.Module):
    """Judge sound by its complex spectrum of one window length, with a hop of a quarter.

    Magnitudes are compressed to their power of 0.3, so that faint parts are seen; every layer but the first and
    last halves the bands, and time is never thinned out (as in Défossez et al. 2022, arXiv:2210.13438).

    Parameters
    ----------
    stft : Stft
    channels : int
    dilations : sequence of int
        Frames apart that the kernel's three taps are, layer by layer.
    """

    def __init__(self, stft: Stft, channels: int = 16, dilations: Sequence[int] = (1, 2, 4)) -> None:
        super().__init__()
        self.stft = stft
        layers = [nn.Conv2d(2, channels, (3, 9), padding=(1, 4))]
        layers += [
            nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(dilation, 4), dilation=(dilation, 1))
            for dilation in dilations
        ]
        layers.append(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1)))
        self.layers = nn.ModuleList(weight_norm(layer) for layer in layers)
        self.score = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wave: Tensor) -> Judgement:
        """Judge sound (B, samples)."""
        spectrum = self.stft(wave)[..., :-1]
        power = spectrum.real.square() + spectrum.imag.square() + 1e-7
        h = torch.stack([spectrum.real, spectrum.imag], 1) * power.pow(-0.35)[:, None]
        features = []
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.1)
            features.append(h)
        return Judgement(self.score(h), features)


class Critic(nn.Module):
    """Judge sound by several window lengths.

    Parameters
    ----------
    sample_rate : int, Hz
    windows : sequence of int, samples
    channels : int
    """

    def __init__(
        self, sample_rate: int, windows: Sequence[int] = (256, 512, 1024), channels: int = 16
    ) -> None:
        super().__init__()
        stfts = [Stft(sample_rate, window, window // 4) for window in windows]
        self.views = nn.ModuleList(SpectrumCritic(stft, channels) for stft in stfts)

    def forward(self, wave: Tensor) -> list[Judgement]:
        """Judge sound (B, samples); one judgement for each window length."""
        return [view(wave) for view in self.views]


def judged_sound(critic: Critic, estimate: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of who made an estimate of sound (B, samples), and of the critic that judges it beside the real one."""
    real, made, seen = critic(wave), critic(estimate.detach()), frozen(critic)(estimate)
    similar = [feature_distance(r.features, s.features) for r, s in zip(real, seen, strict=True)]
    deceived = generator_hinge([s.score for s in seen])
    critical = critic_hinge([r.score for r in real], [m.score for m in made])
    return deceived + 2 * torch.stack(similar).mean(), critical
