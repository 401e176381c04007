"""How well a model makes moving digits from captions, measured by the judge, beside real clips.

Real clips are drawn for the same captions with handwriting that neither the model nor the judge was trained on,
and measured in the same way: they say what the judge's own accuracy is, and how far two samples of real clips
lie apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, mean_estimate
from mmdiff.media.tables import SHARE, Measure, Score
from mmdiff.progress import track
from mmdiff.video.evaluate_captions import Make, Questions, real_digits
from mmdiff.video.evaluate_pairs import PairVerdict, judge_pairs, pair_accuracy
from mmdiff.video.evaluate_tasks import REAL
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.judge import DigitJudge, Verdict, judge_clips, verdict_accuracy
from mmdiff.video.metrics import DISTANCES, clip_features, feature_distances, inception_score, memorisation
from mmdiff.video.metrics.features import FeatureNetwork
from mmdiff.video.model import ClipModel

_REFERENCE, _TRAINING = 1 << 32, 1 << 33  # first seeds of real clips that no measured clip shares
_CLOSEST = 0.01  # share of held-out clips that are nearer to training than a near-duplicate is allowed to be


class System(NamedTuple):
    """Something that makes clips from captions."""

    name: str
    make: Make
    steps: int | None = None
    """Of the sampler."""
    evaluations: Callable[[], int] | None = None
    """Network evaluations of each clip in the latest call."""


MEASURES = {
    "digit": Measure("frames that show the caption's digit", SHARE, True),
    "motion": Measure("clips that move as told", SHARE, True),
    "colour": Measure("clips of the right colour", SHARE, True),
    "all": Measure("clips with digit, motion and colour right", SHARE, True),
    "steady": Measure("frames that agree with their clip's digit", SHARE, True),
    "empty": Measure("frames that show next to nothing", SHARE, False),
    "smooth": Measure("clips without empty frame or step > 1.5 x real", SHARE, True),
    "step": Measure("largest step of the centre in a clip", "pixels"),
    "jump": Measure("largest step of all clips", "pixels"),
    **DISTANCES,
    "inception": Measure("inception score", higher_is_better=True),
    "nearest": Measure("distance to training clips / that of real clips"),
    "duplicates": Measure("clips nearer to training than 99 % of real ones", SHARE, False),
    "pair_digit": Measure("two figures: frames with the digit in its colour", SHARE, True),
    "pair_motion": Measure("two figures: figures that move as told", SHARE, True),
    "pair_all": Measure("two figures: clips with both digits and motions right", SHARE, True),
    "pair_digits": Measure("two figures: recall of the digits, in any colour", SHARE, True),
    "pair_empty": Measure("two figures: frames with nothing in a figure's colour", SHARE, False),
    "pair_neither": Measure("two figures: light of other colours", SHARE, False),
}
"""Measures of moving digits."""
COUNTS = {
    "clips": Measure("clips of one figure"),
    "pairs": Measure("clips of two figures"),
    "evaluations": Measure("network evaluations a clip"),
    "seconds": Measure("seconds a clip", decimals=2),
}
"""What a score of moving digits tells about itself, beside the sampler's ``steps``; not of real clips: the last two."""


def model_system(
    gen: ClipGenerator,
    name: str,
    *,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
) -> System:
    """A model as a system; what is not given is its own default."""

    def make(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return gen(
            list(captions),
            seed=list(seeds),
            steps=steps,
            sampler=sampler,
            guidance=guidance,
            batch=len(captions),
        )

    return System(name, make, steps or gen.model.steps, lambda: gen.evaluations)


def coded_system(model: ClipModel) -> System:
    """Real clips of captions, through a model's autoencoder and back: what no prior of its latents can better."""
    draw = real_digits(model.frames, model.size[0])

    def make(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        clips = draw(captions, seeds).to(next(model.parameters()).device)
        return model.from_model(model.to_model(clips))

    return System(f"{REAL}, encoded and decoded", make)


def evaluate_digits(
    systems: Sequence[System],
    judge: DigitJudge,
    asked: Questions,
    *,
    frames: int = 16,
    size: int = 32,
    features: FeatureNetwork | None = None,
    reference: int | None = None,
    batch: int = 8,
    progress: bool = True,
) -> list[Score]:
    """Measure systems that make moving digits from captions.

    Each clip is measured when it is made, and not kept.

    Parameters
    ----------
    systems : sequence of System
    judge : DigitJudge
    asked : Questions
    frames, size : int
        Of real clips.
    features : callable, optional
        Network for Fréchet and kernel distances and for nearness to training clips; default: the judge.
    reference : int > 99, optional
        Real clips that distances are measured to; as many training clips that nearness is measured to. Default:
        five times the captions, from 100 to 500.
    batch : int > 0
        Clips made at once.
    progress : bool
        Show progress bars.

    Returns
    -------
    list of Score
        Of :data:`MEASURES` and :data:`COUNTS`, real clips first. Distances that samples are too few for are left out.

    Raises
    ------
    InputError
        A number breaks its rule.
    """
    if reference is None:
        reference = min(500, max(100, 5 * len(asked.captions)))
    if batch < 1 or reference < 1 / _CLOSEST:
        raise InputError(
            f"batch={batch} must be positive and reference={reference} at least {1 / _CLOSEST:.0f}"
        )
    network = judge.features if features is None else features
    near = _Nearness(network, asked.captions, reference, frames, size)
    with torch.inference_mode():
        near.draw(progress)
        real = System(REAL, real_digits(frames, size))
        return [_score(system, judge, asked, near, batch, progress) for system in (real, *systems)]


class _Nearness:
    """Features of real clips and of training clips, and distances to them."""

    def __init__(
        self, network: FeatureNetwork, captions: Sequence[str], count: int, frames: int, size: int
    ) -> None:
        self.network, self.captions, self.count = network, captions, count
        self.sources = {
            "real": (real_digits(frames, size), _REFERENCE),
            "training": (real_digits(frames, size, "train"), _TRAINING),
        }
        self.rows: dict[str, Tensor] = {}

    def draw(self, progress: bool) -> None:
        # captions at random: two sets that hold each caption equally often would be too much alike
        chosen = np.random.default_rng(0).integers(len(self.captions), size=self.count).tolist()
        for what, (make, seed) in self.sources.items():
            numbers = track(range(self.count), f"{what} clips", show=progress)
            clips = (make([self.captions[chosen[n]]], [seed + n])[0] for n in numbers)
            self.rows[what] = clip_features(self.network, clips)

    def measures(self, rows: Tensor) -> dict[str, Estimate]:
        found = memorisation(rows, self.rows["training"], self.rows["real"], _CLOSEST)
        return {
            **feature_distances(self.rows["real"], rows),
            "nearest": Estimate(found.ratio, samples=len(rows), real=self.count),
            "duplicates": found.duplicates,
        }


def _score(
    system: System, judge: DigitJudge, asked: Questions, near: _Nearness, batch: int, progress: bool
) -> Score:
    verdicts, rows, chances, pairs = [], [], [], []
    elapsed, evaluations = 0.0, None
    for begin, clips, seconds in _made(system, asked.captions, asked.seed, batch, progress, system.name):
        del begin
        elapsed += seconds
        verdicts.append(judge_clips(clips, judge))
        rows.append(clip_features(near.network, clips))
        chances.append(probabilities(clips, judge))
        evaluations = None if system.evaluations is None else system.evaluations()
    after = asked.seed + len(asked.captions)
    label = f"{system.name}, two figures"
    for begin, clips, _ in _made(system, asked.pair_captions, after, batch, progress, label):
        pairs.append(judge_pairs(clips, asked.pair_labels[begin : begin + len(clips)], judge))
    verdict = Verdict(*(torch.cat(column) for column in zip(*verdicts, strict=True)))
    steps = largest_steps(verdict)
    measures = {
        **verdict_accuracy(verdict, asked.labels),
        "step": mean_estimate(steps),
        "jump": Estimate(float(steps.max()) if len(steps) else math.nan, samples=len(steps)),
        **near.measures(torch.cat(rows)),
    }
    if len(asked.captions) >= 40:  # two splits of twenty
        splits = min(10, max(2, len(asked.captions) // 100))
        measures["inception"] = inception_score(torch.cat(chances), splits)
    if pairs:
        together = PairVerdict(*(torch.cat(column) for column in zip(*pairs, strict=True)))
        measures |= {f"pair_{name}": share for name, share in pair_accuracy(together).items()}
    about = {
        "steps": system.steps,
        "evaluations": evaluations,
        "seconds": None if system.evaluations is None else elapsed / len(asked.captions),
        "clips": len(asked.captions),
        "pairs": len(asked.pair_captions),
    }
    return Score(system.name, {name: measures[name] for name in MEASURES if name in measures}, about)


def _made(
    system: System, captions: Sequence[str], seed: int, batch: int, progress: bool, label: str
) -> Iterator[tuple[int, Tensor, float]]:
    """Number of the first, clips, and seconds, of one batch after the other."""
    for begin in track(range(0, len(captions), batch), label, show=progress):
        part = captions[begin : begin + batch]
        start = time.perf_counter()
        clips = system.make(part, range(seed + begin, seed + begin + len(part))).cpu()
        yield begin, clips, time.perf_counter() - start


def probabilities(video: Tensor, judge: nn.Module) -> Tensor:
    """Probability of each digit, and of none, in the frames of a clip on average; (B, 11)."""
    device = next(judge.parameters()).device
    pixels = video if video.is_floating_point() else video.float() / 127.5 - 1
    logits = judge(pixels.transpose(1, 2).flatten(0, 1).to(device))
    mean: Tensor = functional.softmax(logits, 1).unflatten(0, (len(video), -1)).mean(1)
    return mean


def largest_steps(verdict: Verdict) -> Tensor:
    """Each clip's largest step of the centre of light, in pixels at 32 x 32; clips without light are left out."""
    most = verdict.steps.nan_to_num(nan=-1.0).amax(1)
    return most[most >= 0].double()
