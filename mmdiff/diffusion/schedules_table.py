"""Schedules given by a table of beta: DDPM, WaveGrad, DiffWave and any other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.schedules_base import (
    Levels,
    VariancePreserving,
    check_rates,
    exponent_of_log_snr,
    log_snr_of_exponent,
    require,
)
from mmdiff.registry import register


class _Table(NamedTuple):
    """Values at the points n = 0..N of a table, and the exponent's rise over the segment after each."""

    exponent: Tensor  # B_n = -log(alpha_bar_n)
    rise: Tensor  # B_(n+1) - B_n; the last value is repeated for n = N
    alpha: Tensor
    sigma2: Tensor
    alpha_above_end: Tensor  # alpha_n - alpha_N


@functools.lru_cache(maxsize=64)
def _table(betas: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> _Table:
    # Rounded once from float64, and moved once; a plain tensor even if first asked for under inference_mode.
    with torch.inference_mode(False):
        beta = torch.tensor((0.0, *betas), dtype=torch.float64, device="cpu")
        rise = -torch.log1p(-beta)
        exponent = rise.cumsum(0)
        rise = torch.cat([rise[1:], rise[-1:]])
        alpha = torch.exp(-0.5 * exponent)
        # alpha_n - alpha_N = alpha_N (exp((B_N - B_n) / 2) - 1)
        above = alpha[-1] * torch.expm1(0.5 * (exponent[-1] - exponent))
        columns = (exponent, rise, alpha, -torch.expm1(-exponent), above)
        return _Table(*(column.to(dtype).to(device) for column in columns))


@register
@dataclass(frozen=True, repr=False)
class BetaTable(VariancePreserving):
    """Discrete diffusion of N steps as a continuous schedule: point n = 0..N of the table is t = n/N.

    At the points alpha² is the product of (1 - beta_i), i <= n, with alpha = 1 at n = 0. Between points the
    rate is constant, so log alpha² is linear there; the derivatives are those to the right of a point.
    Times within rounding of a point, in their own dtype, count as that point.

    Parameters
    ----------
    betas : tuple of float, each in (0, 1)
        Variance added by each step, first step first.

    References
    ----------
    Ho et al. 2020, arXiv:2006.11239; Chen et al. 2020 (WaveGrad), arXiv:2009.00713;
    Kong et al. 2020 (DiffWave), arXiv:2009.09761.
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(float(beta) for beta in self.betas))
        require(len(self.betas) > 0, "betas=() must hold at least one step; try ddpm_betas()")
        for n, beta in enumerate(self.betas):
            require(
                0 < beta < 1,
                f"betas[{n}]={beta} must lie strictly between 0 and 1; for a table that ends without signal "
                "wrap the plain table in ZeroTerminalSNR",
            )

    def __repr__(self) -> str:
        return f"BetaTable({self.steps} steps, {self.betas[0]:.6g} .. {self.betas[-1]:.6g})"

    @property
    def steps(self) -> int:
        """Number N of steps of the table; a network fed with an index expects t * N."""
        return len(self.betas)

    @property
    def first_time(self) -> float:
        """Time of the table's least noisy step, 1/N."""
        return 1 / self.steps

    def aligned_point(self, t: Tensor) -> Tensor:
        """Number of the point at t, between two points in proportion to alpha.

        A network that was trained at the points is told so of a level between them (Kong et al. 2020,
        arXiv:2009.09761, appendix B).

        Parameters
        ----------
        t : Tensor, in [0, 1]

        Returns
        -------
        Tensor, shape and dtype of t, in [0, N]
        """
        table, n, fraction = self._locate(t)
        half = -0.5 * table.rise[n]
        return n + torch.expm1(half * fraction) / torch.expm1(half)

    def _locate(self, t: Tensor) -> tuple[_Table, Tensor, Tensor]:
        """Return the table, the point at or before t, and the fraction of the segment after it."""
        position = t * self.steps
        nearest = position.detach().round()
        on_point = (position.detach() - nearest).abs() <= 2 * torch.finfo(t.dtype).eps * self.steps
        # A detached correction, so that autograd still sees d(position)/dt = N at a point.
        position = position + torch.where(on_point, nearest - position.detach(), 0.0)
        index = position.detach().floor().clamp(0, self.steps)
        return _table(self.betas, t.dtype, t.device), index.long(), position - index

    def _levels(self, t: Tensor) -> Levels:
        table, n, fraction = self._locate(t)
        grown = fraction * table.rise[n]
        alpha = table.alpha[n] * torch.exp(-0.5 * grown)
        # sigma² = sigma_n² + alpha_n² (1 - exp(-grown)): a sum of positive terms, exact at a point
        sigma = torch.sqrt(table.sigma2[n] - table.alpha[n] ** 2 * torch.expm1(-grown))
        half_rate = 0.5 * self.steps * table.rise[n]
        return Levels(alpha, sigma, -half_rate * alpha, half_rate * alpha**2 / sigma)

    def _log_snr(self, t: Tensor) -> Tensor:
        table, n, fraction = self._locate(t)
        return log_snr_of_exponent(table.exponent[n] + fraction * table.rise[n])

    def _time(self, log_snr: Tensor) -> Tensor:
        exponent = exponent_of_log_snr(log_snr)
        table = _table(self.betas, exponent.dtype, exponent.device)
        n = torch.searchsorted(table.exponent, exponent.detach().contiguous(), right=True) - 1
        n = n.clamp(0, self.steps - 1)
        return (n + (exponent - table.exponent[n]) / table.rise[n]) / self.steps

    def _alpha_above_end(self, t: Tensor) -> Tensor:
        table, n, fraction = self._locate(t)
        return table.alpha_above_end[n] + table.alpha[n] * torch.expm1(-0.5 * fraction * table.rise[n])


def linear_betas(first: float, last: float, count: int) -> tuple[float, ...]:
    """Equally spaced betas, both ends included.

    Parameters
    ----------
    first, last : float, in (0, 1)
        Ends of the table.
    count : int > 0
        Number of steps.

    Examples
    --------
    >>> linear_betas(0.1, 0.3, 3)
    (0.1, 0.2, 0.3)
    """
    require(isinstance(count, int) and count > 0, f"count={count} must be a positive integer; try 1000")
    if count == 1:
        return (float(first),)
    inner = (first + (last - first) * n / (count - 1) for n in range(count - 1))
    return (*inner, float(last))  # both ends exactly as given


def scaled_linear_betas(first: float, last: float, count: int) -> tuple[float, ...]:
    """Betas whose square roots are equally spaced, as in latent diffusion (Rombach et al. 2022)."""
    return tuple(root**2 for root in linear_betas(math.sqrt(first), math.sqrt(last), count))


def betas_of_alpha_bars(alpha_bars: Sequence[float], max_beta: float = 0.999) -> tuple[float, ...]:
    """Betas of a table given by alpha² at its points n = 1..N.

    Parameters
    ----------
    alpha_bars : sequence of float, in [0, 1), falling
        alpha² after each step.
    max_beta : float, in (0, 1)
        Cap of each beta; keeps a table that would end at alpha = 0 legal.

    Raises
    ------
    InputError
        The values do not fall.
    """
    previous, betas = 1.0, []
    for n, value in enumerate(alpha_bars):
        require(
            0 <= value < previous,
            f"alpha_bars[{n}]={value} must be at least 0 and below its predecessor {previous}; "
            "list alpha² from the least to the most noisy step",
        )
        betas.append(min(1 - value / previous, max_beta))
        previous = value
    return tuple(betas)


def log_snr_betas(highest: float, lowest: float, count: int) -> tuple[float, ...]:
    """Betas of a table whose points are even in log-SNR, ln(alpha² / sigma²).

    Parameters
    ----------
    highest, lowest : float, highest > lowest
        Log-SNR after the first step and after the last.
    count : int > 1
        Steps.

    Examples
    --------
    >>> [round(beta, 4) for beta in log_snr_betas(4.0, -4.0, 3)]
    [0.018, 0.4908, 0.964]
    """
    require(
        highest > lowest and count > 1,
        f"highest={highest} must be above lowest={lowest}, and count={count} at least 2; try 14, -7 and 50",
    )
    step = (lowest - highest) / (count - 1)
    return betas_of_alpha_bars([1 / (1 + math.exp(-(highest + n * step))) for n in range(count)])


def cosine_betas(count: int, offset: float = 0.008, max_beta: float = 0.999) -> tuple[float, ...]:
    """Nichol and Dhariwal's discrete cosine table (arXiv:2102.09672, equation 17), betas capped."""

    def alpha_bar(n: int) -> float:
        return math.cos((n / count + offset) / (1 + offset) * math.pi / 2) ** 2

    return tuple(min(1 - alpha_bar(n + 1) / alpha_bar(n), max_beta) for n in range(count))


def ddpm_betas() -> tuple[float, ...]:
    """DDPM's table: 1000 steps, 1e-4 to 0.02 (Ho et al. 2020, section 4)."""
    return linear_betas(1e-4, 0.02, 1000)


def wavegrad_betas() -> tuple[float, ...]:
    """WaveGrad's training table: 1000 steps, 1e-6 to 0.01 (Chen et al. 2020)."""
    return linear_betas(1e-6, 0.01, 1000)


def vp_betas(count: int, beta_min: float = 0.1, beta_max: float = 20.0) -> tuple[float, ...]:
    """Betas of a few large steps with the levels of :class:`LinearBetaVP`: denoising diffusion GANs take 2 to 8.

    A step of the length 1/N adds what the rate, which grows linearly, adds in that time: with the rate in the
    middle of the step, b_n = beta_min + (beta_max - beta_min) (2n - 1) / (2N), it is beta_n = 1 - exp(-b_n / N).

    Parameters
    ----------
    count : int > 0
        Number N of steps.
    beta_min, beta_max : float, 0 <= beta_min <= beta_max, beta_max > 0
        Rates at t = 0 and t = 1.

    References
    ----------
    Xiao et al. 2022, arXiv:2112.07804, appendix B: alpha² after step n of N is that of the variance-preserving
    equation (Song et al. 2021, arXiv:2011.13456) at t = n/N.

    Examples
    --------
    >>> [round(beta, 3) for beta in vp_betas(4)]
    [0.476, 0.849, 0.956, 0.987]
    """
    require(isinstance(count, int) and count > 0, f"count={count} must be a positive integer; try 4")
    check_rates(beta_min, beta_max)
    rise = beta_max - beta_min
    return tuple(-math.expm1(-(beta_min + rise * (n - 0.5) / count) / count) for n in range(1, count + 1))


def diffwave_betas(count: int = 50) -> tuple[float, ...]:
    """DiffWave's training tables: 1e-4 to 0.05 in 20, 40 or 50 steps, to 0.02 in 200 (Kong et al. 2020, section 5).

    Parameters
    ----------
    count : int > 0
        Steps; up to 50 the table ends at 0.05.
    """
    return linear_betas(1e-4, 0.05 if count <= 50 else 0.02, count)


def diffwave_fast_betas(count: int = 50) -> tuple[float, ...]:
    """DiffWave's tables for sampling in six steps (Kong et al. 2020, appendix B).

    Parameters
    ----------
    count : int >= 40
        Steps of the training table: with 200, which end noisier, the last of the six is 0.7 instead of 0.5.
    """
    return (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5 if count <= 50 else 0.7)
