"""The exact likelihood of what the probability-flow ODE samples: a continuous normalising flow.

Along the ODE d log p_t(x_t) = -div(dx_t/dt) dt (Song et al. 2021, arXiv:2011.13456, eq. 39). A marginal depends on
σ/α = tan φ, apart from its scale, so that any schedule's can be followed on the unit circle, by y = cos φ x0 + sin φ ε:

    dy/dφ = (cos φ y - x̂0) / sin φ,    div dy/dφ = (D cos φ - tr dx̂0/dy) / sin φ.

Both are finite up to pure noise, φ = π/2, and integrated by the classical Runge-Kutta method, in steps of φ that follow
equal steps of the log-SNR.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.grids import LAMBDA_MAX, make_grid
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, as_state, check_choice, draw_noise
from mmdiff.diffusion.solvers_rk import CLASSIC
from mmdiff.diffusion.vlb import gaussian_nll
from mmdiff.errors import InputError

Divergence = Literal["exact", "rademacher", "gaussian"]
LARGEST_EXACT = 4096
"""Elements of an item up to which each is differentiated by itself: one backward pass for each of them."""


class OdeLikelihood(NamedTuple):
    """Log-likelihoods of a batch, in nats."""

    log_likelihood: Tensor
    """log p(x0), or the bound of log P(x0) for quantised data; (B,)."""
    std_error: Tensor
    """Standard error that the random probes leave; 0 where it is exact, nan of a single probe; (B,)."""
    latent: Tensor
    """Where the ODE carries x0 at t = 1; shape of x0."""

    @property
    def bits(self) -> Tensor:
        """Bits per dimension: -log2 p(x0) over the number of elements, (B,)."""
        return -self.log_likelihood / (self.latent[0].numel() * math.log(2))


def least_noisy_time(schedule: Schedule) -> float:
    """Time nearest to the data that likelihoods ask a denoiser about.

    That is where σ/α = 0.002, or a table's first step, or t = 0 where the schedule still has more noise there.
    """
    return max(schedule.first_time, float(schedule.time_of_log_snr(LAMBDA_MAX)))


class Probes:
    """Vectors v with E v vᵀ = 1, whose products with a Jacobian give its trace.

    Parameters
    ----------
    like : Tensor, shape (B, ...)
    kind : {"exact", "rademacher", "gaussian"}
        The unit vectors, which give the trace itself; or random ones (Hutchinson 1990): of ±1, which are exact for
        diagonal Jacobians and never worse, or normal.
    count : int > 0
        How many random ones.
    generator : torch.Generator or list of B of them, optional

    Attributes
    ----------
    squares : Tensor, shape (P, B)
        What :meth:`trace` makes of the identity.

    Raises
    ------
    InputError
        The kind is unknown, the count not positive, or items are too large for "exact".
    """

    def __init__(self, like: Tensor, kind: Divergence, count: int, generator: Generators) -> None:
        check_choice("divergence", kind, ("exact", "rademacher", "gaussian"))
        if count < 1:
            raise InputError(f"probes={count} must be at least 1")
        size = like[0].numel()
        if kind == "exact" and size > LARGEST_EXACT:
            raise InputError(
                f"divergence='exact' must have items of at most {LARGEST_EXACT} elements, here {size}; "
                f"take 'rademacher'"
            )
        self.exact, self._like = kind == "exact", like
        self._drawn: list[Tensor] = []
        if not self.exact:
            self._drawn = [draw_noise(like.shape, like, generator) for _ in range(count)]
        if kind == "rademacher":
            self._drawn = [torch.where(v < 0, -1.0, 1.0).to(v) for v in self._drawn]
        # The identity's trace is estimated by the same vectors: where the Jacobian is close to it, as at little noise,
        # their errors cancel.
        squares = [v.flatten(1).square().sum(1) for v in self._drawn]
        self.squares = torch.stack(squares) if squares else like.new_full((1, len(like)), size)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield tensors of the state's shape."""
        if not self.exact:
            yield from self._drawn
            return
        for n in range(self._like[0].numel()):
            unit = torch.zeros_like(self._like).flatten(1)
            unit[:, n] = 1
            yield unit.view_as(self._like)

    def trace(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a function, and the trace of each item's Jacobian.

        Returns
        -------
        value : Tensor, shape of x
        traces : Tensor, shape (P, B)
            One for each random probe, or a single exact one.

        Raises
        ------
        InputError
            No gradient flows from the value to x.
        """
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            value = function(at)
            if not value.requires_grad:
                raise InputError(
                    "denoiser must be differentiable by x, and its result has no gradient; take off its no_grad"
                )
            products = []
            for v in self:
                (row,) = torch.autograd.grad(value, at, v.to(value), retain_graph=True)
                products.append((row * v).flatten(1).sum(1))
        traces = torch.stack(products)
        return value.detach(), traces.sum(0, keepdim=True) if self.exact else traces


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
    nats per element, where s is the scale on which the data's density changes.

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
        See :class:`Probes`.
    probes : int > 0
        Random vectors, the same along the whole path: the average over them is unbiased in nats.
    generator : torch.Generator or list of B of them, optional
        Of the probes, and of dequantisation.
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
    path = _Circle(schedule, steps, t_min)
    vectors = Probes(x, divergence, probes, generator)

    def denoise(y: Tensor, phi: float) -> Tensor:
        t, scale = path.place(phi)
        state = scale * y
        return denoiser(state, state.new_full(state.shape[:1], t), **cond).to(y.dtype)

    y, volume = _flow(denoise, math.cos(path.angles[0]) * x, path.angles, vectors)
    size, (_, last) = x[0].numel(), path.place(path.angles[-1])
    std = schedule.prior_std if prior_std is None else prior_std
    mean, spread = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (prior_mean, std))
    prior = -gaussian_nll(last * y, mean, spread**2).flatten(1).sum(1)
    # volumes of the change of units at both ends, and of a bin
    units = last * math.cos(path.angles[0]) * (1.0 if quantised is None else quantised.step)
    found = prior + volume + size * math.log(units)
    error = torch.zeros_like(prior)
    if not vectors.exact:
        error = found.std(0) / math.sqrt(probes) if probes > 1 else torch.full_like(prior, math.nan)
    return OdeLikelihood(found.mean(0), error, last * y)


class _Circle:
    """The way from data to noise: angles φ = atan(σ/α) of equal steps of the log-SNR where it is finite."""

    def __init__(self, schedule: Schedule, steps: int, t_min: float | None) -> None:
        t_min = least_noisy_time(schedule) if t_min is None else t_min
        if not 0 <= t_min < 1 or not float(schedule(t_min).sigma) > 0:
            raise InputError(f"t_min={t_min} must lie in [0, 1) and have noise, sigma > 0; leave it out")
        levels = schedule(make_grid("log_snr", schedule, steps, t_min=t_min).flip(0))
        self.schedule = schedule
        self.angles: list[float] = torch.atan2(levels.sigma, levels.alpha).tolist()
        self._ends = {self.angles[0]: t_min, self.angles[-1]: 1.0}

    def place(self, phi: float) -> tuple[float, float]:
        """Time of an angle, and the scale of the schedule's states over the circle's."""
        t = self._ends.get(phi)
        if t is None:
            t = float(self.schedule.time_of_log_snr(-2 * math.log(math.tan(phi))))
        levels = self.schedule(t)
        return t, math.hypot(levels.alpha, levels.sigma)


def _flow(
    denoise: Callable[..., Tensor], y: Tensor, angles: list[float], vectors: Probes
) -> tuple[Tensor, Tensor]:
    """State at the last angle, and how much its logarithmic volume grew, (P, B)."""
    volume = torch.zeros_like(vectors.squares)
    for start, stop in itertools.pairwise(angles):
        slope: Tensor | float = 0.0
        moved, grown = torch.zeros_like(y), torch.zeros_like(volume)
        for node, weight in zip(*CLASSIC, strict=True):
            phi = stop if node == 1 else start + node * (stop - start)
            at = y + node * (stop - start) * slope
            x0, trace = vectors.trace(functools.partial(denoise, phi=phi), at)
            slope = (math.cos(phi) * at - x0) / math.sin(phi)
            moved = moved + weight * slope
            grown = grown + weight * (math.cos(phi) * vectors.squares - trace) / math.sin(phi)
        y, volume = y + (stop - start) * moved, volume + (stop - start) * grown
    return y, volume
