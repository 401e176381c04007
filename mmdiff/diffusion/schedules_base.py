"""What every noise schedule is: the contract, and the three families that share formulas."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.errors import InputError


class Levels(NamedTuple):
    """Signal and noise levels at some times, and how fast they change.

    Attributes
    ----------
    alpha : Tensor, in [0, 1]
        Scale of the data; shape, dtype and device of the times.
    sigma : Tensor, >= 0
        Standard deviation of the noise, in units of the data.
    d_alpha, d_sigma : Tensor
        Derivatives with respect to t in [0, 1]; infinite only where the mathematics is.
    """

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor


@dataclass(frozen=True)
class Schedule(ABC):
    """How much data and how much noise there is at time t: ``x_t = alpha(t) x_0 + sigma(t) eps``.

    t runs from 0 (data) to 1 (noise). ``alpha = 0`` at t = 1 and ``alpha = 1`` everywhere are both legal.
    A subclass writes :meth:`_levels`, :meth:`_log_snr` and :meth:`_time` for tensors that are
    already float32 or float64.
    """

    def __call__(self, t: Tensor | float) -> Levels:
        """Levels at time t.

        Parameters
        ----------
        t : Tensor or float, in [0, 1]
            Any shape. float16 and bfloat16 are computed in float32; a Python number gives float64.

        Returns
        -------
        Levels
            Four tensors with the shape, dtype and device of t.
        """
        t = _tensor(t)
        return Levels(*(field.to(t.dtype) for field in self._levels(_wide(t))))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Return lambda(t) = log(alpha² / sigma²), natural logarithm; +-inf where sigma or alpha is 0.

        Parameters
        ----------
        t : Tensor or float, in [0, 1]
            Any shape.
        """
        t = _tensor(t)
        return self._log_snr(_wide(t)).to(t.dtype)

    def time_of_log_snr(self, log_snr: Tensor | float) -> Tensor:
        """Return the time at which the log signal-to-noise ratio has this value.

        Parameters
        ----------
        log_snr : Tensor or float
            Any shape. Values beyond the schedule's range give the nearer end, so +-inf is legal.

        Returns
        -------
        Tensor, in [0, 1]
            Same shape, dtype and device.
        """
        value = _tensor(log_snr)
        lowest, highest = self.log_snr_range
        wide = _wide(value)
        time = self._time(wide.clamp(lowest, highest)).clamp(0.0, 1.0)
        time = torch.where(wide <= lowest, 1.0, torch.where(wide >= highest, 0.0, time))
        return time.to(value.dtype)

    @functools.cached_property
    def log_snr_range(self) -> tuple[float, float]:
        """lambda(1) and lambda(0): the lowest and the highest log signal-to-noise ratio."""
        ends = self._log_snr(torch.tensor([1.0, 0.0], dtype=torch.float64, device="cpu")).tolist()
        return ends[0], ends[1]

    @functools.cached_property
    def prior_std(self) -> float:
        """sigma(1): the scale of the noise a sampler starts from."""
        return float(self._levels(torch.ones((), dtype=torch.float64, device="cpu")).sigma)

    @property
    def variance_preserving(self) -> bool:
        """Whether alpha² + sigma² = 1 at all times."""
        return False

    @property
    def paired(self) -> bool:
        """Whether its denoisers see pairs (B, 2, C, *space) of data and velocity, as Langevin diffusion's."""
        return False

    @property
    def first_time(self) -> float:
        """The least noisy time this process was defined at: 0, or 1/N for a table of N steps."""
        return 0.0

    @abstractmethod
    def _levels(self, t: Tensor) -> Levels: ...

    @abstractmethod
    def _log_snr(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _time(self, log_snr: Tensor) -> Tensor:
        """Inverse of :meth:`_log_snr`; the argument lies within :attr:`log_snr_range`."""

    def _shift(self, levels: Levels, factor: float) -> Levels:
        """Divide alpha/sigma by ``factor``; a family overrides this to stay on its own curve."""
        return levels._replace(sigma=levels.sigma * factor, d_sigma=levels.d_sigma * factor)

    def _alpha_above_end(self, t: Tensor) -> Tensor:
        """alpha(t) - alpha(1); a table overrides it to lose no digits."""
        return self._levels(t).alpha - self._levels(torch.ones_like(t)).alpha


@dataclass(frozen=True)
class VariancePreserving(Schedule):
    """Schedules on the quarter circle alpha² + sigma² = 1."""

    @property
    def variance_preserving(self) -> bool:
        """Whether alpha² + sigma² = 1 at all times: yes."""
        return True

    def _shift(self, levels: Levels, factor: float) -> Levels:
        # d/dt of a/h and s b/h with h² = a² + s² b², simplified by a a' + b b' = 0: free of inf * 0.
        alpha, sigma, d_alpha, d_sigma = levels
        h = torch.hypot(alpha, factor * sigma)
        return Levels(alpha / h, factor * sigma / h, factor**2 * d_alpha / h**3, factor * d_sigma / h**3)


@dataclass(frozen=True)
class UnitSignal(Schedule):
    """Schedules with alpha = 1: noise is added to data that keep their scale."""

    def _levels(self, t: Tensor) -> Levels:
        sigma, d_sigma = self._noise(t)
        return Levels(torch.ones_like(t), sigma, torch.zeros_like(t), d_sigma)

    @abstractmethod
    def _noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Sigma and its derivative."""


def log_snr_of_exponent(exponent: Tensor) -> Tensor:
    """Return lambda for alpha² = exp(-B), sigma² = 1 - exp(-B); B in [0, inf], accurate at both ends."""
    return -(exponent + torch.log(-torch.expm1(-exponent)))


def exponent_of_log_snr(log_snr: Tensor) -> Tensor:
    """Return B = -log(alpha²) of a variance-preserving process with this lambda: log(1 + exp(-lambda))."""
    return -torch.nn.functional.logsigmoid(log_snr)


def slope_at_zero(coefficient: float, power: float) -> float:
    """Right derivative of ``coefficient * x**power`` at x = 0, for power > 0."""
    if power == 1:
        return coefficient
    return 0.0 if power > 1 else math.copysign(math.inf, coefficient)


def require(holds: bool, message: str) -> None:
    """Raise InputError with this message unless the condition holds."""
    if not holds:
        raise InputError(message)


def check_rates(beta_min: float, beta_max: float) -> None:
    """Raise InputError unless these can be the ends of a linear rate."""
    require(
        0 <= beta_min <= beta_max < math.inf and beta_max > 0,
        f"beta_min={beta_min}, beta_max={beta_max} must satisfy 0 <= beta_min <= beta_max with a finite "
        "positive beta_max; try the usual 0.1 and 20",
    )


def beta_exponent(t: Tensor, beta_min: float, beta_max: float) -> tuple[Tensor, Tensor]:
    """Return B(t), the integral of the linear rate, and the rate itself."""
    growth = beta_max - beta_min
    return t * (beta_min + 0.5 * growth * t), beta_min + growth * t


def time_of_exponent(exponent: Tensor, beta_min: float, beta_max: float) -> Tensor:
    """Return the time at which the integral of the linear rate has this value."""
    # The root of the quadratic B(t) = exponent in the form without cancellation.
    root = torch.sqrt(beta_min**2 + 2 * (beta_max - beta_min) * exponent)
    return torch.where(exponent > 0, 2 * exponent / (beta_min + root), 0.0)


def _tensor(value: Tensor | float) -> Tensor:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else value.to(torch.get_default_dtype())
    return torch.tensor(value, dtype=torch.float64)


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
