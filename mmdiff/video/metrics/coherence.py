"""How steadily a clip goes on from frame to frame, without optical flow, whose own errors would be measured too."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdiff.media.measures import undefined
from mmdiff.video.metrics.clips import pair, unit_clip


def dtssd(reference: Tensor, estimate: Tensor) -> float:
    """Difference of the changes from frame to frame (dtSSD, Erofeev et al. 2015), as a root mean square.

    ``√mean((Δx − Δy)²)`` over pixels and channels, averaged over the pairs of successive frames. Blind to errors that
    stay the same; flicker, jumps and wrong motion count.

    Parameters
    ----------
    reference, estimate : Tensor, shape (C, F, H, W), in [-1, 1] or uint8

    Returns
    -------
    float
        In [0, 2], a share of the full range; lower is better. nan for a single frame.

    Raises
    ------
    InputError
        The clips do not fit together.
    """
    x, y = pair(reference, estimate)
    if x.shape[1] < 2:
        return undefined("dtssd", "fewer than two frames")
    return float((x - y).diff(dim=1).square().mean((0, 2, 3)).sqrt().mean())


def flicker_error(reference: Tensor, estimate: Tensor) -> float:
    """How much more, or less, one clip flickers than the other: ``|flicker(y) − flicker(x)|``.

    Parameters
    ----------
    reference, estimate : Tensor, shape (C, F, H, W), in [-1, 1] or uint8

    Returns
    -------
    float
        In [0, 1]; lower is better. nan for fewer than three frames.

    Raises
    ------
    InputError
        The clips do not fit together.
    """
    pair(reference, estimate)
    if reference.shape[1] < 3:
        return undefined("flicker_error", "fewer than three frames")
    return abs(flicker(estimate) - flicker(reference))


def frame_change(video: Tensor) -> float:
    """Mean absolute difference of successive frames, a share of the full range.

    One minus this is what VBench (2311.17982) reports as temporal flickering. A still clip has 0; motion counts.

    Parameters
    ----------
    video : Tensor, shape (C, F, H, W), in [-1, 1] or uint8

    Returns
    -------
    float
        In [0, 1]; compare it with real clips. nan for a single frame.

    Raises
    ------
    InputError
        It is no clip.
    """
    x = unit_clip(video)
    if x.shape[1] < 2:
        return undefined("frame_change", "fewer than two frames")
    return float(x.diff(dim=1).abs().mean())


def flicker(video: Tensor) -> float:
    """Mean absolute difference of a frame from the mean of its two neighbours, a share of the full range.

    0 for still clips and for steady fades; a clip that alternates between two pictures a distance d apart has d.

    Parameters
    ----------
    video : Tensor, shape (C, F, H, W), in [-1, 1] or uint8

    Returns
    -------
    float
        In [0, 1]; compare it with real clips. nan for fewer than three frames.

    Raises
    ------
    InputError
        It is no clip.
    """
    x = unit_clip(video)
    if x.shape[1] < 3:
        return undefined("flicker", "fewer than three frames")
    return float((x.diff(n=2, dim=1) / 2).abs().mean())


def centroid_steps(video: Tensor) -> Tensor:
    """How far the centre of light of a bright object on black moves from frame to frame.

    Light counts by what it exceeds a quarter of full brightness: faint noise all over a frame, as compression and
    networks leave it, would else draw the centre to the frame's middle, by pixels.

    Parameters
    ----------
    video : Tensor, shape (C, F, H, W), in [-1, 1] or uint8

    Returns
    -------
    Tensor, shape (F - 1,), float64
        Pixels; nan beside frames without light.

    Raises
    ------
    InputError
        It is no clip.
    """
    return centroids(unit_clip(video).amax(0)).diff(dim=0).norm(dim=1)


def centroids(light: Tensor, floor: float = 0.25) -> Tensor:
    """Centre of light.

    Parameters
    ----------
    light : Tensor, shape (..., H, W), in [0, 1]
        Brightness.
    floor : float
        Subtracted from it: what is fainter does not count.

    Returns
    -------
    Tensor, shape (..., 2)
        x and y in pixels; nan where nothing is brighter than ``floor``.
    """
    weight = (light - floor).clamp_min(0)
    total = weight.sum((-2, -1))
    total = total.masked_fill(total == 0, math.nan)
    rows, columns = (torch.arange(side).to(light) for side in light.shape[-2:])
    return torch.stack((weight.sum(-2) @ columns / total, weight.sum(-1) @ rows / total), -1)
