"""Pitch and voicing of one voice, and how well they are met."""

from __future__ import annotations

import functools

import librosa
import numpy as np
from torch import Tensor

from mmdiff.audio.metrics.sounds import Sound, pair
from mmdiff.audio.resampling import resample
from mmdiff.media.measures import undefined

PITCH_RATE = 16_000  # Hz
PITCH_RANGE = (60.0, 600.0)  # Hz


def f0_error(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Root-mean-square error of the pitch, over the frames in which :func:`pitch` finds one in both sounds.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Speech or singing, one voice, at least 64 ms.
    sample_rate : int > 0, Hz
        Both sounds' rate.

    Returns
    -------
    float
        Cents (a semitone is 100), 0 or more, lower is better; nan when no frame is voiced in both.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    (f0_x, voiced_x), (f0_y, voiced_y) = (
        pitch(w, sample_rate) for w in pair(reference, estimate, sample_rate)
    )
    both = voiced_x & voiced_y
    if not both.any():
        return undefined("f0_error", "no frame is voiced in both sounds")
    cents = 1200 * np.log2(f0_y[both] / f0_x[both])
    return float(np.sqrt(np.square(cents).mean()))


def voicing_error(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Share of the frames in which :func:`pitch` finds a pitch in one sound and none in the other.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Speech or singing, one voice, at least 64 ms.
    sample_rate : int > 0, Hz
        Both sounds' rate.

    Returns
    -------
    float
        In [0, 1], lower is better; nan when too short.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    (_, voiced_x), (_, voiced_y) = (pitch(w, sample_rate) for w in pair(reference, estimate, sample_rate))
    if voiced_x.size == 0:
        return undefined("voicing_error", "less than 64 ms of sound")
    return float(np.mean(voiced_x != voiced_y))


def pitch(wave: Tensor, sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Track the pitch of one voice by probabilistic YIN (Mauch & Dixon 2014; librosa), every 10 ms at 16 kHz.

    Parameters
    ----------
    wave : Tensor, shape (samples,)
        Sound; resampled to 16 kHz.
    sample_rate : int > 0, Hz
        Its rate.

    Returns
    -------
    f0 : array, shape (frames,), Hz
        In [60, 600] in steps of 10 cents, nan where unvoiced. Empty for less than 64 ms of sound.
    voiced : array of bool, shape (frames,)
        Where a pitch was found.
    """
    wave = resample(wave.detach().to("cpu").double(), sample_rate, PITCH_RATE)
    return _pitch(wave.float().numpy().tobytes())


@functools.lru_cache(maxsize=2)  # the two sounds of a comparison: both pitch measures need both tracks
def _pitch(samples: bytes) -> tuple[np.ndarray, np.ndarray]:
    wave = np.frombuffer(samples, dtype=np.float32)
    window, hop = 1024, PITCH_RATE // 100
    if wave.size < window:
        return np.empty(0), np.empty(0, dtype=bool)
    low, high = PITCH_RANGE
    f0, voiced, _ = librosa.pyin(
        wave, fmin=low, fmax=high, sr=PITCH_RATE, frame_length=window, hop_length=hop
    )
    return f0, voiced
