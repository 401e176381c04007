"""Pictures as whole numbers from 0 to 255 and as floating point in [-1, 1], in colours and in grey."""

from __future__ import annotations

import torch
from torch import Tensor


def convert(video: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring pictures to another type, and with it to its range.

    Parameters
    ----------
    video : Tensor, any shape, uint8 from 0 to 255 or floating point in [-1, 1]
        Pictures.
    dtype : torch.uint8 or a floating point type
        uint8 is rounded, and clipped where the input leaves its range.

    Returns
    -------
    Tensor
        The same tensor where nothing is to be done.

    Examples
    --------
    >>> convert(torch.tensor([-1.0, 0.0, 1.0]), torch.uint8)
    tensor([  0, 128, 255], dtype=torch.uint8)
    """
    if video.dtype == dtype:
        return video
    if video.dtype == torch.uint8:
        return video.to(dtype).div_(127.5).sub_(1)
    if dtype == torch.uint8:
        return (video.float() + 1).mul_(127.5).round_().clamp_(0, 255).to(dtype)
    return video.to(dtype)


def in_channels(video: Tensor, channels: int) -> Tensor:
    """Pictures in colours (C, ...), uint8, as a model of so many channels wants them: grey if that is one."""
    return video.float().mean(0, keepdim=True).round().to(torch.uint8) if channels == 1 else video
