"""How well a model says digits, measured by the judge of spoken digits, beside real recordings.

Three things are compared: recordings of voices that neither the model nor the judge has heard, which say what the
judge's own accuracy is; variations of the training recordings, which are what the model is trained to make; and the
model's sounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmdiff.audio.datasets.fetch_digits import DIGITS
from mmdiff.audio.datasets.layouts import Clip, find_audio
from mmdiff.audio.datasets.words import Variation, Words, word_label
from mmdiff.audio.evaluation.word_judge import WordJudge, digit_accuracy, none_share
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.resampling import resample
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.devices import same_compute_dtype
from mmdiff.errors import InputError
from mmdiff.media.distances import feature_distances
from mmdiff.media.estimates import Estimate
from mmdiff.media.inception import inception_score
from mmdiff.media.memory import memorisation
from mmdiff.media.tables import SHARE, Measure, Score
from mmdiff.training import Validation

OTHER_VOICES, VARIED = "real, other voices", "real, training voices, varied"
MEASURES = {
    "sounds": Measure("sounds"),
    "steps": Measure("steps"),
    "digit": Measure("sounds that say the digit, of ten", SHARE, True),
    "none": Measure("sounds that say no digit", SHARE, False),
    "frechet": Measure("Fréchet distance to varied recordings, extrapolated", higher_is_better=False),
    "frechet_plug_in": Measure("Fréchet distance to varied recordings, plug-in", higher_is_better=False),
    "kernel": Measure("kernel distance to varied recordings", higher_is_better=False),
    "inception": Measure("inception score", higher_is_better=True),
    "nearest": Measure("distance to training recordings / that of other voices"),
    "duplicates": Measure("nearer to training than 95 % of other voices", SHARE, False),
    "seconds": Measure("seconds a sound", decimals=2),
}
"""What a score of spoken digits says."""
_COPIES = 12  # variations of each training recording that nearness is measured to
_REFERENCE = 400  # varied recordings that distances are measured to
_CLOSEST = 0.05
_SPLITS = 5  # of the inception score


class Spoken(NamedTuple):
    """Digits that were said."""

    name: str
    waves: Tensor
    """(B, samples), 16 kHz."""
    digits: Tensor
    """(B,), what they should say."""
    about: dict[str, float | int | None]


def labelled_digits(data: str | Path, split: str = "train") -> tuple[list[Clip], list[int], tuple[str, ...]]:
    """Clips of digits in a folder of :func:`mmdiff.audio.datasets.fetch_digits.fetch_spoken_digits`, and their labels.

    Returns
    -------
    clips : list of Clip
    numbers : list of int
        Position of each clip's label in
    labels : tuple of str
        ``seven-en``, sorted by language, then digit.

    Raises
    ------
    InputError
        There is no such folder or split, or no digit in it.
    """
    clips = [clip for clip in find_audio(data, split=split) if clip.text in DIGITS]
    if not clips:
        raise InputError(f"data={str(data)!r} must have digits: make it by `mmdiff fetch digits-16k FOLDER`")
    names = {word_label(clip) for clip in clips}
    labels = sorted(names, key=lambda name: (name.partition("-")[2], DIGITS.index(name.partition("-")[0])))
    return clips, [labels.index(word_label(clip)) for clip in clips], tuple(labels)


def digit_of(label: str) -> int:
    """Digit that a label such as seven-en names, or raise InputError."""
    name = label.partition("-")[0]
    if name not in DIGITS:
        raise InputError(
            f"label={label!r} must name a digit, {', '.join(DIGITS)}: the judge knows no other words"
        )
    return DIGITS.index(name)


def made_by(
    gen: SoundGenerator,
    name: str,
    num: int = 4,
    *,
    seed: int = 0,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    progress: bool = True,
) -> Spoken:
    """Let a model say each of its labels ``num`` times; what is not given is the model's own."""
    digits = [digit_of(label) for label in gen.labels for _ in range(num)]
    if not digits:
        raise InputError("the model must be one of labels, to be asked for digits")
    begin = time.perf_counter()
    options = {"steps": steps, "sampler": sampler, "guidance": guidance, "progress": progress}
    waves = gen(gen.labels, num=num, seed=seed, batch=16, **options)  # type: ignore[arg-type]
    elapsed = (time.perf_counter() - begin) / len(digits)
    about: dict[str, float | int | None] = {"steps": steps or gen.model.default_steps, "seconds": elapsed}
    waves = resample(waves, gen.sample_rate, WordJudge.sample_rate)
    return Spoken(name, waves, torch.tensor(digits), about)


class Recordings:
    """Real digits to compare with.

    Parameters
    ----------
    data : str or Path
        Folder of ``mmdiff fetch digits-16k``.
    seed : int
        Of the variations.
    """

    def __init__(self, data: str | Path, seed: int = 1) -> None:
        clips, numbers, labels = labelled_digits(data)
        self._digits = torch.tensor([digit_of(label) for label in labels])
        self.heard = Words(clips, numbers, seed=seed, variation=Variation())
        clips, numbers, labels = labelled_digits(data, "test")
        others = Words(clips, numbers)
        waves = torch.stack([others.varied(n, np.random.default_rng(n))["wave"] for n in range(len(others))])
        digits = torch.tensor([digit_of(labels[n]) for n in numbers])
        self.others = Spoken(OTHER_VOICES, waves, digits, {})

    def varied(self, count: int, first: int = 0) -> Spoken:
        """So many variations of the training recordings, from number ``first`` on."""
        items = [self.heard[n] for n in range(first, first + count)]
        waves = torch.stack([item["wave"] for item in items])
        return Spoken(VARIED, waves, self._digits[[item["label"] for item in items]], {})

    def copies(self) -> Tensor:
        """Variations of every training recording, equally many: (B, samples)."""
        rng = np.random.default_rng(0)
        waves = [self.heard.varied(n, rng)["wave"] for n in range(len(self.heard)) for _ in range(_COPIES)]
        return torch.stack(waves)


def evaluate_digits(
    systems: Sequence[Spoken], judge: WordJudge, recordings: Recordings | None = None
) -> list[Score]:
    """Measure spoken digits.

    Accuracy, inception score and distances between distributions are found by the judge; nearness to training
    recordings in its spectrograms, which tell voices apart. Each second counts from its first frame, so nearness is
    to variations of the recordings, in speed and place among others.

    Parameters
    ----------
    systems : sequence of Spoken
    judge : WordJudge
    recordings : Recordings, optional
        Adds two systems, and measures that compare with recordings.

    Returns
    -------
    list of Score
        Of :data:`MEASURES`, real sounds first; those that samples are too few for are left out.
    """
    if recordings is None:
        return [_score(system, judge) for system in systems]
    most = max((len(system.waves) for system in systems), default=_REFERENCE)
    real = [recordings.others, recordings.varied(most, _REFERENCE)]
    near = _Nearness(judge, recordings)
    return [_score(system, judge, near) for system in (*real, *systems)]


class _Nearness:
    """Features of varied recordings, and spectrograms of training recordings and of other voices."""

    def __init__(self, judge: WordJudge, recordings: Recordings) -> None:
        self.judge = judge
        self.features = judge.features(recordings.varied(_REFERENCE).waves)
        self.training = self._spectrograms(recordings.copies())
        self.others = self._spectrograms(recordings.others.waves)

    def _spectrograms(self, waves: Tensor) -> Tensor:
        """All of one length: what the shortest second has."""
        return self.judge.look(waves)[..., : self.judge.FRAMES]

    def measures(self, waves: Tensor) -> dict[str, Estimate]:
        found = memorisation(self._spectrograms(waves), self.training, self.others, _CLOSEST)
        return {
            **feature_distances(self.features, self.judge.features(waves)),
            "nearest": Estimate(found.ratio, samples=len(waves), real=found.held_out),
            "duplicates": found.duplicates,
        }


@torch.no_grad()
def _score(system: Spoken, judge: WordJudge, near: _Nearness | None = None) -> Score:
    chances = judge.probabilities(system.waves).cpu()
    measures = {
        "digit": digit_accuracy(chances, system.digits),
        "none": none_share(chances),
    }
    if len(chances) >= 20 * _SPLITS:
        measures["inception"] = inception_score(chances, _SPLITS)
    if near is not None:
        measures |= near.measures(system.waves)
    ordered = {name: measures[name] for name in MEASURES if name in measures}
    return Score(system.name, ordered, {"sounds": len(chances), **system.about})


def digit_validation(
    judge: WordJudge,
    vocoder: VocoderModel | None,
    *,
    keep: int = 4,
    device: str | None = None,
    dtype: str | None = None,
) -> Callable[[nn.Module, int], Validation]:
    """Make the ``validate`` function of a trainer whose task has a ``model`` of spoken digits.

    Parameters
    ----------
    judge : WordJudge
    vocoder : VocoderModel, optional
        For a model that makes spectrograms.
    keep : int
        Sounds that are kept, evenly spaced among the labels.
    device, dtype : str, optional
        As for :func:`mmdiff.load`.

    Returns
    -------
    callable
        ``validate(task, step) -> Validation`` with the share of labels, each said once, that the judge hears.
    """

    def validate(task: nn.Module, step: int) -> Validation:
        with same_compute_dtype(task):
            gen = SoundGenerator(task.model, device, dtype, vocoder=vocoder)  # type: ignore[arg-type]
            spoken = made_by(gen, "model", 1, progress=False)
        score = _score(spoken, judge.to(spoken.waves.device))
        chosen = range(0, len(gen.labels), -(-len(gen.labels) // keep))
        audio = {gen.labels[n]: (spoken.waves[n].cpu(), judge.sample_rate) for n in chosen}
        return Validation({name: found.value for name, found in score.measures.items()}, audio)

    return validate
