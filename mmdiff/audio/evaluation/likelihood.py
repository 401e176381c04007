"""How likely recordings are under a model of sound, where it has a likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio import io
from mmdiff.audio.datasets.layouts import pick_recordings
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.latent_sound import LatentSoundModel
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.errors import InputError
from mmdiff.media.likelihoods import Item, coded_bits, measure_sets
from mmdiff.media.tables import Score
from mmdiff.progress import track

MEL_STEP = 0.01
"""Mel spectrograms are counted in steps of this size, of their own logarithmic values: real numbers have no bits."""
_SECONDS = 1.0  # of each recording, for vocoders


class _Reader(NamedTuple):
    """How a model sees recordings."""

    denoiser: DenoiserFn
    schedule: Schedule
    quantised: Quantisation
    sample_rate: int
    samples: int
    model: nn.Module

    def item(self, name: str, wave: Tensor) -> Item:
        """Of a waveform (1, samples), 16 bits."""
        model, device = self.model, next(self.model.parameters()).device
        whole = (wave.clamp(*Quantisation.of_sound().ends) * 2**15).round()
        state = (whole / 2**15).to(device)
        if not isinstance(model, MelSoundModel):
            told = {}
            if isinstance(model, WaveformVocoder):
                told["mel"] = model.mel(state)[..., : self.samples // model.mel.hop_length]
            return Item(name, state, coded_bits(whole.to(torch.int16)), told)
        lowest = (model.mel.lowest_value - model.mean) / model.std
        steps = ((model.to_model(state)[0] - lowest) / self.quantised.step).round()
        return Item(name, steps * self.quantised.step + lowest, coded_bits(steps.to(torch.int16).cpu()))


def evaluate_sound_likelihood(
    pipeline: SoundGenerator | Vocoder,
    sources: Sequence[str | Path],
    *,
    split: str | None = None,
    count: int = 16,
    draws: int = 16,
    seed: int = 0,
    batch: int = 4,
    progress: bool = True,
) -> list[Score]:
    """Measure bits per dimension of recordings: of 16-bit samples, or of mel spectrograms in steps of 0.01.

    A model of labels is told none; a vocoder that diffuses the waveform is told the recording's own spectrogram.

    Parameters
    ----------
    pipeline : SoundGenerator or Vocoder
    sources : sequence of str or Path
        Recordings as :func:`~mmdiff.audio.datasets.layouts.pick_recordings` finds them, each a set; the first is of
        what the model was trained on.
    split : str, optional
        Part of the first source.
    count : int > 0
        Recordings of each set, evenly spaced in the list; the beginning of each, as long as the model's sounds
        (vocoders: 1 s), with silence after shorter ones.
    draws, seed, batch, progress
        As for :func:`mmdiff.media.likelihoods.measure_sets`.

    Returns
    -------
    list of Score

    Raises
    ------
    InputError
        The model has no likelihood, or there is nothing to measure.
    """
    if count < 1 or not sources:
        raise InputError(f"count={count} must be positive, and reference given: recordings to measure")
    reader = _reader(pipeline)
    sets: dict[str, list[Item]] = {}
    for place, source in enumerate(sources):
        files = pick_recordings(source, split if place == 0 else None, count)
        name = Path(source).name or str(source)
        sets[name if name not in sets else str(source)] = [
            reader.item(str(file), _read(file, reader))
            for file in track(files, f"reading {name}", show=progress)
        ]
    return measure_sets(
        reader.denoiser,
        sets,
        reader.schedule,
        quantised=reader.quantised,
        draws=draws,
        seed=seed,
        batch=batch,
        progress=progress,
    )


def _read(file: Path, reader: _Reader) -> Tensor:
    seconds = reader.samples / reader.sample_rate
    wave, _ = io.read(file, sample_rate=reader.sample_rate, duration=seconds)
    return functional.pad(wave, (0, max(0, reader.samples - wave.shape[-1])))[:, : reader.samples]


def _reader(pipeline: SoundGenerator | Vocoder) -> _Reader:
    model = pipeline.model
    if isinstance(model, MelSoundModel):
        ends = model.mel.lowest_value, model.mel.highest_value
        steps = math.ceil((ends[1] - ends[0]) / MEL_STEP)
        bins = Quantisation(MEL_STEP, ends[0], ends[0] + steps * MEL_STEP).scaled(model.mean, model.std)
        samples = round(model.seconds * model.sample_rate)
        return _Reader(model.denoiser, model.denoiser.schedule, bins, model.sample_rate, samples, model)
    if isinstance(model, SoundModel):
        samples = round(model.seconds * model.sample_rate)
        denoiser = model.denoise_windows(samples)
    elif isinstance(model, WaveformVocoder) and model.prior is None:
        hop = model.mel.hop_length
        samples, denoiser = round(_SECONDS * model.sample_rate) // hop * hop, model.denoiser
    else:
        raise InputError(_why_not(model))
    schedule = model.denoiser.schedule
    return _Reader(denoiser, schedule, Quantisation.of_sound(), model.sample_rate, samples, model)


def _why_not(model: nn.Module) -> str:
    if isinstance(model, WaveformVocoder):
        return (
            "model must diffuse with the same noise everywhere to be asked for --likelihood, and this one's follows "
            "the spectrogram's loudness; take one without a prior"
        )
    if isinstance(model, LatentSoundModel):
        return "model must diffuse sound or its spectrogram, whose bits are counted here, and it diffuses latents of it"
    return (
        f"model of class {type(model).__name__} has no likelihood of sound: what it diffuses is the magnitude over "
        "what the spectrogram already tells of it, sampled in few steps trained as a whole, and phases come of "
        "Griffin-Lim and a network without noise; take one that diffuses waveforms or spectrograms, such as digits-16k"
    )
