"""A prior with the spectrum of the sound that it becomes, after SpecGrad (Koizumi et al. 2022, arXiv:2203.16749)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.audio.lapped import LappedTransform
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.prior import bands_on_grid
from mmdiff.audio.stft import Stft, hann
from mmdiff.devices import full_precision
from mmdiff.diffusion.process import Prior
from mmdiff.errors import InputError
from mmdiff.registry import register

_SPREAD = 4  # of the transform's frequencies, to either side
_LEAK = 0.03  # share of the power around


@register
@dataclass(frozen=True)
class SpectralPrior:
    """Noise that has the spectrum which a mel spectrogram makes expect, at each time and frequency.

    The paper shapes noise by a filter of its short-time spectrum, which can be undone only roughly. Here the deviations
    are those of an orthonormal transform's coefficients (:class:`~mmdiff.audio.lapped.LappedTransform`): the chain on
    whitened sound is exactly the one on the sound itself, and its network sees and says what is as large at all
    frequencies. Where the bands are narrow and reach up to half the sampling rate, whitened sound has a standard
    deviation of about 1 / ``gain``: the ``sigma_data`` of such a model.

    Parameters
    ----------
    gain : float > 0
        How many times louder noise is than the sound that is expected. With 10 it is as loud beside speech as
        standard normal noise, for which the papers' tables are made.
    floor : float > 0
        Smallest standard deviation over ``gain``; 1e-5 is a third of a 16-bit step.

    Raises
    ------
    InputError
        A number is out of range.
    """

    gain: float = 10.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("gain", "floor"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"{name}={getattr(self, name)} must be above 0 and finite")

    def __call__(self, mel: Tensor, spec: MelSpec) -> Prior:
        """Prior of the waveform of a spectrogram.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames)
        spec : MelSpec
            Definition of ``mel``.

        Returns
        -------
        Prior
            Of sound (B, 1, frames * hop), with mean 0, of the transform's coefficients (B, 1, frames, hop).
        """
        hop = spec.hop_length
        stft = Stft(spec.sample_rate, 4 * hop, hop)  # every other bin is at a frequency of the transform's
        with full_precision(mel.device):
            bands = bands_on_grid(mel, spec, stft, mel.shape[-1] + 1)
            power = bands.magnitude_prior()[:, None, :, 1::2].square()
            power = (power[:, :, 1:] + power[:, :, :-1]) / 2  # a block lies between two frames
            window = hann(stft.n_fft, power.device, power.dtype).square().sum()
            std = (_with_leaks(power) / window).sqrt().clamp_min(self.floor)
        return Prior(torch.zeros((), device=mel.device), self.gain * std, LappedTransform(hop))


def _with_leaks(power: Tensor) -> Tensor:
    """Add to power (B, 1, T, K) what leaks between harmonics: a share of that in a triangle of frequencies."""
    padded = functional.pad(power.flatten(1, 2), (_SPREAD, _SPREAD), mode="replicate")
    for _ in range(2):
        padded = functional.avg_pool1d(padded, _SPREAD + 1, 1)
    return power.lerp(padded.view_as(power), _LEAK)
