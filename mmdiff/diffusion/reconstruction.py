"""Denoisers that agree with a linear measurement of the data: replacement and reconstruction guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.denoiser import SMALLEST_ALPHA, DenoiserFunction, per_item_time
from mmdiff.diffusion.guidance import fresh_leaf, gradients_on, score_to_x0_factor, usable
from mmdiff.diffusion.measurement import Measurement
from mmdiff.diffusion.process import expand
from mmdiff.diffusion.schedules import Levels, Schedule
from mmdiff.errors import InputError


@dataclass(frozen=True)
class Replacement:
    """Make x0-hat agree with the measurement: x0 + A^+ (y - A x0).

    For a mask this puts the known elements in place. A sampler whose grid ends at sigma = 0 then returns
    them exactly; where it ends at some sigma_min, as with EDM's default, they keep noise of that size, and
    ``measurement.project`` of the result removes it.

    Parameters
    ----------
    denoiser : callable
        ``(x, t, **cond) -> x0``.
    measurement : Measurement
        Its ``noise_std`` is not used: the measurement is taken as exact.
    """

    denoiser: DenoiserFunction
    measurement: Measurement

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return x0, shape (B, C, *space), with A x0 = y."""
        return self.measurement.project(self.denoiser(x, t, **cond))


@dataclass(frozen=True)
class ReconstructionGuidance:
    """Move x0-hat along the gradient of its disagreement with the measurement, through the denoiser.

    The score gains grad log p(y | x_t), with y given x_t taken as normal about A x0-hat. The two methods
    differ in its covariance:

    - "covariance": r_t^2 A A^T + noise_std^2 I with r_t^2 = s^2 sigma^2 / (alpha^2 s^2 + sigma^2)
      (ΠGDM). For normal data of standard deviation s this is exact, and weight 1 gives E[x0 | x_t, y].
    - "gradient": (sigma / alpha)^2 I, that is x0 - weight alpha / 2 grad ||y - A x0-hat||^2
      (reconstruction guidance of video diffusion). No system is solved, but a good weight depends on A.

    Parameters
    ----------
    denoiser : callable
        ``(x, t, **cond) -> x0``, differentiable in x.
    measurement : Measurement
    schedule : Schedule
    weight : float, default 1
    method : {"covariance", "gradient"}, default "covariance"
    data_std : float > 0, default 1
        s, the standard deviation of the data.

    Notes
    -----
    Costs one backward pass of the denoiser a call. Where alpha = 0 that gradient vanishes and cannot be
    divided by alpha; "covariance" then uses its limit for uncorrelated data, r_t^2 times the identity in
    place of the denoiser's Jacobian. The result lets no gradient through.

    References
    ----------
    Song et al. (2023), "Pseudoinverse-guided diffusion models for inverse problems", eq. 7,
    https://openreview.net/forum?id=9_gsMA8MRKQ; Ho et al. (2022), "Video diffusion models", eq. 7,
    https://arxiv.org/abs/2204.03458
    """

    denoiser: DenoiserFunction
    measurement: Measurement
    schedule: Schedule
    weight: float = 1.0
    method: str = "covariance"
    data_std: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in ("covariance", "gradient"):
            raise InputError(f"method={self.method!r} must be 'covariance' or 'gradient'")
        if not self.data_std > 0:
            raise InputError(f"data_std={self.data_std} must be above 0; 1 suits normalised data")

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the guided x0, shape (B, C, *space), detached.

        Raises
        ------
        InputError
            The denoiser is not differentiable in x, or y does not fit.
        """
        t = per_item_time(t, x)
        with gradients_on():
            leaf = fresh_leaf(x)
            x0 = self.denoiser(leaf, usable(t), **{name: usable(value) for name, value in cond.items()})
            if not x0.requires_grad:
                raise InputError(
                    "denoiser must be differentiable in x, but its result carries no gradient; remove "
                    "no_grad or detach from it, or use Replacement"
                )
            wish = self._wish(x0.detach(), t)
            (pulled,) = torch.autograd.grad(x0, leaf, wish)
        x0 = x0.detach()
        levels = expand(self.schedule(t), x0)
        if self.method == "gradient":  # pulled = -1/2 grad ||y - A x0||^2
            return x0 + self.weight * levels.alpha * pulled
        blind = levels.alpha <= SMALLEST_ALPHA
        limit = self._variance(levels) * wish
        factor = score_to_x0_factor(self.schedule, t, x0)
        return x0 + self.weight * torch.where(blind, limit, factor * pulled)

    def _wish(self, x0: Tensor, t: Tensor) -> Tensor:
        """Return A^T (covariance)^-1 (y - A x0): the gradient of log p(y | x0) with respect to x0-hat."""
        residual = self.measurement.residual(x0)
        if self.method == "covariance":
            noise = self.measurement.noise_std**2
            variance = self._variance(self.schedule(t)).to(x0.dtype)
            # At sigma = 0 the data are certain; a tiny variance keeps 0 / 0 out of an exact measurement.
            variance = variance.clamp_min(torch.finfo(x0.dtype).eps ** 2)
            residual = self.measurement.solve(residual, variance, noise)
        return self.measurement.adjoint(residual)

    def _variance(self, levels: Levels) -> Tensor:
        alpha, sigma = levels.alpha, levels.sigma
        s = self.data_std
        return s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)
