"""The forward Gaussian process, its posterior, a data-dependent prior, and prediction conversions.

Notation: s < t are times, s the cleaner one; lambda = log(alpha²/sigma²). The transition from s to t has
alpha_ts = alpha_t / alpha_s and sigma_ts² = sigma_t² - alpha_ts² sigma_s², which is computed as
-sigma_t² expm1(lambda_t - lambda_s): no difference of nearly equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from mmdiff.diffusion.conversions import Prediction, expand, expand_like, from_x0, to_x0
from mmdiff.diffusion.schedules import Levels, Schedule
from mmdiff.errors import InputError

__all__ = [
    "GaussianProcess",
    "Moments",
    "Prediction",
    "Prior",
    "Variance",
    "expand",
    "expand_like",
    "from_x0",
    "to_x0",
]

Variance = Literal["small", "large", "learned"]


class Moments(NamedTuple):
    """Mean, shape of the sample, and spread, broadcastable to it; which spread, the method says."""

    mean: Tensor
    spread: Tensor


@dataclass(frozen=True)
class GaussianProcess:
    """q(x_t | x_0) = N(alpha_t x_0, sigma_t²), and what follows from it.

    Times are tensors of shape (B,), one per item, or scalars. For s and t that lie close together
    give float64 times: their difference is what counts.

    Parameters
    ----------
    schedule : Schedule
        Levels of signal and noise.

    References
    ----------
    Ho et al. 2020, arXiv:2006.11239, equations 2-7; in this continuous notation Kingma et al. 2021,
    arXiv:2107.00630, appendix A.
    """

    schedule: Schedule

    def marginal(self, x0: Tensor, t: Tensor | float) -> Moments:
        """Mean and standard deviation of x_t given x_0.

        Parameters
        ----------
        x0 : Tensor, shape (B, ...)
            Data.
        t : Tensor, shape (B,) or (), in [0, 1]
            Times.
        """
        levels = expand(self.schedule(t), x0)
        return Moments((levels.alpha * x0).to(x0.dtype), levels.sigma)

    def diffuse(self, x0: Tensor, t: Tensor | float, noise: Tensor) -> Tensor:
        """Return x_t = alpha_t x_0 + sigma_t noise; with standard normal noise, a sample of q(x_t | x_0).

        Parameters
        ----------
        x0, noise : Tensor, shape (B, ...)
            Data and noise.
        t : Tensor, shape (B,) or (), in [0, 1]
            Times.
        """
        levels = expand(self.schedule(t), x0)
        return (levels.alpha * x0 + levels.sigma * noise).to(x0.dtype)

    def transition(self, x_s: Tensor, s: Tensor | float, t: Tensor | float) -> Moments:
        """Mean and standard deviation of x_t given the cleaner x_s, s <= t.

        Parameters
        ----------
        x_s : Tensor, shape (B, ...)
            State at time s.
        s, t : Tensor, shape (B,) or (), in [0, 1]
            Times.
        """
        at_s, at_t, lost = self._pair(s, t)
        scale = expand_like(_ratio(at_t.alpha, at_s.alpha), x_s)
        return Moments((scale * x_s).to(x_s.dtype), expand_like(at_t.sigma * torch.sqrt(lost), x_s))

    def posterior(self, x_t: Tensor, x0: Tensor, s: Tensor | float, t: Tensor | float) -> Moments:
        """Mean and variance of x_s given x_t and x_0: the target of one denoising step.

        mean = alpha_ts sigma_s²/sigma_t² x_t + alpha_s sigma_ts²/sigma_t² x_0,
        variance = sigma_s² sigma_ts²/sigma_t². Legal at sigma_s = 0 (gives alpha_s x_0) and at alpha_t = 0.

        Parameters
        ----------
        x_t, x0 : Tensor, shape (B, ...)
            Noisy state and (estimated) data.
        s, t : Tensor, shape (B,) or (), in [0, 1]
            Times, s <= t.
        """
        at_s, at_t, lost = self._pair(s, t)
        noise_kept = _ratio(at_s.sigma, at_t.sigma)
        of_x = expand_like(_ratio(at_t.alpha, at_s.alpha) * noise_kept**2, x_t)
        of_x0 = expand_like(at_s.alpha * lost, x_t)
        variance = expand_like(at_s.sigma**2 * lost, x_t)
        return Moments((of_x * x_t + of_x0 * x0).to(x_t.dtype), variance)

    def posterior_variance(
        self, s: Tensor | float, t: Tensor | float, kind: Variance = "small", fraction: Tensor | None = None
    ) -> Tensor:
        """Variance of the reverse step from t to s.

        Parameters
        ----------
        s, t : Tensor, shape (B,) or (), in [0, 1]
            Times, s <= t.
        kind : "small", "large" or "learned"
            "small" is the posterior's sigma_s² sigma_ts²/sigma_t², right for data that are a point;
            "large" is sigma_ts², right for standard normal data; "learned" lies between them.
        fraction : Tensor, shape (B, ...), in [0, 1]
            For "learned": 0 is small, 1 is large, in between the logarithm is interpolated
            (Nichol and Dhariwal 2021, arXiv:2102.09672, equation 15).

        Returns
        -------
        Tensor
            Shape of the times, or of ``fraction``. At sigma_s = 0 "small" is 0, and so is "learned"
            below fraction 1.

        Raises
        ------
        InputError
            Unknown kind, or a fraction missing or given in vain.
        """
        if kind not in ("small", "large", "learned"):
            raise InputError(f"kind={kind!r} must be small, large or learned")
        if (fraction is not None) != (kind == "learned"):
            raise InputError(
                f"fraction must be given exactly when kind='learned', got kind={kind!r} and "
                f"fraction={'None' if fraction is None else 'a tensor'}; pass the network's second output"
            )
        at_s, at_t, lost = self._pair(s, t)
        small, large = at_s.sigma**2 * lost, at_t.sigma**2 * lost
        if fraction is None:
            return small if kind == "small" else large
        small, large = expand_like(small, fraction), expand_like(large, fraction)
        # Powers instead of exp of logarithms: small = 0 is legal, in value and in gradient.
        return (large**fraction * small ** (1 - fraction)).to(fraction.dtype)

    def _pair(self, s: Tensor | float, t: Tensor | float) -> tuple[Levels, Levels, Tensor]:
        """Levels at s and t, and sigma_ts²/sigma_t² = 1 - exp(lambda_t - lambda_s), in [0, 1]."""
        fall = self.schedule.log_snr(t) - self.schedule.log_snr(s)
        fall = torch.where(fall.isnan(), 0.0, fall)  # inf - inf: s and t are the same end
        return self.schedule(s), self.schedule(t), -torch.expm1(fall.clamp(max=0.0))


def _ratio(top: Tensor, bottom: Tensor) -> Tensor:
    """top/bottom, and 1 where both vanish: there s and t are the same end."""
    empty = bottom == 0
    return torch.where(empty, 1.0, top / torch.where(empty, 1.0, bottom))


class Basis(Protocol):
    """An orthonormal transform, of whose coefficients a prior states the deviations."""

    def forward(self, x: Tensor) -> Tensor:
        """Take data to their coefficients."""

    def inverse(self, coefficients: Tensor) -> Tensor:
        """Take coefficients to the data."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A data-dependent prior N(mean, std²): the chain runs on z = (x - mean)/std instead of x.

    With z_t = alpha z_0 + sigma eps, the state x_t = std z_t is PriorGrad's
    alpha (x_0 - mean) + sigma eps', eps' ~ N(0, std²): same process, samplers and schedules untouched.
    A plain squared error on eps in z is PriorGrad's error weighted by 1/std². Start sampling from
    standard normal z (times the schedule's prior_std) and :meth:`unwhiten` the result.
    PriorGrad's networks are fed :meth:`color` of the state.

    With a basis Q, z = Qᵀ (Q (x - mean)/std): the prior's covariance is Qᵀ std² Q. All else stays as it is, since
    standard normal noise is the same in any orthonormal basis; but networks are fed z.

    Parameters
    ----------
    mean, std : Tensor
        Broadcastable to the data. std must be positive; :meth:`floored` makes it so.
    basis : Basis, optional
        Where ``std`` belongs to; then it broadcasts to the basis' coefficients instead.

    References
    ----------
    Lee et al. 2022, arXiv:2106.06406, algorithms 1 and 2.
    """

    mean: Tensor
    std: Tensor
    basis: Basis | None = None

    @property
    def white(self) -> bool:
        """Whether networks see the chain's state itself, and speak of it: with a basis they do."""
        return self.basis is not None

    @classmethod
    def floored(cls, mean: Tensor, std: Tensor, floor: float = 0.1) -> Prior:
        """Build a prior whose std is at least ``floor`` > 0 (PriorGrad's vocoder uses 0.1)."""
        if not floor > 0:
            raise InputError(f"floor={floor} must be positive; try 0.1")
        return cls(mean, std.clamp(min=floor))

    def whiten(self, x: Tensor) -> Tensor:
        """Take data to the coordinates of the chain: (x - mean)/std."""
        return self._scaled(x - self.mean, 1 / self.std)

    def unwhiten(self, z: Tensor) -> Tensor:
        """Undo :meth:`whiten`: mean + std z."""
        return self.mean + self.color(z)

    def color(self, z: Tensor) -> Tensor:
        """Give noise or a noisy state the units of the data, still centred: std z."""
        return self._scaled(z, self.std)

    def _scaled(self, x: Tensor, factors: Tensor) -> Tensor:
        if self.basis is None:
            return factors * x
        return self.basis.inverse(factors * self.basis.forward(x))

    def whitened(self, denoiser: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Make a denoiser of the chain, of z, from a network's, ``denoiser(x, t, **cond) -> x0``.

        That is one of the centred data, unless networks see the chain's state anyway.
        """
        if self.white:
            return denoiser

        def of_chain(z: Tensor, t: Tensor, **cond: Any) -> Tensor:
            return denoiser(self.color(z), t, **cond) / self.std

        return of_chain
