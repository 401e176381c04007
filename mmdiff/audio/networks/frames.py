"""A waveform denoiser at frame rate: short-time spectra in, sub-band convolutions, short-time spectra out."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.spectral import LEVEL_CHANNELS, SubBandNet
from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.prior import bands_on_grid
from mmdiff.audio.stft import Stft, hann
from mmdiff.diffusion.denoiser import LOG_SNR_LIMIT
from mmdiff.errors import InputError
from mmdiff.nn.latents import LatentMapping
from mmdiff.registry import register


@register
class FrameNet(WaveformNetwork):
    """Estimate a clean waveform, given a noisy one and a spectrogram; as WaveGrad and DiffWave, but frame by frame.

    Where those two work at the sampling rate, this one sees a few hundred numbers of each frame of the waveform's
    short-time spectrum at once, and an evaluation costs a small part of theirs. What it is told, the scale of
    its answer and how much of the noisy spectrum passes are chosen bin by bin as Karras et al. (2022, arXiv:2206.00364,
    table 1) choose them for an image as a whole: with P, the magnitude that the mel spectrogram makes expect
    (:mod:`mmdiff.audio.prior`), for the deviation of data, and n for that of the noise in a spectrum,

        X0 = P²/(P²+n²) Y + P n/√(P²+n²) F(Y/√(P²+n²)),    Y = STFT(x)/α,    n² = σ²/α² Σ window².

    So sound that is 60 dB fainter at high frequencies is as large to the network F as the rest. It is the network of
    ``Denoiser(..., prediction="x0", noise_input="log_snr")`` and a schedule that preserves variance, α² + σ² = 1.

    Parameters
    ----------
    mel : MelSpec
        Of the spectrogram; its sampling rate and hop are the waveform's.
    channels, depth, bands, overlap : int
        As for :class:`~mmdiff.audio.networks.spectral.SubBandNet`. The window is four hops long, and ``bands`` must
        divide two hops.
    latents : int >= 0
        Size of random vectors z that make the network a generator; 0 for none.

    Raises
    ------
    InputError
        ``bands`` does not divide the number of bins.
    """

    noise_input = "log_snr"
    shortest = 3  # the padding reflects half a window

    def __init__(
        self,
        mel: MelSpec,
        channels: int = 96,
        depth: int = 8,
        bands: int = 16,
        overlap: int = 8,
        latents: int = 0,
    ) -> None:
        super().__init__()
        self.mel, self.n_mels, self.hop_length, self.latents = mel, mel.n_mels, mel.hop_length, latents
        self.stft = Stft(mel.sample_rate, 4 * mel.hop_length, mel.hop_length)
        self.network = SubBandNet(4, 2, self.stft.bins - 1, bands, overlap, mel.n_mels, channels, depth=depth)
        self.embed_latent = LatentMapping(latents, LEVEL_CHANNELS) if latents else None
        grid = replace(
            mel, n_fft=self.stft.n_fft, win_length=self.stft.n_fft, f_min=0.0, f_max=mel.sample_rate / 2
        )
        self.register_buffer("pooling", grid.filterbank().T[:-1].contiguous(), persistent=False)

    pooling: Tensor

    @property
    def reach(self) -> int:
        """Frames to either side: of the network, and of half a window before it and one after."""
        return self.network.reach + 4

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        mel: Tensor | None = None,
        z: Tensor | None = None,
        prior: Tensor | None = None,
        context: Tensor | None = None,
    ) -> Tensor:
        """Estimate the clean waveform.

        Parameters
        ----------
        x : Tensor, shape (B, 1, samples)
            Noisy waveform.
        level : Tensor, shape (B,)
            Its log-SNR, ln(α²/σ²).
        mel : Tensor, shape (B, n_mels, frames)
            Spectrogram of ``samples = frames * hop_length``.
        z : Tensor, shape (B, latents), for a network that has latents
            Standard normal numbers; :func:`mmdiff.diffusion.adversarial.with_latents` draws them.
        prior, context : Tensor, optional
            What :meth:`prepare` made of the spectrogram, instead of it.

        Returns
        -------
        Tensor, shape (B, 1, samples)

        Raises
        ------
        InputError
            A condition is missing, or of another shape than the network's.
        """
        self.check_inputs(x, level, mel)
        if (z is not None) != (self.latents > 0):
            state = "needs" if self.latents else "takes no"
            raise InputError(f"z: this network, with latents={self.latents}, {state} random vectors")
        if prior is None or context is None:
            if mel is None:
                raise InputError(f"mel: this network, with n_mels={self.n_mels}, needs a spectrogram")
            prior, context = self.prepare(mel).values()
        told = None if self.embed_latent is None else self.embed_latent(z)
        dtype = torch.promote_types(x.dtype, torch.float32)  # that of a spectrum
        noisy, noise = self._analysed(x[:, 0].to(dtype), level.to(dtype))
        norm = (prior.square() + noise**2).sqrt()
        seen, passing = noisy / norm, (prior / norm).square()
        planes = torch.stack([seen.real, seen.imag, (prior.log() + 2) / 2.5, passing], 1)
        place = (level.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT) + LOG_SNR_LIMIT) / (2 * LOG_SNR_LIMIT)
        real, imag = self.network(planes, place, context, told).to(dtype).unbind(1)
        clean = passing * noisy + (prior * noise / norm) * torch.complex(real, imag)
        return self.stft.inverse(functional.pad(clean, (0, 1)), x.shape[-1])[:, None].to(x)

    @torch.no_grad()
    def prepare(self, mel: Tensor) -> dict[str, Tensor]:
        """Say what magnitudes a spectrogram makes expect: ``prior`` (B, T, K-1), and its ``context`` (B, T, n_mels)."""
        bands = bands_on_grid(mel, self.mel, self.stft, mel.shape[-1] + 1)
        with torch.autocast(mel.device.type, enabled=False):  # differences of small numbers matter here
            prior = bands.magnitude_prior()[..., :-1]
            pooled = prior @ self.pooling.to(prior)
        return {"prior": prior, "context": (pooled.clamp_min(1e-5).log() + 5) / 2.5}

    def _analysed(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum of x / α (B, T, K-1), and the deviation of the noise in it (B, 1, 1)."""
        level = level.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT)[:, None]
        window = hann(self.stft.n_fft, x.device, x.dtype).square().sum().sqrt()
        spectrum = self.stft(x / level.sigmoid().sqrt())[..., :-1]
        return spectrum, ((-level / 2).exp() * window)[..., None]
