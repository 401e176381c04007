"""What is left out of recordings to measure how well it is filled in, and what needs no model for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.editing import edits
from mmdiff.audio.editing.baselines import autoregressive, linear_prediction, sparsity
from mmdiff.audio.editing.edits import SoundEdit
from mmdiff.errors import InputError

EVERY = 0.5
"""Seconds from gap to gap."""
_LOUDEST = 0.05  # share of samples that are clipped

Baseline = Callable[[SoundEdit], Tensor]


class Task(NamedTuple):
    """One way of leaving something out."""

    name: str
    edit: Callable[[Tensor, int], SoundEdit]
    """A recording (1, samples) and its rate to what is known of it."""
    baselines: Mapping[str, Baseline]


def gap_tasks() -> list[Task]:
    """Gaps twice a second, short and long."""
    filled: dict[str, Baseline] = {
        "silence": _silence,
        "linear prediction": linear_prediction,
        "autoregression": autoregressive,
    }
    return [
        Task("gaps of 10 ms", lambda wave, rate: _gaps(wave, rate, 0.01), filled),
        Task("gaps of 50 ms", lambda wave, rate: _gaps(wave, rate, 0.05), filled),
    ]


def edit_tasks() -> list[Task]:
    """All tasks: gaps, continuation, bandwidth extension, declipping."""
    ahead: dict[str, Baseline] = {"silence": _silence, "linear prediction": linear_prediction}
    clipped: dict[str, Baseline] = {
        "left as they are": lambda edit: edit.wave,
        "few frequencies": sparsity,
    }
    return [
        *gap_tasks(),
        Task("continuation by 50 ms", lambda wave, rate: _ahead(wave, rate, 0.05), ahead),
        Task("half the rate doubled", _narrow, {"resampling": lambda edit: edit.wave}),
        Task("5 % of samples clipped", _clipped, clipped),
    ]


def word_tasks() -> list[Task]:
    """What is missing of words: a short gap, a long one in the middle, the second half, half of the frequencies."""
    gap, ahead, narrow = edit_tasks()[1:4]
    return [
        gap,
        Task("gap of 200 ms in the middle", lambda wave, rate: _middle(wave, rate, 0.2), gap.baselines),
        Task("second half", _half, ahead.baselines),
        narrow,
    ]


def _silence(edit: SoundEdit) -> Tensor:
    return torch.where(edit.known, edit.wave, 0.0)


def _gaps(wave: Tensor, rate: int, seconds: float) -> SoundEdit:
    count = math.floor(wave.shape[-1] / rate / EVERY)
    middles = [(n + 0.5) * EVERY for n in range(count)]
    return edits.gap_filling(wave, rate, [(at - seconds / 2, at + seconds / 2) for at in middles])


def _ahead(wave: Tensor, rate: int, seconds: float) -> SoundEdit:
    # from the middle on, where there is more often something to be continued than at the end
    return edits.continuation(wave[:, : wave.shape[-1] // 2], rate, seconds)


def _middle(wave: Tensor, rate: int, seconds: float) -> SoundEdit:
    middle = wave.shape[-1] / rate / 2
    return edits.gap_filling(wave, rate, [(middle - seconds / 2, middle + seconds / 2)])


def _half(wave: Tensor, rate: int) -> SoundEdit:
    half = wave.shape[-1] // 2
    return edits.continuation(wave[:, :half], rate, half / rate)


def _narrow(wave: Tensor, rate: int) -> SoundEdit:
    if rate % 2:
        raise InputError(f"sample_rate={rate} must be even to be halved")
    even = wave[:, : wave.shape[-1] // 2 * 2]
    return edits.bandwidth_extension(io.resample(even, rate, rate // 2), rate // 2, rate)


def _clipped(wave: Tensor, rate: int) -> SoundEdit:
    level = float(wave.abs().quantile(1 - _LOUDEST))
    return edits.declipping(wave.clamp(-level, level), rate, level)
