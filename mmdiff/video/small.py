"""Clips at low resolution: how they are made from large ones, enlarged again, and noised for training."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.errors import InputError


def shrink(video: Tensor, space: int = 2, time: int = 2) -> Tensor:
    """Make a clip small: means of ``space`` x ``space`` pixels of frames 0, ``time``, 2 ``time``, ...

    A stage before this one makes just such clips: fewer frames a second, each as sharp as a frame can be.

    Parameters
    ----------
    video : Tensor of float, shape (..., F, H, W)
    space, time : int > 0
        Factors; ``space`` divides H and W.

    Returns
    -------
    Tensor, shape (..., ceil(F / time), H / space, W / space)

    Raises
    ------
    InputError
        A factor breaks its rule.
    """
    height, width = video.shape[-2:]
    if space < 1 or time < 1 or height % space or width % space:
        raise InputError(f"space={space} must divide {height} and {width}, and time={time} be at least 1")
    thinned = video[..., ::time, :, :]
    return functional.avg_pool2d(thinned.flatten(0, -3), space).unflatten(0, thinned.shape[:-2])


def enlarge(small: Tensor, frames: int, size: tuple[int, int], time: int | None = None) -> Tensor:
    """Interpolate a small clip linearly, in space and time: what a trained stage is told, and has to beat.

    Parameters
    ----------
    small : Tensor of float, shape (B, C, f, h, w)
        Its frames stand at 0, ``time``, 2 ``time``, ...; the last is held after its time.
    frames, size
        F and (H, W) of the result.
    time : int > 0, optional
        Default: F / f, rounded up.

    Returns
    -------
    Tensor, shape (B, C, F, H, W)
    """
    time = time or math.ceil(frames / small.shape[2])
    large = functional.interpolate(
        small, (small.shape[2], *size), mode="trilinear", align_corners=False
    )  # in space only: the number of frames stays
    place = (torch.arange(frames, device=small.device) / time).clamp_max(small.shape[2] - 1)
    before = place.floor().long()
    after = (before + 1).clamp_max(small.shape[2] - 1)
    share = (place - before).to(small)[:, None, None]
    return large[:, :, before] * (1 - share) + large[:, :, after] * share


def noised(small: Tensor, level: Tensor | float, noise: Tensor) -> Tensor:
    """Noise augmentation (Ho et al. 2021, 2106.15282, section 4), as SmallClip wants it.

    Parameters
    ----------
    small, noise : Tensor, shape (B, C, f, h, w)
        In the network's own range; standard normal.
    level : Tensor (B,) or float, in [0, 1]
        σ of √(1-σ²) x + σ n.

    Returns
    -------
    Tensor, shape (B, C + 1, f, h, w)
        The last channel holds the level.
    """
    sigma = torch.as_tensor(level, dtype=small.dtype, device=small.device).expand(len(small))
    sigma = sigma.reshape(-1, 1, 1, 1, 1)
    mixed = (1 - sigma.square()).sqrt() * small + sigma * noise
    return torch.cat((mixed, sigma.expand_as(small[:, :1])), 1)
