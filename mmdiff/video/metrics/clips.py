"""What measures of clips share: clips that fit together."""

from __future__ import annotations

import torch
from torch import Tensor

from mmdiff.errors import InputError


def pair(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Both clips (C, F, H, W) as float64 in [0, 1] on the host, checked."""
    if reference.shape != estimate.shape:
        raise InputError(
            f"reference of shape {tuple(reference.shape)} and estimate of shape {tuple(estimate.shape)} must be "
            "alike: cut and resize them to the same frames"
        )
    return unit_clip(reference, "reference"), unit_clip(estimate, "estimate")


def unit_clip(clip: Tensor, name: str = "video") -> Tensor:
    """One clip (C, F, H, W), in [-1, 1] or uint8, as float64 in [0, 1] on the host, checked."""
    if clip.ndim != 4 or 0 in clip.shape:
        raise InputError(f"{name} of shape {tuple(clip.shape)} must be (C, F, H, W): pass one clip")
    clip = clip.detach().to("cpu")
    return clip.double() / 255 if clip.dtype == torch.uint8 else (signed_values(clip, name).double() + 1) / 2


def signed_values(video: Tensor, name: str = "video") -> Tensor:
    """Values in [-1, 1], or uint8, as float32 or float64 in [-1, 1], checked; rounding beyond the ends is cut off."""
    if video.dtype == torch.uint8:
        return video.float() / 127.5 - 1
    if not video.is_floating_point() or not bool((video.abs() <= 1.01).all()):
        raise InputError(
            f"{name} of type {video.dtype} must be in [-1, 1], or uint8: it has other values, or nan; "
            "find out where they come from"
        )
    return video.to(torch.promote_types(video.dtype, torch.float32)).clamp(-1, 1)
