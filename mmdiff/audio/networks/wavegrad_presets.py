"""WaveGrad in the sizes of its paper, of the lmnt implementation, and small."""

from __future__ import annotations

from mmdiff.audio.networks.waveform import upsampling_factors
from mmdiff.audio.networks.wavegrad import NARROW, WIDE, WaveGrad


def wavegrad_base(n_mels: int = 128) -> WaveGrad:
    """Build the paper's WaveGrad Base for hop 300 (24 kHz): 15.9 M parameters with 128 bands.

    The paper says 15 M and does not tell the size of every layer; what it leaves open follows the lmnt
    implementation, whose weights have the same shapes.
    """
    return WaveGrad(n_mels)


def wavegrad_large(n_mels: int = 128) -> WaveGrad:
    """Build the paper's WaveGrad Large for hop 300 (24 kHz): 23.4 M parameters with 128 bands.

    The paper doubles the blocks, the second without a change of resolution, uses dilations 1, 2, 4, 8
    throughout, and gives 23 M parameters. Doubling the ``up`` blocks meets that count; doubling the
    ``down`` blocks as well (``WaveGrad(..., down_repeats=2)``) would make 26.6 M.
    """
    return WaveGrad(n_mels, dilations=(WIDE,) * 5, up_repeats=2)


def wavegrad_lmnt(n_mels: int = 128) -> WaveGrad:
    """Build the network of the ``wavegrad`` package by LMNT (hop 300, 22.05 kHz): 15,920,993 parameters.

    Its dilations are in the opposite order to the paper's, it drops samples where the paper uses
    strides, and it does not scale the noise level. ``mmdiff convert`` reads its checkpoints.
    """
    dilations = (NARROW, NARROW, WIDE, WIDE, WIDE)
    return WaveGrad(n_mels, dilations=dilations, strided=False, level_scale=1.0)


def wavegrad_small(n_mels: int = 80, hop_length: int = 256) -> WaveGrad:
    """Build a WaveGrad of 1.2 M parameters (1,222,577 by default), for one processor core or a small dataset.

    Parameters
    ----------
    n_mels : int > 0
        Bands of the spectrogram.
    hop_length : int > 1
        Samples per frame; split into five factors or fewer by :func:`upsampling_factors`.
    """
    factors = upsampling_factors(hop_length)
    levels = len(factors)
    return WaveGrad(
        n_mels,
        factors,
        up_channels=(160, 128, 64, 48, 32)[-levels:],
        down_channels=(32, 48, 64, 128)[: levels - 1],
        dilations=(WIDE, WIDE, WIDE, NARROW, NARROW)[:levels],
        mel_channels=192,
        wave_channels=16,
    )
