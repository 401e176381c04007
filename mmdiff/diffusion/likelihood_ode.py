"""The exact likelihood of what the probability-flow ODE samples: a continuous normalising flow.

Along the ODE d log p_t(x_t) = -div(dx_t/dt) dt (Song et al. 2021, arXiv:2011.13456, eq. 39).
:mod:`~mmdiff.diffusion.likelihood_paths` has the ODEs, which are integrated together with their divergence by the
classical Runge-Kutta method.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.divergence import Divergence, Probes
from mmdiff.diffusion.grids import LAMBDA_MAX, make_grid
from mmdiff.diffusion.likelihood_paths import Path, make_path
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, as_state
from mmdiff.diffusion.solvers_rk import CLASSIC
from mmdiff.diffusion.vlb import gaussian_nll
from mmdiff.errors import InputError


class OdeLikelihood(NamedTuple):
    """Log-likelihoods of a batch, in nats."""

    log_likelihood: Tensor
    """log p(x0), or the bound of log P(x0) for quantised data; (B,)."""
    std_error: Tensor
    """Standard error that the random probes leave; 0 where it is exact, nan of a single probe; (B,)."""
    latent: Tensor
    """Where the ODE carries x0 at t = 1, or of a pair its reduced state; shape of x0."""

    @property
    def bits(self) -> Tensor:
        """Bits per dimension: -log2 p(x0) over the number of elements, (B,)."""
        return -self.log_likelihood / (self.latent[0].numel() * math.log(2))


def least_noisy_time(schedule: Schedule) -> float:
    """Time nearest to the data that likelihoods ask a denoiser about.

    That is where σ/α = 0.002, or a table's first step, or t = 0 where the schedule still has more noise there.
    """
    return max(schedule.first_time, float(schedule.time_of_log_snr(LAMBDA_MAX)))


def ode_likelihood(
    denoiser: DenoiserFn,
    x0: Tensor,
    schedule: Schedule,
    *,
    steps: int = 50,
    t_min: float | None = None,
    divergence: Divergence = "rademacher",
    probes: int = 1,
    generator: Generators = None,
    quantised: Quantisation | None = None,
    prior_mean: Tensor | float = 0.0,
    prior_std: Tensor | float | None = None,
    **cond: Any,
) -> OdeLikelihood:
    """Likelihood under the distribution that the probability-flow ODE makes of the prior.

    The ODE is stopped at ``t_min``, where its state over α counts as the sample: a proper density, of the data with
    noise of standard deviation σ/α there. An exact denoiser's differs from the data's own by about (σ / (α s))²/2
    nats per element, where s is the scale on which the data's density changes. Of pairs it is the reduced state that
    counts as the sample, and what else there is of a pair is drawn: what is returned then bounds the log-likelihood
    from below, and is it for an exact denoiser.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``, differentiable by x.
    x0 : Tensor, shape (B, C, *space), float32 or float64
        Data.
    schedule : Schedule
        The one that the denoiser was trained with.
    steps : int > 0
        Of the Runge-Kutta method: four evaluations each, with one backward pass for each probe. The error shrinks with
        the fourth power.
    t_min : float in (0, 1), optional
        Default: :func:`least_noisy_time`. Networks are seldom trained with as little noise: give what they know.
    divergence : {"exact", "rademacher", "gaussian"}
        See :class:`~mmdiff.diffusion.divergence.Probes`.
    probes : int > 0
        Random vectors, the same along the whole path: the average over them is unbiased in nats.
    generator : torch.Generator or list of B of them, optional
        Of the probes, of dequantisation, and of velocities.
    quantised : Quantisation, optional
        x0 is quantised: what is returned is the bound of its log-probability, by one draw in each bin.
    prior_mean, prior_std : Tensor or float, broadcastable to x0
        Of the normal distribution at t = 1. Default: 0 and the schedule's ``prior_std``, what samplers start from;
        data of mean m and deviation s have α m and √(α²s² + σ²) there.
    **cond
        Passed to the denoiser.

    Returns
    -------
    OdeLikelihood

    Raises
    ------
    InputError
        An option is out of range, or the denoiser cannot be differentiated.

    References
    ----------
    Song et al. 2021, arXiv:2011.13456, section 4.3 and appendix D.2; Grathwohl et al. 2019, arXiv:1810.01367.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import CosineVP
    >>> schedule = CosineVP()
    >>> def standard_normal(x, t):
    ...     return schedule(t).alpha[:, None, None] * x
    >>> found = ode_likelihood(standard_normal, torch.zeros(1, 1, 4).double(), schedule, divergence="exact")
    >>> round(float(found.log_likelihood), 3)  # -2 log(2 pi)
    -3.676
    """
    x = as_state(x0)
    if quantised is not None:
        x = quantised.dequantise(x, generator)
    vectors = Probes(x, divergence, probes, generator)
    t_min = least_noisy_time(schedule) if t_min is None else t_min
    if not 0 <= t_min < 1 or not float(schedule(t_min).sigma) > 0:
        raise InputError(f"t_min={t_min} must lie in [0, 1) and have noise, sigma > 0; leave it out")
    path = make_path(denoiser, schedule, make_grid("log_snr", schedule, steps, t_min=t_min), cond)
    y, begun = path.begin(x, generator)
    y, volume = _flow(path, y, vectors)
    latent, ended = path.end(y)
    std = schedule.prior_std if prior_std is None else prior_std
    mean, spread = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (prior_mean, std))
    prior = -gaussian_nll(latent, mean, spread**2).flatten(1).sum(1)
    bins = 0.0 if quantised is None else x[0].numel() * math.log(quantised.step)
    found = prior + begun + volume + ended + bins
    error = torch.zeros_like(prior)
    if not vectors.exact:
        error = found.std(0) / math.sqrt(probes) if probes > 1 else torch.full_like(prior, math.nan)
    return OdeLikelihood(found.mean(0), error, latent)


def _flow(path: Path, y: Tensor, vectors: Probes) -> tuple[Tensor, Tensor]:
    """State at the path's end, and how much its logarithmic volume grew, (P, B)."""
    volume = torch.zeros_like(vectors.squares)
    for start, stop in itertools.pairwise(path.knots):
        slope: Tensor | float = 0.0
        moved, grown = torch.zeros_like(y), torch.zeros_like(volume)
        for node, weight in zip(*CLASSIC, strict=True):
            place = stop if node == 1 else start + node * (stop - start)
            slope, growth = path.slope(y + node * (stop - start) * slope, place, vectors)
            moved, grown = moved + weight * slope, grown + weight * growth
        y, volume = y + (stop - start) * moved, volume + (stop - start) * grown
    return y, volume
