"""Waveform denoisers at frame rate: short-time spectra in, sub-band convolutions, short-time spectra out.

Where WaveGrad and DiffWave work at the sampling rate, these see a few hundred numbers of each frame of the waveform's
short-time spectrum at once, and an evaluation costs a small part of theirs. What the network is told, the scale of its
answer and how much of the noisy spectrum passes are chosen bin by bin as Karras et al. (2022, arXiv:2206.00364,
table 1) choose them for an image as a whole: with P, the magnitude expected in a bin, for the deviation of data, and n
for that of the noise in a spectrum,

    X0 = P²/(P²+n²) Y + P n/√(P²+n²) F(Y/√(P²+n²)),    Y = STFT(x)/α,    n² = σ²/α² Σ window².

So sound that is 60 dB fainter at high frequencies is as large to the network F as the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.spectral import LEVEL_CHANNELS, SubBandNet, nearest_divisor
from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.prior import (
    SMALLEST_MAGNITUDE,
    bands_on_grid,
    context_filters,
    context_of,
    log_magnitude,
)
from mmdiff.audio.stft import Stft, hann
from mmdiff.diffusion.denoiser import LOG_SNR_LIMIT
from mmdiff.errors import InputError
from mmdiff.nn.latents import LatentMapping
from mmdiff.registry import register

_BANDS = 16  # as many as divide the bins of usual windows


class FrameDenoiser(WaveformNetwork):
    """What both networks here share: the scalings, and the network F.

    It is that of ``Denoiser(..., prediction="x0", noise_input="log_snr")`` and a schedule that preserves variance,
    α² + σ² = 1.

    Parameters
    ----------
    stft : Stft
    context : int >= 0
        Channels that each frame is told beside the noisy spectrum.
    channels, depth, bands, overlap : int
        As for :class:`~mmdiff.audio.networks.spectral.SubBandNet`; ``bands`` must divide half the window.
        Default: the divisor next to 16.

    Raises
    ------
    InputError
        ``bands`` does not divide half the window.
    """

    noise_input = "log_snr"

    def __init__(
        self,
        stft: Stft,
        context: int,
        channels: int = 96,
        depth: int = 8,
        bands: int | None = None,
        overlap: int = 8,
    ) -> None:
        super().__init__()
        self.stft = stft
        if bands is None:
            bands = nearest_divisor(stft.bins - 1, _BANDS)
        self.network = SubBandNet(4, 2, stft.bins - 1, bands, overlap, context, channels, depth=depth)

    @property
    def heard(self) -> int:
        """Frames to either side: of the network, and of half a window before it and one after."""
        return self.network.reach + self.stft.n_fft // self.stft.hop_length

    def estimate(
        self, x: Tensor, level: Tensor, expected: Tensor, context: Tensor | None, vector: Tensor | None
    ) -> Tensor:
        """Estimate the clean waveform.

        Parameters
        ----------
        x : Tensor, shape (B, 1, samples)
        level : Tensor, shape (B,)
            Log-SNR, ln(α²/σ²).
        expected : Tensor, shape (B, T, K-1) or one that becomes it
            Magnitudes P; the Nyquist bin is left out, and empty in the result.
        context : Tensor, shape (B, T, context), or None
        vector : Tensor, shape (B, LEVEL_CHANNELS), or None
            What else the network is told of each item.

        Returns
        -------
        Tensor, shape (B, 1, samples)
        """
        dtype = torch.promote_types(x.dtype, torch.float32)  # that of a spectrum
        level = level.clamp(-LOG_SNR_LIMIT, LOG_SNR_LIMIT).to(dtype)
        noisy, noise = self._analysed(x[:, 0].to(dtype), level)
        norm = (expected.square() + noise**2).sqrt()
        seen, passing = noisy / norm, (expected / norm).square()
        told = (log_magnitude(expected), passing)
        planes = torch.stack([seen.real, seen.imag, *(plane.expand_as(seen) for plane in told)], 1)
        place = (level + LOG_SNR_LIMIT) / (2 * LOG_SNR_LIMIT)
        real, imag = self.network(planes, place, context, vector).to(dtype).unbind(1)
        clean = passing * noisy + (expected * noise / norm) * torch.complex(real, imag)
        return self.stft.inverse(functional.pad(clean, (0, 1)), x.shape[-1])[:, None].to(x)

    def _analysed(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrum of x / α (B, T, K-1), and the deviation of the noise in it (B, 1, 1)."""
        level = level[:, None]
        window = hann(self.stft.n_fft, x.device, x.dtype).square().sum().sqrt()
        spectrum = self.stft(x / level.sigmoid().sqrt())[..., :-1]
        return spectrum, ((-level / 2).exp() * window)[..., None]


@register
class FrameNet(FrameDenoiser):
    """A vocoder's: a mel spectrogram says what magnitudes to expect (:mod:`mmdiff.audio.prior`).

    Parameters
    ----------
    mel : MelSpec
        Of the spectrogram; its sampling rate and hop are the waveform's. The window is four hops long.
    channels, depth, bands, overlap : int
        As for :class:`FrameDenoiser`.
    latents : int >= 0
        Size of random vectors z that make the network a generator; 0 for none.

    Raises
    ------
    InputError
        ``bands`` does not divide two hops.
    """

    shortest = 3  # the padding reflects half a window

    def __init__(
        self,
        mel: MelSpec,
        channels: int = 96,
        depth: int = 8,
        bands: int | None = None,
        overlap: int = 8,
        latents: int = 0,
    ) -> None:
        stft = Stft(mel.sample_rate, 4 * mel.hop_length, mel.hop_length)
        super().__init__(stft, mel.n_mels, channels, depth, bands, overlap)
        self.mel, self.n_mels, self.hop_length, self.latents = mel, mel.n_mels, mel.hop_length, latents
        self.embed_latent = LatentMapping(latents, LEVEL_CHANNELS) if latents else None
        self.register_buffer("pooling", context_filters(stft, mel.n_mels), persistent=False)

    pooling: Tensor

    @property
    def reach(self) -> int:
        """Frames to either side that a sample of the output may depend on."""
        return self.heard

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
        self.check_latent(z)
        if prior is None or context is None:
            if mel is None:
                raise InputError(f"mel: this network, with n_mels={self.n_mels}, needs a spectrogram")
            prior, context = self.prepare(mel).values()
        vector = None if self.embed_latent is None else self.embed_latent(z)
        return self.estimate(x, level, prior, context, vector)

    @torch.no_grad()
    def prepare(self, mel: Tensor) -> dict[str, Tensor]:
        """Say what magnitudes a spectrogram makes expect: ``prior`` (B, T, K-1), and its ``context`` (B, T, n_mels)."""
        bands = bands_on_grid(mel, self.mel, self.stft, mel.shape[-1] + 1)
        prior = bands.magnitude_prior()
        return {"prior": prior[..., :-1], "context": context_of(prior, self.pooling)}


@register
class SoundFrameNet(FrameDenoiser):
    """For sound without a spectrogram, which is expected to have the data's mean spectrum at all times.

    Parameters
    ----------
    stft : Stft
    channels, depth, bands, overlap : int
        As for :class:`FrameDenoiser`.
    classes : int >= 0
        Labels 0 ... classes - 1, with an embedding each and one for none of them; 0 for no labels.

    Raises
    ------
    InputError
        ``bands`` does not divide half the window.
    """

    n_mels, hop_length = 0, 1

    def __init__(
        self,
        stft: Stft,
        channels: int = 96,
        depth: int = 8,
        bands: int | None = None,
        overlap: int = 8,
        classes: int = 0,
    ) -> None:
        super().__init__(stft, 0, channels, depth, bands, overlap)
        self.classes = classes
        self.embed_label = nn.Embedding(classes + 1, LEVEL_CHANNELS) if classes else None
        self.register_buffer("expected", torch.ones(stft.bins - 1))

    expected: Tensor

    @property
    def reach(self) -> int:
        """Samples to either side that a sample of the output may depend on."""
        return self.heard * self.stft.hop_length

    @torch.no_grad()
    def listen(self, wave: Tensor) -> None:
        """Expect the mean spectrum of sound (B, samples), before training."""
        power = self.stft(wave)[..., :-1].abs().square().mean((0, 1))
        self.expected.copy_(power.sqrt().clamp_min(SMALLEST_MAGNITUDE))

    def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
        """Estimate the clean waveform.

        Parameters
        ----------
        x : Tensor, shape (B, 1, samples)
            Noisy waveform.
        level : Tensor, shape (B,)
            Its log-SNR, ln(α²/σ²).
        label : Tensor, shape (B,), int64, for a network that has classes
            Default: ``classes``, none of them.

        Returns
        -------
        Tensor, shape (B, 1, samples)

        Raises
        ------
        InputError
            Shapes do not fit together, or there is a label for a network without.
        """
        self.check_inputs(x, level, None)
        self.check_label(label, x)
        vector = None
        if self.embed_label is not None:
            none = torch.full(x.shape[:1], self.classes, device=x.device)
            vector = self.embed_label(none if label is None else label)
        expected = self.expected.to(torch.promote_types(x.dtype, torch.float32))
        return self.estimate(x, level, expected, None, vector)
