"""How loud a recording is to a listener (ITU-R BS.1770-4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Biquads of the K-weighting at 48 kHz, tables 1 and 2 of the recommendation: (b0, b1, b2), (a0, a1, a2).
_HEAD = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_RATE = 48_000
_OFFSET = -0.691  # LUFS; makes a 997 Hz sine at full scale read -3.01
_BLOCK, _HOP = 0.4, 0.1  # seconds
_ABSOLUTE_GATE, _RELATIVE_GATE = -70.0, -10.0  # LUFS, LU
SILENCE = -math.inf


def loudness(wave: Tensor, sample_rate: int) -> float:
    """Measure the gated loudness of mono sound.

    The frequency weighting is applied by Fourier transform with the response the recommendation's filters
    have at 48 kHz, so it means the same at every sample rate. Clips under 0.4 s are measured as one block.

    Parameters
    ----------
    wave : Tensor, shape (samples,)
        The sound, in [-1, 1].
    sample_rate : int, Hz
        Its rate.

    Returns
    -------
    float, LUFS
        About -23 for broadcasts, -16 for podcasts; minus infinity for silence (all below -70).
    """
    count = wave.shape[-1]
    size = 1 << max(count + sample_rate // 10, 1).bit_length()  # room for the filters to ring out
    spectrum = torch.fft.rfft(wave.float(), size) * _weighting(size, sample_rate, wave.device)
    power = torch.fft.irfft(spectrum, size)[:count].double().square()
    block, hop = min(round(_BLOCK * sample_rate), count), round(_HOP * sample_rate)
    sums = torch.nn.functional.pad(power.cumsum(0), (1, 0))
    starts = torch.arange(0, count - block + 1, hop, device=wave.device)
    means = (sums[starts + block] - sums[starts]) / block
    audible = means[means > 10 ** ((_ABSOLUTE_GATE - _OFFSET) / 10)]
    if not len(audible):
        return SILENCE
    kept = audible[audible > audible.mean() * 10 ** (_RELATIVE_GATE / 10)]
    return _OFFSET + 10 * math.log10(float(kept.mean()))


def _weighting(size: int, sample_rate: int, device: torch.device) -> Tensor:
    """Return |H| of both filters on the grid of a real transform of ``size`` samples."""
    frequency = torch.fft.rfftfreq(size, 1 / sample_rate, device=device).double()
    turn = torch.exp(-2j * math.pi * frequency.clamp(max=_RATE / 2) / _RATE)
    gain = torch.ones_like(frequency)
    for over, under in (_HEAD, _HIGH_PASS):
        gain = gain * (_polynomial(over, turn) / _polynomial(under, turn)).abs()
    return gain.float()


def _polynomial(coefficients: tuple[float, float, float], z: Tensor) -> Tensor:
    constant, linear, square = coefficients
    return constant + linear * z + square * z * z
