"""What is known of a pair of data and velocity given the data, at each time of critically damped Langevin diffusion.

In the clock τ and the momentum p = v/√M of :mod:`mmdiff.diffusion.langevin`, the pair given x_0 is normal with mean
exp(-τ) (1 + τ, -τ) x_0. With E = exp(-2τ), and R = 3! (1 - exp(-y)(1 + y + y²/2)) / y³ at y = 2τ (so that R is 1 at
τ = 0 and keeps its digits), the covariance of what is not x_0 is

    xx = τ² X,    X = γE + n,    n = (4/3) τR,
    xp = τ Y,     Y = E (γ(1 - τ) + 2τ),
    determinant = τ² D,    D = τ² n² + 4τ² E (4R/3 - E) + γE (τ² n + 4τ² E + (1 - τ)² n),

sums of positive terms, exact to rounding however small τ is. Its Cholesky factor has xx = τ√X, px = Y/√X and
pp = √(D/X).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PairLevels(NamedTuple):
    """Normal law of a pair given x_0, at some times: its mean over x_0, and its covariance L Lᵀ, L triangular."""

    mean_x: Tensor
    mean_v: Tensor
    l_xx: Tensor
    l_vx: Tensor
    l_vv: Tensor

    @property
    def slope(self) -> Tensor:
        """Regression of v on x given x_0."""
        return self.l_vx / self.l_xx

    @property
    def pull(self) -> Tensor:
        """How much x_0 lowers v at the same x: v = slope x - pull x_0 + l_vv ε_v. Positive at all t > 0."""
        return self.slope * self.mean_x - self.mean_v

    @property
    def whitened(self) -> tuple[Tensor, Tensor]:
        """L⁻¹μ, the mean in units in which the noise is standard normal; the sum of its squares is the SNR q."""
        return self.mean_x / self.l_xx, -self.pull / self.l_vv

    @property
    def log_snr(self) -> Tensor:
        """Log-SNR, log q."""
        of_x, of_v = self.whitened
        return (of_x**2 + of_v**2).log()

    @property
    def readout(self) -> tuple[Tensor, Tensor]:
        """Σ⁻¹μ/q, the weights of x and v in the best unbiased estimate z of x_0."""
        of_x, of_v = self.whitened
        w_v = of_v / self.l_vv
        snr = of_x**2 + of_v**2
        return (of_x - self.l_vx * w_v) / self.l_xx / snr, w_v / snr


def unit_levels(clock: Tensor, gamma: float) -> PairLevels:
    """Law of (x, p) given x_0, p_0 ~ N(0, γ), at the times τ > 0 of the clock; floating, any shape."""
    tau = clock.clamp_min(2 * torch.finfo(clock.dtype).tiny ** (1 / 3))  # below, q overflows
    decay, fade, rest = torch.exp(-tau), torch.exp(-2 * tau), _third_remainder(2 * tau)
    n = 4 / 3 * tau * rest
    xx = gamma * fade + n
    xp = fade * (gamma * (1 - tau) + 2 * tau)
    noise = tau**2 * n**2 + 4 * tau**2 * fade * (4 / 3 * rest - fade)
    start = fade * (tau**2 * n + 4 * tau**2 * fade + (1 - tau) ** 2 * n)
    root = xx.sqrt()
    return PairLevels(
        decay * (1 + tau), -decay * tau, tau * root, xp / root, (noise + gamma * start).sqrt() / root
    )


def _third_remainder(y: Tensor) -> Tensor:
    """3! (1 - exp(-y)(1 + y + y²/2)) / y³: 1 at 0; y >= 0."""
    small, large = y.clamp_max(2.0), y.clamp_min(2.0)
    one = series = torch.ones_like(y)
    for k in range(24, 3, -1):  # Horner's scheme; the last term at y = 2 is 2e-17
        series = torch.addcmul(one, small, series, value=1 / k)
    direct = 6 * (1 - torch.exp(-large) * (1 + large + large**2 / 2)) / large**3
    return torch.where(y < 2.0, torch.exp(-small) * series, direct)


def information(clock: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """1/q, and -d(log q)/dτ = 4 w_p² / q, which is how fast noise drowns what the pair says of x_0."""
    unit = unit_levels(clock, gamma)
    of_x, of_p = unit.whitened
    inverse = 1 / (of_x**2 + of_p**2)
    return inverse, 4 * of_p**2 * inverse / unit.l_vv**2
