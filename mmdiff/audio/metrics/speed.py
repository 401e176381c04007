"""How fast sound is made."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from torch import Tensor

from mmdiff.audio.metrics.sounds import check_rate
from mmdiff.errors import InputError


def real_time_factor(
    synthesise: Callable[[], Tensor],
    sample_rate: int,
    *,
    repeats: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of computation per second of sound: below 1 is faster than real time.

    Parameters
    ----------
    synthesise : callable
        Makes sound of shape (samples,) or (B, samples); the seconds of all items count. It is called once
        to warm up, then ``repeats`` times.
    sample_rate : int > 0, Hz
        Rate of that sound.
    repeats : int > 0
        Timed calls; the median is taken.
    clock : callable
        Time in seconds.

    Returns
    -------
    float
        Above 0, lower is better.

    Raises
    ------
    InputError
        ``repeats`` or ``sample_rate`` is not positive, or no sound comes out.
    """
    check_rate(sample_rate)
    if repeats < 1:
        raise InputError(f"repeats={repeats} must be at least 1 timed call; 3 is a good number")
    sound = _finished(synthesise())
    seconds = sound.numel() / sample_rate
    times = []
    for _ in range(repeats):
        start = clock()
        _finished(synthesise())
        times.append(clock() - start)
    return float(np.median(times)) / seconds


def _finished(sound: Tensor) -> Tensor:
    """Wait for an accelerator's queue: reading one value of the result does so on every kind of device."""
    if sound.numel() == 0:
        raise InputError(f"synthesise must return sound; got an empty tensor of shape {tuple(sound.shape)}")
    float(sound.reshape(-1)[-1])
    return sound
