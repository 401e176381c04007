"""Short-time Fourier transform with frames last-but-one: (B, T, K), so that no transform is transposed.

``torch.stft`` returns bins before frames and ``torch.istft`` recomputes its window envelope at every call.
Phase reconstruction calls the pair dozens of times per utterance; here the overlap-add is a handful of
shifted sums (the hop divides the window) and the envelope is computed once per length.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from mmdiff.errors import InputError
from mmdiff.registry import register


@functools.lru_cache(maxsize=32)
def hann(length: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Periodic Hann window, cached per device; shape (length,)."""
    with torch.inference_mode(False):  # the cached tensor must also serve training
        return torch.hann_window(length, device=device, dtype=dtype)


@register
@dataclass(frozen=True)
class Stft:
    """The grid of a spectral model: a centred, reflect-padded Hann STFT and its least-squares inverse.

    Parameters
    ----------
    sample_rate : int > 0, Hz
    n_fft : int > 0, samples
        Length of window and transform; 64 ms at 16 kHz for 1024.
    hop_length : int > 0, samples
        Must divide ``n_fft`` at least twice.

    Raises
    ------
    InputError
        ``hop_length`` does not divide ``n_fft``.
    """

    sample_rate: int = 16_000
    n_fft: int = 1024
    hop_length: int = 256

    def __post_init__(self) -> None:
        if self.hop_length < 1 or self.n_fft % self.hop_length or self.n_fft < 2 * self.hop_length:
            raise InputError(
                f"hop_length={self.hop_length} must divide n_fft={self.n_fft} at least twice; try n_fft // 4"
            )

    @property
    def bins(self) -> int:
        """Number of frequency bins, n_fft / 2 + 1."""
        return self.n_fft // 2 + 1

    def frequencies(self, device: torch.device | str = "cpu") -> Tensor:
        """Centre frequency of each bin in Hz; shape (bins,), float64."""
        return torch.arange(self.bins, device=device, dtype=torch.float64) * (self.sample_rate / self.n_fft)

    def frames(self, samples: int) -> int:
        """Frames that cover ``samples``: one every hop, the first centred on sample 0."""
        return samples // self.hop_length + 1

    def __call__(self, wave: Tensor) -> Tensor:
        """Transform a waveform.

        Parameters
        ----------
        wave : Tensor, shape (B, samples)
            More than ``n_fft // 2`` samples are reflected at both ends; shorter input is padded with zeros.

        Returns
        -------
        Tensor, shape (B, T, K), complex
            ``T = samples // hop_length + 1``; frame m is centred on sample ``m * hop_length``.
        """
        half = self.n_fft // 2
        mode = "reflect" if wave.shape[-1] > half else "constant"
        padded = F.pad(wave[:, None], (half, half), mode=mode)[:, 0]
        return transform(padded, self)

    def inverse(self, spectrum: Tensor, samples: int) -> Tensor:
        """Least-squares inverse (Griffin & Lim 1984, eq. 6) of a possibly inconsistent spectrum.

        Parameters
        ----------
        spectrum : Tensor, shape (B, T, K), complex
        samples : int
            Length of the result; at most ``T * hop_length``.

        Returns
        -------
        Tensor, shape (B, samples), real
        """
        half = self.n_fft // 2
        return synthesise(spectrum, self)[:, half : half + samples]

    def overlap_add(self, frames: Tensor) -> Tensor:
        """Add frames (B, T, n_fft) up at their places: shape (B, (T - 1) hop + n_fft)."""
        batch, count, _ = frames.shape
        hop, parts = self.hop_length, self.n_fft // self.hop_length
        total = frames.new_zeros(batch, count + parts - 1, hop)
        for i, piece in enumerate(frames.reshape(batch, count, parts, hop).unbind(2)):
            total[:, i : i + count] += piece  # in place: sums of padded pieces take three times as long
        return total.reshape(batch, -1)


def transform(padded: Tensor, stft: Stft) -> Tensor:
    """Spectra (B, T, K) of the frames of a padded waveform; a torch function mode may put another in its place."""
    if has_torch_function_unary(padded):
        return handle_torch_function(transform, (padded,), padded, stft)
    frames = padded.unfold(-1, stft.n_fft, stft.hop_length)
    return torch.fft.rfft(frames * hann(stft.n_fft, padded.device, padded.dtype))


def synthesise(spectrum: Tensor, stft: Stft) -> Tensor:
    """Padded waveform of spectra (B, T, K), the inverse of :func:`transform`; replaceable in the same way."""
    if has_torch_function_unary(spectrum):
        return handle_torch_function(synthesise, (spectrum,), spectrum, stft)
    kind = (spectrum.device, spectrum.real.dtype)
    frames = torch.fft.irfft(spectrum, n=stft.n_fft)
    frames *= hann(stft.n_fft, *kind)
    wave = stft.overlap_add(frames)
    # a length that is not known while a graph is traced cannot be looked up
    envelope = _envelope if torch.compiler.is_compiling() else _cached_envelope
    return wave * envelope(stft, spectrum.shape[1], *kind)


def _envelope(stft: Stft, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """1 / sum of squared windows, by which overlap-added frames are rescaled; shape (samples,)."""
    squared = hann(stft.n_fft, device, dtype).square().expand(1, count, -1)
    return stft.overlap_add(squared)[0].clamp_min(1e-8).reciprocal()


@functools.lru_cache(maxsize=64)
def _cached_envelope(stft: Stft, count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # the cached tensor must also serve training
        return _envelope(stft, count, device, dtype)
