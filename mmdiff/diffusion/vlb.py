"""The terms of a discrete chain's variational bound, and the hybrid objective that learns its variances.

:mod:`mmdiff.diffusion.likelihood` adds the terms up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.conversions import expand_like
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.objectives import Objective, Trial, weighted_mean
from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError


def gaussian_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)), element by element, in nats.

    Parameters
    ----------
    mean, variance, other_mean, other_variance : Tensor
        Broadcastable to one shape; variances > 0.
    """
    ratio = variance / other_variance
    return (ratio - 1 - ratio.log() + (mean - other_mean) ** 2 / other_variance) / 2


def gaussian_nll(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    bin_width: float | None = None,
    ends: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return -log p(x) under N(mean, variance), element by element, in nats.

    Parameters
    ----------
    x, mean, variance : Tensor
        Broadcastable to one shape; variance > 0.
    bin_width : float > 0, optional
        x is quantised in steps of this size (2/255 for 8-bit pictures in [-1, 1]): return -log of the
        probability of x's bin, the outermost bins being open (Ho et al. 2020, eq. 13). Without it, the
        density's.
    ends : (float, float), default (-1, 1)
        Lowest and highest value of quantised data.
    """
    deviation = variance.sqrt()
    distance = (x - mean) / deviation
    if bin_width is None:
        return (distance**2 + math.log(2 * math.pi)) / 2 + deviation.log()
    half = bin_width / 2 / deviation
    # By symmetry, take the interval's mirror image in the lower tail, where log_ndtr loses nothing.
    upper_edge = torch.where(x > ends[1] - bin_width / 2, torch.inf, distance + half)
    lower_edge = torch.where(x < ends[0] + bin_width / 2, -torch.inf, distance - half)
    mirrored = distance > 0
    high = torch.special.log_ndtr(torch.where(mirrored, -lower_edge, upper_edge))
    low = torch.special.log_ndtr(torch.where(mirrored, -upper_edge, lower_edge))
    return -(high + torch.log(-torch.expm1(low - high)))


def chain_term(
    schedule: Schedule,
    x0: Tensor,
    x_t: Tensor,
    x0_hat: Tensor,
    s: Tensor,
    t: Tensor,
    variance: Tensor,
    last: Tensor,
    bin_width: float | None = None,
    ends: tuple[float, float] = (-1.0, 1.0),
) -> Tensor:
    """Return the bound's term of the step from t to s, element by element, in nats (Ho et al. 2020, eq. 5).

    Parameters
    ----------
    schedule : Schedule
    x0, x_t, x0_hat : Tensor, shape (B, ...)
        Data, their noisy state at t, and what a denoiser makes of it.
    s, t : Tensor, shape (B,), float64
        Times, s < t.
    variance : Tensor, broadcastable to x0
        Of the reverse step, > 0.
    last : Tensor of bool, shape (B,)
        Where s is the data: there the term is the negative log-likelihood of x0, elsewhere the KL divergence
        of the reverse step from the posterior q(x_s | x_t, x0).
    bin_width, ends
        Quantisation of the data, see :func:`gaussian_nll`.
    """
    process = GaussianProcess(schedule)
    true_mean, true_variance = process.posterior(x_t, x0, s, t)
    mean, _ = process.posterior(x_t, x0_hat, s, t)
    last = expand_like(last, x0) > 0
    # The branch not taken must be finite too, or its gradient would be NaN.
    kl = gaussian_kl(true_mean, torch.where(last, 1.0, true_variance), mean, variance)
    return torch.where(last, gaussian_nll(x0, mean, variance, bin_width, ends), kl)


@dataclass(frozen=True)
class HybridVLB:
    """L_simple + weight L_vlb, for denoisers with learned variance.

    L_vlb is ``steps`` times the one term of the bound that t falls on, in bits per element: the KL
    divergence of the reverse step from the posterior q(x_s | x_t, x0), or at s = 0 the negative
    log-likelihood of x0. It trains the variance only: no gradient passes through the mean.

    Parameters
    ----------
    simple : Objective
        L_simple, with its distribution over t; :class:`mmdiff.diffusion.times.TablePoints` gives the
        paper's chain.
    steps : int > 1
        Length of the chain: s = t - 1 / steps, at least 0.
    weight : float >= 0, default 0.001
    bin_width : float > 0, optional
        Quantisation of the data, see :func:`gaussian_nll`.

    Notes
    -----
    At s = 0 the lower bound of the variance would be zero; the second step's variances are used there.

    References
    ----------
    Nichol & Dhariwal (2021), "Improved denoising diffusion probabilistic models", section 3.1,
    https://arxiv.org/abs/2102.09672
    """

    simple: Objective
    steps: int
    weight: float = 1e-3
    bin_width: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(f"steps={self.steps} must be at least 2; give the length of the table of betas")

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        generator: torch.Generator | None,
        weight: Tensor | None = None,
        t: Tensor | float | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Tensor:
        """Return each item's loss, shape (B,). Arguments as for :class:`Objective`.

        Raises
        ------
        InputError
            The denoiser does not learn its variance.
        """
        if not isinstance(denoiser, Denoiser) or not denoiser.learned_variance:
            raise InputError(
                f"denoiser must be a Denoiser with learned_variance=True, got {type(denoiser).__name__}; "
                f"use Objective where the variance is fixed"
            )
        trial = self.simple.attempt(denoiser, x0, generator=generator, t=t, noise=noise, **cond)
        return self.simple.loss(trial, weight) + self.weight * self.bound(denoiser, trial, weight)

    def bound(self, denoiser: Denoiser, trial: Trial, weight: Tensor | None = None) -> Tensor:
        """Return the estimate of L_vlb from one term for each item, bits per element, shape (B,)."""
        schedule = self.simple.schedule
        t = trial.t.double()  # s and t differ by little
        first = t * self.steps < 1 + 1e-3
        s = torch.where(first, 0.0, t - 1 / self.steps)
        x0_hat = denoiser.convert(trial.output, trial.x_t, trial.t).detach()
        variance = GaussianProcess(schedule).posterior_variance(
            s.clamp_min(1 / self.steps), t.clamp_min(2 / self.steps), "learned", trial.fraction
        )
        term = chain_term(schedule, trial.x0, trial.x_t, x0_hat, s, t, variance, first, self.bin_width)
        nats = weighted_mean(term, weight, self.simple.normalize_weight)
        return nats * self.steps / math.log(2)
