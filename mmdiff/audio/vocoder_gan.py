"""Train a waveform vocoder as a denoising diffusion GAN: its generator, and a critic that sees the spectrogram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.prior import bands_on_grid, log_magnitude
from mmdiff.audio.stft import Stft
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.adversarial import Step
from mmdiff.diffusion.grids import make_grid
from mmdiff.errors import InputError
from mmdiff.nn.critic import StepCritic
from mmdiff.training.denoising_gan import DenoisingGAN


class SpectrumCritic(nn.Module):
    """Judge reverse steps of waveforms by their short-time spectra, and whether they fit a mel spectrogram.

    Of each window length one critic sees the spectra of both ends of the step, and the magnitudes that the mel
    spectrogram makes expect; the score is the mean of theirs.

    Parameters
    ----------
    mel : MelSpec
        Of the spectrogram.
    windows : sequence of int, samples
        Each with a hop of a quarter.
    widths : sequence of int
        As for :class:`mmdiff.nn.critic.StepCritic`.
    patch : int
        Neighbouring bins that are folded into channels; must divide half of each window.
    """

    def __init__(
        self,
        mel: MelSpec,
        windows: Sequence[int] = (512,),
        widths: Sequence[int] = (48, 64, 96),
        patch: int = 8,
    ) -> None:
        super().__init__()
        self.mel = mel
        self.stfts = [Stft(mel.sample_rate, window, window // 4) for window in windows]
        factors = ((1, 2),) + ((2, 2),) * (len(widths) - 2)
        self.views = nn.ModuleList(StepCritic(2, 2, widths, factors, 1, patch=(1, patch)) for _ in windows)

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor, *, mel: Tensor) -> Tensor:
        """Score steps (B, 1, frames * hop_length) beside spectrograms (B, n_mels, frames): shape (B,)."""
        scores = []
        for stft, view in zip(self.stfts, self.views, strict=True):
            with torch.no_grad():
                bands = bands_on_grid(mel, self.mel, stft, stft.frames(x_s.shape[-1]))
                expected = log_magnitude(bands.magnitude_prior()[:, None, :, :-1])
            scores.append(view(_compressed(stft(x_s[:, 0])), _compressed(stft(x_t[:, 0])), t, expected))
        return torch.stack(scores).mean(0)


def _compressed(spectrum: Tensor) -> Tensor:
    """Parts (B, 2, T, K-1) of a spectrum whose magnitudes are raised to 0.3, so that faint ones are seen."""
    real, imag = spectrum.real[..., :-1], spectrum.imag[..., :-1]
    # The floor keeps slopes, which the penalty squares, below about 10.
    return torch.stack([real, imag], 1) * (real.square() + imag.square() + 1e-3).pow(-0.35)[:, None]


class VocoderGAN(DenoisingGAN):
    """Train a :class:`WaveformVocoder` whose network draws random vectors at the steps of its table.

    Parameters
    ----------
    vocoder : WaveformVocoder
    critic : nn.Module
        ``critic(x_s, x_t, t, mel=mel) -> score``, as :class:`SpectrumCritic`.
    penalty : float >= 0
        As for :class:`mmdiff.training.denoising_gan.DenoisingGAN`, of waveforms over the denoiser's ``sigma_data``.
    distance : float >= 0
        As there, of the distance in several resolutions, which has no say in phases:
        :class:`mmdiff.audio.losses.MultiResolutionLoss`.
    **rules
        ``every`` and ``begin`` of that class.

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
        distance: float = 1.0,
        **rules: Any,
    ) -> None:
        if vocoder.latents == 0 or vocoder.prior is not None:
            raise InputError(f"latents={vocoder.latents} of the vocoder must be positive, and its prior None")
        denoiser = vocoder.denoiser
        grid = make_grid("uniform", denoiser.schedule, vocoder.default_steps)
        rules |= {"penalty": penalty * denoiser.sigma_data**2, "distance": distance}
        super().__init__(denoiser, critic, denoiser.schedule, grid, latents=vocoder.latents, **rules)
        self.vocoder, self.spectra = vocoder, MultiResolutionLoss(vocoder.sample_rate)

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch with ``wave`` (B, samples), whole frames long: those of the game, and "distance"."""
        cond = self.vocoder.conditions(batch)
        return self.play(batch["wave"][:, None], generator, cond, {"mel": cond["mel"]})

    def distance_of(self, made: Tensor, x0: Tensor, step: Step) -> Tensor:
        """Compare spectra of what the generator made with the recording's, at all times alike."""
        distance: Tensor = self.spectra(made[:, 0], x0[:, 0])
        return distance
