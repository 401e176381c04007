"""Numbers measured on samples, with 95 % confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NORMAL_95 = 1.959964
"""Quantile of the normal distribution that leaves out 2.5 % at each end."""
_RESAMPLES = 1000  # of the bootstrap


class Estimate(NamedTuple):
    """A value measured on samples, with what it rests on."""

    value: float
    """nan where it does not exist."""
    low: float = math.nan
    high: float = math.nan
    """95 % confidence interval of what ``value`` estimates; nan where there is none."""
    samples: int = 1
    """Number of independent samples that the interval rests on."""
    real: int | None = None
    """Number of real samples that these were compared with, where the measure compares distributions."""

    def __str__(self) -> str:
        against = "" if self.real is None else f", {self.real} real"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] ({self.samples} samples{against})"


def wilson(share: float, trials: int, z: float = NORMAL_95) -> Estimate:
    """Share of trials with its interval (Wilson 1927, eq. 3).

    Parameters
    ----------
    share : float in [0, 1]
    trials : int > 0
        Independent ones.
    z : float
        Normal quantile; default: of 95 %.

    Returns
    -------
    Estimate
    """
    assert 0 <= share <= 1
    assert trials > 0
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Estimate(share, max(0.0, centre - reach), min(1.0, centre + reach), trials)


def mean_estimate(values: Tensor) -> Estimate:
    """Mean of independent values with its normal interval, leaving out those that do not exist.

    Parameters
    ----------
    values : Tensor, shape (N,)
        nan where a value does not exist.

    Returns
    -------
    Estimate
        nan where there are none; without an interval where there is one.
    """
    values = values[~values.isnan()].double()
    if not len(values):
        return Estimate(math.nan, samples=0)
    mean = float(values.mean())
    error = NORMAL_95 * float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Estimate(mean, mean - error, mean + error, len(values))


def bootstrapped(statistic: Callable[[Tensor], Tensor], samples: Tensor, seed: int = 0) -> Estimate:
    """Statistic of independent samples with its bootstrap percentile interval (Efron 1979).

    Parameters
    ----------
    statistic : callable
        Samples (..., N) or (..., N, 2) to (...).
    samples : Tensor, shape (N,) or (N, 2)
    seed : int

    Returns
    -------
    Estimate
        Without an interval where there is one sample, or the value is not finite.
    """
    value = float(statistic(samples))
    if len(samples) < 2 or not math.isfinite(value):
        return Estimate(value, samples=len(samples))
    random = np.random.default_rng(seed)
    draws = torch.from_numpy(random.integers(len(samples), size=(_RESAMPLES, len(samples))))
    found = statistic(samples[draws]).numpy()
    found = found[~np.isnan(found)]  # all of what was drawn stood still
    low, high = np.quantile(found, (0.025, 0.975), method="inverted_cdf")
    return Estimate(value, float(low), float(high), len(samples))
