"""The last step of a variational bound: how data lie about what a denoiser makes of their least noisy state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.grids import LAMBDA_MAX
from mmdiff.diffusion.langevin import noisy_state
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, as_state
from mmdiff.diffusion.vlb import gaussian_nll
from mmdiff.errors import InputError

_NOISIEST, _STEP = -10.0, 1.0  # log-SNRs tried as ends: below the first even many frames tell next to nothing
_FITTED = 20_000  # elements that a decoder is fitted to
_ROUNDS = 40  # of expectation maximisation


@dataclass(frozen=True)
class ResidualDecoder:
    """p(x0 | x̂0): each element is normal about its estimate, with one of several variances.

    Parameters
    ----------
    variances, weights : tuple of float > 0
        As many of both; the weights' sum is 1.

    Raises
    ------
    InputError
        The numbers make no mixture.
    """

    variances: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        numbers = (*self.variances, *self.weights)
        fit = len(self.variances) == len(self.weights) > 0 and math.isclose(sum(self.weights), 1.0)
        if not (fit and all(0 < number < math.inf for number in numbers)):
            raise InputError(
                f"variances={self.variances} and weights={self.weights} must be as many positive numbers, the "
                f"weights 1 in all"
            )

    def nll(self, x0: Tensor, x0_hat: Tensor, quantised: Quantisation | None = None) -> Tensor:
        """Return -log p(x0 | x̂0), or of the probability of quantised data, element by element, in nats."""
        parts = _log_parts(x0, x0_hat, self.variances, quantised)
        pairs = zip(parts, self.weights, strict=True)
        return -torch.logsumexp(torch.stack([part + math.log(w) for part, w in pairs]), 0)

    @classmethod
    def fit(
        cls, x0: Tensor, x0_hat: Tensor, quantised: Quantisation | None = None, count: int = 8
    ) -> ResidualDecoder:
        """Find the mixture under which some data are most likely, by expectation maximisation.

        Parameters
        ----------
        x0, x0_hat : Tensor, of one shape
            Data and their estimates; of many elements evenly spaced ones are used.
        quantised : Quantisation, optional
        count : int > 0
            Variances, spaced evenly in their logarithm between the smallest and the largest error. Those that nothing
            is left to are dropped.

        Returns
        -------
        ResidualDecoder
        """
        stride = max(1, x0.numel() // _FITTED)
        x0, x0_hat = (v.detach().flatten()[::stride].double() for v in (x0, x0_hat))
        error = (x0 - x0_hat).square()
        high = max(float(error.max()), 1e-12)
        least = high * 1e-6 if quantised is None else (quantised.step / 8) ** 2
        low = min(max(float(error.quantile(0.05)), least), high)
        spread = torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64).exp()
        parts = torch.stack(_log_parts(x0, x0_hat, spread.tolist(), quantised))
        weights = torch.full_like(spread, 1 / count)
        for _ in range(_ROUNDS):
            weights = (parts + weights.to(parts).log()[:, None]).softmax(0).mean(1)
        kept = weights.cpu() > 1e-6
        weights = weights.cpu()[kept] / weights.cpu()[kept].sum()
        return cls(tuple(spread[kept].tolist()), tuple(weights.tolist()))


def _log_parts(
    x0: Tensor, x0_hat: Tensor, variances: Sequence[float], quantised: Quantisation | None
) -> list[Tensor]:
    bins: tuple[Any, ...] = () if quantised is None else (quantised.step, quantised.ends)
    return [-gaussian_nll(x0, x0_hat, x0.new_tensor(v), *bins) for v in variances]


class DataEnd(NamedTuple):
    """Where a bound's chain ends, and how it goes on from there to the data."""

    t_min: float
    decoder: ResidualDecoder


@torch.no_grad()
def find_data_end(
    denoiser: DenoiserFn,
    x0: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    quantised: Quantisation | None = None,
    **cond: Any,
) -> DataEnd:
    """Find the end and the decoder that make :func:`~mmdiff.diffusion.likelihood.continuous_bound` of some data least.

    A network that is seldom or never trained with little noise makes errors there that cost more bits, times the SNR,
    than a decoder that takes over where the network still sees. The denoiser is evaluated once at every log-SNR of a
    grid of distance 1.

    Parameters
    ----------
    denoiser, x0, schedule, generator, quantised, **cond
        As for ``continuous_bound``; a few items of what the model was trained on will do.

    Returns
    -------
    DataEnd
        For any other data its bound is a bound.
    """
    x0 = as_state(x0)
    lowest, highest = schedule.log_snr_range
    first, last = max(lowest, _NOISIEST), min(highest, LAMBDA_MAX)
    if schedule.first_time > 0:
        last = min(last, float(schedule.log_snr(schedule.first_time)))
    best, cost, before, paid = None, math.inf, 0.0, 0.0
    levels = torch.linspace(first, last, max(2, round((last - first) / _STEP) + 1), dtype=torch.float64)
    width = float(levels[1] - levels[0])
    for level in levels.tolist():
        t = schedule.time_of_log_snr(torch.full((len(x0),), level, dtype=torch.float64, device=x0.device))
        x_t = noisy_state(schedule, x0, t, generator)
        x0_hat = denoiser(x_t, t.to(x0.dtype), **cond).to(x0.dtype)
        slope = math.exp(level) * float((x0_hat - x0).square().mean()) / 2
        paid += (before + slope) * width / 2 if before else 0.0
        before = slope
        decoder = ResidualDecoder.fit(x0, x0_hat, quantised)
        total = paid + float(decoder.nll(x0, x0_hat, quantised).mean())
        if total < cost and float(t[0]) < 1:
            best, cost = DataEnd(float(t[0]), decoder), total
    if best is None:
        raise InputError("denoiser must return finite numbers: no bound of these data is finite")
    return best
