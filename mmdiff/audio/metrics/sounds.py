"""What all measures share: two sounds that fit together."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmdiff.errors import InputError

Sound: TypeAlias = "Tensor | np.ndarray"
"""Samples of one channel, shape (samples,), floating point."""

FLOOR = 1e-5
"""Least magnitude of which a logarithm is taken: 148 dB under a full-scale sine in 1024 points."""
SLACK_SECONDS = 0.02
"""Lengths may differ by about one frame."""


def pair(reference: Sound, estimate: Sound, sample_rate: int) -> tuple[Tensor, Tensor]:
    """Both sounds as float64 on the host, checked and cut to the shorter one."""
    check_rate(sample_rate)
    x, y = _wave(reference, "reference"), _wave(estimate, "estimate")
    slack = round(SLACK_SECONDS * sample_rate)
    if abs(len(x) - len(y)) > slack:
        raise InputError(
            f"reference has {len(x)} samples and estimate {len(y)}: they must differ by at most {slack} "
            "(20 ms); align and cut them to the same content"
        )
    shorter = min(len(x), len(y))
    return x[:shorter], y[:shorter]


def _wave(sound: Sound, name: str) -> Tensor:
    wave = torch.as_tensor(sound).detach()
    if wave.ndim != 1 or len(wave) == 0:
        raise InputError(
            f"{name} of shape {tuple(wave.shape)} must be (samples,): pass one channel of one sound"
        )
    if not wave.is_floating_point():
        raise InputError(f"{name}.dtype={wave.dtype} must be floating point: divide int16 samples by 32768.0")
    wave = wave.to("cpu").double()  # in this order: some accelerators have no float64
    if not wave.isfinite().all():
        raise InputError(f"{name} must be finite: it has nan or inf samples; find out where they come from")
    return wave


def check_rate(sample_rate: int) -> None:
    """Raise InputError unless the rate is positive."""
    if sample_rate < 1:
        raise InputError(f"sample_rate={sample_rate} must be a positive number of samples per second")


def is_silent(wave: Tensor) -> bool:
    """Tell whether no sample reaches 1e-5, a third of a 16-bit step."""
    return bool(wave.abs().max() < FLOOR)
