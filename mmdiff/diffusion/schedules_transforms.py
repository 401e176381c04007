"""Schedules made from another schedule: a resolution shift, and an end without any signal."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.schedules_base import Levels, Schedule, VariancePreserving, require
from mmdiff.registry import register


@register
@dataclass(frozen=True)
class Shifted(Schedule):
    """The base with lambda lowered by 2 log(factor) at every time: more noise for larger or redundant data.

    The (alpha, sigma) curve stays the base's own: a variance-preserving base gives a variance-preserving
    schedule, :class:`LinearFlow` a straight flow at t' = factor t / (1 + (factor - 1) t), and alpha = 1
    stays alpha = 1 with sigma multiplied by the factor.

    Parameters
    ----------
    base : Schedule
        What is shifted.
    factor : float, > 0
        Divides alpha/sigma; side ratio of the data to those the base was made for, e.g. 256/64.

    References
    ----------
    Hoogeboom et al. 2023, arXiv:2301.11093 (shifted noise schedule); Esser et al. 2024, arXiv:2403.03206
    (timestep shift of rectified flow).
    """

    base: Schedule
    factor: float

    def __post_init__(self) -> None:
        _check_base(self.base)
        require(
            0 < self.factor < math.inf,
            f"factor={self.factor} must be finite and positive; 1 changes nothing, 2 doubles the noise",
        )

    @property
    def variance_preserving(self) -> bool:
        """Whether alpha² + sigma² = 1 at all times: as the base."""
        return self.base.variance_preserving

    @property
    def first_time(self) -> float:
        """The least noisy time of the base."""
        return self.base.first_time

    def _levels(self, t: Tensor) -> Levels:
        return self._shift(self.base._levels(t), self.factor)

    def _shift(self, levels: Levels, factor: float) -> Levels:
        return self.base._shift(levels, factor)

    def _log_snr(self, t: Tensor) -> Tensor:
        return self.base._log_snr(t) - 2 * math.log(self.factor)

    def _time(self, log_snr: Tensor) -> Tensor:
        return self.base._time(log_snr + 2 * math.log(self.factor))


@register
@dataclass(frozen=True)
class ZeroTerminalSNR(VariancePreserving):
    """A variance-preserving base with alpha moved and stretched so that alpha(1) = 0.

    alpha' = alpha0 (alpha - alpha(1)) / (alpha0 - alpha(1)), where alpha0 is the base at its
    ``first_time``: t = 0 for a formula, the first step for a table. That value stays, and so does
    all of the base below it.

    Parameters
    ----------
    base : Schedule, variance preserving
        What is rescaled.

    References
    ----------
    Lin et al. 2024, arXiv:2305.08891, algorithm 1.
    """

    base: Schedule

    def __post_init__(self) -> None:
        _check_base(self.base)
        require(
            self.base.variance_preserving,
            f"base={self.base} must be variance preserving (alpha² + sigma² = 1); LinearFlow already ends at "
            "alpha = 0, and a schedule with alpha = 1 cannot",
        )

    @property
    def first_time(self) -> float:
        """The least noisy time of the base."""
        return self.base.first_time

    @functools.cached_property
    def _ends(self) -> tuple[float, float, float]:
        """alpha0, 1 - alpha0 and alpha(1) of the base."""
        times = torch.tensor([self.base.first_time, 1.0], dtype=torch.float64, device="cpu")
        alpha, sigma = self.base._levels(times)[:2]
        first, last = alpha.tolist()
        return first, float(sigma[0]) ** 2 / (1 + first), last

    def _levels(self, t: Tensor) -> Levels:
        first, first_gap, last = self._ends
        base = self.base._levels(t)
        if last == 0:  # nothing to do, and the formulas below meet 0 * inf
            return base
        kept = self._kept(t)
        stretch = first / (first - last)
        alpha = stretch * self.base._alpha_above_end(t)
        # 1 - alpha' written through 1 - alpha = sigma² / (1 + alpha), which keeps its digits near t = 0
        gap = (first * base.sigma**2 / (1 + base.alpha) - last * first_gap) / (first - last)
        alpha = torch.where(alpha > 0.5, 1 - gap, alpha)
        sigma = torch.sqrt((1 + alpha) * torch.where(kept, 1.0, gap.clamp(min=0.0)))
        d_alpha = stretch * base.d_alpha
        d_sigma = -alpha * d_alpha / sigma
        # Where sigma vanishes sigma'/sigma tends to a constant (only when the map starts at t = 0).
        d_sigma = torch.where(base.sigma == 0, math.sqrt(stretch) * base.d_sigma, d_sigma)
        mapped = Levels(alpha, sigma, d_alpha, d_sigma)
        return Levels(*(torch.where(kept, old, new) for old, new in zip(base, mapped, strict=True)))

    def _kept(self, t: Tensor) -> Tensor:
        """Where the base is left alone: below its first time."""
        return t < self.base.first_time * (1 - 4 * torch.finfo(t.dtype).eps)

    def _log_snr(self, t: Tensor) -> Tensor:
        if self._ends[2] == 0:
            return self.base._log_snr(t)
        levels = self._levels(t)
        mapped = 2 * (torch.log(levels.alpha) - torch.log(levels.sigma))
        return torch.where(self._kept(t), self.base._log_snr(t), mapped)

    def _time(self, log_snr: Tensor) -> Tensor:
        first, first_gap, last = self._ends
        if last == 0:
            return self.base._time(log_snr)
        alpha = torch.sqrt(torch.sigmoid(log_snr))
        gap = torch.sigmoid(-log_snr) / (1 + alpha)  # 1 - alpha'
        base_alpha = alpha * (first - last) / first + last
        base_gap = (gap * (first - last) + last * first_gap) / first
        base = 2 * torch.log(base_alpha) - torch.log(base_gap * (1 + base_alpha))
        # Beyond the first point's lambda the base was left alone.
        kept = gap < first_gap
        return self.base.time_of_log_snr(torch.where(kept, log_snr, base))


def _check_base(base: object) -> None:
    require(
        isinstance(base, Schedule),
        f"base={base!r} must be a Schedule; pass an object such as LinearFlow(), not a name",
    )
