"""Training times drawn in proportion to what they count: estimates of a weighted loss with the least variance.

Weighted losses are ½ E w(t) |ε̂ - ε|² over t in (0, 1). For normal data of standard deviation s the least expected
error is a share of the noise, s²q / (1 + s²q) with q the signal-to-noise ratio, so that

    m(t) = w(t) s²q / (1 + s²q)

is what the time t counts, and with t drawn in proportion to m(t) all draws count alike. What is left of the variance
is that of the noise, and what data differ from normal ones. With q(t) falling and λ = log q,

    likelihood    w = -dλ/dt          m dt = -d log(1 + s²q)
    unweighted    w = 1
    reweighted    w = -σ² dλ/dt       m dt = dσ² for variance-preserving schedules and s = 1

-σ² dλ/dt is the g² of the process' stochastic differential equation. Where m cannot be integrated by a formula, times
are drawn from cells of a table; the density that is told is that of what is drawn, so that no estimate is biased.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mmdiff.diffusion.likelihood_ode import least_noisy_time
from mmdiff.diffusion.schedules import LinearBetaVP, Schedule
from mmdiff.diffusion.solver_tools import check_choice
from mmdiff.diffusion.times import Times
from mmdiff.diffusion.weightings import gain
from mmdiff.errors import InputError

LossWeight = Literal["likelihood", "unweighted", "reweighted"]

_CELLS = 4096
_FARTHEST = 5.0  # deviations from its mean beyond which a normal distribution is not asked for shares: ndtr rounds to 0


@dataclass(frozen=True)
class Importance(Times):
    """t drawn in proportion to what it counts in a weighted loss of normal data.

    Parameters
    ----------
    weight : {"likelihood", "unweighted", "reweighted"}, default "likelihood"
        See the module. The first is drawn by a formula for every schedule; "unweighted" for :class:`LinearBetaVP`
        (a normal distribution of t, cut off) and "reweighted" for variance-preserving schedules, both with
        ``data_std=1``; else by a table.
    data_std : float > 0, default 1
        Standard deviation of the data.
    first : float in [0, 1), optional
        Least time. Default: :func:`~mmdiff.diffusion.likelihood_ode.least_noisy_time` of the schedule.

    Raises
    ------
    InputError
        A value is out of range; on drawing, that the schedule has no noise at ``first``.

    References
    ----------
    Vahdat, Kreis and Kautz 2021, arXiv:2106.05931, section 3.3 and appendix B.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import GeometricVP
    >>> drawn = Importance().quantile(torch.tensor([0.25, 0.5, 0.75]).double(), GeometricVP())
    >>> [round(t, 3) for t in drawn.tolist()]  # uniform
    [0.25, 0.5, 0.75]
    """

    weight: str = "likelihood"
    data_std: float = 1.0
    first: float | None = None

    def __post_init__(self) -> None:
        check_choice("weight", self.weight, get_args(LossWeight))
        first = 0.0 if self.first is None else self.first
        if not (0 < self.data_std < math.inf and 0 <= first < 1):
            raise InputError(
                f"data_std={self.data_std} must be positive and finite, and first={self.first} lie in [0, 1); try 1, "
                "and leave the other out"
            )

    def start(self, schedule: Schedule) -> float:
        """Least time drawn, where the schedule has noise."""
        first = least_noisy_time(schedule) if self.first is None else self.first
        if not float(schedule(first).sigma) > 0:
            raise InputError(f"first={first} must be a time with noise, sigma > 0; leave it out")
        return first

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the time before which lies a share u of all that counts."""
        first = self.start(schedule)
        if self.weight == "likelihood":
            low, high = self._information(schedule)
            place = high - u * (high - low)
            return schedule.time_of_log_snr(torch.log(torch.expm1(place)) - 2 * math.log(self.data_std))
        if self.weight == "reweighted" and self._by_formula(schedule):
            low, high = _variances(schedule, first)
            variance = low + u * (high - low)
            return schedule.time_of_log_snr(torch.log1p(-variance) - torch.log(variance)).clamp(min=first)
        if self._by_formula(schedule):
            normal = _normal_in_time(schedule, first)
            share = normal.after_first + u * (normal.after_last - normal.after_first)
            return (normal.mean - normal.std * torch.special.ndtri(share)).clamp(first, 1)
        cells = _table(self, schedule).to(u.device)
        total = cells.masses.cumsum(0)
        cell = torch.searchsorted(total, u.clamp(max=1).contiguous()).clamp(max=_CELLS - 1)
        within = (u - (total[cell] - cells.masses[cell])) / cells.masses[cell]
        return (first + (cell + within.clamp(0, 1)) * cells.width).clamp(first, 1)

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Return the density of the times that are drawn, float64."""
        t, first = t.double(), self.start(schedule)
        if self.weight == "likelihood":
            low, high = self._information(schedule)
            return self._counts(t, schedule) / (high - low)
        if self.weight == "reweighted" and self._by_formula(schedule):
            low, high = _variances(schedule, first)
            return self._counts(t, schedule) / (high - low)
        if self._by_formula(schedule):
            normal = _normal_in_time(schedule, first)
            place = (t - normal.mean) / normal.std
            peak = normal.std * math.sqrt(2 * math.pi) * (normal.after_first - normal.after_last)
            return torch.exp(-(place**2) / 2) / peak
        cells = _table(self, schedule).to(t.device)
        place = ((t - first) / cells.width).long().clamp(0, _CELLS - 1)
        return cells.masses[place] / cells.width

    def _by_formula(self, schedule: Schedule) -> bool:
        if self.data_std != 1 or not schedule.variance_preserving:
            return False
        if self.weight == "unweighted":
            if not isinstance(schedule, LinearBetaVP):
                return False
            growth = schedule.beta_max - schedule.beta_min
            return growth > 0 and schedule.beta_min < _FARTHEST * math.sqrt(growth)
        return True

    def _information(self, schedule: Schedule) -> tuple[float, float]:
        """Range of log(1 + s²q): at t = 1 and at the least time."""
        ends = schedule.log_snr(torch.tensor([1.0, self.start(schedule)], dtype=torch.float64))
        low, high = torch.nn.functional.softplus(ends + 2 * math.log(self.data_std)).tolist()
        return low, high

    def _counts(self, t: Tensor, schedule: Schedule) -> Tensor:
        """How much a time counts, m(t), float64."""
        share = torch.sigmoid(schedule.log_snr(t) + 2 * math.log(self.data_std))
        return loss_weight(self.weight, schedule, t) * share.clamp_min(torch.finfo(share.dtype).tiny)


def time_of_noise(schedule: Schedule, noise: float) -> float:
    """Time at which a state has noise of this deviation beside data of 1, σ/α: an :class:`Importance`'s ``first``."""
    if not 0 < noise < math.inf:
        raise InputError(f"noise={noise} must be positive and finite; 0.02 is a step of 8 bits or so")
    return float(schedule.time_of_log_snr(torch.tensor(-2 * math.log(noise), dtype=torch.float64)))


def loss_weight(weight: str, schedule: Schedule, t: Tensor) -> Tensor:
    """Return w(t) of the loss ½ E w(t) |ε̂ - ε|², uniform in t.

    Parameters
    ----------
    weight : {"likelihood", "unweighted", "reweighted"}
    schedule : Schedule
    t : Tensor, in (0, 1]

    Returns
    -------
    Tensor, shape of t, float64
        0 where a schedule that ends without signal has an infinite one.
    """
    check_choice("weight", weight, get_args(LossWeight))
    if weight == "unweighted":
        return torch.ones_like(t, dtype=torch.float64)
    levels = schedule(t.double())
    rate = 2 * gain("velocity", levels) / (levels.alpha * levels.sigma)  # -dλ/dt
    rate = torch.where(levels.alpha > 0, rate, 0.0)
    return rate if weight == "likelihood" else rate * levels.sigma**2


class _Cells(NamedTuple):
    """Probabilities (N,) of equal parts of time."""

    masses: Tensor
    width: float

    def to(self, device: torch.device) -> _Cells:
        return self._replace(masses=self.masses.to(device))


@functools.lru_cache(maxsize=32)
def _table(times: Importance, schedule: Schedule) -> _Cells:
    first = times.start(schedule)
    width = (1 - first) / _CELLS
    middles = first + (torch.arange(_CELLS, dtype=torch.float64) + 0.5) * width
    counts = times._counts(middles, schedule)
    return _Cells(counts / counts.sum(), width)


def _variances(schedule: Schedule, first: float) -> tuple[float, float]:
    ends = schedule(torch.tensor([first, 1.0], dtype=torch.float64)).sigma ** 2
    return float(ends[0]), float(ends[1])


class _Normal(NamedTuple):
    """Normal distribution of t, and its shares after the first and the last time.

    Its mean is no later than t = 0: shares before a time are all but 1, and would differ by rounding alone.
    """

    mean: float
    std: float
    after_first: float
    after_last: float


def _normal_in_time(schedule: Schedule, first: float) -> _Normal:
    """What counts is alpha² = exp(-B), B = b t + (c - b) t²/2 for rates b and c at the ends: a normal density."""
    assert isinstance(schedule, LinearBetaVP)
    growth = schedule.beta_max - schedule.beta_min
    mean, std = -schedule.beta_min / growth, growth**-0.5
    ends = (torch.tensor([first, 1.0], dtype=torch.float64) - mean) / std
    return _Normal(mean, std, *torch.special.ndtr(-ends).tolist())
