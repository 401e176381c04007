"""How a network's input and output are scaled: EDM preconditioning, dynamic thresholding."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Levels


def edm_scalings(levels: Levels, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return (c_skip, c_out, c_in) of Karras et al. (2022), table 1, for x_t = alpha x0 + sigma eps.

    With alpha = 1 they are the paper's. In general c_in gives the input unit variance, c_out the target
    unit variance, and c_skip makes c_out as small as possible: the same derivation (appendix B.6) with
    alpha kept.

    Parameters
    ----------
    levels : Levels
        Fields of one shape, which the results have too.
    sigma_data : float > 0
        Standard deviation of the clean data.
    """
    deviation = (levels.alpha**2 * sigma_data**2 + levels.sigma**2).sqrt()
    c_skip = levels.alpha * sigma_data**2 / deviation**2
    c_out = levels.sigma * sigma_data / deviation
    return c_skip, c_out, 1 / deviation


def dynamic_threshold(x0: Tensor, quantile: float, limit: float = 1.0) -> Tensor:
    """Clip each item to the given quantile of its |x0|, scaled back so that the result stays in ±limit.

    Parameters
    ----------
    x0 : Tensor, shape (B, ...)
    quantile : float in (0, 1]
        Of the item's absolute values, between the two next to it by linear interpolation.
    limit : float > 0, default 1
        Items whose quantile is at most this are only clipped to ±limit.

    Returns
    -------
    Tensor, shape (B, ...)

    References
    ----------
    Saharia et al. (2022), "Photorealistic text-to-image diffusion models with deep language
    understanding", section 2.3, https://arxiv.org/abs/2205.11487
    """
    values = x0.flatten(1).abs()
    # kthvalue, because torch.quantile refuses more than 2^24 values, which a short clip exceeds.
    place = quantile * (values.shape[1] - 1)
    below, above = (values.kthvalue(round_(place) + 1).values for round_ in (math.floor, math.ceil))
    peak = torch.lerp(below, above, place % 1).clamp_min(limit)
    peak = peak.reshape(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-peak, peak) * (limit / peak)
