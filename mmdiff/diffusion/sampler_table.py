"""The table of samplers: what each is, and what all have in common.

Every sampler is a function ``(denoiser, x, grid, schedule, *, generator, callback, **cond) -> x`` of

- ``denoiser(x, t, **cond) -> x0`` with x, x0 of shape (B, C, *space) and t of shape (B,): a
  :class:`~mmdiff.diffusion.denoiser.Denoiser`, a guided one, or any callable;
- x, the state at the grid's first time, kept in float32 or float64 whatever the network's dtype;
- grid, of shape (steps + 1,), strictly decreasing times in [0, 1];
- the schedule α(t), σ(t), which may have α = 0 at t = 1, σ = 0 at t = 0, and α = 1 everywhere;
- generator, for fresh noise and churn: one for the batch, or one per item;
- callback, see :data:`~mmdiff.diffusion.solver_tools.Callback`.

Options of its own (``eta``, ``order``, ...) are further keywords; all others go to the denoiser.

Samplers with a velocity ("sscs", "langevin_em", "langevin_ode") take the same x and give the same; the pair is theirs.
Denoisers see it where the schedule is one of pairs, :class:`~mmdiff.diffusion.langevin.CriticallyDamped`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mmdiff.diffusion.solvers_adams import deis, plms
from mmdiff.diffusion.solvers_adaptive import adaptive
from mmdiff.diffusion.solvers_ancestral import ddim, ddpm, euler_ancestral
from mmdiff.diffusion.solvers_corrector import predictor_corrector
from mmdiff.diffusion.solvers_langevin import langevin_em, langevin_ode, sscs
from mmdiff.diffusion.solvers_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m
from mmdiff.diffusion.solvers_rk import rk4
from mmdiff.diffusion.solvers_single import dpmpp_2s, euler, heun
from mmdiff.diffusion.solvers_unipc import unipc

_COMMON = ("denoiser", "x", "grid", "schedule", "generator", "callback", "cond")


@dataclass(frozen=True)
class SamplerInfo:
    """What the table says about a sampler.

    Attributes
    ----------
    fn : callable
        The sampler.
    order : int
        Power of the step to which its error shrinks: of the trajectory for deterministic samplers, of mean
        and variance for stochastic ones. Measured by tests on smooth grids with finite λ, for every schedule;
        "dpmpp_3m" and "deis" need ``start="rk4"`` for it. Some have more on some schedules. Tables of betas have kinks
        in t, so that "deis" has its order there only while its steps are long beside the table's.
    evaluations_per_step : int
        Of the denoiser. Steps into σ = 0 may take fewer; "adaptive" takes these per attempt.
    stochastic : bool
        Whether it draws noise with its default options.
    description : str
        One line for people.
    """

    fn: Callable[..., Tensor]
    order: int
    evaluations_per_step: int
    stochastic: bool
    description: str

    @property
    def keeps_grid(self) -> bool:
        """Whether it stops at the grid's times, instead of choosing its own to a tolerance."""
        return "rtol" not in self.options

    @property
    def pairs(self) -> bool:
        """Whether it serves schedules of pairs of data and velocity, which the others do not."""
        return "process" in self.options

    def noise_options(self, temperature: float) -> dict[str, float]:
        """Options that make the standard deviation of the noise it adds so many times the right one."""
        return {name: temperature for name in ("noise_scale", "s_noise") if name in self.options}

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keywords beside the common ones."""
        return tuple(name for name in inspect.signature(self.fn).parameters if name not in _COMMON)


# fmt: off
SAMPLERS: dict[str, SamplerInfo] = {
    "ddpm": SamplerInfo(ddpm, 1, 1, True, "ancestral sampling: small, large or learned variance; many steps"),
    "ddim": SamplerInfo(ddim, 1, 1, False, "first order, exact for constant x0; eta adds noise"),
    "predictor_corrector": SamplerInfo(predictor_corrector, 1, 2, True, "ddim or ddpm and Langevin or RePaint moves"),
    "euler": SamplerInfo(euler, 1, 1, False, "ddim as Euler's method, with EDM's churn"),
    "euler_ancestral": SamplerInfo(euler_ancestral, 1, 1, True, "ddim with eta = 1 by default"),
    "heun": SamplerInfo(heun, 2, 2, False, "EDM's sampler, with churn"),
    "dpmpp_2s": SamplerInfo(dpmpp_2s, 2, 2, False, "DPM-Solver++ singlestep, midpoint in λ"),
    "dpmpp_2m": SamplerInfo(dpmpp_2m, 2, 1, False, "DPM-Solver++ multistep"),
    "dpmpp_3m": SamplerInfo(dpmpp_3m, 3, 1, False, "DPM-Solver++ multistep with a quadratic"),
    "dpmpp_2m_sde": SamplerInfo(dpmpp_2m_sde, 2, 1, True, "DPM-Solver++ multistep on the reverse SDE"),
    "unipc": SamplerInfo(unipc, 3, 1, False, "predictor and corrector, bh1 and bh2, p = 1 to 3"),
    "plms": SamplerInfo(plms, 2, 1, False, "Adams-Bashforth average and a ddim step"),
    "deis": SamplerInfo(deis, 3, 1, False, "Adams-Bashforth in t, exact in the schedule: the default"),
    "rk4": SamplerInfo(rk4, 4, 4, False, "classical Runge-Kutta of the probability-flow ODE: references"),
    "adaptive": SamplerInfo(adaptive, 3, 3, False, "probability-flow ODE to a tolerance, steps of its own"),
    "sscs": SamplerInfo(sscs, 1, 1, True, "Langevin diffusion of data and velocity: symmetric splitting"),
    "langevin_em": SamplerInfo(langevin_em, 1, 1, True, "the same by Euler and Maruyama's method, as a baseline"),
    "langevin_ode": SamplerInfo(langevin_ode, 3, 3, True, "its ODE to a tolerance, from a random velocity"),
}
# fmt: on
"""Samplers by name."""
