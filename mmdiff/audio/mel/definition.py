"""What the numbers of a mel spectrogram mean: transform, filterbank and logarithm, as one value."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdiff.audio.stft import hann
from mmdiff.devices import full_precision
from mmdiff.errors import InputError
from mmdiff.registry import register

LN_10 = math.log(10.0)


@register
@dataclass(frozen=True)
class MelSpec:
    """Everything that turns a waveform into one particular mel spectrogram.

    A mel value is ``gain · ln(max(band, floor)) + offset``, clipped to ``clip``, where ``band`` is the
    filterbank applied to |STFT|^power. ``gain`` and ``offset`` express every logarithm in use: natural
    (1, 0), base ten (1/ln 10, 0), decibels (20/ln 10, 0), normalised decibels.

    Parameters
    ----------
    sample_rate : int, Hz
    n_fft, win_length, hop_length : int, samples
        Transform, Hann window (centred in the transform) and hop.
    n_mels : int
    f_min, f_max : float, Hz
        Edges of the filterbank.
    mel_scale : {"slaney", "htk"}
    norm : {"slaney", None}
        "slaney": triangles of unit area in Hz; None: triangles of unit height.
    power : float
        1 for magnitude, 2 for power spectrograms.
    window_normalised : bool
        Divide the STFT by the window's root sum of squares (torchaudio's ``normalized=True``).
    centred : bool
        True: frame m is centred on sample m·hop. False: the signal is padded by (n_fft − hop)/2 on both sides
        (HiFi-GAN's convention), so that frame m is centred on sample (m + ½)·hop.
    epsilon : float
        Added to re² + im² before the square root (HiFi-GAN's 1e-9).
    gain, offset, floor : float
        The logarithm, see above.
    clip : tuple of float or None
        Range of the stored values.

    Raises
    ------
    InputError
        Sizes, band edges or logarithm make no filterbank; the message names value and rule.
    """

    sample_rate: int = 16_000
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 256
    n_mels: int = 80
    f_min: float = 0.0
    f_max: float = 8000.0
    mel_scale: Literal["slaney", "htk"] = "slaney"
    norm: Literal["slaney"] | None = "slaney"
    power: float = 1.0
    window_normalised: bool = False
    centred: bool = True
    epsilon: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    floor: float = 1e-5
    clip: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise InputError(
                f"f_min={self.f_min}, f_max={self.f_max} must satisfy 0 <= f_min < f_max <= sample_rate/2="
                f"{self.sample_rate / 2}; lower f_max or raise sample_rate"
            )
        if not 0 < self.win_length <= self.n_fft or self.hop_length < 1 or self.n_mels < 1:
            raise InputError(
                f"win_length={self.win_length}, n_fft={self.n_fft}, hop_length={self.hop_length}, "
                f"n_mels={self.n_mels} must be positive, with win_length <= n_fft"
            )
        if self.power not in (1.0, 2.0) or not (0 < self.floor < math.inf and 0 < self.gain < math.inf):
            raise InputError(
                f"power={self.power} must be 1 or 2, floor={self.floor} and gain={self.gain} positive"
            )
        if self.mel_scale not in ("slaney", "htk") or self.norm not in ("slaney", None):
            raise InputError(
                f"mel_scale={self.mel_scale!r} must be slaney or htk, norm={self.norm!r} slaney or None"
            )
        if self.clip is not None:
            object.__setattr__(self, "clip", tuple(self.clip))  # YAML's list could not be hashed
            if len(self.clip) != 2 or not self.clip[0] < self.clip[1]:
                raise InputError(f"clip={self.clip} must be (lowest, highest) with lowest < highest")

    @property
    def window_seconds(self) -> float:
        """Length of the analysis window in seconds."""
        return self.win_length / self.sample_rate

    @property
    def hop_seconds(self) -> float:
        """Time from one frame to the next in seconds."""
        return self.hop_length / self.sample_rate

    @property
    def lowest_value(self) -> float:
        """The value of digital silence: what padding must contain."""
        value = self.gain * math.log(self.floor) + self.offset
        return value if self.clip is None else max(value, self.clip[0])

    @property
    def highest_value(self) -> float:
        """A value that no wave in [-1, 1] exceeds, by Cauchy-Schwarz and Parseval over one frame."""
        return float(self.compress(self._loudest(self.filterbank())))

    @property
    def loudest_frame(self) -> float:
        """A bound on the sum of one frame's bands, linear as :meth:`expand` gives them."""
        return float(self._loudest(self.filterbank().sum(0, keepdim=True)))

    def _loudest(self, filters: Tensor) -> Tensor:
        window = torch.hann_window(self.win_length, dtype=torch.float64)
        energy = (
            self.n_fft * float(window.square().sum()) / self.level() ** 2
        )  # of |STFT|² of a full-scale frame
        if self.power == 2.0:
            return filters.max() * energy
        return (filters.square().sum(1).max() * energy).sqrt()

    def frames(self, samples: int) -> int:
        """Count the frames that a wave of ``samples`` samples gives."""
        length = samples + 2 * self.padding
        return (length - self.n_fft) // self.hop_length + 1

    def samples(self, frames: int) -> int:
        """Count the samples that ``frames`` stand for: first to last centre, or whole hops if not centred."""
        return (frames - 1 if self.centred else frames) * self.hop_length

    def frame_seconds(self, frames: int, device: torch.device | str = "cpu") -> Tensor:
        """Centre of each frame in seconds; shape (frames,), float64."""
        first = 0.0 if self.centred else 0.5
        return (torch.arange(frames, device=device, dtype=torch.float64) + first) * self.hop_seconds

    def __call__(self, wave: Tensor) -> Tensor:
        """Analyse sound.

        Parameters
        ----------
        wave : Tensor, shape (B, samples), in [-1, 1]
            At ``sample_rate``; resampling is the caller's business.

        Returns
        -------
        Tensor, shape (B, n_mels, frames)
            Of the wave's dtype.

        Raises
        ------
        InputError
            The wave is not a batch of floating-point sounds, or too short for a definition without centring.
        """
        if wave.dim() != 2 or not wave.is_floating_point():
            raise InputError(
                f"wave of shape {tuple(wave.shape)}, {wave.dtype} must be floating point and (B, samples)"
                "; mix channels down and scale integers to [-1, 1] first"
            )
        with full_precision(wave.device):
            bands = self.filterbank(wave.device).to(wave.dtype) @ self.spectrogram(wave)
        return self.compress(bands)

    @property
    def padding(self) -> int:
        """Samples added on either side of the sound."""
        return self.n_fft // 2 if self.centred else (self.n_fft - self.hop_length) // 2

    def spectrogram(self, wave: Tensor) -> Tensor:
        """|STFT|^power of the definition; shape (B, n_fft/2 + 1, frames)."""
        pad = self.padding
        mode = "reflect" if wave.shape[-1] > pad else "constant"
        padded = F.pad(wave[:, None], (pad, pad), mode=mode)[:, 0]
        if padded.shape[-1] < self.n_fft:
            raise InputError(
                f"samples={wave.shape[-1]} is too short for n_fft={self.n_fft} without centring; "
                f"give at least {self.n_fft - 2 * pad} samples"
            )
        window = hann(self.win_length, wave.device, wave.dtype)
        left = (self.n_fft - self.win_length) // 2
        window = F.pad(window, (left, self.n_fft - self.win_length - left))
        frames = padded.unfold(-1, self.n_fft, self.hop_length) * window
        spectrum = torch.fft.rfft(frames).transpose(1, 2)
        if self.window_normalised:
            spectrum = spectrum / window.square().sum().sqrt()
        if self.epsilon:
            magnitude = (spectrum.real.square() + spectrum.imag.square() + self.epsilon).sqrt()
        else:
            magnitude = spectrum.abs()
        return magnitude if self.power == 1.0 else magnitude.square()

    def filterbank(self, device: torch.device | str = "cpu") -> Tensor:
        """Triangular filters; shape (n_mels, n_fft/2 + 1), float32."""
        return _filterbank(self, torch.device(device))

    def compress(self, bands: Tensor) -> Tensor:
        """Band values (linear, >= 0) to mel values."""
        mel = self.gain * torch.log(bands.clamp_min(self.floor)) + self.offset
        return mel if self.clip is None else mel.clamp(*self.clip)

    def expand(self, mel: Tensor) -> Tensor:
        """Mel values back to band values; the inverse of :meth:`compress` above the floor."""
        return torch.exp((mel - self.offset) / self.gain)

    def level(self) -> float:
        """Factor that takes this definition's |STFT| to the plain, unnormalised |STFT|."""
        return math.sqrt(3 / 8 * self.win_length) if self.window_normalised else 1.0

    def filters_at(self, frequencies: Tensor) -> Tensor:
        """Evaluate the same filters at other ``frequencies`` (K,) in Hz; shape (n_mels, K), float32.

        Needed to apply a definition made for one sampling rate on the frequency grid of another.
        """
        edges = _band_edges(self).to(frequencies.device)
        rising = (frequencies[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
        falling = (edges[2:, None] - frequencies[None]) / (edges[2:] - edges[1:-1])[:, None]
        filters = torch.minimum(rising, falling).clamp_min(0)
        if self.norm == "slaney":
            filters = filters * (2.0 / (edges[2:] - edges[:-2]))[:, None]
        return filters.float()


@functools.lru_cache(maxsize=64)
def _band_edges(spec: MelSpec) -> Tensor:
    """Corner frequencies of the triangles in Hz; shape (n_mels + 2,), float64."""
    htk = spec.mel_scale == "htk"
    edges = librosa.mel_frequencies(spec.n_mels + 2, fmin=spec.f_min, fmax=spec.f_max, htk=htk)
    return torch.from_numpy(np.asarray(edges, dtype=np.float64))


def band_centres(spec: MelSpec) -> tuple[Tensor, Tensor]:
    """Peaks and base widths of the triangles in Hz; shape (n_mels,) each, float64."""
    edges = _band_edges(spec)
    return edges[1:-1], edges[2:] - edges[:-2]


@functools.lru_cache(maxsize=64)
def _filterbank(spec: MelSpec, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the cached tensor must also serve training
        frequencies = torch.arange(spec.n_fft // 2 + 1, dtype=torch.float64) * (spec.sample_rate / spec.n_fft)
        return spec.filters_at(frequencies).to(device)
