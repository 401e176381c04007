"""What models are given in training beside the noisy clip: what its data set says of it, some frames, or it small.

Frames and small clips are drawn by data sets that wrap others, so that item n stays a pure function of n. Their
values are those that :class:`~mmdiff.video.conditioning.KnownFrames` and
:class:`~mmdiff.video.conditioning.SmallClip` take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.training.data import IndexedData, step_seed
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import (
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    Conditioner,
    KnownFrames,
)
from mmdiff.video.items import VideoItem
from mmdiff.video.small import noised, shrink
from mmdiff.video.told import join
from mmdiff.video.unet import SpaceTimeUNet

_KNOWN, _SMALL = 101, 102  # streams of random numbers


def pixel_statistics(clips: IndexedData, count: int = 64) -> tuple[float, float]:
    """Mean and standard deviation of the pixels, in [-1, 1], of the first ``count`` clips."""
    totals = np.zeros(3)
    for n in range(count):
        pixels = clips[n]["video"].double() / 127.5 - 1
        totals += (pixels.numel(), float(pixels.sum()), float(pixels.square().sum()))
    mean = totals[1] / totals[0]
    return float(mean), float(max(totals[2] / totals[0] - mean**2, 1e-4) ** 0.5)


def given_frames(frames: Tensor, known: Tensor) -> Tensor:
    """Lay frames and a mask together as :class:`~mmdiff.video.conditioning.KnownFrames` wants them.

    Parameters
    ----------
    frames : Tensor, shape (..., C, F, H, W)
        In the network's own range; what is not known may hold anything.
    known : Tensor of bool, shape (F,) or (..., F)
        Which frames are given.

    Returns
    -------
    Tensor, shape (..., C + 1, F, H, W)
    """
    mask = known.to(frames)[..., None, :, None, None].expand_as(frames[..., :1, :, :, :])
    return torch.cat((torch.where(mask > 0, frames, 0.0), mask), -4)


def draw_known(frames: int, most: int, random: np.random.Generator) -> Tensor:
    """Which frames of a clip are given: half the time its first 1 ... ``most``, else so many at random.

    Returns
    -------
    Tensor of bool, shape (frames,)
        At least one frame is known and one is not, where there are two.
    """
    count = int(random.integers(1, max(2, min(most, frames - 1) + 1)))
    first = bool(random.integers(2))
    chosen = np.arange(count) if first else random.permutation(frames)[:count]
    known = torch.zeros(frames, dtype=torch.bool)
    known[torch.from_numpy(chosen)] = frames > 1
    return known


class WithKnown:
    """Clips with some of their frames given, for training prediction and interpolation.

    Parameters
    ----------
    clips : IndexedData
        Items hold ``video``, uint8 (C, F, H, W).
    most : int > 0
        Frames given at most.
    share : float in [0, 1]
        Of clips that are given frames; the others are trained on without.
    mean, std : float
        Of pixels in [-1, 1], as in :class:`~mmdiff.video.model.ClipModel`.
    seed : int

    Raises
    ------
    InputError
        ``most`` or ``share`` is out of range.
    """

    def __init__(
        self,
        clips: IndexedData,
        most: int = 8,
        share: float = 1.0,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        seed: int = 0,
    ) -> None:
        if most < 1 or not 0 <= share <= 1:
            raise InputError(f"most={most} must be at least 1, and share={share} in [0, 1]")
        self.clips, self.most, self.share = clips, most, share
        self.mean, self.std, self.seed = mean, std, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return clip ``index`` with ``known``, float32 (C + 1, F, H, W)."""
        clip = dict(self.clips[index])
        random = np.random.default_rng(step_seed(self.seed, index, 0, 0, _KNOWN))
        known = draw_known(clip["video"].shape[1], self.most, random)
        known &= bool(random.random() < self.share)
        clip["known"] = given_frames(_standardised(clip["video"], self.mean, self.std), known)
        return clip


class WithSmall:
    """Clips with themselves made small and noised, for training a stage that sharpens.

    Parameters
    ----------
    clips : IndexedData
        Items hold ``video``, uint8 (C, F, H, W).
    space, time : int > 0
        Factors, see :func:`shrink`.
    most : float in [0, 1]
        Noise levels are drawn uniformly from 0 to it.
    mean, std : float
        Of pixels in [-1, 1], as in :class:`~mmdiff.video.model.ClipModel`.
    seed : int
    """

    def __init__(
        self,
        clips: IndexedData,
        space: int = 2,
        time: int = 2,
        most: float = 0.5,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= most <= 1:
            raise InputError(f"most={most} must be a noise level in [0, 1]")
        self.clips, self.space, self.time, self.most = clips, space, time, most
        self.mean, self.std, self.seed = mean, std, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return clip ``index`` with ``small``, float32 (C + 1, f, h, w)."""
        clip = dict(self.clips[index])
        random = np.random.default_rng(step_seed(self.seed, index, 0, 0, _SMALL))
        small = shrink(_standardised(clip["video"], self.mean, self.std), self.space, self.time)[None]
        noise = torch.from_numpy(random.standard_normal(small.shape, dtype=np.float32))
        clip["small"] = noised(small, self.most * random.random(), noise)[0]
        return clip


def _standardised(video: Tensor, mean: float, std: float) -> Tensor:
    return (video.float() / 127.5 - 1 - mean) / std


def make_conditioners(
    names: Sequence[str], items: Sequence[VideoItem], width: int, words: int = 4096
) -> tuple[Conditioner, ...]:
    """Conditioners for what is known of a data set's videos.

    Parameters
    ----------
    names : sequence of {"caption", "label", "actions", "known"}
    items : sequence of VideoItem
        All of them: they say which words, classes and actions there are.
    width : int > 0
        Channels of condition vectors and tokens.
    words : int > 0
        Word pieces at most.

    Raises
    ------
    InputError
        A name is unknown or given twice, or the items lack what it needs.
    """
    captions = [item.caption for item in items if item.caption]
    labels = [item.label for item in items if item.label is not None]
    actions = [max(item.actions) for item in items if item.actions is not None]
    enough = {"caption": bool(captions), "label": len(labels) == len(items),
              "actions": len(actions) == len(items), "known": True}  # fmt: skip
    for name in names:
        if name not in enough or list(names).count(name) > 1:
            raise InputError(f"conditions={list(names)} must be some of {', '.join(enough)}, each once")
        if not enough[name]:
            every = "any video" if name == "caption" else "every video"
            raise InputError(
                f"conditions={list(names)}: the data must say the {name} of {every}, in a manifest (captions "
                "also in .txt files beside the videos); or leave it out"
            )
    makers: dict[str, Callable[[], Conditioner]] = {
        "caption": lambda: CaptionEncoder(learn_vocabulary(captions, words), width),
        "label": lambda: ClassCondition(max(labels) + 1, width),
        "actions": lambda: ActionCondition(max(actions) + 1, width),
        "known": KnownFrames,
    }
    return tuple(makers[name]() for name in names)


def network_for(
    conditioners: Sequence[Conditioner], *, mixing: Sequence[str], channels: int = 3, **settings: Any
) -> ConditionedNetwork:
    """Space-time U-Net, still untrained, with room for what the conditioners say.

    Parameters
    ----------
    conditioners : sequence of Conditioner
    mixing : sequence of str
        As for :class:`~mmdiff.video.unet.SpaceTimeUNet`; "tokens" is left out where no conditioner gives any.
    channels : int
        Of a frame.
    **settings
        Of :class:`~mmdiff.video.unet.SpaceTimeUNet`, but for ``vector``, ``tokens`` and ``planes``.
    """
    x = torch.zeros(1, channels, 1, 1, 1)
    with torch.no_grad():
        told = join([conditioner(conditioner.absent(x), x) for conditioner in conditioners], 1, 0)
    if "tokens" not in told:
        mixing = ["+".join(kind for kind in level.split("+") if kind != "tokens") for level in mixing]
    axes = {"vector": -1, "tokens": -1, "planes": 1}
    settings |= {name: told[name].shape[axis] for name, axis in axes.items() if name in told}
    return ConditionedNetwork(SpaceTimeUNet(channels, mixing=tuple(mixing), **settings), tuple(conditioners))
