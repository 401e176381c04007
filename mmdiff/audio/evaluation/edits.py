"""How well a model fills in what is missing of recordings, beside what needs no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.audio.editing import edits
from mmdiff.audio.editing.edits import SoundEdit
from mmdiff.audio.editing.sound import edit_sound
from mmdiff.audio.editing.tools import Method
from mmdiff.audio.editing.vocoder import fill_gaps
from mmdiff.audio.evaluation.edit_tasks import EVERY, Task, edit_tasks, word_tasks
from mmdiff.audio.generator import Label, SoundGenerator
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.metrics import METRICS, evaluate
from mmdiff.audio.vocoder import Vocoder
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
_AROUND = 0.032  # seconds

Fill = Callable[[SoundEdit, Tensor, int, Label], Tensor]
"""What is known, the recording, a seed, and what the recording is of, to a model's result."""


class Way(NamedTuple):
    """One way of filling in that a model has."""

    fill: Fill
    can: Callable[[SoundEdit], bool]


def evaluate_edits(
    pipeline: SoundGenerator | Vocoder,
    recordings: Sequence[Tensor],
    *,
    labels: Sequence[Label] | None = None,
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
        the recording's own, which is what better interpolation could bring. Both stand beside a model of
        spectrograms too, which also continues and extends.
    recordings : sequence of Tensor, shape (1, samples)
        At the model's rate, that training did not see, each over half a second long.
    labels : sequence of str, int or None, optional
        What each recording is of, for models that can be told.
    tasks : sequence of Task, optional
        Default: :func:`edit_tasks`; for a model of spectrograms :func:`word_tasks`.
    methods : sequence of str
        Keys of :data:`METHODS`, for models of sound.
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
    if not recordings or min(wave.shape[-1] for wave in recordings) < EVERY * rate:
        raise InputError(f"recordings={len(recordings)} must be at least one, each of {EVERY} s or more")
    of = [None] * len(recordings) if labels is None else labels
    ways = _ways(pipeline, methods, options)
    usual = word_tasks if _of_spectrograms(pipeline) else edit_tasks
    scores = []
    for task in track(usual() if tasks is None else tasks, "filling in", show=progress):
        known = [task.edit(wave, rate) for wave in recordings]
        made = {name: [fill(edit) for edit in known] for name, fill in task.baselines.items()}
        for name, way in ways.items():
            if all(map(way.can, known)):
                items = enumerate(zip(known, recordings, of, strict=True))
                made[name] = [way.fill(edit, wave, seed + n, label) for n, (edit, wave, label) in items]
        about = {"task": task.name, "gaps": sum(map(_count, known)), "recordings": len(recordings)}
        scores += [
            Score(name, edit_measures(known, recordings, all_, measures), about)
            for name, all_ in made.items()
        ]
    return scores


def _of_spectrograms(pipeline: SoundGenerator | Vocoder) -> bool:
    return isinstance(pipeline, SoundGenerator) and isinstance(pipeline.model, MelSoundModel)


def _of_gaps(edit: SoundEdit) -> bool:
    return edit.side is None and edit.known_rate is None


def _between(edit: SoundEdit) -> bool:
    return _of_gaps(edit) and bool(edit.known[:, [0, -1]].all())


def _ways(
    pipeline: SoundGenerator | Vocoder, methods: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Way]:
    """Ways a model has, by the names in tables."""
    if isinstance(pipeline, Vocoder):
        return _vocoder_ways(pipeline, options)

    def by_sound(edit: SoundEdit, wave: Tensor, seed: int, label: Label, method: Method) -> Tensor:
        return edit_sound(pipeline, edit, label, method=method, seed=seed, **options)

    can = _without_bounds if _of_spectrograms(pipeline) else _anything
    ways = {} if pipeline.vocoder is None else _vocoder_ways(pipeline.vocoder, {})
    return ways | {
        METHODS[name]: Way(functools.partial(by_sound, method=name), can)
        for name in METHODS
        if name in methods
    }


def _vocoder_ways(voc: Vocoder, options: Mapping[str, Any]) -> dict[str, Way]:
    def by_vocoder(edit: SoundEdit, wave: Tensor, seed: int, label: Label, known: bool) -> Tensor:
        mel = voc.mel(wave, voc.sample_rate) if known else None
        return fill_gaps(voc, edit, mel, seed=seed, **options)

    names = {"vocoder, spectrogram interpolated": False, "vocoder, spectrogram known": True}
    return {name: Way(functools.partial(by_vocoder, known=known), _between) for name, known in names.items()}


def _without_bounds(edit: SoundEdit) -> bool:
    return edit.side is None


def _anything(edit: SoundEdit) -> bool:
    return True


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
