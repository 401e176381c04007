"""How likely data are under a diffusion model: the variational bound of its chain, and its ODE's exact likelihood.

- :func:`discrete_bound`: of a chain of finitely many steps, as DDPM samples, learned variances included;
- :func:`continuous_bound`: of infinitely many, estimated by a few evaluations at random times;
- :func:`~mmdiff.diffusion.likelihood_ode.ode_likelihood`: of the probability-flow ODE.

The bounds are of -log2 p(x0), or of -log2 P(x0) for :class:`~mmdiff.diffusion.quantisation.Quantisation` data, over the
number of elements: bits per dimension. Those of densities may be negative, and depend on the data's units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.decoders import ResidualDecoder
from mmdiff.diffusion.langevin import noisy_state
from mmdiff.diffusion.likelihood_ode import OdeLikelihood as OdeLikelihood
from mmdiff.diffusion.likelihood_ode import least_noisy_time
from mmdiff.diffusion.likelihood_ode import ode_likelihood as ode_likelihood
from mmdiff.diffusion.process import GaussianProcess, Variance, expand_like
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    DenoiserFn,
    Generators,
    as_state,
    check_grid,
    draw_noise,
    x0_and_learned_variance,
)
from mmdiff.diffusion.vlb import chain_term, gaussian_kl
from mmdiff.errors import InputError

_NATS = math.log(2)


class Bound(NamedTuple):
    """Upper bound of -log2 p(x0) and its parts, in bits per dimension; each of shape (B,) but for ``terms``."""

    total: Tensor
    """The sum of the next three."""
    prior: Tensor
    """KL divergence of q(x_1 | x0) from the prior."""
    diffusion: Tensor
    """Of the reverse steps, or the integral that they tend to."""
    decoder: Tensor
    """Negative log-likelihood of x0 given its least noisy state."""
    std_error: Tensor
    """Standard error that random times and noise leave in ``total``; nan where too few were drawn to tell. How steeply
    the terms rise at the ends counts too: of a chain of few steps, all counted, it is up to four times too large."""
    terms: Tensor
    """What ``diffusion`` is the mean of, (K, B), from noise to data: with all steps of a chain, K times the steps'
    own terms."""


def discrete_bound(
    denoiser: DenoiserFn,
    x0: Tensor,
    schedule: Schedule,
    grid: Tensor,
    *,
    variance: Variance = "small",
    draws: int | None = None,
    decoder_draws: int = 2,
    decoder: ResidualDecoder | None = None,
    generator: Generators = None,
    quantised: Quantisation | None = None,
    prior_mean: Tensor | float = 0.0,
    prior_std: Tensor | float | None = None,
    **cond: Any,
) -> Bound:
    """Variational bound of the chain that ``ddpm`` samples on a grid.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``; with ``x0_and_variance`` where variances are learned.
    x0 : Tensor, shape (B, C, *space)
        Data.
    schedule : Schedule
    grid : Tensor, shape (N + 1,)
        Times from 1 down to 0, N >= 2, such as ``make_grid("uniform", schedule, N)``: the points of a table of N.
    variance : {"small", "large", "learned"}
        Of the reverse steps, see :meth:`~mmdiff.diffusion.process.GaussianProcess.posterior_variance`.
    draws : int > 1, optional
        Estimate the sum over the N - 1 steps between noisy states from so many, spread evenly from a random first one.
        Default: all of them.
    decoder_draws : int > 0
        Noise drawn for the step into the data; one leaves its error unknown.
    decoder : ResidualDecoder, optional
        The step into the data. Default: normal with the variance of the step before, as DDPM has with small variances,
        of which that of the last step would be 0.
    generator : torch.Generator or list of B of them, optional
    quantised : Quantisation, optional
        x0 is quantised; default: continuous.
    prior_mean, prior_std : Tensor or float, broadcastable to x0
        Of the prior at t = 1; default: 0 and the schedule's ``prior_std``.
    **cond
        Passed to the denoiser.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        A number is out of range, the grid is not one from 1 to 0, the denoiser has learned no variance, or the
        schedule is one of pairs.

    References
    ----------
    Sohl-Dickstein et al. 2015, arXiv:1503.03585, eq. 14; Ho et al. 2020, arXiv:2006.11239, eqs. 5 and 13; learned
    variance: Nichol and Dhariwal 2021, arXiv:2102.09672, eqs. 4 to 7 and 15.
    """
    times = check_grid(grid).to(x0.device)
    if schedule.paired:
        raise InputError(
            f"schedule={schedule} has no chain that ddpm samples; pairs have the bound of continuous time"
        )
    if decoder_draws < 1 or (draws is not None and draws < 1):
        raise InputError(f"draws={draws} and decoder_draws={decoder_draws} must be positive")
    if len(times) < 3 or times[0] != 1 or times[-1] != 0:
        raise InputError(f"grid={times.tolist()} must fall from 1 to 0 in at least 2 steps; see make_grid")
    x0, process, steps = as_state(x0), GaussianProcess(schedule), len(times) - 2
    ask = _asker(denoiser, variance, cond)

    def term(t: Tensor, s: Tensor, last: bool) -> Tensor:
        x_t = noisy_state(schedule, x0, t, generator)
        x0_hat, fraction = ask(x_t, t.to(x0.dtype))
        pair = (times[-3], times[-2]) if last else (t, s)  # at the data small variances vanish
        if last and decoder is not None:
            return _per_dimension(decoder.nll(x0, x0_hat, quantised))
        spread = expand_like(process.posterior_variance(pair[1], pair[0], variance, fraction), x0)
        at_data = torch.full(s.shape, last, device=x0.device)
        return _per_dimension(chain_term(schedule, x0, x_t, x0_hat, s, t, spread, at_data, *_bins(quantised)))

    count = steps if draws is None else draws
    terms = []
    for k in range(count if steps else 0):
        if k == 0:
            offset = _uniforms(x0, generator) if draws is not None else torch.full_like(times[:1], 0.5)
        number = ((k + offset) / count * steps).long().clamp(0, steps - 1).expand(len(x0))
        terms.append(steps * term(times[number], times[number + 1], last=False))
    ends = times[-2].expand(len(x0)), times[-1].expand(len(x0))
    into_data = torch.stack([term(*ends, last=True) for _ in range(decoder_draws)])
    prior = _prior_term(schedule, x0, prior_mean, prior_std)
    return _bound(prior, torch.stack(terms), into_data)


def continuous_bound(
    denoiser: DenoiserFn,
    x0: Tensor,
    schedule: Schedule,
    *,
    draws: int = 32,
    decoder_draws: int = 2,
    decoder: ResidualDecoder | None = None,
    t_min: float | None = None,
    data_std: float = 1.0,
    generator: Generators = None,
    quantised: Quantisation | None = None,
    prior_mean: Tensor | float = 0.0,
    prior_std: Tensor | float | None = None,
    **cond: Any,
) -> Bound:
    """Variational bound of the chain of infinitely many steps from t = 1 to ``t_min``, and a step into the data.

    Its reverse steps cost ½ ∫ SNR |x0 - x̂0|² dλ, whatever the schedule's course between the ends. λ is drawn so that
    log(1 + data_std² SNR) is uniform: for normal data of that deviation all λ then count alike, and neither end
    needs to be cut off. The draws of an item are evenly spaced from a random first one.

    Parameters
    ----------
    denoiser, x0, schedule, generator, quantised, prior_mean, prior_std, **cond
        As for :func:`discrete_bound`; of variances the limit knows one only. The schedule may be one of pairs, whose
        velocity is marginalised: SNR and prior are then those of the reduced state.
    draws : int > 0
        Evaluations for the integral.
    decoder_draws : int > 0
        Evaluations for the step into the data, at ``t_min``.
    decoder : ResidualDecoder, optional
        The step into the data. Default: normal, with the variance of normal data of deviation ``data_std`` given x at
        ``t_min``.
    t_min : float in [0, 1), optional
        Default: :func:`~mmdiff.diffusion.likelihood_ode.least_noisy_time`. Networks are seldom trained with as little
        noise: give what they know, such as :func:`~mmdiff.diffusion.decoders.find_data_end` finds with a decoder. Any
        choice makes a bound.
    data_std : float > 0
        Deviation of the data.

    Returns
    -------
    Bound

    Raises
    ------
    InputError
        A number is out of range.

    References
    ----------
    Kingma et al. 2021, arXiv:2107.00630, eqs. 11 to 18 and appendix I.1 (evenly spaced times).

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import CosineVP
    >>> schedule, x0 = CosineVP(), torch.randn(64, 1, 256, generator=torch.Generator().manual_seed(0)).double()
    >>> def standard_normal(x, t):
    ...     return schedule(t).alpha[:, None, None] * x
    >>> entropy = math.log2(2 * math.pi * math.e) / 2
    >>> bound = continuous_bound(standard_normal, x0, schedule, generator=torch.Generator().manual_seed(1))
    >>> abs(float(bound.total.mean()) - entropy) < 0.1
    True
    """
    t_min = least_noisy_time(schedule) if t_min is None else t_min
    if not (0 <= t_min < 1 and 0 < data_std < math.inf and draws > 0 and decoder_draws > 0):
        raise InputError(
            f"t_min={t_min} must lie in [0, 1), and data_std={data_std}, draws={draws} and "
            f"decoder_draws={decoder_draws} be positive"
        )
    x0, power = as_state(x0), data_std**2
    ends = schedule.log_snr(torch.tensor([1.0, t_min], dtype=torch.float64, device=x0.device))
    if not bool(ends[1] < math.inf):
        raise InputError(f"t_min={t_min} must have noise left, sigma > 0; leave it out")
    low, high = torch.nn.functional.softplus(ends + math.log(power))

    def denoised(t: Tensor) -> Tensor:
        x_t = noisy_state(schedule, x0, t, generator)
        return denoiser(x_t, t.to(x0.dtype), **cond).to(x0.dtype)

    offset, terms = _uniforms(x0, generator), []
    for k in range(draws):
        place = high - (high - low) * (1 - (k + offset) / draws)  # from noise to data
        t = schedule.time_of_log_snr(torch.log(torch.expm1(place)) - math.log(power))
        error = _per_dimension((denoised(t) - x0) ** 2)
        # SNR dλ = (1 + data_std² SNR) / data_std² d log(1 + data_std² SNR)
        terms.append((high - low) * torch.exp(place) / (2 * power) * error.double())
    t = torch.full((len(x0),), t_min, dtype=torch.float64, device=x0.device)
    if decoder is None:
        decoder = ResidualDecoder((float(1 / (torch.exp(ends[1]) + 1 / power)),))
    into_data = [_per_dimension(decoder.nll(x0, denoised(t), quantised)) for _ in range(decoder_draws)]
    prior = _prior_term(schedule, x0, prior_mean, prior_std)
    return _bound(prior, torch.stack(terms), torch.stack(into_data))


def _asker(
    denoiser: DenoiserFn, variance: Variance, cond: dict[str, Any]
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]]:
    """Make a function of x_t and t that returns x̂0 and the fraction of a learned variance."""
    if variance != "learned":
        return lambda x, t: (denoiser(x, t, **cond).to(x.dtype), None)

    return lambda x, t: x0_and_learned_variance(denoiser, x, t, cond)


def _bins(quantised: Quantisation | None) -> tuple[Any, ...]:
    return () if quantised is None else (quantised.step, quantised.ends)


def _uniforms(x0: Tensor, generator: Generators) -> Tensor:
    """One number in (0, 1) for each item, (B,) in float64: of each item's own generator where there are several."""
    normal = draw_noise(x0.shape if callable(generator) else (len(x0), 1), x0, generator)
    return torch.special.ndtr(normal.flatten(1)[:, 0].double())


def _per_dimension(nats: Tensor) -> Tensor:
    """Mean over each item's elements, in bits."""
    return nats.flatten(1).mean(1) / _NATS


def _prior_term(schedule: Schedule, x0: Tensor, mean: Tensor | float, std: Tensor | float | None) -> Tensor:
    """Of pairs that of the reduced state: what else they have is drawn from the same normal distribution."""
    std = schedule.prior_std if std is None else std
    mean, std = (torch.as_tensor(v, dtype=x0.dtype, device=x0.device) for v in (mean, std))
    state, spread = GaussianProcess(schedule).marginal(x0, 1.0)
    return _per_dimension(gaussian_kl(state, spread**2, mean, std**2).expand_as(x0))


def _bound(prior: Tensor, terms: Tensor, decoder: Tensor) -> Bound:
    diffusion, last = terms.mean(0), decoder.mean(0)
    alone = len(decoder) < 2
    variance = _variance_of_mean(terms) + (math.nan if alone else decoder.var(0) / len(decoder))
    return Bound(prior + diffusion + last, prior, diffusion, last, variance.sqrt(), terms)


def _variance_of_mean(terms: Tensor) -> Tensor:
    """Variance of the mean over evenly spaced draws (K, B), from second differences: a course is no variance.

    These count a draw's variance by 1, 4 and 1 sixths, of which the first and the last draw get one alone, and at the
    data nearly all of a chain's variance can be the last one's: the rest is that of the first differences there.
    """
    if len(terms) < 3:
        return torch.full_like(terms[0], math.nan)
    bends, steps = (terms.diff(n=n, dim=0).square() for n in (2, 1))
    return (bends.sum(0) + 5 * (steps[0] + steps[-1])) / 6 / len(terms) ** 2
