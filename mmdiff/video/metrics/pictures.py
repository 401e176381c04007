"""How close the frames of one clip are to those of another."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.media.measures import undefined
from mmdiff.video.metrics.clips import pair

_WINDOW, _SIGMA = 11, 1.5  # pixels
_K1, _K2 = 0.01, 0.03


def psnr(reference: Tensor, estimate: Tensor) -> float:
    """Peak signal-to-noise ratio, ``-10 log₁₀`` of the mean squared error of the whole clip at a peak of 1.

    The mean is over frames before the logarithm (as ffmpeg's average), so that a frame copied exactly does not make
    the value infinite. Means of every frame's own ratio, which some report, are higher.

    Parameters
    ----------
    reference, estimate : Tensor, shape (C, F, H, W), in [-1, 1] or uint8

    Returns
    -------
    float
        dB, higher is better; inf for equal clips.

    Raises
    ------
    InputError
        The clips do not fit together.
    """
    x, y = pair(reference, estimate)
    error = float((x - y).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(reference: Tensor, estimate: Tensor) -> float:
    """Structural similarity (Wang et al. 2004) of frames, averaged over frames and channels.

    Gaussian window of 11 pixels and deviation 1.5, population statistics, K₁ = 0.01, K₂ = 0.03, windows wholly inside
    the frame, each colour channel on its own: the paper's settings without its downsampling.

    Parameters
    ----------
    reference, estimate : Tensor, shape (C, F, H, W), in [-1, 1] or uint8
        Frames of at least 11 x 11 pixels.

    Returns
    -------
    float
        At most 1, higher is better; nan for smaller frames.

    Raises
    ------
    InputError
        The clips do not fit together.
    """
    if min(reference.shape[-2:]) < _WINDOW:
        pair(reference, estimate)
        return undefined("ssim", f"frames smaller than {_WINDOW} x {_WINDOW} pixels")
    return float(ssim_map(reference, estimate).mean())


def ssim_map(reference: Tensor, estimate: Tensor) -> Tensor:
    """:func:`ssim` of every window: shape (C, F, H - 10, W - 10), each at the window's middle; float64.

    Raises
    ------
    InputError
        The clips do not fit together, or their frames are smaller than a window.
    """
    x, y = pair(reference, estimate)
    if min(x.shape[-2:]) < _WINDOW:
        raise InputError(
            f"frames of {x.shape[-2]} x {x.shape[-1]} must be at least {_WINDOW} x {_WINDOW} pixels"
        )
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    light = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    alike = light * (2 * covariance + _K2**2) / (var_x + var_y + _K2**2)
    return alike[:, 0].unflatten(0, x.shape[:2])


def _blur(frames: Tensor) -> Tensor:
    """Weighted mean in every window; (C, F, H, W) to (C·F, 1, H - 10, W - 10)."""
    offsets = torch.arange(_WINDOW, dtype=frames.dtype) - _WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    weights /= weights.sum()
    frames = frames.flatten(0, 1)[:, None]
    return functional.conv2d(functional.conv2d(frames, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
