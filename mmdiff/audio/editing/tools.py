"""What the ways of filling in what is not known of sound share: agreement with what is known, and rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.editing.baselines import linear_prediction
from mmdiff.audio.editing.edits import SoundEdit, spans
from mmdiff.audio.sampling import Sampling, place_seeds
from mmdiff.diffusion.measurement import Measurement
from mmdiff.diffusion.reconstruction import ReconstructionGuidance, Replacement
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.errors import InputError

Method = Literal["reconstruction", "replacement"]


class MethodDefaults(NamedTuple):
    """How a kind of model is made to agree with what is known, unless told."""

    method: Method
    solves: int


WAVEFORM_DEFAULTS = MethodDefaults("reconstruction", 4)
MEL_DEFAULTS = MethodDefaults("replacement", 1)
_EDGE = 2  # samples beside a gap that a resampler reaches from it most


@dataclass(frozen=True)
class EditOptions:
    """How what is unknown is drawn.

    Attributes
    ----------
    sampling : Sampling
    method, weight, solves
        As for :func:`mmdiff.audio.editing.sound.edit_sound`.
    seed : int
        Of the first item's noise; the others count on.
    temperature : float >= 0
        Factor on the noise.

    Raises
    ------
    InputError
        There is no such method.
    """

    sampling: Sampling
    method: Method
    weight: float
    solves: int
    seed: int
    temperature: float

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method={self.method!r} must be one of {', '.join(get_args(Method))}")
        place_seeds(self.seed, 1, 0)  # complains of one with more than 64 bits

    def agreeing(
        self, denoise: DenoiserFn, measurement: Measurement, schedule: Schedule, spread: float = 1.0
    ) -> Replacement:
        """Make a denoiser agree with a measurement of data whose standard deviation is ``spread``."""
        if self.method == "reconstruction":
            denoise = ReconstructionGuidance(
                denoise, measurement, schedule, self.weight, data_std=spread, solves=self.solves
            )
        return Replacement(denoise, measurement)

    def seeds(self, window: int, count: int) -> list[int]:
        """Seeds of the items of a window."""
        return place_seeds(self.seed, count, window << 40)


def fill_at_rate(edit: SoundEdit, rate: int, fill: Callable[[SoundEdit], Tensor]) -> Tensor:
    """Have an edit filled in at a model's rate.

    Parameters
    ----------
    edit : SoundEdit
        At any rate where it has gaps, else at the model's.
    rate : int, Hz
    fill : callable
        An edit at that rate to sound of its shape.

    Returns
    -------
    Tensor, shape of ``edit.wave``
        At the edit's own rate, what is known exactly.

    Raises
    ------
    InputError
        Bounds or a band are known at another rate.
    """
    if edit.sample_rate == rate:
        return edit.finish(fill(edit).to(edit.wave))
    if edit.side is not None or edit.known_rate is not None:
        raise InputError(
            f"sample_rate={edit.sample_rate} must be the model's, {rate} Hz, but for gaps and continuations; take "
            "another model or rate"
        )
    # gaps are bridged first: a resampler would carry their edges into what is known
    wave = io.resample(linear_prediction(edit), edit.sample_rate, rate)
    known = torch.ones_like(wave, dtype=torch.bool)
    for row, mask in zip(known, edit.known, strict=True):
        for begin, end in spans(~mask):
            low, high = (place * rate / edit.sample_rate for place in (begin, end))
            row[max(0, math.floor(low) - _EDGE) : math.ceil(high) + _EDGE] = False
    made = io.resample(fill(SoundEdit(wave, rate, known)), rate, edit.sample_rate)
    return edit.finish(made[..., : edit.wave.shape[-1]].to(edit.wave))
