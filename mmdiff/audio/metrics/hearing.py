"""Listening quality and intelligibility as models of hearing predict them, and waveform fidelity."""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from mmdiff.audio.metrics.sounds import Sound, is_silent, pair
from mmdiff.audio.resampling import resample
from mmdiff.errors import InputError
from mmdiff.media.measures import undefined

# The package writes past its tables at more than 50 utterances: first wrong scores, then a crash of the
# process (ludlows/PESQ issues 18 and 30). 15 s cannot hold as many.
PESQ_SAMPLES = 15 * 16_000


def pesq(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Predict the listening quality of speech (wide-band PESQ, ITU-T P.862.2; package ``pesq``).

    PESQ is made for 8 to 12 s; sound over 15 s is cut into equal parts, whose scores are averaged,
    leaving out parts without speech.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,), in [-1, 1]
        Speech, at least 0.25 s.
    sample_rate : int > 0, Hz
        PESQ-wb is defined at 16 kHz: other rates are resampled to it, so nothing above 8 kHz counts.

    Returns
    -------
    float
        Mean opinion score in [1.04, 4.64], higher is better; nan when too short or without speech.

    Raises
    ------
    InputError
        The package is missing, or the sounds do not fit together.
    """
    package = needed_package("pesq")
    x, y = (resample(w, sample_rate, 16_000) for w in pair(reference, estimate, sample_rate))
    parts = math.ceil(len(x) / PESQ_SAMPLES)
    scores = [_pesq(package, a, b) for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True)]
    heard = [score for score in scores if score is not None]
    if not heard:
        return undefined("pesq", "no speech found, or less than 0.25 s of sound")
    return sum(heard) / len(heard)


def _pesq(package: Any, reference: Tensor, estimate: Tensor) -> float | None:
    if is_silent(reference) or is_silent(estimate):
        return None
    try:
        return float(package.pesq(16_000, reference.numpy(), estimate.numpy(), "wb"))
    except (package.BufferTooShortError, package.NoUtterancesError):
        return None


def stoi(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Predict the intelligibility of speech (STOI, Taal et al. 2011; package ``pystoi``).

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Speech, at least 0.4 s of it louder than 40 dB under the loudest.
    sample_rate : int > 0, Hz
        STOI is defined at 10 kHz: the package resamples to it.

    Returns
    -------
    float
        A correlation, in practice in [0, 1], higher is better; nan when too short or silent.

    Raises
    ------
    InputError
        The package is missing, or the sounds do not fit together.
    """
    package = needed_package("pystoi")
    x, y = pair(reference, estimate, sample_rate)
    if is_silent(x) or is_silent(y):
        return undefined("stoi", "one of the sounds is silent")
    if len(x) < 0.4 * sample_rate:
        return undefined("stoi", "less than 0.4 s of sound")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # its warning is about the value tested below
        score = float(package.stoi(x.numpy(), y.numpy(), sample_rate))
    # The package's sign of fewer than 30 frames that are not pauses.
    return undefined("stoi", "less than 0.4 s without the pauses") if score == 1e-5 else score


def si_sdr(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 1811.02508, eq. 1), means not removed.

    It compares waveforms: a vocoder that is free to choose the phase scores low however good it sounds.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,)
        Sound.
    sample_rate : int > 0, Hz
        Both sounds' rate; only used to compare their lengths.

    Returns
    -------
    float
        dB, higher is better; ±inf are possible (proportional, orthogonal); nan when one is silent.

    Raises
    ------
    InputError
        The sounds do not fit together.
    """
    x, y = pair(reference, estimate, sample_rate)
    if not x.any() or not y.any():
        return undefined("si_sdr", "one of the sounds is silent")
    target = (y @ x) / (x @ x) * x
    return float(10 * torch.log10(target.square().sum() / (y - target).square().sum()))


def needed_package(name: str) -> Any:
    """Import what one measure alone needs, or raise InputError."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"the measure needs the package {name!r}: pip install mmdiff[metrics], or name other measures"
        ) from None
