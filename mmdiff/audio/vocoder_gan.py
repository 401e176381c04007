"""Train a waveform vocoder as a denoising diffusion GAN: its generator, and a critic that sees the spectrogram."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.grids import make_grid
from mmdiff.errors import InputError
from mmdiff.nn.convolution import conv
from mmdiff.nn.critic import StepCritic
from mmdiff.training.denoising_gan import DenoisingGAN

_MEL_MEAN, _MEL_STD = -6.0, 2.0
"""Of log-mel spectrograms of speech, roughly."""


class SpectrogramCritic(nn.Module):
    """Judge reverse steps of waveforms, and whether they fit a spectrogram.

    Parameters
    ----------
    n_mels, hop_length : int > 0
        Of the spectrogram.
    widths, factors
        As for :class:`mmdiff.nn.critic.StepCritic`.
    planes : int > 0
        Channels that the spectrogram is condensed to before it is laid beside the waveform.
    gain : float > 0
        Factor on waveforms: near one over the deviation of sound.
    """

    def __init__(
        self,
        n_mels: int,
        hop_length: int,
        widths: tuple[int, ...] = (24, 48, 96, 96),
        factors: tuple[int, ...] = (4, 4, 4),
        planes: int = 16,
        gain: float = 8.0,
    ) -> None:
        super().__init__()
        self.hop_length, self.gain = hop_length, gain
        self.hear = conv(1, n_mels, planes, 3)
        self.critic = StepCritic(1, 1, widths, factors, planes)

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor, *, mel: Tensor) -> Tensor:
        """Score steps (B, 1, frames * hop_length) beside spectrograms (B, n_mels, frames): shape (B,)."""
        heard = self.hear((mel - _MEL_MEAN) / _MEL_STD).repeat_interleave(self.hop_length, -1)
        score: Tensor = self.critic(self.gain * x_s, self.gain * x_t, t, heard)
        return score


class VocoderGAN(DenoisingGAN):
    """Train a :class:`WaveformVocoder` whose network draws random vectors at the steps of its table.

    Parameters
    ----------
    vocoder : WaveformVocoder
    critic : nn.Module
        ``critic(x_s, x_t, t, mel=mel) -> score``, as :class:`SpectrogramCritic`.
    penalty, every
        As for :class:`mmdiff.training.denoising_gan.DenoisingGAN`.
    distance : float >= 0
        Weight of the distance in several resolutions of what the generator draws and the recording, which has no say
        in phases: :class:`mmdiff.audio.losses.MultiResolutionLoss`.

    Raises
    ------
    InputError
        The vocoder's network takes no random vectors, or its noise is not standard normal.
    """

    def __init__(
        self,
        vocoder: WaveformVocoder,
        critic: nn.Module,
        penalty: float = 0.05,
        every: int = 16,
        distance: float = 1.0,
    ) -> None:
        if vocoder.latents == 0 or vocoder.prior is not None:
            raise InputError(f"latents={vocoder.latents} of the vocoder must be positive, and its prior None")
        denoiser = vocoder.denoiser
        grid = make_grid("uniform", denoiser.schedule, vocoder.default_steps)
        super().__init__(
            denoiser, critic, denoiser.schedule, grid, latents=vocoder.latents, penalty=penalty, every=every
        )
        self.vocoder, self.weight = vocoder, distance
        self.distance = MultiResolutionLoss(vocoder.sample_rate)

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch with ``wave`` (B, samples), whole frames long: those of the game, and "distance"."""
        cond = self.vocoder.conditions(batch)
        losses, made, _ = self.play(batch["wave"][:, None], generator, cond, {"mel": cond["mel"]})
        if self.weight == 0:
            return losses
        distance = self.distance(made[:, 0], batch["wave"])
        return {**losses, "loss": losses["loss"] + self.weight * distance, "distance": distance.detach()}
