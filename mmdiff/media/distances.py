"""Distances between distributions of sounds or clips, from samples of features: Fréchet and kernel distance."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import NORMAL_95, Estimate
from mmdiff.media.rows import sample_rows

_SPLITS = 4  # pairs of random halves that the bias is estimated from
_ROWS = 1024  # of the kernel matrix at a time
_TINY = 1e-10  # of the greatest eigenvalue: a direction without variance


class FrechetDistance(NamedTuple):
    """Two estimates of the same distance, each with its own interval."""

    extrapolated: Estimate
    """What endless samples would give; its interval is of that."""
    plug_in: Estimate
    """As published; its interval is of what as many samples give on average."""


def frechet_distance(real: Tensor, generated: Tensor, seed: int = 0) -> FrechetDistance:
    """Fréchet distance of the Gaussians fitted to two samples of features.

    With features of video networks it is the Fréchet video distance (Unterthiner et al. 2018; Heusel et al. 2017), of
    sounds the Fréchet audio distance (Kilgour et al. 2019):
    ``|μ₁ − μ₂|² + tr(C₁ + C₂ − 2 (C₁^½ C₂ C₁^½)^½)`` in float64, covariances with n - 1, nothing added to them. It is
    the square of a distance. This plug-in estimate, the one that is published, is too great, by about a constant over
    the number of samples: equal distributions do not have 0, and only values of equal numbers can be compared. How
    much is estimated by halving both samples, which doubles it, and taken off (in the manner of Chong & Forsyth 2020);
    what falls below 0, as a square cannot, is 0. With fewer samples than twice D, halves are singular and a little
    too much is taken off.

    Both intervals come from the first-order variance (Rippl, Munk & Sturm 2016). Near equal distributions that order
    vanishes, and they are too wide: that of the extrapolated value tells that 0 is possible, not how near it is.

    Parameters
    ----------
    real : Tensor, shape (N, D)
    generated : Tensor, shape (M, D)
        Features; N and M greater than D, or the covariances have directions without variance that make the value
        meaningless. Several times D is better; :func:`kernel_distance` does with fewer.
    seed : int
        Of the random halves.

    Returns
    -------
    FrechetDistance
        Lower is better.

    Raises
    ------
    InputError
        Shapes do not fit, there are too few samples, or values are not finite.
    """
    x, y = _two_samples(real, generated, least=None)
    value = _plug_in(x, y)
    random = torch.Generator().manual_seed(seed)
    bias = sum(_plug_in(a, b) - value for a, b in _halves(x, y, random)) / (2 * _SPLITS)
    error = NORMAL_95 * math.sqrt(_frechet_variance(x, y))
    estimates = (
        Estimate(middle, max(0.0, middle - error), middle + error, len(y), len(x))
        for middle in (max(0.0, value - bias), max(0.0, value))
    )
    return FrechetDistance(*estimates)


def gaussian_frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """Square of the Fréchet (2-Wasserstein) distance of two Gaussians (Dowson & Landau 1982, eq. 4).

    The root of the product is taken of a symmetric matrix, through its eigenvalues: ``C₁^½ C₂ C₁^½`` has those of
    ``C₁ C₂``, and rounding can make them no more than slightly negative, never complex.

    Parameters
    ----------
    mean1, mean2 : Tensor, shape (D,), float64
    cov1, cov2 : Tensor, shape (D, D), float64
        Symmetric, positive semi-definite; may be singular.

    Returns
    -------
    float
        0 or more, up to rounding.
    """
    root = _root(cov1)
    product = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * product)


def kernel_distance(real: Tensor, generated: Tensor) -> Estimate:
    """Kernel distance: unbiased squared MMD with the kernel ``(x·y / D + 1)³`` (Bińkowski et al. 2018).

    With features of video networks it is the kernel video distance. All pairs are used: the mean over subsets of the
    samples that others report estimates this value with more noise, and equals it when all subsets are taken. It is
    0 on average for equal distributions, hence below 0 about half of the time. Samples must be independent: two sets
    that both show every label equally often are more alike than chance, and the value goes below 0. The interval is
    the normal one with the jackknife's variance over both samples: exact in first order, and where the distributions
    are equal too wide rather than too narrow.

    Parameters
    ----------
    real : Tensor, shape (N, D)
    generated : Tensor, shape (M, D)
        Features; N and M at least 3. Memory grows with N + M, time with the square.

    Returns
    -------
    Estimate
        Lower is better. Some report it times 1000.

    Raises
    ------
    InputError
        Shapes do not fit, there are too few samples, or values are not finite.
    """
    x, y = _two_samples(real, generated, least=3)
    n, m = len(x), len(y)
    within_x, within_y = _row_sums(x, x, skip_self=True), _row_sums(y, y, skip_self=True)
    across_x, across_y = _row_sums(x, y), _row_sums(y, x)
    mean_x, mean_y = within_x.sum() / (n * (n - 1)), within_y.sum() / (m * (m - 1))
    value = mean_x + mean_y - 2 * across_x.sum() / (n * m)
    variance = _jackknife_variance(within_x, across_x, m) + _jackknife_variance(within_y, across_y, n)
    error = NORMAL_95 * math.sqrt(float(variance))
    return Estimate(float(value), float(value) - error, float(value) + error, m, n)


def feature_distances(real: Tensor, generated: Tensor) -> dict[str, Estimate]:
    """Distances between two samples of features, those that they are not too few for.

    Parameters
    ----------
    real : Tensor, shape (N, D)
    generated : Tensor, shape (M, D)

    Returns
    -------
    dict from str to Estimate
        ``frechet``, extrapolated, and ``frechet_plug_in``, as published, where N and M are greater than D, ``kernel``
        where they are 3 at least.
    """
    found: dict[str, Estimate] = {}
    fewest = min(len(real), len(generated))
    if fewest > real.shape[1]:
        frechet = frechet_distance(real, generated)
        found |= {"frechet": frechet.extrapolated, "frechet_plug_in": frechet.plug_in}
    if fewest > 2:
        found["kernel"] = kernel_distance(real, generated)
    return found


def _two_samples(real: Tensor, generated: Tensor, least: int | None) -> tuple[Tensor, Tensor]:
    if real.ndim == generated.ndim == 2 and real.shape[1] != generated.shape[1]:
        raise InputError(
            f"real has {real.shape[1]} values a sample and generated {generated.shape[1]}: they must come from the "
            "same feature network"
        )
    if least is not None:
        why = "leaving one out must leave a pair; generate more"
        return sample_rows(real, "real", least, why), sample_rows(generated, "generated", least, why)
    why = (
        "a covariance needs more samples than values; take more, a smaller feature network, or "
        "kernel_distance, which needs no covariance"
    )
    needed = real.shape[-1] + 1
    return sample_rows(real, "real", needed, why), sample_rows(generated, "generated", needed, why)


def _plug_in(x: Tensor, y: Tensor) -> float:
    return gaussian_frechet_distance(x.mean(0), _covariance(x), y.mean(0), _covariance(y))


def _covariance(x: Tensor) -> Tensor:
    return x.T.cov().reshape(x.shape[1], x.shape[1])


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _halves(x: Tensor, y: Tensor, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for _ in range(_SPLITS):
        order_x, order_y = (torch.randperm(len(z), generator=random) for z in (x, y))
        middle_x, middle_y = len(x) // 2, len(y) // 2
        yield x[order_x[:middle_x]], y[order_y[:middle_y]]
        yield x[order_x[middle_x:]], y[order_y[middle_y:]]


def _frechet_variance(x: Tensor, y: Tensor) -> float:
    """Variance of the plug-in estimate in first order: that of its derivative along each sample."""
    total = 0.0
    for one, other in ((x, y), (y, x)):
        centred = one - one.mean(0)
        towards = one.mean(0) - other.mean(0)
        map_less_identity = torch.eye(one.shape[1], dtype=one.dtype) - _transport(
            _covariance(one), _covariance(other)
        )
        influence = 2 * centred @ towards + ((centred @ map_less_identity) * centred).sum(1)
        total += float(influence.var()) / len(one)
    return total


def _transport(source: Tensor, target: Tensor) -> Tensor:
    """Matrix of the optimal map from one centred Gaussian to another; 0 where the source has no variance."""
    values, vectors = torch.linalg.eigh(source)
    kept = values > _TINY * values.max()
    scale = torch.where(kept, values.clamp_min(0).sqrt(), torch.zeros_like(values))
    root = (vectors * scale) @ vectors.T
    inverse = (vectors * torch.where(kept, 1 / scale, torch.zeros_like(scale))) @ vectors.T
    return inverse @ _root(root @ target @ root) @ inverse


def _row_sums(x: Tensor, y: Tensor, skip_self: bool = False) -> Tensor:
    """Sums over j of ``k(xᵢ, yⱼ)``, without j = i where asked."""
    dimensions = x.shape[1]
    sums = torch.cat([(rows @ y.T / dimensions + 1).pow(3).sum(1) for rows in x.split(_ROWS)])
    return sums - (x.square().sum(1) / dimensions + 1).pow(3) if skip_self else sums


def _jackknife_variance(within: Tensor, across: Tensor, others: int) -> Tensor:
    """Variance of the estimate from leaving out each sample of one side; ``others`` is the other side's number."""
    n = len(within)
    left_out = (within.sum() - 2 * within) / ((n - 1) * (n - 2))
    left_out = left_out - 2 * (across.sum() - across) / ((n - 1) * others)
    return (n - 1) * left_out.var(correction=0)
