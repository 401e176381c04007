"""How well a model of clips does on videos: its loss, how its own clips are distributed, and what it predicts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate
from mmdiff.media.tables import Measure, Score
from mmdiff.progress import track
from mmdiff.video.convert import in_channels
from mmdiff.video.data import VideoClips, collate_clips
from mmdiff.video.evaluate_edits import EDIT_MEASURES, evaluate_edits
from mmdiff.video.evaluate_tasks import REAL, prediction_task
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.layouts import find_videos
from mmdiff.video.metrics import DISTANCES, clip_features, feature_distances
from mmdiff.video.metrics.features import FeatureNetwork
from mmdiff.video.model import ClipModel
from mmdiff.video.validation import NOISE, noise_losses

FOLDER_MEASURES = {
    "loss": Measure("denoising loss (v), mean over noise levels", "", False, 4),
    **{f"loss_at_{level:g}": Measure(f"  at ln(sigma/alpha) = {level:g}", "", False, 4) for level in NOISE},
    **DISTANCES,
    "psnr": EDIT_MEASURES["psnr"]._replace(title="prediction: PSNR"),
    "ssim": EDIT_MEASURES["ssim"]._replace(title="prediction: SSIM"),
    "seam": Measure("prediction: change across the seam / real clips'"),
    "motion": Measure("prediction: change from frame to frame / real clips'"),
}
"""Measures of a model on videos."""
FOLDER_COUNTS = {"clips": Measure("clips"), "evaluations": Measure("network evaluations a clip")}
"""What a score of a folder tells about itself."""
_REFERENCE = 3  # real clips for each measured one, that distances are measured to


def folder_clips(
    source: str | Path, model: ClipModel, *, split: str | None = None, seed: int = 0, progress: bool = True
) -> VideoClips:
    """Random clips of a folder's videos, as the model was trained on: its length, size and frame rate."""
    height, width = model.size
    return VideoClips(
        find_videos(source, split=split),
        model.frames,
        (height, width),
        fps=model.fps,
        seed=seed,
        flip=False,
        cache=False,
        progress=progress,
    )


def evaluate_folder(
    gen: ClipGenerator,
    clips: VideoClips,
    *,
    name: str = "model",
    count: int = 16,
    features: FeatureNetwork | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    guidance: float | None = None,
    seed: int = 0,
    batch: int = 4,
    progress: bool = True,
) -> list[Score]:
    """Measure a model of clips on videos.

    Parameters
    ----------
    gen : ClipGenerator
    clips : VideoClips
        Of :func:`folder_clips`; the model is told their captions, classes and actions if it can be.
    name : str
        What to call the model.
    count : int > 0
        Clips measured, and made.
    features : callable, optional
        Network for Fréchet and kernel distances, which are left out without one.
    steps, sampler, guidance
        Default: the model's.
    seed : int
        Of the first clip's noise.
    batch : int > 0
        Clips at once.
    progress : bool
        Show progress bars.

    Returns
    -------
    list of Score
        Of :data:`FOLDER_MEASURES` and :data:`FOLDER_COUNTS`: real clips, copying the last frame, and the model.
    """
    if count < 1 or batch < 1:
        raise InputError(f"count={count} and batch={batch} must be positive")
    items = [for_model(clips[n], gen.model) for n in track(range(count), "reading", show=progress)]
    settings: dict[str, Any] = {"steps": steps, "sampler": sampler, "guidance": guidance, "seed": seed}
    real, made = (Score(system, about={"clips": count, "evaluations": None}) for system in (REAL, name))
    losses = noise_losses(gen.model, items, count, batch, NOISE, seed, gen.encode)
    made.measures |= {what: Estimate(loss, samples=count) for what, loss in losses.items()}
    if features is not None:
        videos = [item["video"] for item in items]
        further = (for_model(clips[n], gen.model)["video"] for n in range(count, (1 + _REFERENCE) * count))
        with torch.inference_mode():
            reference = clip_features(
                features, track(further, "real clips", total=_REFERENCE * count, show=progress)
            )
            real.measures |= feature_distances(reference, clip_features(features, videos))
            drawn = _drawn(gen, items, settings, batch, progress)
            made.measures |= feature_distances(reference, clip_features(features, drawn))
        made.about["evaluations"] = gen.evaluations
    return [real, *_predicted(gen, items, made, settings, batch, progress)]


def _predicted(
    gen: ClipGenerator,
    items: Sequence[Mapping[str, Any]],
    made: Score,
    settings: Mapping[str, Any],
    batch: int,
    progress: bool,
) -> list[Score]:
    """Measure prediction, and put the model's own into its score."""
    videos = torch.stack([item["video"] for item in items])
    if videos.shape[2] < 2:
        return [made]
    task = prediction_task(videos.shape[2], (videos.shape[3], videos.shape[4]))
    prompts = [item["caption"] or None for item in items] if gen.model.takes_prompts else None
    trained = ["trained"] if "known" in gen.model.conditions else ["reconstruction"]
    _, copied, filled = evaluate_edits(
        gen,
        videos,
        prompts=prompts,
        tasks=[task],
        methods=trained,
        batch=batch,
        progress=progress,
        **settings,
    )
    made.measures |= filled.measures
    made.about["evaluations"] = made.about["evaluations"] or filled.about["evaluations"]
    about = {"clips": copied.about["clips"], "evaluations": None}
    return [Score(copied.name, copied.measures, about), made]


def _drawn(
    gen: ClipGenerator,
    items: Sequence[Mapping[str, Any]],
    settings: dict[str, Any],
    batch: int,
    progress: bool,
) -> itertools.chain[Tensor]:
    """Clips made of the items' captions, classes and actions."""
    told = [name for name in ("label", "actions") if name in gen.model.conditions and name in items[0]]

    def make(begin: int) -> Tensor:
        part = collate_clips(items[begin : begin + batch])
        prompts = part["caption"] if gen.model.takes_prompts else None
        seeds = [settings["seed"] + begin + n for n in range(len(part["video"]))]
        known = {name: part[name] for name in told}
        nothing = prompts is None and not known
        return gen(
            prompts, num=len(seeds) if nothing else 1, batch=batch, **{**settings, "seed": seeds}, **known
        )

    begins = track(range(0, len(items), batch), "making clips", show=progress)
    return itertools.chain.from_iterable(make(begin) for begin in begins)


def for_model(item: Mapping[str, Any], model: ClipModel) -> dict[str, Any]:
    """Item with its video in the model's number of channels."""
    return {**item, "video": in_channels(item["video"], model.channels)}
