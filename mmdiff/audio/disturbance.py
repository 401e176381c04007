"""How disturbed a copy of a sound is heard to be: PESQ's model of hearing as a loss with gradients."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmdiff.audio.stft import Stft
from mmdiff.devices import full_precision

# ITU-T P.862, wideband: bands by their widths in bins of 31.25 Hz, and the power in dB from which each is heard.
# fmt: off
_WIDTHS = (
    1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2,
    3, 3, 3, 3, 4, 3, 4, 5, 4, 5, 6, 6, 7, 8, 9, 9, 12, 12, 15, 16, 18, 21, 25, 20,
)
_THRESHOLDS = (
    77.1, 63.9, 48.5, 36.9, 30.7, 25.9, 20.2, 16.6, 12.5, 9.9, 6.9, 4.9, 2.8, 1.0, -0.1, -1.4, -2.5, -3.5, -4.1,
    -4.8, -5.3, -5.7, -5.9, -6.0, -6.0, -6.0, -6.0, -5.8, -5.4, -5.1, -4.7, -4.3, -4.0, -3.6, -3.3, -3.1, -3.0,
    -3.0, -2.9, -2.8, -2.8, -2.8, -2.9, -3.2, -3.7, -4.3, -4.4, -3.8, -2.7,
)
# fmt: on
_BIN = 31.25
_NARROWEST, _WIDEST = 0.318, 0.585  # Bark, of the second and the last band; between them widths grow evenly
_SPEECH = (325.0, 3250.0)  # Hz: where levels are measured
_LEVEL = 3.4e6  # power of that range in a frame, on the scale of the thresholds
_SMALLEST = 1e-5  # mean square (-50 dB of full scale) below which sound is not made louder
_HIGH_PASS = ((2.740826, -5.4816519, 2.740826), (1.0, -1.9444777, 0.94597794))  # of P.862.2, at 16 kHz
_SECTION, _SECTION_HOP = 20, 10  # frames: a third of a second, and half of that


class DisturbanceLoss(nn.Module):
    """How much worse a sound is heard to be than its reference, as PESQ's model of hearing has it.

    The model of ITU-T P.862 with the input filter of P.862.2, up to the map to a mean opinion score: both sounds
    at one level, 32 ms frames, power in bands of half a Bark, slow changes of gain forgiven, loudness in sone by
    Zwicker's law, differences below a quarter of the softer loudness not heard, what is added weighing more than what
    is missing, and the worst frames of each third of a second counting most.

    Not as in the standard: sounds are not aligned in time, the reference is not equalised, both are played at the
    reference's level, gain follows by two frames instead of by a recursion, sections count alike however long the
    sound, and the frames of a section are averaged with the power ``emphasis`` = 4 instead of 6, since otherwise single
    frames make most of the gradient.

    Parameters
    ----------
    sample_rate : int, Hz
        At least 16 kHz for all bands; others are left out.
    emphasis : float >= 1
        6 follows PESQ most closely.
    """

    filters: Tensor
    threshold: Tensor
    widths: Tensor
    exponents: Tensor
    speech: Tensor

    def __init__(self, sample_rate: int, emphasis: float = 4.0) -> None:
        super().__init__()
        self.emphasis = emphasis
        length = 2 * round(0.016 * sample_rate)
        self.stft = Stft(sample_rate, length, length // 2)
        frequencies = self.stft.frequencies()
        edges = (torch.tensor((0, *_WIDTHS), dtype=torch.float64).cumsum(0) - 0.5) * _BIN
        filters = _overlaps(frequencies, edges) * (sample_rate / length / _BIN)
        # densities: the band's mean power times the Hz that a Bark has there (Zwicker & Terhardt 1980)
        kilohertz = (edges[1:] + edges[:-1]).clamp_min(0) / 2000
        hertz = 25 + 75 * (1 + 1.4 * kilohertz.square()) ** 0.69
        filters = filters * (hertz / torch.tensor(_WIDTHS)) * _high_pass(frequencies)[:, None]
        filters[0] = 0
        growth = (_WIDEST / _NARROWEST) ** (1 / (len(_WIDTHS) - 2))
        widths = _NARROWEST * growth ** torch.arange(-1.0, len(_WIDTHS) - 1)
        widths[0] = _NARROWEST / 2
        bark = widths.cumsum(0) - widths / 2
        used = slice(1, None)  # the first band is below 16 Hz
        self.register_buffer("filters", filters[:, used].float(), persistent=False)
        self.register_buffer("threshold", 10 ** (torch.tensor(_THRESHOLDS[used]) / 10), persistent=False)
        self.register_buffer("widths", widths[used], persistent=False)
        self.register_buffer("exponents", 0.23 * (6 / (bark[used] + 2)).clamp(1, 2) ** 0.15, persistent=False)
        inside = (frequencies >= _SPEECH[0]) & (frequencies <= _SPEECH[1])
        self.register_buffer("speech", inside.float(), persistent=False)

    def bands(self, spectrum: Tensor, gain: Tensor) -> Tensor:
        """Power (B, T, bands), on the scale of the thresholds, of spectra (B, T, K) times ``gain`` (B, 1, 1)."""
        with full_precision(spectrum.device):
            return (_power(spectrum) * gain) @ self.filters

    def loudness(self, power: Tensor) -> Tensor:
        """Loudness in sone per Bark of the power in bands (Zwicker's law); none below the threshold."""
        law = (0.5 + 0.5 * power / self.threshold) ** self.exponents - 1
        return 0.1866 * (2 * self.threshold) ** self.exponents * law.clamp_min(0)

    def forward(self, estimate: Tensor, reference: Tensor) -> Tensor:
        """Disturbance of waveforms (B, samples), averaged over the batch; a scalar, about MOS lost before the map."""
        spectra = self.stft(estimate), self.stft(reference)
        with full_precision(estimate.device):
            level = (_power(spectra[1]) @ self.speech).mean(1)[:, None, None]
        quietest = (
            _SMALLEST * self.stft.n_fft**2 * 3 / 16
        )  # frames of a Hann window, one side of the spectrum
        ours, theirs = (self.bands(spectrum, _LEVEL / level.clamp_min(quietest)) for spectrum in spectra)
        audible = self._audible(theirs)
        ours = ours * _slow_gain(audible, self._audible(ours))[..., None]
        heard = self._heard(ours, theirs)
        ratio = ((ours + 50) / (theirs + 50)) ** 1.2
        added = torch.where(ratio < 3, 0.0, ratio.clamp_max(12))
        symmetric = (self.widths.sum() * (self.widths * heard).square().sum(-1) + 1e-8).sqrt()
        asymmetric = (added * self.widths * heard).sum(-1)
        loud = ((audible + 1e5) / 1e7) ** 0.04
        per_frame = torch.stack([symmetric, asymmetric]) / loud
        one, other = self._over_time(per_frame.clamp_max(45)).mean(1)
        return 0.1 * one + 0.0309 * other

    def _audible(self, power: Tensor) -> Tensor:
        """Power of a frame (B, T) in the bands where it is heard."""
        return torch.where(power > self.threshold, power, 0.0).sum(-1)

    def _heard(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Difference in loudness of two powers beyond a quarter of the softer."""
        louder, softer = self.loudness(ours), self.loudness(theirs)
        return ((louder - softer).abs() - 0.25 * torch.minimum(louder, softer)).clamp_min(0)

    def _over_time(self, frames: Tensor) -> Tensor:
        """Average what is heard in frames (..., T): the worst of sections, sections by root mean square."""
        missing = _SECTION - _SECTION_HOP + -frames.shape[-1] % _SECTION_HOP  # the last sections are shorter
        padded = (
            nn.functional.pad(x, (0, missing)) for x in (frames**self.emphasis, torch.ones_like(frames))
        )
        summed, count = (x.unfold(-1, _SECTION, _SECTION_HOP).sum(-1) for x in padded)
        worst = (summed / count + 1e-12) ** (1 / self.emphasis)
        return worst.square().mean(-1).sqrt()


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _slow_gain(theirs: Tensor, ours: Tensor) -> Tensor:
    """Gain (B, T) that brings frames to the reference's audible power, a little behind."""
    ratio = (theirs + 5e3) / (ours + 5e3)
    smooth = torch.cat([ratio[:, :1], 0.8 * ratio[:, 1:] + 0.2 * ratio[:, :-1]], 1)
    return smooth.clamp(3e-4, 5)


def _high_pass(frequencies: Tensor) -> Tensor:
    """Gain of power (K,) by which P.862.2 leaves out what is below about 100 Hz."""
    turn = torch.polar(torch.ones_like(frequencies), -2 * math.pi * frequencies / 16_000)
    above, below = (sum(c * turn**i for i, c in enumerate(taps)) for taps in _HIGH_PASS)
    return (above / below).abs().square()  # type: ignore[union-attr]


def _overlaps(frequencies: Tensor, edges: Tensor) -> Tensor:
    """Share of every bin, as wide as bins are apart, that lies between two edges in Hz: (K, edges - 1)."""
    width = frequencies[1] - frequencies[0]
    upper = torch.minimum(frequencies[:, None] + width / 2, edges[1:])
    return (upper - torch.maximum(frequencies[:, None] - width / 2, edges[:-1])).clamp_min(0) / width
