"""Train a model of clips as a denoising diffusion GAN: its generator, and a critic that reads captions too."""

from __future__ import annotations

import reprlib
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.diffusion.grids import make_grid
from mmdiff.errors import InputError
from mmdiff.nn.critic import StepCritic
from mmdiff.registry import to_config
from mmdiff.training.denoising_gan import DenoisingGAN
from mmdiff.video.captions import CaptionEncoder
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import batch_conditions, without_some


class CaptionCritic(nn.Module):
    """Judge reverse steps of clips, and whether they fit their captions, with a caption encoder of its own.

    Parameters
    ----------
    critic : StepCritic
        Of ``dims=3``, told a vector; with ``planes`` where there is a guide.
    captions : CaptionEncoder
        As wide as that vector, of the model's vocabulary.
    """

    def __init__(self, critic: StepCritic, captions: CaptionEncoder) -> None:
        super().__init__()
        self.critic, self.captions = critic, captions

    def forward(
        self, x_s: Tensor, x_t: Tensor, t: Tensor, *, caption: Tensor, planes: Tensor | None = None
    ) -> Tensor:
        """Score steps (B, C, F, H, W) of clips with captions' ids (B, length): shape (B,)."""
        vector = self.captions(caption, x_s).vector[:, 0]
        score: Tensor = self.critic(x_s, x_t, t, planes, vector)
        return score


class ClipGAN(DenoisingGAN):
    """Train a :class:`ClipModel` with a :class:`mmdiff.video.conditioning.LatentCondition` at the steps of its table.

    Parameters
    ----------
    model : ClipModel
    critic : nn.Module
        ``critic(x_s, x_t, t, caption=ids) -> score`` for a model with a text encoder of its own, as
        :class:`CaptionCritic`; without ``caption`` for others.
    drop : float in [0, 1]
        Share of clips that both players are told nothing of, so that clips can be made without a caption too.
    guide : ClipModel, optional
        A denoiser of the same clips at the same steps, trained already: see
        :class:`mmdiff.training.denoising_gan.DenoisingGAN`. The critic is shown its clips as ``planes``.
    **rules
        ``penalty``, ``every``, ``distance`` and ``begin`` of that class.

    Raises
    ------
    InputError
        The model takes no random vector, or what it clamps would get no gradient; or the guide takes one, or reads
        pixels, captions or noise levels otherwise.
    """

    def __init__(
        self,
        model: ClipModel,
        critic: nn.Module,
        drop: float = 0.1,
        guide: ClipModel | None = None,
        **rules: Any,
    ) -> None:
        denoiser = model.denoiser
        if model.latents == 0 or denoiser.clamp is not None:
            raise InputError(
                f"latents={model.latents} of the model must be positive, by a LatentCondition, and clamp=False"
            )
        grid = make_grid("uniform", denoiser.schedule, model.steps)
        if guide is not None:
            _check_guide(guide, model)
            rules["guide"] = guide.denoiser
        super().__init__(denoiser, critic, denoiser.schedule, grid, latents=model.latents, **rules)
        self.model, self.drop = model, drop

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch of :func:`mmdiff.video.data.collate_clips`: those of the game, and "distance"."""
        cond = without_some(self.model, batch_conditions(self.model, batch), self.drop, generator)
        captions = self.model.captions
        shown = {} if captions is None else {"caption": cond[captions.name]}
        return self.play(self.model.to_model(batch["video"]), generator, cond, shown)


def _check_guide(guide: ClipModel, model: ClipModel) -> None:
    if guide.latents:
        raise InputError(
            f"guide with latents={guide.latents} must be a denoiser, which draws nothing: train one plainly"
        )
    own, other = _reading(model), _reading(guide)
    for name in own:
        if own[name] != other[name]:
            raise InputError(
                f"guide with {name}={reprlib.repr(other[name])} must have {reprlib.repr(own[name])}, the model's; "
                "train it by the same recipe"
            )


def _reading(model: ClipModel) -> dict[str, object]:
    """What a guide and a model must agree in to read the same clips, captions and levels of noise."""
    names = ("channels", "size", "mean", "std", "conditions")
    return {
        "schedule": to_config(model.denoiser.schedule),
        **{name: getattr(model, name) for name in names},
        "vocabulary": model.captions and model.captions.vocabulary,
    }
