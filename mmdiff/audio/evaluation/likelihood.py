"""How likely recordings are under a model of sound, where it has a likelihood."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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
from mmdiff.errors import InputError
from mmdiff.latent.likelihood import PairLikelihood
from mmdiff.media.likelihoods import ChainLikelihood, Item, Likelihood, coded_bits, measure_sets, set_name
from mmdiff.media.tables import Score
from mmdiff.progress import track

MEL_STEP = 0.01
"""Mel spectrograms are counted in steps of this size, of their own logarithmic values: real numbers have no bits."""
_SECONDS = 1.0  # of each recording, for vocoders


class _Reader(NamedTuple):
    """How a model sees recordings."""

    likelihood: Callable[[int], Likelihood]
    """Made for so many draws."""
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

    Of a model of latents the samples' bits are counted, by the bound of the pair. A model of labels is told none; a
    vocoder that diffuses the waveform is told the recording's own spectrogram.

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
    draws : int > 0
        Evaluations for each recording, twice of each of a model of latents; see
        :class:`~mmdiff.media.likelihoods.ChainLikelihood` and :class:`~mmdiff.latent.likelihood.PairLikelihood`.
    seed, batch, progress
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
        sets[set_name(source, sets)] = [
            reader.item(str(file), _read(file, reader))
            for file in track(files, f"reading {name}", show=progress)
        ]
    return measure_sets(reader.likelihood(draws), sets, seed=seed, batch=batch, progress=progress)


def _read(file: Path, reader: _Reader) -> Tensor:
    seconds = reader.samples / reader.sample_rate
    wave, _ = io.read(file, sample_rate=reader.sample_rate, duration=seconds)
    return functional.pad(wave, (0, max(0, reader.samples - wave.shape[-1])))[:, : reader.samples]


def _reader(pipeline: SoundGenerator | Vocoder) -> _Reader:
    model = pipeline.model
    if isinstance(model, WaveformVocoder) and model.prior is None:
        samples = round(_SECONDS * model.sample_rate) // model.mel.hop_length * model.mel.hop_length
    elif isinstance(model, (MelSoundModel, LatentSoundModel, SoundModel)):
        samples = round(model.seconds * model.sample_rate)
    else:
        raise InputError(_why_not(model))
    bins = _mel_steps(model) if isinstance(model, MelSoundModel) else Quantisation.of_sound()
    settings: dict[str, Any] = {"schedule": model.denoiser.schedule, "quantised": bins}
    if isinstance(model, LatentSoundModel):
        likelihood = functools.partial(PairLikelihood, model.framed, model.denoiser, **settings)
        return _Reader(lambda draws: likelihood(draws=draws), bins, model.sample_rate, samples, model)
    denoiser = model.denoise_windows(samples) if isinstance(model, SoundModel) else model.denoiser
    chain = functools.partial(ChainLikelihood, denoiser, **settings)
    return _Reader(lambda draws: chain(draws=draws), bins, model.sample_rate, samples, model)


def _mel_steps(model: MelSoundModel) -> Quantisation:
    """Steps of its spectrograms, in the units of what it diffuses."""
    lowest = model.mel.lowest_value
    steps = math.ceil((model.mel.highest_value - lowest) / MEL_STEP)
    return Quantisation(MEL_STEP, lowest, lowest + steps * MEL_STEP).scaled(model.mean, model.std)


def _why_not(model: nn.Module) -> str:
    if isinstance(model, WaveformVocoder):
        return (
            "model must diffuse with the same noise everywhere to be asked for --likelihood, and this one's follows "
            "what the spectrogram says; take one without a prior"
        )
    return (
        f"model of class {type(model).__name__} has no likelihood of sound: what it diffuses is the magnitude over "
        "what the spectrogram already tells of it, sampled in few steps trained as a whole, and phases come of "
        "Griffin-Lim and a network without noise; take one that diffuses waveforms or spectrograms, such as digits-16k"
    )
