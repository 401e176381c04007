"""DiffWave in the sizes of its paper, and small; ``options`` are further arguments of :class:`DiffWave`."""

from __future__ import annotations

from typing import Any

from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.waveform import upsampling_factors


def diffwave_base(n_mels: int = 80, hop_length: int = 256, **options: Any) -> DiffWave:
    """Build the paper's Base vocoder, 64 channels and 30 layers: 2,619,971 parameters (section 5.1).

    It is also the network of the ``diffwave`` package by LMNT, whose checkpoints ``mmdiff convert`` reads.
    """
    return DiffWave(n_mels, 64, 30, 10, _two_factors(hop_length), **options)


def diffwave_large(n_mels: int = 80, hop_length: int = 256, **options: Any) -> DiffWave:
    """Build the paper's Large vocoder, 128 channels and 30 layers: 6,885,315 parameters (section 5.1)."""
    return DiffWave(n_mels, 128, 30, 10, _two_factors(hop_length), **options)


def diffwave_small(n_mels: int = 80, hop_length: int = 256, **options: Any) -> DiffWave:
    """Build a vocoder of 32 channels and 20 layers, 387,011 parameters, for one processor core."""
    return DiffWave(n_mels, 32, 20, 10, _two_factors(hop_length), step_width=128, **options)


def diffwave_sound(classes: int = 0) -> DiffWave:
    """Build the paper's network for sound without a spectrogram: 256 channels, 36 layers, dilations to 2048.

    Section 5.2 has it unconditional and section 5.3 with the ten digits' ``classes``, for a second at 16 kHz.
    """
    return DiffWave(0, 256, 36, 12, classes=classes)


def diffwave_sound_small(classes: int = 0) -> DiffWave:
    """Build a network for sound without a spectrogram on one processor core: 48 channels, dilations as the paper's."""
    return DiffWave(0, 48, 24, 12, classes=classes, step_width=128)


def _two_factors(hop_length: int) -> tuple[int, ...]:
    return upsampling_factors(hop_length, 2)
