"""Distances between spectrograms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.metrics.sounds import FLOOR, Sound, pair
from mmdiff.media.measures import undefined

CEPSTRA = 24
RESOLUTIONS = (
    (512, 50, 240),
    (1024, 120, 600),
    (2048, 240, 1200),
)  # (n_fft, hop, window), 1910.11480 table 1


def log_mel_l1(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Mean absolute difference of the natural log mel spectrograms.

    80 Slaney bands from 0 to half the sample rate, over magnitudes of 1024-sample periodic Hann windows every
    256 samples (centred, ends reflected), floored at 1e-5.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Sound, at least 1024 samples.
    sample_rate : int > 0, Hz
        Both sounds' rate; 16 kHz makes it the definition "mmdiff-16k" of :mod:`mmdiff.audio.mel`.

    Returns
    -------
    float
        Nepers (8.69 dB), 0 or more, lower is better; nan when too short.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    x, y = pair(reference, estimate, sample_rate)
    if len(x) < 1024:
        return undefined("log_mel_l1", "fewer than 1024 samples")
    return float((_log_mel(x, sample_rate) - _log_mel(y, sample_rate)).abs().mean())


def mel_cepstral_distortion(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Distance of the spectral envelopes (Kubichek 1993), without alignment in time.

    ``10/ln 10 · √(2 Σₘ (cₘ − ĉₘ)²)`` over m = 1...24, averaged over frames, where c are the cosine
    coefficients of the log mel spectrogram of :func:`log_mel_l1`, scaled so that ``ln|mel| = Σ cₘ cos(m ω)``.
    It is then the root-mean-square difference of two smooth log spectra in dB. c₀, the loudness, is left out.
    Values depend on how cepstra are made: compare only with values of this function.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Sound, at least 1024 samples.
    sample_rate : int > 0, Hz
        Both sounds' rate; the mel bands reach to half of it.

    Returns
    -------
    float
        dB, 0 or more, lower is better; nan when too short.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    x, y = pair(reference, estimate, sample_rate)
    if len(x) < 1024:
        return undefined("mcd", "fewer than 1024 samples")
    difference = mel_cepstra(x, sample_rate) - mel_cepstra(y, sample_rate)
    return float((10 / math.log(10) * difference.square().sum(0).mul(2).sqrt()).mean())


def mel_cepstra(wave: Tensor, sample_rate: int, count: int = CEPSTRA) -> Tensor:
    """Cosine coefficients 1...count of the natural log mel spectrogram of :func:`log_mel_l1`.

    Returns
    -------
    Tensor, shape (count, frames), float64
        ``cₘ = 2/N Σₙ ln|melₙ| cos(π m (n + ½) / N)`` for N = 80 bands.
    """
    log_mel = _log_mel(wave, sample_rate).double()
    bands = len(log_mel)
    angles = math.pi / bands * (torch.arange(bands, dtype=torch.float64) + 0.5)
    cosines = torch.cos(torch.arange(1, count + 1, dtype=torch.float64)[:, None] * angles)
    return 2 / bands * cosines @ log_mel


def log_spectral_distance(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Root-mean-square difference over frequency of the log magnitude spectra, averaged over frames.

    Spectra of 1024-sample Hann windows every 256 samples, magnitudes floored at 1e-5. A gain of g dB
    is at the distance of g without its sign. Pauses count as much as speech: digital silence is far from
    faint noise.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Sound, at least 1024 samples.
    sample_rate : int > 0, Hz
        Both sounds' rate.

    Returns
    -------
    float
        dB, 0 or more, lower is better; nan when too short.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    x, y = pair(reference, estimate, sample_rate)
    if len(x) < 1024:
        return undefined("lsd", "fewer than 1024 samples")
    decibels = [20 * _magnitude(w, 1024, 256, 1024).clamp_min(FLOOR).log10() for w in (x, y)]
    return float((decibels[0] - decibels[1]).square().mean(0).sqrt().mean())


def multi_resolution_stft(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Spectral convergence plus log magnitude error over three resolutions (1910.11480, eq. 4-6).

    The mean over (512, 50, 240), (1024, 120, 600) and (2048, 240, 1200) samples of transform, hop and
    Hann window of ``‖|X|−|Y|‖ / ‖|X|‖ + mean |ln|X| − ln|Y||``, magnitudes floored at 1e-5 in the logarithm.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Sound, at least 2048 samples.
    sample_rate : int > 0, Hz
        Not used: the resolutions are in samples, as in the paper (24 kHz).

    Returns
    -------
    float
        0 or more, lower is better; nan when too short, or the reference is silent.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    x, y = pair(reference, estimate, sample_rate)
    if len(x) < 2048:
        return undefined("mr_stft", "fewer than 2048 samples")
    if not x.any():
        return undefined("mr_stft", "the reference is silent")
    total = 0.0
    for resolution in RESOLUTIONS:
        a, b = _magnitude(x, *resolution), _magnitude(y, *resolution)
        convergence = torch.linalg.norm(a - b) / torch.linalg.norm(a)
        logarithmic = (a.clamp_min(FLOOR).log() - b.clamp_min(FLOOR).log()).abs().mean()
        total += float(convergence + logarithmic)
    return total / len(RESOLUTIONS)


def _magnitude(wave: Tensor, n_fft: int, hop: int, window: int) -> Tensor:
    """|STFT|, centred and reflected at the ends; shape (n_fft/2 + 1, frames)."""
    taper = torch.hann_window(window, dtype=wave.dtype)
    return torch.stft(wave, n_fft, hop, window, taper, return_complex=True).abs()


def _log_mel(wave: Tensor, sample_rate: int) -> Tensor:
    spec = MelSpec(sample_rate=sample_rate, f_max=sample_rate / 2)
    return spec(wave[None].float())[0]
