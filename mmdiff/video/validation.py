"""How good a model of clips in training is: its loss on held-out clips, and what it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import with_latents
from mmdiff.diffusion.building import build_objective
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.samplers import sample
from mmdiff.training.data import IndexedData
from mmdiff.training.log import Validation
from mmdiff.video.conditioning import PIXEL_CONDITIONS, ConditionedNetwork
from mmdiff.video.data import collate_clips
from mmdiff.video.metrics.pictures import psnr, ssim
from mmdiff.video.model import ClipModel
from mmdiff.video.sheet import contact_sheet
from mmdiff.video.small import enlarge
from mmdiff.video.tasks import TextFunction, batch_conditions

NOISE = (-1.0, 0.5, 2.0)
"""Levels ln(σ/α) at which the loss is measured: fine detail, shapes, and what only the condition tells."""


def clip_validation(
    clips: IndexedData,
    *,
    count: int = 16,
    batch: int = 4,
    noise: tuple[float, ...] = NOISE,
    show: int = 4,
    steps: int | None = None,
    time: int = 2,
    seed: int = 0,
) -> Callable[[nn.Module, int], Validation]:
    """Make the ``validate`` function of a trainer whose task is a :class:`~mmdiff.video.tasks.ClipTask`.

    Parameters
    ----------
    clips : IndexedData
        Held-out clips with their conditions; number n is the same clip at each validation.
    count : int > 0
        How many of them the loss is measured on.
    batch : int > 0
        Of how many at a time.
    noise : tuple of float
        Levels ln(σ/α) of the loss.
    show : int >= 0
        How many are generated from their conditions and laid out on a contact sheet.
    steps : int, optional
        Of the sampler; default: the model's.
    time : int > 0
        Distance of the small clip's frames, for a stage that sharpens.
    seed : int
        Of the noise.

    Returns
    -------
    callable
        ``validate(task, step) -> Validation`` with ``loss``, the mean of ``loss_at_L`` over the levels L (a generator
        of a denoising diffusion GAN has none), and an image ``clips``. Where frames are given, ``psnr`` of the others
        and, for comparison, ``psnr_copy``, that of copying the nearest given frame; where a small clip is given,
        ``psnr`` and ``psnr_linear``, that of linear interpolation.
    """

    def validate(task: nn.Module, step: int) -> Validation:
        model = task.model
        assert isinstance(model, ClipModel)
        text: TextFunction | None = getattr(task, "text", None)
        metrics = {} if model.latents else noise_losses(model, clips, count, batch, noise, seed, text)
        if not show:
            return Validation(metrics)
        shown = _batch(clips, range(show), model)
        made = generate(model, shown, steps=steps, seeds=range(seed, seed + show), text=text)
        metrics |= _compared(model, shown, made, time)
        return Validation(metrics, images={"clips": _sheet(shown, made)})

    return validate


@torch.no_grad()
def noise_losses(
    model: ClipModel,
    clips: IndexedData,
    count: int,
    batch: int,
    noise: tuple[float, ...],
    seed: int,
    text: TextFunction | None = None,
) -> dict[str, float]:
    """Loss of v at fixed noise levels, with fixed noise, on clips 0 ... ``count`` - 1; ``text`` as for ClipTask."""
    schedule = model.denoiser.schedule
    objective = build_objective(schedule, target="v")
    totals = np.zeros(len(noise))
    for first in range(0, count, batch):
        numbers = range(first, min(first + batch, count))
        chosen = _batch(clips, numbers, model)
        x0, cond = model.to_model(chosen["video"]), batch_conditions(model, chosen, text)
        for place, level in enumerate(noise):
            t = float(schedule.time_of_log_snr(-2 * level))
            generator = torch.Generator().manual_seed(seed * 1_000_003 + first * len(noise) + place)
            losses = objective(model.denoiser, x0, generator=generator, t=t, **cond)
            totals[place] += float(losses.sum())
    means = totals / count
    at = {f"loss_at_{level:g}": float(value) for level, value in zip(noise, means, strict=True)}
    return {"loss": float(means.mean()), **at}


@torch.no_grad()
def generate(
    model: ClipModel,
    batch: dict[str, Any],
    *,
    steps: int | None = None,
    seeds: range = range(4),
    text: TextFunction | None = None,
) -> Tensor:
    """Make clips from a batch's conditions, with the model's own sampler; (B, C, F, H, W) in [-1, 1].

    Seeds are one for each item, so the same clip comes out in any batch. ``text`` is that of
    :class:`~mmdiff.video.tasks.ClipTask`.
    """
    cond: dict[str, Any] = batch_conditions(model, batch, text)
    denoiser: Any = model.denoiser
    guided = [name for name in cond if name not in ("positions", *PIXEL_CONDITIONS)]
    if model.guidance != 1 and guided and isinstance(model.network, ConditionedNetwork):
        nulls = model.network.nulls(cond, guided)
        denoiser = ClassifierFree(denoiser, model.guidance, nulls, interval=model.guidance_interval)
    video = batch["video"]
    generators = [torch.Generator(video.device).manual_seed(seed) for seed in list(seeds)[: len(video)]]
    state = sample(
        with_latents(denoiser, model.latents, generators),
        model.state_shape(video.shape),
        schedule=model.denoiser.schedule,
        sampler=model.sampler,
        grid=model.times(steps or model.steps),
        generator=generators,
        device=video.device,
        **cond,
    )
    return model.from_model(state)


def copy_nearest(video: Tensor, known: Tensor) -> Tensor:
    """Fill the frames of clips (..., F, H, W) that are not ``known`` (F,) with the nearest that is."""
    given = torch.nonzero(known)[:, 0]
    frames = torch.arange(len(known), device=known.device)
    return video[..., given[(frames[:, None] - given).abs().argmin(1)], :, :]


def prediction_quality(model: ClipModel, batch: dict[str, Any], made: Tensor) -> dict[str, float]:
    """PSNR of the frames that were not given, and that of copying the nearest given one; means over clips."""
    real, figures = _pixels(batch["video"]), []
    for item, clip, whole in zip(batch["known"], made, real, strict=True):
        known = item[-1, :, 0, 0] > 0
        if known.any() and not known.all():
            copied = copy_nearest(whole, known)
            figures.append([psnr(whole[:, ~known], estimate[:, ~known]) for estimate in (clip, copied)])
    means = np.mean(figures, 0) if figures else ()
    return dict(zip(("psnr", "psnr_copy"), map(float, means), strict=False))


def upscaling_quality(
    model: ClipModel,
    clips: IndexedData,
    count: int,
    *,
    batch: int = 4,
    time: int = 2,
    steps: int | None = None,
    text: TextFunction | None = None,
) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of large clips made from small ones, and of linear interpolation, against the real ones.

    Parameters
    ----------
    model : ClipModel
        With the condition ``small``.
    clips : IndexedData
        Held-out clips with ``small``, see :class:`~mmdiff.video.stages.WithSmall`.
    count, batch : int > 0
        Clips in all and at a time.
    time : int > 0
        Distance of the small clips' frames.
    steps : int, optional
        Of the sampler; default: the model's.
    text : callable, optional
        As for :class:`~mmdiff.video.tasks.ClipTask`.

    Returns
    -------
    dict
        ``{"model": {"psnr": ..., "ssim": ...}, "linear": ...}``, means over clips.
    """
    found: dict[str, list[tuple[float, float]]] = {"model": [], "linear": []}
    for first in range(0, count, batch):
        numbers = range(first, min(first + batch, count))
        chosen = _batch(clips, numbers, model)
        real = _pixels(chosen["video"])
        estimates = {
            "model": generate(model, chosen, steps=steps, seeds=numbers, text=text),
            "linear": _linear(model, chosen, time),
        }
        for name, estimate in estimates.items():
            found[name] += [(psnr(r, e), ssim(r, e)) for r, e in zip(real, estimate, strict=True)]
    means = {name: np.mean(pairs, 0) for name, pairs in found.items()}
    return {name: {"psnr": float(p), "ssim": float(s)} for name, (p, s) in means.items()}


def _linear(model: ClipModel, batch: dict[str, Any], time: int) -> Tensor:
    _, _, frames, height, width = batch["video"].shape
    return enlarge(model.from_model(batch["small"][:, :-1]), frames, (height, width), time)


def _compared(model: ClipModel, batch: dict[str, Any], made: Tensor, time: int) -> dict[str, float]:
    real = _pixels(batch["video"])
    if "small" in model.conditions and "small" in batch:
        pairs = {"psnr": made, "psnr_linear": _linear(model, batch, time)}
        return {
            name: float(np.mean([psnr(r, e) for r, e in zip(real, estimate, strict=True)]))
            for name, estimate in pairs.items()
        }
    if "known" in model.conditions and "known" in batch:
        return prediction_quality(model, batch, made)
    return {}


def _sheet(batch: dict[str, Any], made: Tensor) -> np.ndarray:
    """Each clip under the held-out one that its conditions come from."""
    captions = batch.get("caption", [""] * len(made))
    strips, titles = [], []
    for real, clip, caption in zip(_pixels(batch["video"]), made, captions, strict=True):
        strips += [real.cpu(), clip.cpu()]
        titles += [f"held out: {caption}" if caption else "held out", "made"]
    return contact_sheet(strips, titles, frames=8)


def _batch(clips: IndexedData, numbers: range, model: ClipModel) -> dict[str, Any]:
    device = next(model.parameters()).device
    batch = collate_clips([clips[n] for n in numbers])
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}


def _pixels(video: Tensor) -> Tensor:
    return video if video.is_floating_point() else video.float() / 127.5 - 1
