"""How well a model fills in what is missing of recordings, beside what needs no model."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.audio import edits, io
from mmdiff.audio.edit_baselines import autoregressive, linear_prediction, sparsity
from mmdiff.audio.editing import Method, edit_sound
from mmdiff.audio.edits import SoundEdit
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.metrics import METRICS, evaluate
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.vocoder_edits import fill_gaps
from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, bootstrapped, mean_estimate
from mmdiff.media.tables import Measure, Score, ScoreTable
from mmdiff.progress import track

METHODS: dict[Method, str] = {"reconstruction": "reconstruction guidance", "replacement": "replacement in x0"}
"""Ways to make a result agree with what is known."""
EDIT_MEASURES = {
    "gaps": Measure("gaps", note="stretches of unknown samples; of the doubled rate, recordings"),
    "snr": Measure("SNR", "dB", True, note="of the unknown part, over all recordings"),
    "lsd": Measure("LSD", "dB", False, note="of what is unknown with 32 ms on either side"),
    "pesq": Measure("PESQ-wb", "MOS", True, note="of whole recordings"),
}
"""Measures of filled-in sound; a gap's own samples are not what PESQ was made for, whole recordings are."""
_EVERY = 0.5  # seconds from gap to gap
_AROUND = 0.032  # seconds
_LOUDEST = 0.05  # share of samples that are clipped

Baseline = Callable[[SoundEdit], Tensor]
Fill = Callable[[SoundEdit, Tensor, int], Tensor]
"""What is known, the recording, and a seed, to a model's result."""


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


def evaluate_edits(
    pipeline: SoundGenerator | Vocoder,
    recordings: Sequence[Tensor],
    *,
    tasks: Sequence[Task] | None = None,
    methods: Sequence[str] = tuple(METHODS),
    measures: Sequence[str] = ("lsd", "pesq"),
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> list[Score]:
    """Leave something out of recordings in several ways, have it filled in, and compare.

    Parameters
    ----------
    pipeline : SoundGenerator or Vocoder
        A vocoder fills gaps only, in other tasks there are baselines alone: with the spectrogram interpolated, and with
        the recording's own, which is what better interpolation could bring.
    recordings : sequence of Tensor, shape (1, samples)
        At the model's rate, that training did not see, each over half a second long.
    tasks : sequence of Task, optional
        Default: :func:`edit_tasks`.
    methods : sequence of str
        Keys of :data:`METHODS`, for models of waveforms.
    measures : sequence of str
        Keys of :data:`mmdiff.audio.metrics.METRICS`, besides the signal-to-noise ratio.
    seed : int
        Of the first recording's noise; the others count on.
    progress : bool
        Show a progress bar.
    **options
        For :func:`edit_sound` or :func:`fill_gaps`.

    Returns
    -------
    list of Score
        Of :data:`EDIT_MEASURES`, about ``task``, ``gaps`` and ``recordings``. Task by task: baselines, methods.

    Raises
    ------
    InputError
        A recording is too short, or a name is unknown.
    """
    if strange := [name for name in methods if name not in METHODS]:
        raise InputError(f"methods={strange} must be some of {', '.join(METHODS)}")
    rate = pipeline.sample_rate
    if not recordings or min(wave.shape[-1] for wave in recordings) < _EVERY * rate:
        raise InputError(f"recordings={len(recordings)} must be at least one, each of {_EVERY} s or more")
    fills = _fills(pipeline, methods, options)
    scores = []
    for task in track(edit_tasks() if tasks is None else tasks, "filling in", show=progress):
        known = [task.edit(wave, rate) for wave in recordings]
        made = {name: [fill(edit) for edit in known] for name, fill in task.baselines.items()}
        for name, by_model in fills.items() if _can(pipeline, known) else ():
            pairs = enumerate(zip(known, recordings, strict=True))
            made[name] = [by_model(edit, wave, seed + n) for n, (edit, wave) in pairs]
        about = {"task": task.name, "gaps": sum(map(_count, known)), "recordings": len(recordings)}
        scores += [
            Score(name, edit_measures(known, recordings, all_, measures), about)
            for name, all_ in made.items()
        ]
    return scores


def _can(pipeline: SoundGenerator | Vocoder, known: Sequence[SoundEdit]) -> bool:
    gaps = all(edit.side is None and bool(edit.known[:, [0, -1]].all()) for edit in known)
    return gaps or not isinstance(pipeline, Vocoder)


def _fills(
    pipeline: SoundGenerator | Vocoder, methods: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Fill]:
    """Ways a model has, by the names in tables."""
    if isinstance(pipeline, Vocoder):

        def by_vocoder(edit: SoundEdit, wave: Tensor, seed: int, known: bool) -> Tensor:
            mel = pipeline.mel(wave, pipeline.sample_rate) if known else None
            return fill_gaps(pipeline, edit, mel, seed=seed, **options)

        names = {"vocoder, spectrogram interpolated": False, "vocoder, spectrogram known": True}
        return {name: functools.partial(by_vocoder, known=known) for name, known in names.items()}

    def by_sound(edit: SoundEdit, wave: Tensor, seed: int, method: Method) -> Tensor:
        return edit_sound(pipeline, edit, method=method, seed=seed, **options)

    return {METHODS[name]: functools.partial(by_sound, method=name) for name in METHODS if name in methods}


def edit_table(scores: Sequence[Score], measures: Sequence[str], **shared: Any) -> ScoreTable:
    """Lay the scores of :func:`evaluate_edits` out, with what they have in common."""
    shown = EDIT_MEASURES | {n: Measure(n, METRICS[n].unit, METRICS[n].higher_is_better) for n in measures}
    shown |= {n: EDIT_MEASURES[n] for n in measures if n in EDIT_MEASURES}
    corner = f"{scores[0].about['recordings']} recordings"
    return ScoreTable(scores, shown, corner, group="task", shared=shared)


def edit_measures(
    known: Sequence[SoundEdit],
    real: Sequence[Tensor],
    made: Sequence[Tensor],
    measures: Sequence[str] = ("lsd", "pesq"),
) -> dict[str, Estimate]:
    """Compare filled-in recordings (1, samples) with the real ones, which may go on for longer.

    Returns
    -------
    dict from str to Estimate
        ``snr``: that of the unknown part's energy over its error's, each summed over all recordings; its interval and
        the others' are over recordings. Distances of spectra are of what is unknown and its surroundings.
    """
    real = [wave[:, : edit.wave.shape[-1]] for edit, wave in zip(known, real, strict=True)]
    energies = torch.tensor(
        [
            [float(unknown(edit, part).double().square().sum()) for part in (x, y - x)]
            for edit, x, y in zip(known, real, made, strict=True)
        ]
    )
    found = {"snr": bootstrapped(_decibels, energies)}
    for name in measures:
        values = []
        for edit, x, y in zip(known, real, made, strict=True):
            whole = name in ("pesq", "stoi")
            x, y = (sound if whole else _surroundings(edit, sound) for sound in (x, y))
            values.append(evaluate(x[0], y[0], edit.sample_rate, [name])[name])
        found[name] = mean_estimate(torch.tensor(values))
    return found


def unknown(edit: SoundEdit, wave: Tensor) -> Tensor:
    """Return what of a sound of an edit's shape is not known: samples, or what lies above the known band."""
    if edit.known_rate is not None:
        return wave - edit.measurement().forward(wave[:, None])[:, 0]
    return torch.where(edit.known, 0.0, wave)


def _decibels(energies: Tensor) -> Tensor:
    signal, error = energies.sum(-2).unbind(-1)
    return 10 * (signal / error).log10()


def _surroundings(edit: SoundEdit, wave: Tensor) -> Tensor:
    windows = edit.windows(round(_AROUND * edit.sample_rate))
    return torch.cat([wave[:, begin:end] for begin, end in windows], 1)


def _count(edit: SoundEdit) -> int:
    return 1 if edit.known_rate is not None else sum(len(edits.spans(~known)) for known in edit.known)


def _silence(edit: SoundEdit) -> Tensor:
    return torch.where(edit.known, edit.wave, 0.0)


def _gaps(wave: Tensor, rate: int, seconds: float) -> SoundEdit:
    count = math.floor(wave.shape[-1] / rate / _EVERY)
    middles = [(n + 0.5) * _EVERY for n in range(count)]
    return edits.gap_filling(wave, rate, [(at - seconds / 2, at + seconds / 2) for at in middles])


def _ahead(wave: Tensor, rate: int, seconds: float) -> SoundEdit:
    # from the middle on, where there is more often something to be continued than at the end
    return edits.continuation(wave[:, : wave.shape[-1] // 2], rate, seconds)


def _narrow(wave: Tensor, rate: int) -> SoundEdit:
    if rate % 2:
        raise InputError(f"sample_rate={rate} must be even to be halved")
    even = wave[:, : wave.shape[-1] // 2 * 2]
    return edits.bandwidth_extension(io.resample(even, rate, rate // 2), rate // 2, rate)


def _clipped(wave: Tensor, rate: int) -> SoundEdit:
    level = float(wave.abs().quantile(1 - _LOUDEST))
    return edits.declipping(wave.clamp(-level, level), rate, level)
