"""Having a model of sound fill in what is not known: the core's guidance and replacement, on what it diffuses."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mmdiff.audio.editing.edits import SoundEdit
from mmdiff.audio.editing.mel import fill_by_mel
from mmdiff.audio.editing.tools import MEL_DEFAULTS, WAVEFORM_DEFAULTS, EditOptions, Method, fill_at_rate
from mmdiff.audio.generator import Label, SoundGenerator
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.sampling import decide_sampling, item_generators
from mmdiff.audio.sound_model import NOISE_BLOCK, SoundModel
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource
from mmdiff.progress import track

_PEAK = 0.5  # to which clipped recordings are scaled, so that what was cut off has room
_QUIET = 1e-3  # least deviation that data are taken to have


def edit_sound(
    gen: SoundGenerator,
    edit: SoundEdit,
    label: Label = None,
    *,
    method: Method | None = None,
    weight: float = 1.0,
    solves: int | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    grid: GridSource | None = None,
    guidance: float | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    progress: bool = False,
) -> Tensor:
    """Have a model of sound fill in what an edit leaves open.

    Each stretch with something unknown is made together with what surrounds it, as much as the model has learned to
    see at once. A model of waveforms does every edit. One of spectrograms does all but declipping: it draws the
    frames or bands that are not known, and its vocoder makes sound of them that meets what is known.

    Parameters
    ----------
    gen : SoundGenerator
    edit : SoundEdit
        At the model's rate; gaps and continuations at any.
    label : str, int or None
        What the recording is of, for models that can be told.
    method : {"reconstruction", "replacement"}, optional
        Guidance through the network, then replacement; or replacement alone, which is cheaper. Default: guidance
        for waveforms, of which samples agree with their neighbours only so, replacement for spectrograms.
    weight : float
        Of the guidance.
    solves : int > 0, optional
        As for :class:`mmdiff.diffusion.reconstruction.ReconstructionGuidance`. Default: 4 for waveforms, of which
        each sample depends on many others; 1 for spectrograms.
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
        The rates differ, the model cannot do this edit, or an option makes no sense.
    """
    model = gen.model
    usual = MEL_DEFAULTS if isinstance(model, MelSoundModel) else WAVEFORM_DEFAULTS
    options = EditOptions(
        decide_sampling(model, steps, sampler, grid),
        method or usual.method,
        weight,
        solves or usual.solves,
        seed,
        temperature,
    )
    scale = model.guidance if guidance is None else guidance
    number = torch.full((len(edit.wave),), gen.number(label), device=gen.device)
    if isinstance(model, MelSoundModel):
        fill = functools.partial(fill_by_mel, gen, model, number, scale, options=options, progress=progress)
    elif isinstance(model, SoundModel):
        fill = functools.partial(_fill_waves, gen, model, number, scale, options=options, progress=progress)
    else:
        raise InputError(f"model must be one that sound can be edited with, and is a {type(model).__name__}")
    return fill_at_rate(edit, model.sample_rate, fill)


@torch.no_grad()
def _fill_waves(
    gen: SoundGenerator,
    model: SoundModel,
    number: Tensor,
    scale: float,
    edit: SoundEdit,
    *,
    options: EditOptions,
    progress: bool,
) -> Tensor:
    """Fill in an edit at the model's rate window by window: sound (N, samples)."""
    told = model.conditions({"label": number})
    context = round(model.seconds * model.sample_rate / 2)
    gain = 1.0 if edit.side is None else min(1.0, _PEAK / float(edit.wave.abs().max()))
    wave = edit.wave.to(gen.device, copy=True)
    for place, (begin, end) in enumerate(track(edit.windows(context), "filling in", show=progress)):
        here, samples = _on(edit.part(begin, end).scaled(gain), gen.device), end - begin
        denoise = functools.partial(model.guided(model.denoise_windows(samples), scale), **told)
        spread = max(_QUIET, float(here.level.mean()))
        seeds = options.seeds(place, len(wave))
        noise = model.starting_noise(seeds, math.ceil(samples / NOISE_BLOCK), NOISE_BLOCK)[..., :samples]
        made = model.run_sampler(
            options.agreeing(denoise, here.measurement(), model.denoiser.schedule, spread),
            noise,
            generator=item_generators(seeds, gen.device),
            grid=options.sampling.grid,
            sampler=options.sampling.sampler,
            temperature=options.temperature,
        )
        wave[:, begin:end] = made[:, 0] / gain
    return wave


def _on(edit: SoundEdit, device: torch.device) -> SoundEdit:
    side = None if edit.side is None else edit.side.to(device)
    return SoundEdit(
        edit.wave.to(device), edit.sample_rate, edit.known.to(device), side, known_rate=edit.known_rate
    )
