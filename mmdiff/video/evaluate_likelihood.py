"""How likely videos are under a model of clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.errors import InputError
from mmdiff.latent.likelihood import PairLikelihood
from mmdiff.media.likelihoods import ChainLikelihood, Item, Likelihood, coded_bits, measure_sets, set_name
from mmdiff.media.tables import Score
from mmdiff.progress import track
from mmdiff.video.data import VideoClips
from mmdiff.video.digits import MovingDigits
from mmdiff.video.evaluate_captions import is_digit_model
from mmdiff.video.evaluate_folder import for_model
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.layouts import find_videos
from mmdiff.video.model import ClipModel

DIGITS = "moving digits, held out"
"""Name of the first set of a model of moving digits: handwriting and captions that it was not trained on."""


def evaluate_clip_likelihood(
    gen: ClipGenerator,
    sources: Sequence[str | Path],
    *,
    split: str | None = None,
    count: int = 16,
    draws: int = 16,
    seed: int = 0,
    batch: int = 4,
    progress: bool = True,
) -> list[Score]:
    """Measure bits per dimension of videos' pixels, 8 bits a channel, under a model that is told nothing.

    Parameters
    ----------
    gen : ClipGenerator
    sources : sequence of str or Path
        Folders or manifests of videos, each a set; the first is of what the model was trained on. A model of moving
        digits has them for its first set, before these.
    split : str, optional
        Part of the first source.
    count : int > 0
        Videos of each set, evenly spaced in the list; of each one clip of the model's length, size and rate.
    draws : int > 0
        Evaluations for each clip, twice of each of a model of latents; see
        :class:`~mmdiff.media.likelihoods.ChainLikelihood` and :class:`~mmdiff.latent.likelihood.PairLikelihood`.
    seed, batch, progress
        As for :func:`mmdiff.media.likelihoods.measure_sets`; ``seed`` is that of the choice of clips too.

    Returns
    -------
    list of Score

    Raises
    ------
    InputError
        There is nothing to measure, or the model makes large clips of small ones.
    """
    if count < 1:
        raise InputError(f"count={count} must be positive")
    if "small" in gen.model.conditions:
        raise InputError("the model must make clips by itself, and it makes large ones of small ones")
    sets: dict[str, list[Item]] = {}
    if is_digit_model(gen.model):
        digits = MovingDigits("test", frames=gen.model.frames, size=gen.model.size[0], seed=seed)
        sets[DIGITS] = [_item(gen, f"{n}", digits[n]) for n in range(count)]
    for place, source in enumerate(sources):
        videos = find_videos(source, split=split if place == 0 else None)
        chosen = videos if count >= len(videos) else [videos[n * len(videos) // count] for n in range(count)]
        name = Path(source).name or str(source)
        sets[set_name(source, sets)] = [
            _item(gen, str(video.path), _clip(video, gen.model, seed))
            for video in track(chosen, f"reading {name}", show=progress)
        ]
    if not sets:
        raise InputError("reference must be given: videos such as the model was trained on")
    return measure_sets(_likelihood(gen.model, draws), sets, seed=seed, batch=batch, progress=progress)


def _likelihood(model: ClipModel, draws: int) -> Likelihood:
    bins = Quantisation.of_pictures().scaled(model.mean, model.std)
    denoiser, schedule = model.denoiser, model.denoiser.schedule
    if model.autoencoder is None:
        return ChainLikelihood(denoiser, schedule, bins, draws)
    return PairLikelihood(model.autoencoder, denoiser, schedule, bins, draws)


def _clip(video: Any, model: ClipModel, seed: int) -> dict[str, Any]:
    how: dict[str, Any] = {"fps": model.fps, "seed": seed, "flip": False, "cache": False, "progress": False}
    return VideoClips([video], model.frames, (model.size[0], model.size[1]), **how)[0]


def _item(gen: ClipGenerator, name: str, clip: dict[str, Any]) -> Item:
    pixels: Tensor = for_model(clip, gen.model)["video"]
    if pixels.is_floating_point():
        pixels = ((pixels + 1) * 127.5).round().to(torch.uint8)
    return Item(name, gen.model.normalised(pixels).to(gen.device), coded_bits(pixels))
