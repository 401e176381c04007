"""Between what a network predicts and x0: eps, x0, v, velocity and score are one linear map apart.

All follow from ``x_t = alpha x0 + sigma eps``; v = alpha eps - sigma x0 (Salimans and Ho 2022,
arXiv:2202.00512), velocity = alpha' x0 + sigma' eps (Lipman et al. 2023, arXiv:2210.02747),
score = -eps / sigma (Song et al. 2021, arXiv:2011.13456).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Levels
from mmdiff.errors import InputError

Prediction = Literal["eps", "x0", "v", "velocity", "score"]


def expand(levels: Levels, x: Tensor) -> Levels:
    """Give levels of shape (B,) or () trailing axes of length 1, so that they multiply x.

    Parameters
    ----------
    levels : Levels
        Any shape that matches the leading axes of x; levels already expanded come back as they are.
    x : Tensor, shape (B, ...)
        Sets the number of axes, the device and the dtype: that of x, but float32 where x is float16 or
        bfloat16.

    Raises
    ------
    InputError
        The times do not match the leading axes of x.
    """
    return Levels(*(expand_like(field, x) for field in levels))


def expand_like(values: Tensor, x: Tensor) -> Tensor:
    """Do what :func:`expand` does for a single tensor of per-item values."""
    leading = x.shape[: values.ndim]
    fits = values.ndim <= x.ndim and all(
        n in (1, size) for n, size in zip(values.shape, leading, strict=True)
    )
    if not fits:
        raise InputError(
            f"times of shape {tuple(values.shape)} must match the leading axes of x of shape "
            f"{tuple(x.shape)}; give one time per item of the batch, or a single one"
        )
    dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    # The levels of a time given as a Python number lie on the CPU.
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim)).to(x.device, dtype)


def to_x0(prediction: Tensor, kind: Prediction, x_t: Tensor, levels: Levels) -> Tensor:
    """Turn a prediction into an estimate of the data.

    Parameters
    ----------
    prediction, x_t : Tensor, shape (B, ...)
        What the network said, and the noisy sample it saw.
    kind : "eps", "x0", "v", "velocity" or "score"
        What was predicted.
    levels : Levels
        At the sample's times, expanded or not.

    Returns
    -------
    Tensor, shape (B, ...)
        In the dtype of x_t. Where a kind says nothing about the data (eps and score at alpha = 0) this is 0,
        the mean of centred data.

    Raises
    ------
    InputError
        Unknown kind, or levels that do not fit x_t.
    """
    _check(kind)
    if kind == "x0":
        return prediction
    levels = expand(levels, x_t)
    of_x, of_prediction = _X0_COEFFICIENTS[kind](levels)
    return (of_x * x_t + of_prediction * prediction).to(x_t.dtype)


def from_x0(x0: Tensor, kind: Prediction, x_t: Tensor, levels: Levels) -> Tensor:
    """Inverse of :func:`to_x0`: the eps, v, velocity or score that belongs to this x0 and x_t.

    Parameters
    ----------
    x0, x_t : Tensor, shape (B, ...)
        Data (true or estimated) and the noisy sample.
    kind : "eps", "x0", "v", "velocity" or "score"
        What to compute.
    levels : Levels
        At the sample's times, expanded or not.

    Returns
    -------
    Tensor, shape (B, ...)
        In the dtype of x_t. At sigma = 0, where x_t = alpha x0 leaves the noise unknown, eps counts as 0;
        so does a slope of the schedule that is infinite, which only happens at t = 0 and t = 1.

    Raises
    ------
    InputError
        Unknown kind, or levels that do not fit x_t.
    """
    _check(kind)
    if kind == "x0":
        return x0
    alpha, sigma, d_alpha, d_sigma = expand(levels, x_t)
    clean = sigma == 0
    inverse = torch.where(clean, 0.0, 1 / torch.where(clean, 1.0, sigma))
    if kind == "eps":
        result = inverse * x_t - alpha * inverse * x0
    elif kind == "v":
        result = alpha * inverse * x_t - (alpha**2 * inverse + sigma) * x0
    elif kind == "velocity":
        d_alpha, d_sigma = (torch.where(slope.isinf(), 0.0, slope) for slope in (d_alpha, d_sigma))
        rate = d_sigma * inverse
        result = rate * x_t + (d_alpha - alpha * rate) * x0
    else:
        result = alpha * inverse**2 * x0 - inverse**2 * x_t
    return result.to(x_t.dtype)


def _check(kind: str) -> None:
    if kind not in get_args(Prediction):
        raise InputError(f"prediction={kind!r} must be one of {', '.join(get_args(Prediction))}")


def _from_eps(levels: Levels) -> tuple[Tensor, Tensor]:
    inverse = _inverse(levels.alpha)
    return inverse, -levels.sigma * inverse


def _from_v(levels: Levels) -> tuple[Tensor, Tensor]:
    power = levels.alpha**2 + levels.sigma**2
    return levels.alpha / power, -levels.sigma / power


def _from_score(levels: Levels) -> tuple[Tensor, Tensor]:
    inverse = _inverse(levels.alpha)
    return inverse, levels.sigma**2 * inverse


def _from_velocity(levels: Levels) -> tuple[Tensor, Tensor]:
    # x0 = (sigma' x - sigma u) / (alpha sigma' - sigma alpha'), both sides divided by the larger slope,
    # which may be infinite: sigma' at t = 0, alpha' at t = 1.
    alpha, sigma, d_alpha, d_sigma = levels
    largest = torch.maximum(d_alpha.abs(), d_sigma.abs())
    largest = torch.where(largest == 0, 1.0, largest)
    p = torch.where(d_sigma.isinf(), 1.0, d_sigma / largest)
    q = torch.where(d_alpha.isinf(), -1.0, d_alpha / largest)
    inverse = _inverse(alpha * p - sigma * q)
    clean = sigma == 0
    of_x = torch.where(clean, _inverse(alpha), p * inverse)
    of_x = torch.where(d_sigma.isinf() & (alpha == 0), 0.0, of_x)
    return of_x, torch.where(clean, 0.0, -sigma / largest * inverse)


def _inverse(value: Tensor) -> Tensor:
    """1/value, and 0 where the value is 0."""
    zero = value == 0
    return torch.where(zero, 0.0, 1 / torch.where(zero, 1.0, value))


_X0_COEFFICIENTS = {"eps": _from_eps, "v": _from_v, "score": _from_score, "velocity": _from_velocity}
