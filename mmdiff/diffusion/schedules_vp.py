"""Variance-preserving schedules given by a formula, each in a form that keeps its digits at both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.schedules_base import (
    Levels,
    VariancePreserving,
    beta_exponent,
    check_rates,
    exponent_of_log_snr,
    log_snr_of_exponent,
    require,
    slope_at_zero,
    time_of_exponent,
)
from mmdiff.registry import register


@register
@dataclass(frozen=True)
class LinearBetaVP(VariancePreserving):
    """Variance-preserving diffusion whose rate beta(t) grows linearly: DDPM in continuous time.

    alpha² = exp(-B), sigma² = 1 - exp(-B), B(t) = beta_min t + (beta_max - beta_min) t²/2.

    Parameters
    ----------
    beta_min, beta_max : float, 0 <= beta_min <= beta_max
        Rates at t = 0 and t = 1. With ``beta_min=0`` sigma has a finite slope at t = 0.

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
        sigma = torch.sqrt(-torch.expm1(-exponent))
        d_sigma = 0.5 * rate * torch.exp(-exponent) / sigma
        if self.beta_min == 0:  # sigma ~ t sqrt(beta_max / 2): the 0/0 has a limit
            d_sigma = torch.where(t == 0, math.sqrt(self.beta_max / 2), d_sigma)
        return Levels(alpha, sigma, -0.5 * rate * alpha, d_sigma)

    def _log_snr(self, t: Tensor) -> Tensor:
        return log_snr_of_exponent(beta_exponent(t, self.beta_min, self.beta_max)[0])

    def _time(self, log_snr: Tensor) -> Tensor:
        return time_of_exponent(exponent_of_log_snr(log_snr), self.beta_min, self.beta_max)

    def _alpha_above_end(self, t: Tensor) -> Tensor:
        left = (1 - t) * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * (1 + t))  # B(1) - B(t)
        return math.exp(-0.25 * (self.beta_min + self.beta_max)) * torch.expm1(0.5 * left)


@register
@dataclass(frozen=True)
class CosineVP(VariancePreserving):
    """Cosine schedule: alpha = cos(θ)/cos(θ0) with θ = (π/2)(t + offset)/(1 + offset), θ0 = θ(0).

    Parameters
    ----------
    offset : float, >= 0
        0 gives alpha = cos(πt/2), sigma = sin(πt/2); 0.008 is Nichol and Dhariwal's.

    References
    ----------
    Nichol and Dhariwal 2021, arXiv:2102.09672, equation 17.
    """

    offset: float = 0.0

    def __post_init__(self) -> None:
        require(
            0 <= self.offset < math.inf,
            f"offset={self.offset} must be finite and not negative; try 0 or 0.008",
        )

    @property
    def _angles(self) -> tuple[float, float]:
        speed = 0.5 * math.pi / (1 + self.offset)
        return speed, speed * self.offset

    def _levels(self, t: Tensor) -> Levels:
        speed, start = self._angles
        scale = math.cos(start)
        alpha = torch.sin(speed * (1 - t)) / scale  # the sine of the angle left: exactly 0 at t = 1
        d_alpha = -speed * torch.sin(speed * (t + self.offset)) / scale
        if self.offset == 0:
            return Levels(alpha, torch.sin(speed * t), d_alpha, speed * alpha)
        # cos²θ0 - cos²θ = sin(θ - θ0) sin(θ + θ0)
        sigma = torch.sqrt(torch.sin(speed * t) * torch.sin(speed * t + 2 * start)) / scale
        return Levels(alpha, sigma, d_alpha, -alpha * d_alpha / sigma)

    def _log_snr(self, t: Tensor) -> Tensor:
        levels = self._levels(t)
        return 2 * (torch.log(levels.alpha) - torch.log(levels.sigma))

    def _time(self, log_snr: Tensor) -> Tensor:
        speed, start = self._angles
        alpha = torch.sqrt(torch.sigmoid(log_snr))
        sigma = torch.sqrt(torch.sigmoid(-log_snr))
        if self.offset == 0:
            return torch.atan2(sigma, alpha) / speed
        sin0, cos0 = math.sin(start), math.cos(start)
        cos = alpha * cos0
        sin = torch.hypot(sigma * cos0, torch.full_like(sigma, sin0))
        sin_gone = (sigma * cos0) ** 2 / (sin * cos0 + cos * sin0)  # sin(θ - θ0), without a difference
        return torch.atan2(sin_gone, cos * cos0 + sin * sin0) / speed


@register
@dataclass(frozen=True)
class SigmoidVP(VariancePreserving):
    """Sigmoid schedule: alpha² falls from 1 to 0 along a rescaled piece of the logistic curve.

    alpha² = (S(end) - S(u)) / (S(end) - S(start)), S(u) = 1/(1 + exp(-u/tau)), u = start + (end - start) t.

    Parameters
    ----------
    start, end : float, start < end
        The piece of the logistic curve.
    tau : float, > 0
        Temperature; a larger one is closer to alpha² = 1 - t.

    References
    ----------
    Jabri, Fleet and Chen 2022, arXiv:2212.11972; Chen 2023, arXiv:2301.10972, algorithm 1.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        limit = 40.0  # beyond, the inverse overflows float32
        largest = max(abs(self.start), abs(self.end))
        require(
            self.tau > 0 and self.start < self.end and largest <= limit * self.tau,
            f"start={self.start}, end={self.end}, tau={self.tau} must satisfy start < end, tau > 0 and "
            f"|start|, |end| <= {limit:g} tau; try -3, 3 and 1",
        )

    @property
    def _span(self) -> float:
        return (self.end - self.start) / self.tau

    def _squares(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha², sigma² and cosh(u/2), from S(a) - S(b) = sinh((a-b)/2) / (2 cosh(a/2) cosh(b/2))."""
        half, low, high = 0.5 * self._span, 0.5 * self.start / self.tau, 0.5 * self.end / self.tau
        cosh = torch.cosh(low + half * t)
        alpha2 = torch.sinh(half * (1 - t)) / cosh * (math.cosh(low) / math.sinh(half))
        sigma2 = torch.sinh(half * t) / cosh * (math.cosh(high) / math.sinh(half))
        return alpha2, sigma2, cosh

    def _levels(self, t: Tensor) -> Levels:
        alpha2, sigma2, cosh = self._squares(t)
        half, low, high = 0.5 * self._span, 0.5 * self.start / self.tau, 0.5 * self.end / self.tau
        # half the slope of sigma² = -(half the slope of alpha²)
        slope = 0.5 * half / math.sinh(half) * (math.cosh(low) / cosh) * (math.cosh(high) / cosh)
        alpha, sigma = torch.sqrt(alpha2), torch.sqrt(sigma2)
        return Levels(alpha, sigma, -slope / alpha, slope / sigma)

    def _log_snr(self, t: Tensor) -> Tensor:
        alpha2, sigma2, _ = self._squares(t)
        return torch.log(alpha2) - torch.log(sigma2)

    def _time(self, log_snr: Tensor) -> Tensor:
        half, low, high = 0.5 * self._span, 0.5 * self.start / self.tau, 0.5 * self.end / self.tau
        ratio = torch.exp(log_snr + math.log(math.cosh(high)) - math.log(math.cosh(low)))
        return torch.log1p(2 * math.sinh(half) / (ratio + math.exp(-half))) / self._span


@register
@dataclass(frozen=True)
class GeometricVP(VariancePreserving):
    """Variance-preserving diffusion whose noise grows geometrically: sigma = sigma_min (sigma_max/sigma_min)^t.

    In the cross entropy of normal data of unit variance all times then count alike.

    Parameters
    ----------
    sigma_min, sigma_max : float, 0 < sigma_min < sigma_max < 1
        Noise at t = 0 and t = 1.

    References
    ----------
    Vahdat, Kreis and Kautz 2021, arXiv:2106.05931, section 3.3 and appendix B.
    """

    sigma_min: float = 0.0055
    sigma_max: float = 0.9995

    def __post_init__(self) -> None:
        require(
            0 < self.sigma_min < self.sigma_max < 1,
            f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max} must satisfy 0 < sigma_min < sigma_max < 1; "
            "try 0.0055 and 0.9995",
        )

    @property
    def _ends(self) -> tuple[float, float]:
        """Logarithm of sigma at t = 1, and how much it grows until there."""
        return math.log(self.sigma_max), math.log(self.sigma_max / self.sigma_min)

    def _log_sigma(self, t: Tensor) -> Tensor:
        last, growth = self._ends
        return last - growth * (1 - t)  # exact at t = 1, where 1 - sigma² has few digits

    def _levels(self, t: Tensor) -> Levels:
        log_sigma, growth = self._log_sigma(t), self._ends[1]
        sigma, alpha = torch.exp(log_sigma), torch.sqrt(-torch.expm1(2 * log_sigma))
        return Levels(alpha, sigma, -growth * sigma**2 / alpha, growth * sigma)

    def _log_snr(self, t: Tensor) -> Tensor:
        log_sigma = self._log_sigma(t)
        return torch.log(-torch.expm1(2 * log_sigma)) - 2 * log_sigma

    def _time(self, log_snr: Tensor) -> Tensor:
        last, growth = self._ends
        return 1 - (last - torch.nn.functional.logsigmoid(-log_snr) / 2) / growth


@register
@dataclass(frozen=True)
class LaplaceVP(VariancePreserving):
    """Schedule whose lambda is Laplace distributed when t is uniform: most time is spent near ``mean``.

    lambda = mean - scale log(2t) for t <= 1/2, mean + scale log(2(1 - t)) beyond.

    Parameters
    ----------
    mean : float
        Centre of the distribution of lambda.
    scale : float, > 0
        Its spread.

    References
    ----------
    Hang and Gu 2024, arXiv:2407.03297, table 1.
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        require(
            math.isfinite(self.mean) and 0 < self.scale < math.inf,
            f"mean={self.mean}, scale={self.scale} must be finite with scale > 0; try 0 and 0.5",
        )

    def _levels(self, t: Tensor) -> Levels:
        log_snr = self._log_snr(t)
        alpha2, sigma2 = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)
        alpha, sigma = torch.sqrt(alpha2), torch.sqrt(sigma2)
        half_rate = 0.5 * self.scale / _nearer_end(t)  # -d lambda/dt / 2
        d_alpha, d_sigma = -half_rate * alpha * sigma2, half_rate * sigma * alpha2
        # At t = 0: sigma ~ (2t)^(scale/2) exp(-mean/2) and 1 - alpha ~ sigma²/2. t = 1 is the mirror image.
        small0, large0 = self._end_slopes(self.mean)
        small1, large1 = self._end_slopes(-self.mean)
        d_alpha = torch.where(t == 0, -large0, torch.where(t == 1, -small1, d_alpha))
        d_sigma = torch.where(t == 0, small0, torch.where(t == 1, large1, d_sigma))
        return Levels(alpha, sigma, d_alpha, d_sigma)

    def _end_slopes(self, mean: float) -> tuple[float, float]:
        vanishing = slope_at_zero(math.exp(-0.5 * mean) * 2 ** (0.5 * self.scale), 0.5 * self.scale)
        other = slope_at_zero(0.5 * math.exp(-mean) * 2**self.scale, self.scale)
        return vanishing, other

    def _log_snr(self, t: Tensor) -> Tensor:
        distance = torch.log(2 * _nearer_end(t))
        return self.mean + self.scale * torch.where(t <= 0.5, -distance, distance)

    def _time(self, log_snr: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-(log_snr - self.mean).abs() / self.scale)
        return torch.where(log_snr >= self.mean, tail, 1 - tail)


def _nearer_end(t: Tensor) -> Tensor:
    # Not torch.minimum: autograd splits its slope at the tie t = 1/2, where lambda is smooth.
    return torch.where(t <= 0.5, t, 1 - t)
