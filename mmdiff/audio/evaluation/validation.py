"""How good models of sound in training are: measures, sound and spectrograms of held-out recordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.datasets.crops import AudioCrops
from mmdiff.audio.datasets.layouts import Clip
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.io import read
from mmdiff.audio.mel.lengths import longest_length
from mmdiff.audio.metrics import evaluate, installed
from mmdiff.audio.vocoder import Vocoder
from mmdiff.devices import same_compute_dtype
from mmdiff.errors import InputError
from mmdiff.media.cache import report_broken
from mmdiff.training.log import Validation

_METRICS = ("pesq", "stoi", "log_mel_l1")


def vocoder_validation(
    clips: Sequence[Clip],
    *,
    steps: int | None = None,
    other_steps: Sequence[int] = (),
    count: int = 10,
    keep: int = 2,
    device: str | None = None,
    dtype: str | None = None,
) -> Callable[[nn.Module, int], Validation]:
    """Make the ``validate`` function of a trainer whose task has a ``vocoder``.

    Parameters
    ----------
    clips : sequence of Clip
        Validation recordings; ``count`` of them, evenly spaced, are copied by analysis and synthesis. One that cannot
        be read is left out with a warning.
    steps : int, optional
        Network evaluations; default: the model's.
    other_steps : sequence of int
        Other numbers of them to measure too; the names of their metrics end in ``_{number}``.
    count, keep : int
        Clips measured, and clips whose sound and spectrogram are kept.
    device, dtype : str, optional
        As for :func:`mmdiff.load`.

    Returns
    -------
    callable
        ``validate(task, step) -> Validation`` with the means of PESQ, STOI and log-mel L1 (those installed).

    Raises
    ------
    InputError
        Recordings cannot be read, more than one and a tenth of those chosen: better said before than in a training.
    """
    chosen = _readable(list(clips)[:: max(1, len(clips) // count)][:count])
    measures = installed(_METRICS)

    def validate(task: nn.Module, step: int) -> Validation:
        with same_compute_dtype(task):
            return measure(Vocoder(task.vocoder, device, dtype))  # type: ignore[arg-type]

    def measure(vocoder: Vocoder) -> Validation:
        totals: dict[str, list[float]] = {}
        audio: dict[str, tuple[Tensor, int]] = {}
        images = {}
        for number, clip in enumerate(chosen):
            wave, _ = read(clip.path, sample_rate=vocoder.sample_rate)
            for count in (*other_steps, steps):
                estimate, found = measured_copy(vocoder, wave, measures, steps=count, seed=number)
                ending = "" if count == steps else f"_{count}"
                for name, value in found.items():
                    totals.setdefault(name + ending, []).append(value)
            if number < keep:
                audio[f"clip{number}"] = (estimate[0], vocoder.sample_rate)
                images[f"clip{number}"] = vocoder.mel(estimate, vocoder.sample_rate)[0].flip(0).cpu().numpy()
        means = {name: float(torch.tensor(values).nanmean()) for name, values in totals.items()}
        return Validation(means, audio, images)

    return validate


def _readable(clips: Sequence[Clip]) -> list[Clip]:
    found, complaints = [], []
    for clip in clips:
        try:
            read(clip.path)
            found.append(clip)
        except InputError as error:
            complaints.append(str(error))
    report_broken(complaints, len(clips), stacklevel=3)
    return found


def sound_validation(
    crops: AudioCrops,
    *,
    count: int = 32,
    batch: int = 8,
    keep: int = 2,
    device: str | None = None,
    dtype: str | None = None,
) -> Callable[[nn.Module, int], Validation]:
    """Make the ``validate`` function of a trainer whose task has a ``model`` of sound without a spectrogram.

    Parameters
    ----------
    crops : AudioCrops
        Held out; the first ``count`` are taken, ``batch`` at a time, with the same noise in every validation.
    count, batch : int > 0
    keep : int
        Sounds that are made and kept.
    device, dtype : str, optional
        As for :func:`mmdiff.load`.

    Returns
    -------
    callable
        ``validate(task, step) -> Validation`` with the task's "loss".
    """

    @torch.no_grad()
    def validate(task: nn.Module, step: int) -> Validation:
        place = next(task.parameters()).device
        noise, total = torch.Generator(place).manual_seed(0), 0.0
        for first in range(0, count, batch):
            numbers = range(first, min(first + batch, count))
            wave = torch.stack([crops[n]["wave"] for n in numbers]).to(place)
            total += float(task({"wave": wave}, noise)["loss"]) * len(numbers) / count
        with same_compute_dtype(task):
            gen = SoundGenerator(task.model, device, dtype)  # type: ignore[arg-type]
            made = gen(num=keep, seed=list(range(keep))).cpu()
        return Validation(
            {"loss": total}, {f"sound{n}": (wave, gen.model.sample_rate) for n, wave in enumerate(made)}
        )

    return validate


def measured_copy(
    vocoder: Vocoder, wave: Tensor, measures: Sequence[str], **options: Any
) -> tuple[Tensor, dict[str, float]]:
    """Analyse sound (1, samples) at the vocoder's rate, generate it again, and compare.

    The copy, on the host, is as long as there are whole frames for. ``options`` are those of :meth:`Vocoder.__call__`.
    """
    spec, rate = vocoder.mel_spec, vocoder.sample_rate
    mel = vocoder.mel(wave, rate)
    samples = min(wave.shape[1], longest_length(spec, mel.shape[-1], rate))
    result = vocoder(mel, mel_spec=spec, samples=samples, **options)
    assert isinstance(result, Tensor)
    made = result.cpu()
    return made, evaluate(wave[0, :samples], made[0], rate, measures)
