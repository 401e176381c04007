"""Critically damped Langevin diffusion: data x coupled to a velocity v, and noise that enters the velocity alone.

The process is dx = v/M β dt, dv = -(x + Γ v/M) β dt + √(2Γβ) dW with Γ² = 4M, where a spring of mass M neither
oscillates nor creeps, and v_0 ~ N(0, γM), independent of the data. In the clock τ(t) = ∫β/√M and the momentum
p = v/√M no parameter but γ is left:

    dx = p dτ,    dp = -(x + 2p) dτ + 2 dW,    exp(Aτ) = exp(-τ) [[1 + τ, τ], [-τ, 1 - τ]],

whose stationary law is standard normal. :mod:`mmdiff.diffusion.langevin_levels` has its law given x_0 in closed form.

A pair says about x_0 what one number does, z = w·u / q with w = Σ⁻¹μ and q = μᵀΣ⁻¹μ: it is x_0 + N(0, 1/q). The
process is thereby also a :class:`~mmdiff.diffusion.schedules.Schedule` with log-SNR = log q, which gives it time grids,
distributions of training times and noise levels to tell a network; and any denoiser of Gaussian noise, told z, is one
of pairs (:meth:`CriticallyDamped.reduce`).

References
----------
Dockhorn, Vahdat and Kreis 2022, "Score-based generative modeling with critically-damped Langevin diffusion",
arXiv:2112.07068.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.conversions import expand_like
from mmdiff.diffusion.langevin_levels import PairLevels, information, unit_levels
from mmdiff.diffusion.process import GaussianProcess, Moments
from mmdiff.diffusion.schedules_base import (
    Levels,
    Schedule,
    VariancePreserving,
    beta_exponent,
    check_rates,
    require,
    time_of_exponent,
)
from mmdiff.diffusion.solver_tools import Generators, draw_noise
from mmdiff.registry import register

LONGEST = 40.0
"""Of the clock τ: there a share of exp(-40) is left of data, whose square float32 can still hold."""
_NEWTON_STEPS = 8


@register
@dataclass(frozen=True)
class CriticallyDamped(VariancePreserving):
    """Critically damped Langevin diffusion of pairs u = (x, v), a tensor (B, 2, C, *space).

    Its denoisers are :class:`~mmdiff.diffusion.langevin_denoiser.LangevinDenoiser`, its samplers
    those of :mod:`mmdiff.diffusion.solvers_langevin`. As a schedule its α and σ are those of the
    reduced state, see the module.

    Parameters
    ----------
    mass : float > 0
        M, the variance of the velocity at the end; friction is Γ = 2√M.
    gamma : float in [0, 1]
        γ: the velocity begins with the variance γM.
    beta_min, beta_max : float, 0 <= beta_min <= beta_max
        Rates at t = 0 and t = 1, linear in between. The defaults are the paper's: τ(1) = 8.

    Raises
    ------
    InputError
        A number is out of range.

    References
    ----------
    Dockhorn et al. 2022, arXiv:2112.07068, equations 5-6 and appendix B.
    """

    mass: float = 0.25
    gamma: float = 0.04
    beta_min: float = 4.0
    beta_max: float = 4.0

    def __post_init__(self) -> None:
        check_rates(self.beta_min, self.beta_max)
        require(
            0 < self.mass < math.inf, f"mass={self.mass} must be positive and finite; the paper takes 0.25"
        )
        require(0 <= self.gamma <= 1, f"gamma={self.gamma} must be in [0, 1]; the paper takes 0.04")
        last = float(self.clock(1.0))
        require(
            last <= LONGEST,
            f"beta_min={self.beta_min}, beta_max={self.beta_max} and mass={self.mass} make the clock run to "
            f"{last:.4g}; it must be at most {LONGEST:g}, where float32 ends; the paper has 8",
        )

    @property
    def paired(self) -> bool:
        """Whether denoisers see pairs of data and velocity: yes."""
        return True

    def clock(self, t: Tensor | float) -> Tensor:
        """τ(t) = ∫β/√M, in which the process has no parameters but γ; shape of t, and float64 for a Python number."""
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        return beta_exponent(t.to(torch.promote_types(t.dtype, torch.float32)), self.beta_min, self.beta_max)[
            0
        ] / math.sqrt(self.mass)

    def time_of_clock(self, clock: Tensor) -> Tensor:
        """Inverse of :meth:`clock`."""
        return time_of_exponent(clock * math.sqrt(self.mass), self.beta_min, self.beta_max)

    def rate(self, t: Tensor) -> Tensor:
        """dτ/dt, shape and dtype of t."""
        return beta_exponent(t, self.beta_min, self.beta_max)[1] / math.sqrt(self.mass)

    def pair_levels(self, t: Tensor | float) -> PairLevels:
        """Law of (x, v) given x_0 at times t of any shape; t = 0 counts as just after it."""
        unit, root = unit_levels(self.clock(t), self.gamma), math.sqrt(self.mass)
        return unit._replace(mean_v=root * unit.mean_v, l_vx=root * unit.l_vx, l_vv=root * unit.l_vv)

    def levels_like(self, t: Tensor | float, x0: Tensor) -> PairLevels:
        """Return :meth:`pair_levels` at times (B,) or (), shaped to multiply x0 (B, C, *space)."""
        return PairLevels(*(expand_like(field, x0) for field in self.pair_levels(t)))

    def marginal(self, x0: Tensor, t: Tensor | float) -> Moments:
        """Mean and covariance of u_t given x_0, the initial velocity integrated out.

        Parameters
        ----------
        x0 : Tensor, shape (B, C, *space)
            Data.
        t : Tensor, shape (B,) or (), in [0, 1]
            Times.

        Returns
        -------
        Moments
            Mean (B, 2, C, *space); covariance of each element's (x, v), of the times' shape + (2, 2).
        """
        at = self.pair_levels(t)
        factor = _lower(at.l_xx, at.l_vx, at.l_vv)
        levels = self.levels_like(t, x0)
        mean = torch.stack([levels.mean_x * x0, levels.mean_v * x0], 1).to(x0.dtype)
        return Moments(mean, factor @ factor.mT)

    def diffuse(self, x0: Tensor, t: Tensor | float, noise: Tensor) -> Tensor:
        """Return u_t; with standard normal noise, a sample of p(u_t | x_0).

        Parameters
        ----------
        x0 : Tensor, shape (B, C, *space)
            Data.
        t : Tensor, shape (B,) or (), in [0, 1]
            Times.
        noise : Tensor, shape (B, 2, C, *space)
            The first part moves x and v, the second v alone.
        """
        at, (first, second) = self.levels_like(t, x0), noise.unbind(1)
        x = at.mean_x * x0 + at.l_xx * first
        v = at.mean_v * x0 + at.l_vx * first + at.l_vv * second
        return torch.stack([x, v], 1).to(x0.dtype)

    def transition(self, u_s: Tensor, s: Tensor | float, t: Tensor | float) -> Moments:
        """Mean (B, 2, C, *space) and covariance (..., 2, 2) of u_t given u_s, s < t; see :meth:`marginal`."""
        root, lapse = math.sqrt(self.mass), self.clock(t) - self.clock(s)
        unit = unit_levels(lapse, 0.0)
        factor = _lower(unit.l_xx, root * unit.l_vx, root * unit.l_vv)
        x, p = u_s[:, 0], u_s[:, 1] / root
        tau = expand_like(lapse, x)
        decay = torch.exp(-tau)
        mean = [decay * (x + tau * (x + p)), root * decay * (p - tau * (x + p))]
        return Moments(torch.stack(mean, 1).to(u_s.dtype), factor @ factor.mT)

    def eps(self, u: Tensor, x0: Tensor, t: Tensor | float) -> Tensor:
        """ε_v of u = L ε + μ x_0, of shape (B, C, *space); -ε_v/l_vv is the score of v."""
        at, (x, v) = self.levels_like(t, x0), u.unbind(1)
        return ((v - at.slope * x + at.pull * x0) / at.l_vv).to(x0.dtype)

    def x0(self, u: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
        """Inverse of :meth:`eps`: x_0 (B, C, *space) of an ε_v."""
        at, (x, v) = self.levels_like(t, eps), u.unbind(1)
        return ((at.slope * x - v + at.l_vv * eps) / at.pull).to(eps.dtype)

    def score(self, u: Tensor, x0: Tensor, t: Tensor | float) -> Tensor:
        """Score Σ⁻¹(μ x_0 - u) (B, 2, C, *space); of the marginal where x_0 is its expectation given u."""
        at, (x, _) = self.levels_like(t, x0), u.unbind(1)
        of_v = -self.eps(u, x0, t) / at.l_vv
        of_x = ((at.mean_x * x0 - x) / at.l_xx - at.l_vx * of_v) / at.l_xx
        return torch.stack([of_x, of_v], 1)

    def reduce(self, u: Tensor, t: Tensor | float) -> Tensor:
        """What a pair says of x_0, as a state α x_0 + σ ε (B, C, *space) of this schedule."""
        at, (x, v) = self.levels_like(t, u[:, 0]), u.unbind(1)
        of_x, of_v = at.readout
        alpha = expand_like(self(t).alpha, x)
        return (alpha * (of_x * x + of_v * v)).to(u.dtype)

    def shifted(self, u: Tensor, by: Tensor, t: Tensor | float) -> Tensor:
        """Move a pair as more of x_0 would, so that its reduced state moves by ``by`` (B, C, *space)."""
        at = self.levels_like(t, by)
        change = by / expand_like(self(t).alpha, by)
        return u + torch.stack([at.mean_x * change, at.mean_v * change], 1).to(u.dtype)

    def lift(self, state: Tensor, t: Tensor | float, noise: Tensor) -> Tensor:
        """Inverse of :meth:`reduce`: draw a pair (B, 2, C, *space) that reduces to the state, by normal noise."""
        at = self.levels_like(t, state)
        z = state / expand_like(self(t).alpha, state)
        of_x, of_v = at.whitened
        length = torch.hypot(of_x, of_v)
        first, second = -of_v / length * noise, of_x / length * noise
        x = at.mean_x * z + at.l_xx * first
        v = at.mean_v * z + at.l_vx * first + at.l_vv * second
        return torch.stack([x, v], 1).to(state.dtype)

    def unsaid(self, u: Tensor, t: Tensor | float) -> Tensor:
        """What a pair does not say of x_0: the noise (B, C, *space) by which :meth:`lift` makes it of a reduced state.

        It is standard normal, and independent of the reduced state, whatever the data.
        """
        at, (x, v) = self.levels_like(t, u[:, 0]), u.unbind(1)
        of_x, of_v = at.whitened
        first, second = x / at.l_xx, (v - at.slope * x) / at.l_vv
        return ((of_x * second - of_v * first) / torch.hypot(of_x, of_v)).to(u.dtype)

    def volume(self, t: Tensor | float) -> Tensor:
        """Volume that pairs take for each unit of their reduced state and what is :meth:`unsaid`; shape of t."""
        at = self.pair_levels(t)
        return at.l_xx * at.l_vv / self(t).sigma

    def _levels(self, t: Tensor) -> Levels:
        inverse, loss = information(self.clock(t), self.gamma)
        fall = loss * self.rate(t) / 2
        alpha, sigma = (1 + inverse).rsqrt(), (inverse / (1 + inverse)).sqrt()
        # At t = 0, which is computed as if just after it, σ vanishes as τ^1.5.
        sigma, d_sigma = (torch.where(t > 0, field, 0.0) for field in (sigma, fall * sigma * alpha**2))
        return Levels(alpha, sigma, -fall * alpha * sigma**2, d_sigma)

    def _log_snr(self, t: Tensor) -> Tensor:
        return torch.where(t > 0, -information(self.clock(t), self.gamma)[0].log(), math.inf)

    def _time(self, log_snr: Tensor) -> Tensor:
        # Newton's method in log τ, where log q falls ever more steeply, from above: q < 3/τ³.
        last = math.log(float(self.clock(torch.ones((), dtype=torch.float64, device="cpu"))))
        place = ((math.log(3) - log_snr) / 3).clamp_max(last)
        for _ in range(_NEWTON_STEPS):
            inverse, loss = information(place.exp(), self.gamma)
            place = (place - (inverse.log() + log_snr) / (loss * place.exp())).clamp_max(last)
        return self.time_of_clock(place.exp())


def noisy_state(schedule: Schedule, x0: Tensor, t: Tensor | float, generator: Generators) -> Tensor:
    """Draw x_t given x_0 (B, C, *space), or a pair (B, 2, C, *space) where the schedule is one of pairs."""
    if isinstance(schedule, CriticallyDamped):
        return schedule.diffuse(x0, t, draw_noise((len(x0), 2, *x0.shape[1:]), x0, generator))
    return GaussianProcess(schedule).diffuse(x0, t, draw_noise(x0.shape, x0, generator))


def _lower(xx: Tensor, vx: Tensor, vv: Tensor) -> Tensor:
    rows = [torch.stack([xx, torch.zeros_like(xx)], -1), torch.stack([vx, vv], -1)]
    return torch.stack(rows, -2)
