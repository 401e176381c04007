"""How well a model fills in what is missing of real clips, without training for it, beside simple baselines.

Every way of making a clip agree with what is known runs with the same model, clips, seeds and steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.measurement import Measurement
from mmdiff.diffusion.reconstruction import NoisedReplacement
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, bootstrapped, mean_estimate, wilson
from mmdiff.media.tables import SHARE, Measure, Score
from mmdiff.progress import track
from mmdiff.video import edits
from mmdiff.video.convert import convert
from mmdiff.video.drawing import Drawing, block_seed
from mmdiff.video.evaluate_tasks import REAL, Task, edit_tasks
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.judge import DigitJudge, judge_clips
from mmdiff.video.metrics.pictures import ssim_map

METHODS = {
    "trained": "trained condition",
    "reconstruction": "reconstruction guidance",
    "replacement": "replacement in x0",
    "noised": "replacement in x_t, fresh noise",
}
"""Ways to make a result agree with what is known."""
EDIT_MEASURES = {
    "psnr": Measure("PSNR", "dB", True, note="of the unknown part"),
    "ssim": Measure("SSIM", "", True, note="of windows about unknown pixels"),
    "seam": Measure("seam", note="change across the border of what is known / real clips'"),
    "motion": Measure("motion", note="change of unknown pixels from frame to frame / real clips'"),
    "digit": Measure(
        "digit", SHARE, True, note="frames with unknown pixels that show the known frames' digit"
    ),
}
"""Measures of filled-in clips."""
EVALUATIONS = Measure("evaluations")
"""Of the network for each clip; a reconstruction's backward passes are not counted."""
_MARGIN = 5  # pixels that a window of SSIM reaches beyond its middle


def evaluate_edits(
    gen: ClipGenerator,
    clips: Tensor,
    *,
    prompts: Sequence[str | None] | None = None,
    judge: DigitJudge | None = None,
    tasks: Sequence[Task] | None = None,
    methods: Sequence[str] | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 4,
    progress: bool = True,
) -> list[Score]:
    """Leave something of real clips out in several ways, have it filled in, and compare.

    Parameters
    ----------
    gen : ClipGenerator
    clips : Tensor, shape (N, C, F, H, W), in [-1, 1] or uint8
        Real clips that training did not see.
    prompts : sequence of N str or None, optional
        What the model is told of them; default: nothing.
    judge : DigitJudge, optional
        For clips of moving digits: measures whether the digit stays the same.
    tasks : sequence of Task, optional
        Default: those of :func:`edit_tasks`.
    methods : sequence of str, optional
        Keys of :data:`METHODS`; default: all that the model can.
    steps, sampler, guidance
        Default: the model's.
    seed : int
        Of the first clip's noise; the others count on.
    batch : int > 0
        Clips at once.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Score
        Of :data:`EDIT_MEASURES`, about ``task``, ``clips`` and ``evaluations``. Task by task: real clips,
        baselines, methods.

    Raises
    ------
    InputError
        The clips have other frames than the model can make, or a name is unknown.
    """
    if batch < 1 or (prompts is not None and len(prompts) != len(clips)):
        raise InputError(
            f"batch={batch} must be positive, and there must be as many prompts as clips or none"
        )
    if methods is not None and (unknown := [name for name in methods if name not in METHODS]):
        raise InputError(f"methods={unknown} must be some of {', '.join(METHODS)}")
    real = convert(edits.as_clips(clips), torch.float32)
    tasks = edit_tasks(real.shape[2], (real.shape[3], real.shape[4])) if tasks is None else tasks
    plan = [(task, method) for task in tasks for method in methods or _possible(gen, task, real)]
    made: dict[tuple[str, str], tuple[Tensor, int]] = {}
    settings = {"steps": steps, "sampler": sampler, "guidance": guidance}
    parts = [(task, method, n) for task, method in plan for n in range(0, len(real), batch)]
    for task, method, n in track(parts, "filling in", show=progress):
        told = list(prompts[n : n + batch]) if prompts is not None else None
        filled, evaluations = _filled(gen, task, method, real[n : n + batch], told, seed + n, settings)
        before = made.get((task.name, method), (filled[:0], 0))[0]
        made[task.name, method] = (torch.cat((before, filled)), evaluations)
    scores = []
    for task in tasks:
        rows: list[tuple[str, Tensor, int | None]] = [(REAL, real, None)]
        rows += [(name, baseline(real), None) for name, baseline in task.baselines.items()]
        rows += [(METHODS[m], *made[task.name, m]) for t, m in plan if t is task]
        scores += [
            Score(
                name,
                edit_measures(task.known, real, estimate, judge),
                {"task": task.name, "clips": len(real), "evaluations": count},
            )
            for name, estimate, count in rows
        ]
    return scores


class _FreshNoise(Drawing):
    """Draw with the known part shown in fresh noise at each step."""

    def _agreeing(self, denoiser: DenoiserFn, measurement: Measurement) -> DenoiserFn:
        seeds = [block_seed(seed, -2) for seed in self.request.seeds]
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]
        return NoisedReplacement(denoiser, measurement, self.model.denoiser.schedule, generators)


def _possible(gen: ClipGenerator, task: Task, clips: Tensor) -> list[str]:
    needed = "known" if task.edit(clips[:1]).small is None else "small"
    return [name for name in METHODS if name != "trained" or needed in gen.model.conditions]


@torch.no_grad()
def _filled(
    gen: ClipGenerator,
    task: Task,
    method: str,
    clips: Tensor,
    prompts: Sequence[str | None] | None,
    seed: int,
    settings: Mapping[str, Any],
) -> tuple[Tensor, int]:
    """Fill in some clips: what comes out, on the host, and the network evaluations of each."""
    edit = task.edit(clips)
    kind, named = (_FreshNoise, "replacement") if method == "noised" else (Drawing, method)
    seeds = range(seed, seed + len(clips))
    request = gen.request(prompts, edit=edit, seed=list(seeds), method=named, **settings)
    draw = kind(gen.model, request, gen.device, lambda *_: None)
    known = edit.part(0, edit.frames, gen.model.channels, gen.device)
    return draw(0, edit.frames, known).cpu(), draw.evaluations


def edit_measures(
    known: Tensor, real: Tensor, made: Tensor, judge: DigitJudge | None = None
) -> dict[str, Estimate]:
    """Compare clips of which part was filled in with the real ones.

    Parameters
    ----------
    known : Tensor of bool, shape (F, H, W)
    real, made : Tensor, shape (N, C, F, H, W), in [-1, 1]
    judge : DigitJudge, optional

    Returns
    -------
    dict from str to Estimate
        ``psnr`` is that of the mean squared error of all clips' unknown pixels, at a peak of 1. ``ssim``: mean
        over windows about unknown pixels. ``seam``: mean absolute difference of neighbours, in time or space,
        of which one is known, over that of real clips; nan where none is. ``motion``: the same of successive
        pixels in time of which one is unknown. Below 1 is frozen or blurred, above 1 a jump or flicker.
        ``digit``: share of frames with unknown pixels that show the digit of the known ones, or of the real
        clip where no frame is wholly known. Intervals are over clips.
    """
    hidden = ~known
    error = ((made - real) / 2).square()[:, :, hidden].double().mean((1, 2))
    measures = {"psnr": bootstrapped(_decibels, error)}
    if min(real.shape[-2:]) > 2 * _MARGIN:
        about = hidden[:, _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        values = [ssim_map(a, b)[:, about].mean() for a, b in zip(real, made, strict=True)]
        measures["ssim"] = mean_estimate(torch.stack(values))
    for name, pairs in (("seam", _seam(known)), ("motion", _successive(hidden))):
        changes = [_change(made, pairs), _change(real, pairs)]
        measures[name] = bootstrapped(
            lambda x: x[..., 0].sum(-1) / x[..., 1].sum(-1), torch.stack(changes, 1)
        )
    if judge is not None:
        measures["digit"] = _agreement(known, real, made, judge)
    return measures


def _decibels(error: Tensor) -> Tensor:
    return -10 * error.mean(-1).log10()


def _seam(known: Tensor) -> list[Tensor]:
    """For time, height and width: pairs of neighbours of which one is known and one is not."""
    return [
        known.narrow(axis, 1, n - 1) != known.narrow(axis, 0, n - 1) for axis, n in enumerate(known.shape)
    ]


def _successive(hidden: Tensor) -> list[Tensor]:
    """Neighbours in time of which one is unknown, at least; none in space."""
    in_time = hidden[1:] | hidden[:-1]
    return [in_time, *(torch.zeros_like(pairs) for pairs in _seam(hidden)[1:])]


def _change(video: Tensor, pairs: Sequence[Tensor]) -> Tensor:
    """Sum of absolute differences of such neighbours, for each clip."""
    axes = range(2, 2 + len(pairs))
    sums = [
        video.diff(dim=axis).abs()[:, :, chosen].double().sum((1, 2))
        for axis, chosen in zip(axes, pairs, strict=True)
    ]
    return torch.stack(sums).sum(0)


def _agreement(known: Tensor, real: Tensor, made: Tensor, judge: DigitJudge) -> Estimate:
    whole = known.flatten(1).all(1)
    looked_at = whole if bool(whole.any()) else torch.ones_like(whole)
    told = judge_clips(real, judge).digits[:, looked_at].mode(1).values
    shown = judge_clips(made, judge).digits[:, ~whole]
    return wilson(float((shown == told[:, None]).double().mean()), len(real))
