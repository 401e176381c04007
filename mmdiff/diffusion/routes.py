"""Sampling grids by dynamic programming: the cheapest way through candidate times, and what steps cost.

Where the cost of a grid is a sum over its steps, the best choice among candidate times is found exactly, for
every number of steps at once (Watson et al. 2021, "Learning to efficiently sample from diffusion probabilistic
models", arXiv:2106.03802). :func:`local_errors` are such costs for deterministic samplers, :func:`elbo_costs`
the paper's for ancestral ones. What comes of it is a good start for :mod:`mmdiff.diffusion.search`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, check_grid, draw_noise, points_at
from mmdiff.errors import InputError


class Route(NamedTuple):
    """A way from the first candidate to the last."""

    cost: float
    """Sum over its steps."""
    places: tuple[int, ...]
    """Candidates it stops at, both ends included."""


def cheapest_routes(costs: Tensor, steps: int) -> list[Route]:
    """Find the cheapest ways from the first candidate to the last, by dynamic programming.

    Parameters
    ----------
    costs : Tensor, shape (N, N)
        Of the step from candidate i to candidate j > i; the rest is not read. nan and inf forbid a step.
    steps : int, 1 <= steps < N

    Returns
    -------
    list of Route
        With 1, 2, ..., ``steps`` steps. One that is forbidden has an infinite cost.

    Raises
    ------
    InputError
        There are fewer candidates than steps need.

    References
    ----------
    Watson et al. 2021, arXiv:2106.03802, section 3: O(steps N²).

    Examples
    --------
    >>> costs = torch.tensor([[0.0, 1.0, 5.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    >>> cheapest_routes(costs, 2)
    [Route(cost=5.0, places=(0, 2)), Route(cost=2.0, places=(0, 1, 2))]
    """
    count = len(costs)
    if costs.shape != (count, count) or not 1 <= steps < count:
        raise InputError(
            f"steps={steps} must be from 1 to {count - 1}, one less than the candidates, and costs "
            f"{tuple(costs.shape)} square; take more candidates"
        )
    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    costs = costs.detach().double().cpu()
    costs = torch.where(later & ~costs.isnan(), costs, math.inf)
    total, before, routes = costs[0], [], [Route(float(costs[0, -1]), (0, count - 1))]
    for _ in range(steps - 1):
        total, previous = (total[:, None] + costs).min(0)
        before.append(previous.tolist())
        places = [count - 1]
        for table in reversed(before):
            places.append(table[places[-1]])
        routes.append(Route(float(total[-1]), (0, *reversed(places))))
    return routes


def cheapest_grid(costs: Tensor, candidates: Tensor, steps: int) -> Tensor:
    """Choose the ``steps + 1`` of the candidate times, (N,) and falling, whose steps cost the least in sum."""
    route = cheapest_routes(costs, steps)[-1]
    return check_grid(candidates)[list(route.places)]


@torch.no_grad()
def local_errors(
    denoiser: DenoiserFn,
    x: Tensor,
    candidates: Tensor,
    schedule: Schedule,
    *,
    sampler: str = "ddim",
    reference: str = "deis",
    **cond: Any,
) -> Tensor:
    """Errors of single steps of a deterministic sampler between all pairs of candidate times.

    The probability-flow ODE is followed through all candidates by ``reference``; the error of a step from one
    of its states to a later time is the root-mean-square distance from its state there, divided by the
    deviation of that state. For Gaussian data this is, but for one factor, the error that reaches the end, and
    the sum over steps bounds the error of a whole run to first order.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``.
    x : Tensor, shape (B, C, *space)
        State at the first candidate: noise times ``schedule.prior_std`` at t = 1.
    candidates : Tensor, shape (N,)
        Falling times. As the reference knows no others, take ten times as many as the grid shall have, or more.
    schedule : Schedule
    sampler : str
        Deterministic. One that remembers former steps is charged for its first, which remembers none.
    reference : str
        Sampler that follows the ODE.
    **cond
        For the denoiser.

    Returns
    -------
    Tensor, shape (N, N), float64
        Zero where j <= i. It takes N evaluations beside the reference's where a step takes one, else N² / 2
        times those that a step takes more.

    Raises
    ------
    InputError
        The sampler draws noise, so that its steps have no error of this kind.
    """
    for name in (sampler, reference):
        if name not in SAMPLERS or SAMPLERS[name].stochastic:
            fit = ", ".join(key for key, info in SAMPLERS.items() if not info.stochastic)
            raise InputError(f"sampler={name!r} must be a deterministic one ({fit}); or see elbo_costs")
    times = check_grid(candidates)
    states = [x]
    SAMPLERS[reference].fn(
        denoiser, x, times, schedule, callback=lambda *seen: states.append(seen[3]), **cond
    )
    spreads = [float(state.double().std(correction=0)) for state in states]
    errors = torch.zeros(len(times), len(times), dtype=torch.float64)
    for i, state in enumerate(states[:-1]):
        known = _Known(denoiser, state, float(times[i]), cond)
        for j in range(i + 1, len(times)):
            made = SAMPLERS[sampler].fn(known, state, times[[i, j]], schedule, **cond)
            distance = float((made - states[j]).double().square().mean().sqrt())
            errors[i, j] = distance / max(spreads[j], 1e-12)
    return errors


class _Known:
    """A denoiser whose answer for one state is known: every step from that state begins by asking for it."""

    def __init__(self, denoiser: DenoiserFn, x: Tensor, t: float, cond: Mapping[str, Any]) -> None:
        self.denoiser, self.x, self.t = denoiser, x, t
        self.x0 = denoiser(x, x.new_full((len(x),), t), **cond)

    def __call__(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        same = x is self.x and bool((t == x.new_tensor(self.t)).all())
        return self.x0 if same else self.denoiser(x, t, **cond)


@torch.no_grad()
def elbo_costs(
    denoiser: DenoiserFn,
    x0: Tensor,
    candidates: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    **cond: Any,
) -> Tensor:
    """Terms of the variational bound of ancestral steps between all pairs of candidate times.

    With the posterior's variance, the divergence of a step from t to s is half the rise of the signal-to-noise
    ratio times the squared error of the denoiser at t. A step to clean data costs the negative log-likelihood
    of a Gaussian with that error as its variance. A good bound need not sound or look good (Watson et al. 2022,
    arXiv:2202.05830): score the grids it gives, or go on from them.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``.
    x0 : Tensor, shape (B, C, *space)
        Data.
    candidates : Tensor, shape (N,)
        Falling times.
    schedule : Schedule
    generator : torch.Generator or list of B of them, optional
        Source of the noise, which is the same at all times.
    **cond
        For the denoiser.

    Returns
    -------
    Tensor, shape (N, N), float64
        Nats per element; zero where j <= i. It takes N - 1 evaluations. The divergence of the prior, which
        every grid from the same first time pays alike, is left out.

    References
    ----------
    Kingma et al. 2021, arXiv:2107.00630, equation 13; Watson et al. 2021, arXiv:2106.03802.
    """
    times = check_grid(candidates)
    points, noise = points_at(schedule, times), draw_noise(x0.shape, x0, generator)
    ratios = torch.tensor([math.exp(2 * p.lam) if p.sigma > 0 else math.inf for p in points]).double()
    costs = torch.zeros(len(times), len(times), dtype=torch.float64)
    for i, p in enumerate(points[:-1]):
        guess = denoiser(p.alpha * x0 + p.sigma * noise, x0.new_full((len(x0),), p.t), **cond)
        error = float((guess - x0).double().square().mean())
        clean = 0.5 * math.log(2 * math.pi * math.e * max(error, 1e-30))
        divergence = 0.5 * (ratios[i + 1 :] - ratios[i]) * error
        costs[i, i + 1 :] = torch.where(ratios[i + 1 :].isinf(), clean, divergence)
    return costs
