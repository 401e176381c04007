"""What the trainer optimises: a clip model's denoising loss on clips, and on images beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.diffusion.building import build_objective
from mmdiff.diffusion.conditions import drop_condition
from mmdiff.diffusion.hybrid_score import HybridScoreMatching
from mmdiff.diffusion.objectives import Objective
from mmdiff.diffusion.schedules import Levels
from mmdiff.diffusion.times import LogNormal, Stratified, Times
from mmdiff.errors import InputError
from mmdiff.video.conditioning import PIXEL_CONDITIONS, ConditionedNetwork
from mmdiff.video.model import ClipModel
from mmdiff.video.text import text_features

_FAINTEST = 0.02  # weight: beyond it the error no longer grows

TextFunction = Callable[[Sequence[str | None]], Tensor]
"""Captions to features, as :class:`mmdiff.video.text.TextEncoder` and its cache."""


def batch_conditions(
    model: ClipModel, batch: dict[str, Any], text: TextFunction | None = None
) -> dict[str, Tensor]:
    """What of a batch of :func:`mmdiff.video.data.collate_clips` the model can be told, and ``positions``.

    Raises
    ------
    InputError
        The model takes a text encoder's features of the captions, and ``text`` is missing.
    """
    cond = {name: batch[name] for name in model.conditions if isinstance(batch.get(name), Tensor)}
    if model.captions is not None and "caption" in batch:
        cond[model.captions.name] = model.caption_ids(batch["caption"]).to(batch["video"].device)
    features = text_features(model)
    if features is not None and features.name not in cond and "caption" in batch:
        if text is None:
            raise InputError(
                f"text=None must be the text encoder {features.encoder!r}, which the model takes captions from: "
                "see mmdiff.video.text.encoder_for"
            )
        cond[features.name] = text(batch["caption"]).to(batch["video"].device)
    if "positions" in batch:
        cond["positions"] = batch["positions"]
    return cond


def left_out(names: Iterable[str]) -> list[list[str]]:
    """Which conditions training leaves out together, and which alone: as sampling does.

    Guidance compares with a clip of which nothing is said (no caption, class or actions), while given frames and
    small clips stay; whoever asks for a clip may say some things and not others; and the first block of a long
    video has no frames given.

    Returns
    -------
    list of list of str
        Groups for :func:`mmdiff.diffusion.conditions.drop_condition`. One condition is one group.
    """
    names = list(names)
    said = [name for name in names if name not in PIXEL_CONDITIONS]
    alone = [name for name in names if name not in said or len(said) > 1]
    return [said] * bool(said) + [[name] for name in alone]


def without_some(
    model: ClipModel, cond: dict[str, Tensor], share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Conditions of a batch, of which a share of the items is left without what :func:`left_out` says.

    Parameters
    ----------
    model : ClipModel
    cond : dict of str to Tensor
        Of :func:`batch_conditions`.
    share : float in [0, 1]
    generator : torch.Generator
    """
    named = {name: value for name, value in cond.items() if name != "positions"}
    if not named or not isinstance(model.network, ConditionedNetwork):
        return cond
    nulls = model.network.nulls(named)
    return {**cond, **drop_condition(named, nulls, share, groups=left_out(nulls), generator=generator)}


class ClipTask(nn.Module):
    """Train a :class:`ClipModel` on clips with their conditions, and on single images at once.

    Parameters
    ----------
    model : ClipModel
    noise : (float, float)
        Mean and standard deviation of ln(σ/α) for images. The frames of a clip show nearly the same, so F of
        them see through noise √F times as strong: their mean is ln √F more.
    drop : float in [0, 1]
        Share of items trained without what is said of them, for classifier-free guidance. Of several conditions
        each is also left out by itself so often: see :func:`left_out`.
    still_weight : float >= 0
        Weight of the images' loss.
    text : callable, optional
        Text encoder of a model with :class:`mmdiff.video.text.TextFeatures`, or its cache.
    balance : float >= 0, optional
        Weigh the squared error of x0 with σ^-balance, where σ is the noise level relative to the clip's, σ/(α√F);
        within [1/50, 1]. The exponent by which the error itself grows gives every noise level an equal share of the
        loss, and the strokes of a figure, that show at middling noise, more than the v loss gives them. Default: the
        v loss.
    times : Times, optional
        At which the model is trained, instead of those that ``noise`` says.
    """

    def __init__(
        self,
        model: ClipModel,
        noise: tuple[float, float] = (0.5, 1.3),
        drop: float = 0.1,
        still_weight: float = 1.0,
        text: TextFunction | None = None,
        balance: float | None = None,
        times: Times | None = None,
    ) -> None:
        super().__init__()
        self.text, self.balance, self.times = text, balance, times
        self.model, self.noise, self.drop, self.still_weight = model, noise, drop, still_weight

    def objective(self, frames: int) -> Objective | HybridScoreMatching:
        """The loss for clips of so many frames; 1 is for images."""
        mean, std = self.noise
        times = self.times or Stratified(LogNormal(mean + math.log(frames) / 2, std))
        schedule, balance = self.model.denoiser.schedule, self.balance
        if balance is None:
            return build_objective(schedule, times=times)

        def weight(levels: Levels) -> Tensor:
            relative = levels.sigma / (levels.alpha * math.sqrt(frames))
            return relative.pow(-balance).clamp(_FAINTEST, 1.0)

        return build_objective(schedule, target="x0", weighting=weight, times=times)

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch of :func:`mmdiff.video.data.collate_clips`: "loss" and its parts.

        ``video`` (B, C, F, H, W) uint8, with ``caption`` (list of B), ``positions`` (B, F) and other conditions
        the model knows; ``stills`` (B, K, C, H, W) with ``still_captions`` are images of their own.
        """
        losses = {}
        video = batch["video"]
        clip_loss = self._loss(video, self.told(batch, generator), generator)
        losses["clips"] = clip_loss
        total = clip_loss
        if "stills" in batch:
            stills = batch["stills"].flatten(0, 1)[:, :, None]
            captions = [caption for each in batch["still_captions"] for caption in each]
            cond = self.told({"caption": captions, "video": stills}, generator)
            losses["stills"] = self._loss(stills, cond, generator)
            total = total + self.still_weight * losses["stills"]
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def told(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """What the network is told of a batch: a share of its items are left without some of it."""
        cond = batch_conditions(self.model, batch, self.text)
        return without_some(self.model, cond, self.drop, generator)

    def _loss(self, video: Tensor, cond: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        x0 = self.model.to_model(video, generator)
        objective = self.objective(video.shape[2])
        return objective(self.model.denoiser, x0, generator=generator, **cond).mean()
