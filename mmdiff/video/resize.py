"""Bring pictures to a size: scaled without aliasing, then cropped, padded or stretched to fit."""

from __future__ import annotations

import math
from numbers import Integral
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mmdiff.errors import InputError

Fit = Literal["crop", "pad", "stretch"]
Size = int | tuple[int, int]
MAX_SIDE = 1 << 14
_WORK_VALUES = 1 << 24  # of float32 in flight: 64 MiB
_BLACK = -1.0


def resize(video: Tensor, size: Size, fit: Fit = "crop", *, antialias: bool = True) -> Tensor:
    """Scale pictures by bicubic interpolation, wide enough where they shrink that nothing aliases.

    Parameters
    ----------
    video : Tensor, shape (..., H, W), uint8 or floating point in [-1, 1]
        Pictures, a clip, or a batch of clips.
    size : int > 0 | (height, width)
        The new size in pixels; one number means a square.
    fit : {"crop", "pad", "stretch"}
        When the shape of the picture differs: cover the new size and cut off what sticks out evenly on both
        sides, fit inside it and fill up with black, or scale height and width by different factors.
    antialias : bool
        Widen the filter when shrinking. False gives the plain four-tap interpolation.

    Returns
    -------
    Tensor, shape (..., height, width)
        Of the same type and on the same device, in the range of the input: overshoot is clipped. uint8 on
        the CPU is computed in whole numbers, rows then columns, each rounded and clipped, as Pillow does:
        where extremes meet, that differs visibly from the same picture scaled in floating point.

    Raises
    ------
    InputError
        ``video`` has no pixels or another type, ``size`` is not positive or too large, ``fit`` is unknown.

    Examples
    --------
    >>> resize(torch.zeros(3, 16, 90, 160), 64).shape
    torch.Size([3, 16, 64, 64])
    >>> resize(torch.zeros(3, 16, 90, 160), (36, 64), "stretch").shape
    torch.Size([3, 16, 36, 64])
    """
    height, width = check_size(size)
    check_fit(fit)
    if video.ndim < 2 or video.numel() == 0:
        raise InputError(f"video.shape={tuple(video.shape)} must be (..., H, W) with at least one pixel")
    if not (video.is_floating_point() or video.dtype == torch.uint8):
        raise InputError(f"video.dtype={video.dtype} must be uint8, or floating point in [-1, 1]")
    old = (video.shape[-2], video.shape[-1])
    if old == (height, width):
        return video
    scaled = _scaled_size(old, (height, width), fit)
    planes = video.reshape(-1, 1, *old) if video.ndim < 4 else video.reshape(-1, *video.shape[-3:])
    per_plane = planes[0].numel() + planes.shape[1] * max(scaled[0] * scaled[1], scaled[0] * old[1])
    parts = torch.split(planes, max(1, _WORK_VALUES // per_plane))
    joined = torch.cat([_place(_scale(part, scaled, antialias), (height, width)) for part in parts])
    return joined.reshape(*video.shape[:-2], height, width)


def check_size(size: Size) -> tuple[int, int]:
    """Return a size as (height, width), or raise InputError where it is none."""
    pair = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, Integral) and 1 <= side <= MAX_SIDE for side in pair):
        raise InputError(f"size={size!r} must be (height, width), each a whole number from 1 to {MAX_SIDE}")
    return int(pair[0]), int(pair[1])


def check_fit(fit: str) -> None:
    """Raise InputError unless ``fit`` is one of the known policies."""
    if fit not in get_args(Fit):
        raise InputError(f"fit={fit!r} must be one of {', '.join(get_args(Fit))}")


def _scaled_size(old: tuple[int, int], new: tuple[int, int], fit: Fit) -> tuple[int, int]:
    """Return the size to scale to before cropping or padding."""
    if fit == "stretch":
        return new
    ratios = [n / o for n, o in zip(new, old, strict=True)]
    ratio = max(ratios) if fit == "crop" else min(ratios)
    sides = [max(1, math.floor(o * ratio + 0.5)) for o in old]
    limit = max if fit == "crop" else min
    return limit(sides[0], new[0]), limit(sides[1], new[1])


def _scale(planes: Tensor, size: tuple[int, int], antialias: bool) -> Tensor:
    if planes.shape[-2:] == size:
        return planes
    if planes.dtype == torch.uint8 and planes.device.type == "cpu":
        return interpolate(planes, size, mode="bicubic", antialias=antialias)  # in integers: 10x as fast
    scaled = interpolate(planes.float(), size, mode="bicubic", antialias=antialias)
    if planes.dtype == torch.uint8:
        return scaled.round().clamp(0, 255).to(torch.uint8)
    return scaled.clamp(-1, 1).to(planes.dtype)


def _place(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the middle out, or put into the middle of black."""
    height, width = planes.shape[-2:]
    if (height, width) == size:
        return planes
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    if top >= 0 and left >= 0:
        return planes[..., top : top + size[0], left : left + size[1]]
    out = planes.new_full((*planes.shape[:-2], *size), 0 if planes.dtype == torch.uint8 else _BLACK)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    out[..., top : top + height, left : left + width] = planes
    return out
