"""What a clip is generated from, and how a network is told: one small module for each kind of condition.

A conditioner turns what the user gave (caption ids, a class, actions, known frames, a small clip) into some of
three things every network of this room understands: a vector for each clip or frame, tokens to attend to, and
planes beside the noisy frames. :class:`ConditionedNetwork` joins them, so that a denoiser is called as
``denoiser(x, t, caption=ids, actions=actions)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmdiff.errors import InputError
from mmdiff.nn.latents import LatentMapping
from mmdiff.registry import register
from mmdiff.video.small import enlarge
from mmdiff.video.told import Told, join

PIXEL_CONDITIONS = ("known", "small")
"""Conditions that edits give, not users: guidance leaves them as they are."""


class Conditioner(nn.Module, ABC):
    """One kind of condition.

    Attributes
    ----------
    name : str
        Keyword under which the condition is given.
    """

    name: str

    @abstractmethod
    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Say ``value`` in the network's terms; ``x`` (B, C, F, H, W) is the noisy clip."""

    @abstractmethod
    def null(self, value: Tensor) -> Tensor:
        """What stands for the condition's absence, shaped like ``value``."""

    @abstractmethod
    def absent(self, x: Tensor) -> Tensor:
        """What stands for the condition's absence in a call that leaves it out."""


class _Choice(Conditioner):
    """One of ``count`` things, each with a vector; index ``count`` stands for none of them."""

    def __init__(self, count: int, width: int, name: str) -> None:
        super().__init__()
        self.name, self.count = name, count
        self.embed = nn.Embedding(count + 1, width)
        nn.init.normal_(self.embed.weight, std=0.5)

    def null(self, value: Tensor) -> Tensor:
        """Return the index after the last."""
        return torch.full_like(value, self.count)


@register
class ClassCondition(_Choice):
    """One of several classes.

    Parameters
    ----------
    classes : int > 0
    width : int
        V, channels of the network's condition vector.
    name : str
    """

    def __init__(self, classes: int, width: int, name: str = "label") -> None:
        super().__init__(classes, width, name)
        self.classes = classes

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Embed classes: int64 (B,) or (B, 1 + stills), in 0 ... ``classes`` (the last is none of them)."""
        return Told(vector=self.embed(value if value.ndim == 2 else value[:, None]))

    def absent(self, x: Tensor) -> Tensor:
        """Return the index after the last class for each clip."""
        return torch.full((len(x),), self.count, device=x.device)


@register
class ActionCondition(_Choice):
    """What is done in each frame: of several actions, one or none.

    Parameters
    ----------
    actions : int > 0
    width : int
        V, channels of the network's condition vector.
    name : str
    """

    def __init__(self, actions: int, width: int, name: str = "actions") -> None:
        super().__init__(actions, width, name)
        self.actions = actions

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Embed actions: int64 (B, F), in 0 ... ``actions`` (the last is unknown)."""
        if value.shape[-1] != x.shape[2]:
            raise InputError(
                f"actions={tuple(value.shape)} must hold one for each of the clip's {x.shape[2]} frames"
            )
        return Told(vector=self.embed(value))

    def absent(self, x: Tensor) -> Tensor:
        """Return the index after the last action for each frame."""
        return torch.full((len(x), x.shape[2]), self.count, device=x.device)


@register
class KnownFrames(Conditioner):
    """Frames that are given, with a mask: prediction, interpolation, and anything else trained for.

    Parameters
    ----------
    channels : int
        Of a frame.
    name : str

    Notes
    -----
    The value is (B, C + 1, F, H, W): frames in the network's own range where known and 0 elsewhere, then the
    mask. It is laid beside the noisy frames as planes.
    """

    def __init__(self, channels: int = 3, name: str = "known") -> None:
        super().__init__()
        self.name, self.channels = name, channels

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Pass the planes on."""
        if value.shape[1:] != (self.channels + 1, *x.shape[2:]):
            raise InputError(
                f"{self.name}={tuple(value.shape)} must be (B, {self.channels + 1}, *{tuple(x.shape[2:])}): "
                "frames, then their mask"
            )
        return Told(planes=value)

    def null(self, value: Tensor) -> Tensor:
        """Return zeros: nothing is known."""
        return torch.zeros_like(value)

    def absent(self, x: Tensor) -> Tensor:
        """Return zeros: the network has planes for the frames in any case."""
        return x.new_zeros((len(x), self.channels + 1, *x.shape[2:]))


@register
class SmallClip(Conditioner):
    """The clip at low resolution, for a stage that sharpens it, with noise augmentation.

    Parameters
    ----------
    channels : int
        Of a frame.
    width : int
        V, channels of the network's condition vector.
    name : str

    Notes
    -----
    The value is (B, C + 1, f, h, w): the small clip in the network's own range, noised to the level σ in
    [0, 1] that its last channel holds (variance preserving: √(1-σ²) x + σ n). Training draws σ, so that the
    stage bears with the flaws of the stage before it (Ho et al. 2021, 2106.15282, section 4); sampling takes
    a small one. The clip is enlarged by :func:`mmdiff.video.small.enlarge`.
    """

    def __init__(self, channels: int = 3, width: int = 256, name: str = "small") -> None:
        super().__init__()
        self.name, self.channels = name, channels
        self.level = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Enlarge the clip; embed its noise level."""
        large = enlarge(value[:, :-1].float(), x.shape[2], (x.shape[3], x.shape[4]))
        sigma = value[:, -1].flatten(1).mean(1)
        return Told(vector=self.level(sigma[:, None])[:, None], planes=large)

    def null(self, value: Tensor) -> Tensor:
        """Return the clip fully noised away: zeros at level 1."""
        return torch.cat((torch.zeros_like(value[:, :-1]), torch.ones_like(value[:, -1:])), 1)

    def absent(self, x: Tensor) -> Tensor:
        """Return a clip of one grey pixel, fully noised away."""
        return self.null(x.new_zeros((len(x), self.channels + 1, 1, 1, 1)))


@register
class LatentCondition(Conditioner):
    """What a generator draws: z, of which :func:`mmdiff.diffusion.adversarial.with_latents` gives it a fresh one.

    Parameters
    ----------
    latents : int > 0
        Size of z.
    width : int
        V, channels of the network's condition vector.
    depth : int > 0
        Layers between the two; see :class:`mmdiff.nn.latents.LatentMapping`.
    name : str
    """

    def __init__(self, latents: int = 64, width: int = 256, depth: int = 3, name: str = "z") -> None:
        super().__init__()
        self.name, self.latents = name, latents
        self.mapping = LatentMapping(latents, width, depth)

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Map z (B, latents), one for each clip."""
        return Told(vector=self.mapping(value)[:, None])

    def null(self, value: Tensor) -> Tensor:
        """Return z itself: guidance compares what is made of the same."""
        return value

    def absent(self, x: Tensor) -> Tensor:
        """Refuse: there is no generator without."""
        raise InputError(f"{self.name} must be given, one for each clip; let with_latents draw it")


@register
class ConditionedNetwork(nn.Module):
    """A space-time network and what it is told.

    Parameters
    ----------
    network : nn.Module
        As :class:`mmdiff.video.unet.SpaceTimeUNet`.
    conditioners : tuple of Conditioner
        With different names. Each condition may be left out of a call: it then counts as absent.

    Raises
    ------
    InputError
        Two conditioners have one name.
    """

    def __init__(self, network: nn.Module, conditioners: tuple[Conditioner, ...] = ()) -> None:
        super().__init__()
        self.network = network
        self.conditioners = nn.ModuleDict({c.name: c for c in conditioners})
        if len(self.conditioners) < len(conditioners):
            raise InputError(f"conditioners={[c.name for c in conditioners]} must have different names")

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        *,
        positions: Tensor | None = None,
        stills: int = 0,
        **conditions: Tensor,
    ) -> Tensor:
        """Evaluate on ``x`` (B, C, F, H, W) at log-SNR ``level`` (B,), given conditions by name.

        Raises
        ------
        InputError
            There is no conditioner for a condition.
        """
        if unknown := sorted(set(conditions) - set(self.conditioners)):
            raise InputError(
                f"condition {', '.join(unknown)} must be one of those the model was trained with: "
                f"{', '.join(self.conditioners) or 'none'}"
            )
        told = []
        for name, conditioner in self.conditioners.items():  # in their own order: planes are stacked
            value = conditions[name] if name in conditions else conditioner.absent(x)  # type: ignore[operator]
            told.append(conditioner(value, x))
        joined = join(told, x.shape[2], stills)
        return self.network(x, level, positions=positions, stills=stills, **joined)

    def nulls(
        self, conditions: Mapping[str, Tensor], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """What stands for the absence of the given conditions (those in ``names``, default all)."""
        chosen = conditions if names is None else [n for n in conditions if n in names]
        return {name: self.conditioners[name].null(conditions[name]) for name in chosen}  # type: ignore[operator]
