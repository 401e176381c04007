"""Precision and coverage: how many generated items lie among real ones, and how many real ones are lain beside."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, wilson
from mmdiff.media.rows import sample_rows


class Neighbourhoods(NamedTuple):
    """What :func:`precision_and_coverage` finds."""

    precision: Estimate
    """Share of the generated items that lie in the neighbourhood of a real one."""
    coverage: Estimate
    """Share of the real items in whose neighbourhood a generated one lies."""


def precision_and_coverage(real: Tensor, generated: Tensor, neighbours: int = 5) -> Neighbourhoods:
    """Tell quality from variety, which a distance between distributions mixes.

    The neighbourhood of a real item is the ball that reaches to the k-th nearest of the other real items. Precision is
    high where items look real, though all may be one and the same; coverage where every kind is made, and is hardly
    moved by outliers. For equal distributions the expected coverage is :func:`expected_coverage`, not 1.

    Parameters
    ----------
    real : Tensor, shape (N, D)
    generated : Tensor, shape (M, D)
        Features of items.
    neighbours : int > 0
        k, less than N.

    Returns
    -------
    Neighbourhoods
        Shares with Wilson's intervals, those of precision over the generated items and of coverage over the real ones,
        whose neighbourhoods count as given.

    Raises
    ------
    InputError
        Shapes do not fit, there are too few items, or values are not finite.

    References
    ----------
    Kynkäänniemi et al. 2019, arXiv:1904.06991 (precision); Naeem et al. 2020, arXiv:2002.09797 (coverage, which has
    k = 5).
    """
    if neighbours < 1:
        raise InputError(f"neighbours={neighbours} must be at least 1; try 5")
    least = "a neighbourhood reaches to so many others; take more items, or fewer neighbours"
    x, y = sample_rows(real, "real", neighbours + 1, least), sample_rows(generated, "generated", 1, least)
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"real has {x.shape[1]} values an item and generated {y.shape[1]}: they must come from the same "
            "feature network"
        )
    # the (k + 1)-th smallest: an item is its own nearest
    radius = _distances(x, x).kthvalue(neighbours + 1, dim=1).values
    inside = _distances(x, y) <= radius[:, None]
    precise, covered = (float(inside.any(axis).double().mean()) for axis in (0, 1))
    return Neighbourhoods(wilson(precise, len(y)), wilson(covered, len(x)))


def expected_coverage(real: int, generated: int, neighbours: int = 5) -> float:
    """Coverage on average where both samples are of one continuous distribution, whatever it is.

    Of the other real items and the generated ones, in order of their distance from a real item, the first k are all
    real with the probability that the coverage lacks (Naeem et al. 2020, lemma 2).

    Parameters
    ----------
    real, generated : int > 0
        Numbers of items.
    neighbours : int > 0
        k.

    Examples
    --------
    >>> round(expected_coverage(400, 400), 4)
    0.9693
    """
    missed = 1.0
    for n in range(1, neighbours + 1):
        missed *= (real - n) / (real + generated - n)
    return 1 - missed


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # by differences, not by products: a copy must lie at distance 0
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
