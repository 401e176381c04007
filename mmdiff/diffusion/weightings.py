"""How much each noise level counts in the loss.

All parameterisations estimate the same thing: an error e of x0-hat shows in any of them as a known factor
times e. :func:`gain` is that factor times sigma, so that it stays finite at both ends of time, and a
:class:`Weighting` is what multiplies e^2 times sigma^2, likewise. Writing both this way is what makes
losses of different targets comparable, and legal where alpha = 0 or sigma = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Levels
from mmdiff.errors import InputError


def gain(kind: str, levels: Levels, sigma_data: float = 1.0) -> Tensor:
    """Return sigma |d prediction / d x0| at fixed x_t: how an error of x0 shows in another parameterisation.

    Parameters
    ----------
    kind : {"eps", "x0", "v", "velocity", "edm"}
    levels : Levels
    sigma_data : float > 0
        Used by "edm".

    Returns
    -------
    Tensor, shape of the levels, >= 0
    """
    alpha, sigma, d_alpha, d_sigma = levels
    if kind == "x0":
        return sigma
    if kind == "eps":
        return alpha
    if kind == "v":
        return alpha**2 + sigma**2
    if kind == "velocity":
        return (d_alpha * sigma - d_sigma * alpha).abs()
    assert kind == "edm", kind
    return (alpha**2 * sigma_data**2 + sigma**2).sqrt() / sigma_data


class Weighting(ABC):
    """A weight of noise levels that does not depend on the target."""

    @abstractmethod
    def __call__(self, levels: Levels) -> Tensor:
        """Return sigma^2 times the weight of the squared x0 error (= alpha^2 times that of the eps error).

        For a variance-preserving schedule this is the weight of the squared v error.
        """


@dataclass(frozen=True)
class MinSNR(Weighting):
    """The x0 error weighted with min(SNR, gamma).

    References
    ----------
    Hang et al. (2023), "Efficient diffusion training via min-SNR weighting strategy", section 3.4,
    https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0

    def __call__(self, levels: Levels) -> Tensor:
        """Return min(alpha^2, gamma sigma^2)."""
        return torch.minimum(levels.alpha**2, self.gamma * levels.sigma**2)


@dataclass(frozen=True)
class P2(Weighting):
    """The eps error weighted with 1 / (k + SNR)^gamma: less for imperceptible noise.

    References
    ----------
    Choi et al. (2022), "Perception prioritized training of diffusion models", section 3.2,
    https://arxiv.org/abs/2204.00227
    """

    k: float = 1.0
    gamma: float = 1.0

    def __call__(self, levels: Levels) -> Tensor:
        """Return alpha^2 / (k + SNR)^gamma."""
        return levels.alpha**2 / (self.k + levels.alpha**2 / levels.sigma**2) ** self.gamma


@dataclass(frozen=True)
class EDMWeighting(Weighting):
    """The x0 error weighted so that the preconditioned network's own error counts once everywhere.

    References
    ----------
    Karras et al. (2022), table 1 ("loss weighting"), https://arxiv.org/abs/2206.00364
    """

    sigma_data: float = 1.0

    def __call__(self, levels: Levels) -> Tensor:
        """Return (alpha^2 sigma_data^2 + sigma^2) / sigma_data^2."""
        return gain("edm", levels, self.sigma_data) ** 2


@dataclass(frozen=True)
class SigmoidWeighting(Weighting):
    """The eps error weighted with sigmoid(bias - lambda) |d lambda / dt| / 2: the bound with a soft step.

    As in the papers, the rate of lambda makes the loss with t drawn uniformly the same for every schedule,
    but for the schedule's ends.

    References
    ----------
    Kingma & Gao (2023), "Understanding diffusion objectives as the ELBO with simple data augmentation",
    https://arxiv.org/abs/2303.00848; Hoogeboom et al. (2024), "Simpler diffusion (SiD2)",
    https://arxiv.org/abs/2410.19324
    """

    bias: float = 2.0

    def __call__(self, levels: Levels) -> Tensor:
        """Return alpha^2 sigmoid(bias - lambda) |d lambda / dt| / 2, finite at both ends."""
        alpha, sigma = levels.alpha, levels.sigma
        rate = gain("velocity", levels)
        weight = alpha * sigma * rate / (math.exp(-self.bias) * alpha**2 + sigma**2)
        return torch.where(rate.isfinite(), weight, 0.0)  # infinite only at the ends of some schedules


@dataclass(frozen=True)
class ELBO(Weighting):
    """The weight with which t, drawn uniformly, gives the continuous-time variational bound, in nats.

    It grows without bound towards t = 0 for some schedules (a flow among them): draw t from a distribution
    that stays away from 0.

    References
    ----------
    Kingma et al. (2021), "Variational diffusion models", section 5.1, https://arxiv.org/abs/2107.00630
    """

    def __call__(self, levels: Levels) -> Tensor:
        """Return alpha^2 |d lambda / dt| / 2."""
        weight = levels.alpha * gain("velocity", levels) / levels.sigma
        return torch.where(levels.alpha == 0, 0.0, weight)  # some schedules have an infinite rate there


WEIGHTINGS: dict[str, Weighting | None] = {
    "uniform": None,
    "min_snr": MinSNR(),
    "p2": P2(),
    "edm": EDMWeighting(),
    "sigmoid": SigmoidWeighting(),
    "elbo": ELBO(),
}
"""Weightings by name, with their papers' constants; "uniform" counts the target's error once everywhere."""


def weighting_named(name: str) -> Weighting | None:
    """Look a weighting up.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if name not in WEIGHTINGS:
        raise InputError(f"weighting={name!r} must be one of {', '.join(WEIGHTINGS)}, or a Weighting")
    return WEIGHTINGS[name]
