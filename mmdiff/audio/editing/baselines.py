"""Filling in what is missing of sound without a model: what a model has to beat."""

from __future__ import annotations

import librosa
import numpy as np
import torch
from scipy import signal, sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor

from mmdiff.audio.editing.edits import SoundEdit, spans
from mmdiff.audio.stft import Stft

ORDER = 32
_CONTEXT = 1024  # samples to either side that coefficients are found from
_REFINED = 3  # times that coefficients are found again with what was filled in


def linear_prediction(edit: SoundEdit, order: int = ORDER) -> Tensor:
    """Extrapolate into each gap from both sides by Burg's coefficients, and cross-fade within the gap.

    Parameters
    ----------
    edit : SoundEdit
        Gaps, or sound to be continued.
    order : int > 0
        Coefficients, as many as the context has samples for.

    Returns
    -------
    Tensor, shape of ``edit.wave``

    References
    ----------
    Kauppinen & Roth (2002), "Audio signal extrapolation: theory and applications", DAFx-02.
    """
    result = edit.wave.double().cpu().numpy().copy()
    for row, known in zip(result, edit.known.cpu(), strict=True):
        gaps = spans(~known)
        ends = [0, *(end for _, end in gaps)]
        begins = [*(begin for begin, _ in gaps), len(row)]
        for number, (begin, end) in enumerate(gaps):
            before = row[max(ends[number], begin - _CONTEXT) : begin]
            after = row[end : min(begins[number + 1], end + _CONTEXT)]
            forward = extrapolate(before, end - begin, order)
            backward = extrapolate(after[::-1], end - begin, order)[::-1]
            share = np.sin(np.pi / 2 * (np.arange(end - begin) + 0.5) / (end - begin)) ** 2
            share = np.ones_like(share) if not len(before) else share * bool(len(after))
            row[begin:end] = (1 - share) * forward + share * backward
    return torch.from_numpy(result).to(edit.wave)


def extrapolate(known: np.ndarray, count: int, order: int = ORDER) -> np.ndarray:
    """Continue ``known`` (samples,) by ``count`` samples that linear prediction makes of it; zeros of silence."""
    order = min(order, len(known) // 3)
    if order < 1 or not known.any():
        return np.zeros(count)
    coefficients = librosa.lpc(known, order=order)
    state = signal.lfiltic([1.0], coefficients, known[: -order - 1 : -1])
    return np.asarray(signal.lfilter([1.0], coefficients, np.zeros(count), zi=state)[0])


def autoregressive(edit: SoundEdit, order: int = ORDER) -> Tensor:
    """Fill in what an autoregressive process around each gap would most probably hold.

    Parameters
    ----------
    edit : SoundEdit
        Gaps; of clipped samples bounds are not kept to.
    order : int > 0

    Returns
    -------
    Tensor, shape of ``edit.wave``

    References
    ----------
    Janssen, Veldhuis & Vries (1986), "Adaptive interpolation of discrete-time signals that can be modeled as
    autoregressive processes", IEEE ASSP 34(2).
    """
    whole = edit.wave.double().cpu().numpy().copy()
    for item, known in enumerate(edit.known.cpu()):
        for begin, end in _clusters(spans(~known), order):
            low, high = max(0, begin - _CONTEXT), min(len(known), end + _CONTEXT)
            row, given = whole[item, low:high], known[low:high].numpy()
            for _ in range(_REFINED):
                usable = min(order, len(row) // 3)
                if usable < 1 or not row.any():
                    break
                row[:] = interpolate(row, given, librosa.lpc(row, order=usable))
    return torch.from_numpy(whole).to(edit.wave)


def interpolate(wave: np.ndarray, known: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Return the wave whose unknown samples make prediction errors by ``coefficients`` smallest.

    For a normal autoregressive process these are the means of the samples given the known ones, wherever as many
    known ones as there are coefficients lie around them.

    Parameters
    ----------
    wave : array, shape (samples,)
    known : array of bool, shape (samples,)
    coefficients : array, shape (order + 1,)
        The first is 1.
    """
    samples, order = len(wave), len(coefficients) - 1
    rows = samples - order
    errors = sparse.diags_array(
        [np.full(rows, c) for c in coefficients[::-1]], offsets=range(order + 1), shape=(rows, samples)
    ).tocsc()
    free, fixed = errors[:, np.flatnonzero(~known)], errors[:, np.flatnonzero(known)]
    system = (free.T @ free + 1e-12 * sparse.eye_array(free.shape[1])).tocsc()
    result = wave.copy()
    result[~known] = spsolve(system, -(free.T @ (fixed @ wave[known])))
    return result


def _clusters(gaps: list[tuple[int, int]], near: int) -> list[tuple[int, int]]:
    """Join gaps that are nearer to each other than so many samples."""
    joined: list[tuple[int, int]] = []
    for begin, end in gaps:
        if joined and begin - joined[-1][1] < near:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


def sparsity(edit: SoundEdit, step: int = 1, window: float = 0.064) -> Tensor:
    """Find sound of few frequencies at a time that keeps to what is known (A-SPADE).

    Parameters
    ----------
    edit : SoundEdit
        Clipped samples, or gaps.
    step : int > 0
        Frequencies a frame that every iteration allows more; as many iterations as use up half of them.
    window : float, seconds
        Length of a frame, to the next power of two.

    Returns
    -------
    Tensor, shape of ``edit.wave``

    References
    ----------
    Kitić, Bertin & Gribonval (2015), "Sparsity and cosparsity for audio declipping", algorithm 1,
    https://arxiv.org/abs/1506.01830
    """
    size = 1 << max(4, round(window * edit.sample_rate) - 1).bit_length()
    stft, samples = Stft(edit.sample_rate, size, size // 4), edit.wave.shape[-1]
    wave = edit.finish(edit.wave.clone())
    spectrum = stft(wave)
    dual = torch.zeros_like(spectrum)
    for count in range(step, size // 4, step):
        wanted = spectrum + dual
        least = wanted.abs().topk(count, -1).values[..., -1:]
        few = torch.where(wanted.abs() >= least, wanted, 0.0)
        wave = edit.finish(stft.inverse(few - dual, samples))
        spectrum = stft(wave)
        dual = dual + spectrum - few
    return wave


def without_model(edit: SoundEdit) -> Tensor:
    """Fill in as well as is usual without a model: by prediction, sparsity, or not at all above a band.

    Returns
    -------
    Tensor, shape of ``edit.wave``
    """
    if edit.known_rate is not None:
        return edit.wave
    return linear_prediction(edit) if edit.side is None else sparsity(edit)
