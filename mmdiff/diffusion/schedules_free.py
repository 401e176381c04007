"""Schedules off the unit circle: variance exploding, EDM, straight flow, sub-VP."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.schedules_base import (
    Levels,
    Schedule,
    UnitSignal,
    beta_exponent,
    check_rates,
    require,
    time_of_exponent,
)
from mmdiff.registry import register


@register
@dataclass(frozen=True)
class EDM(UnitSignal):
    """Karras' schedule: alpha = 1, sigma^(1/rho) linear in t, so that uniform times are EDM's steps.

    Parameters
    ----------
    sigma_min : float, >= 0
        Noise at t = 0, in units of the data.
    sigma_max : float, > sigma_min
        Noise at t = 1.
    rho : float, > 0
        Larger values spend more time at low noise.

    References
    ----------
    Karras et al. 2022, arXiv:2206.00364, equation 5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        require(
            0 <= self.sigma_min < self.sigma_max < math.inf and 0 < self.rho < math.inf,
            f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}, rho={self.rho} must satisfy "
            "0 <= sigma_min < sigma_max and rho > 0, all finite; try 0.002, 80 and 7",
        )

    @property
    def _roots(self) -> tuple[float, float]:
        low = self.sigma_min ** (1 / self.rho)
        return low, self.sigma_max ** (1 / self.rho) - low

    def _noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        low, rise = self._roots
        root = low + rise * t
        return root**self.rho, self.rho * rise * root ** (self.rho - 1)

    def _log_snr(self, t: Tensor) -> Tensor:
        low, rise = self._roots
        return -2 * self.rho * torch.log(low + rise * t)

    def _time(self, log_snr: Tensor) -> Tensor:
        low, rise = self._roots
        return (torch.exp(log_snr / (-2 * self.rho)) - low) / rise


@register
@dataclass(frozen=True)
class VarianceExploding(UnitSignal):
    """Song's variance-exploding diffusion: alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t.

    Parameters
    ----------
    sigma_min, sigma_max : float, 0 < sigma_min < sigma_max
        Noise at t = 0 and t = 1, in units of the data.

    References
    ----------
    Song et al. 2021, arXiv:2011.13456, appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        require(
            0 < self.sigma_min < self.sigma_max < math.inf,
            f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max} must satisfy 0 < sigma_min < sigma_max; "
            "use EDM for a schedule that reaches sigma = 0",
        )

    @property
    def _growth(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def _noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.exp(math.log(self.sigma_min) + self._growth * t)
        return sigma, self._growth * sigma

    def _log_snr(self, t: Tensor) -> Tensor:
        return -2 * (math.log(self.sigma_min) + self._growth * t)

    def _time(self, log_snr: Tensor) -> Tensor:
        return (-0.5 * log_snr - math.log(self.sigma_min)) / self._growth


@register
@dataclass(frozen=True)
class LinearFlow(Schedule):
    """Straight lines from data to noise: alpha = 1 - t, sigma = t (rectified flow, flow matching).

    References
    ----------
    Liu et al. 2023, arXiv:2209.03003; Lipman et al. 2023, arXiv:2210.02747.
    """

    def _levels(self, t: Tensor) -> Levels:
        one = torch.ones_like(t)
        # t * 1, not t: a caller that changes a level in place must not change its times
        return Levels(1 - t, t * 1, -one, one)

    def _log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def _time(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def _shift(self, levels: Levels, factor: float) -> Levels:
        norm = levels.alpha + factor * levels.sigma
        slope = factor * (levels.alpha * levels.d_sigma - levels.sigma * levels.d_alpha) / norm**2
        return Levels(levels.alpha / norm, factor * levels.sigma / norm, -slope, slope)


@register
@dataclass(frozen=True)
class SubVP(Schedule):
    """Song's sub-VP diffusion: alpha = exp(-B/2) as in :class:`LinearBetaVP`, but sigma = 1 - exp(-B).

    Parameters
    ----------
    beta_min, beta_max : float, 0 <= beta_min <= beta_max
        Rates at t = 0 and t = 1.

    References
    ----------
    Song et al. 2021, arXiv:2011.13456, appendix C.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        check_rates(self.beta_min, self.beta_max)

    def _levels(self, t: Tensor) -> Levels:
        exponent, rate = beta_exponent(t, self.beta_min, self.beta_max)
        alpha = torch.exp(-0.5 * exponent)
        return Levels(alpha, -torch.expm1(-exponent), -0.5 * rate * alpha, rate * torch.exp(-exponent))

    def _log_snr(self, t: Tensor) -> Tensor:
        exponent, _ = beta_exponent(t, self.beta_min, self.beta_max)
        return -exponent - 2 * torch.log(-torch.expm1(-exponent))

    def _time(self, log_snr: Tensor) -> Tensor:
        # sigma / alpha = exp(B/2) - exp(-B/2) = 2 sinh(B/2)
        exponent = 2 * torch.asinh(0.5 * torch.exp(-0.5 * log_snr))
        return time_of_exponent(exponent, self.beta_min, self.beta_max)

    def _shift(self, levels: Levels, factor: float) -> Levels:
        # N(a, b) = (b + sqrt(b² + 4a²)) / 2 is 1 on the curve b = 1 - a² and homogeneous of degree 1,
        # so dividing (a, factor b) by N returns to the curve; the derivatives follow from Euler's relation.
        a, b = levels.alpha, factor * levels.sigma
        wronskian = a * factor * levels.d_sigma - b * levels.d_alpha
        root = torch.sqrt(b**2 + 4 * a**2)
        norm = 0.5 * (b + root)
        slope = wronskian / norm**2
        return Levels(a / norm, b / norm, -0.5 * (1 + b / root) * slope, 2 * a / root * slope)
