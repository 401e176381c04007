"""Having a model fill in what is not known of sound: the core's guidance and replacement, on waveforms."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.edit_baselines import linear_prediction
from mmdiff.audio.edits import SoundEdit, spans
from mmdiff.audio.generator import Label, SoundGenerator
from mmdiff.audio.sampling import Sampling, decide_sampling, item_generators
from mmdiff.audio.sound_model import NOISE_BLOCK, SoundModel
from mmdiff.diffusion.reconstruction import ReconstructionGuidance, Replacement
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource
from mmdiff.progress import track

Method = Literal["reconstruction", "replacement"]
SOLVES = 4
"""Steps of conjugate gradients in each step of the sampler: samples of sound depend on many others."""
_EDGE = 2  # samples beside a gap that a resampler reaches from it most
_PEAK = 0.5  # to which clipped recordings are scaled, so that what was cut off has room
_QUIET = 1e-3  # least deviation that data are taken to have


def edit_sound(
    gen: SoundGenerator,
    edit: SoundEdit,
    label: Label = None,
    *,
    method: Method = "reconstruction",
    weight: float = 1.0,
    solves: int = SOLVES,
    steps: int | None = None,
    sampler: str | None = None,
    grid: GridSource | None = None,
    guidance: float | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    progress: bool = False,
) -> Tensor:
    """Have a model without a spectrogram fill in what an edit leaves open.

    Each stretch with something unknown is made together with what surrounds it, as much as the model has learned to
    see at once.

    Parameters
    ----------
    gen : SoundGenerator
    edit : SoundEdit
        At the model's rate; gaps and continuations at any.
    label : str, int or None
        What the recording is of, for models that can be told.
    method : {"reconstruction", "replacement"}
        Guidance through the network, then replacement; or replacement alone, which is cheaper and joins less well.
    weight : float
        Of the guidance.
    solves : int > 0
        As for :class:`ReconstructionGuidance`.
    steps, sampler, grid, guidance, temperature
        As for :class:`SoundGenerator`.
    seed : int
        Of the first item's noise; the others count on.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, shape of ``edit.wave``
        What is known is in it exactly.

    Raises
    ------
    InputError
        The rates differ, or an option makes no sense.
    """
    if method not in get_args(Method):
        raise InputError(f"method={method!r} must be one of {', '.join(get_args(Method))}")
    model = _waveform_model(gen)
    sampling = decide_sampling(model, steps, sampler, grid)
    scale = model.guidance if guidance is None else guidance
    number = torch.full((len(edit.wave),), gen.number(label), device=gen.device)
    told = model.conditions({"label": number})
    context = round(model.seconds * model.sample_rate / 2)

    def fill(edit: SoundEdit) -> Tensor:
        gain = 1.0 if edit.side is None else min(1.0, _PEAK / float(edit.wave.abs().max()))
        wave = edit.wave.to(gen.device, copy=True)
        for place, (begin, end) in enumerate(track(edit.windows(context), "filling in", show=progress)):
            here = _on(edit.part(begin, end).scaled(gain), gen.device)
            denoise = functools.partial(model.guided(model.denoise_windows(end - begin), scale), **told)
            agreeing = _agreeing(denoise, here, model.denoiser.schedule, method, weight, solves)
            seeds = [seed + n + (place << 40) for n in range(len(wave))]
            wave[:, begin:end] = _sampled(gen, agreeing, seeds, end - begin, sampling, temperature) / gain
        return wave

    return fill_at_rate(edit, model.sample_rate, fill)


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


def _waveform_model(gen: SoundGenerator) -> SoundModel:
    if not isinstance(gen.model, SoundModel):
        raise InputError(
            f"model must be one of waveforms, as SoundModel, to edit sound with; it is a {type(gen.model).__name__}"
        )
    return gen.model


def _on(edit: SoundEdit, device: torch.device) -> SoundEdit:
    side = None if edit.side is None else edit.side.to(device)
    return SoundEdit(
        edit.wave.to(device), edit.sample_rate, edit.known.to(device), side, known_rate=edit.known_rate
    )


def _agreeing(
    denoise: DenoiserFn, edit: SoundEdit, schedule: Any, method: str, weight: float, solves: int
) -> Replacement:
    measurement = edit.measurement()
    if method == "reconstruction":
        spread = max(_QUIET, float(edit.level.mean()))
        denoise = ReconstructionGuidance(
            denoise, measurement, schedule, weight, data_std=spread, solves=solves
        )
    return Replacement(denoise, measurement)


@torch.no_grad()
def _sampled(
    gen: SoundGenerator,
    denoise: DenoiserFn,
    seeds: list[int],
    samples: int,
    sampling: Sampling,
    temperature: float,
) -> Tensor:
    model = _waveform_model(gen)
    noise = model.starting_noise(seeds, math.ceil(samples / NOISE_BLOCK), NOISE_BLOCK)[..., :samples]
    wave = model.run_sampler(
        denoise,
        noise,
        generator=item_generators(seeds, gen.device),
        grid=sampling.grid,
        sampler=sampling.sampler,
        temperature=temperature,
    )
    return wave[:, 0]
