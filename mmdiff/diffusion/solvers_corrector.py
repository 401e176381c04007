"""Predictor and corrector: after each step of a sampler, moves that only improve the marginal just reached.

A sampler's errors, and a state that never fitted the marginal, are carried along to the end by later steps. A
corrector's move leaves the distribution p_q of the states at one time as it is, and brings any other nearer
to it; its strength is set apart from the grid.

Langevin: ``x ← x + (δ/2) σ² s + √δ σ z`` with the score s = −ε̂/σ, and z standard normal, so that δ has no
unit. In the notation of Song et al. (2011.13456, algorithms 4 and 5) ε = δσ²/2, and their rule ε = 2 (r ‖z‖ /
‖s‖)² is δ = 4 r² ‖z‖²/‖ε̂‖²: where ε̂ has the length of noise, r = 0.16 is the δ = 0.1 of Video Diffusion
Models (2204.03458, section 2).

Resampling (RePaint, 2201.09865, section 4.2): noise takes the state back to the step's start, and the step is
taken again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Generators,
    Point,
    Walk,
    as_state,
    check_choice,
    draw_noise,
    eps_of,
)
from mmdiff.diffusion.solvers_ancestral import ddim, ddpm
from mmdiff.errors import InputError

_LARGEST_STEP = 2.0  # of δ: there Langevin's move forgets the noise, and beyond it overshoots


def predictor_corrector(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    predictor: Literal["ddim", "ddpm"] = "ddim",
    eta: float = 0.0,
    variance: Literal["small", "large", "learned"] = "small",
    corrector: Literal["langevin", "resample"] = "langevin",
    corrections: int = 1,
    step_size: float = 0.1,
    snr: float | None = None,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """DDIM's or ancestral steps, each followed by corrections at the time it reached.

    A correction costs one evaluation, so a step costs ``1 + corrections``; a step into σ = 0, where there is
    no score, is not corrected. Without corrections this is the predictor.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them.
    predictor : {"ddim", "ddpm"}
        What takes the steps: :func:`~mmdiff.diffusion.solvers_ancestral.ddim` with ``eta``, or
        :func:`~mmdiff.diffusion.solvers_ancestral.ddpm` with ``variance``, as in the papers.
    eta : float in [0, 1]
        Noise of DDIM's steps.
    variance : {"small", "large", "learned"}
        Of DDPM's steps.
    corrector : {"langevin", "resample"}
        The move; see the module.
    corrections : int >= 0
        Moves after each step.
    step_size : float in (0, 2]
        δ of Langevin's move. Its result is a little too wide: for normal data of which a direction has the
        variance v at that time, by the factor 1 / (1 − δσ²/4v) after many corrections, 1.026 at most for 0.1.
        It shrinks with δ only, not with the length of the grid's steps.
    snr : float in (0, 0.7], optional
        r of Song et al. instead of ``step_size``; they take 0.16. Each item has its own δ = 4 r² n/‖ε̂‖² for
        its n elements, at most 1: ‖z‖² is taken at its mean, so that chance does not choose the step, and ε̂
        may vanish. A step that depends on the state widens items of few elements; give those ``step_size``.
    noise_scale : float
        Standard deviation of all fresh noise, over the right one.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        An option is out of range.
    """
    check_choice("predictor", predictor, ("ddim", "ddpm"))
    check_choice("corrector", corrector, ("langevin", "resample"))
    _check_sizes(corrections, step_size, snr)
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    own = {"eta": eta} if predictor == "ddim" else {"variance": variance}
    step = _single_steps(walk, predictor, {"generator": generator, "noise_scale": noise_scale, **own})
    back = _way_back(walk)
    for i, _, q in walk:
        x, x0 = step(i, x)
        for _ in range(corrections if q.sigma > 0 else 0):
            z = noise_scale * draw_noise(x.shape, x, generator)
            if corrector == "langevin":
                x0 = walk.x0(x, q.t)
                x = _langevin(x, x0, q, z, step_size, snr)
            else:
                ratio, std = back[i]
                x, x0 = step(i, ratio * x + std * z)
        walk.report(i, x, x0)
    return x


_PREDICTORS: dict[str, Callable[..., Tensor]] = {"ddim": ddim, "ddpm": ddpm}


def _check_sizes(corrections: int, step_size: float, snr: float | None) -> None:
    if isinstance(corrections, bool) or not isinstance(corrections, int) or corrections < 0:
        raise InputError(f"corrections={corrections!r} must be an integer of at least 0; 1 is usual")
    if not 0 < step_size <= _LARGEST_STEP:
        raise InputError(f"step_size={step_size} must be in (0, {_LARGEST_STEP:g}]; 0.1 is usual")
    if snr is not None and not 0 < snr <= 0.7:
        raise InputError(f"snr={snr} must be in (0, 0.7]; 0.16 is usual")


def _single_steps(
    walk: Walk, predictor: str, options: dict[str, Any]
) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
    """Make a function that takes step i alone, as a run of the predictor over its two times: state and x̂0."""

    def step(i: int, x: Tensor) -> tuple[Tensor, Tensor]:
        seen: list[Tensor] = []
        x = _PREDICTORS[predictor](
            walk.denoiser, x, walk.times[i : i + 2], walk.schedule,
            callback=lambda *told: seen.append(told[-1]), **options, **walk.cond,
        )  # fmt: skip
        return x, seen[0]

    return step


def _way_back(walk: Walk) -> list[tuple[float, float]]:
    """Scale of the state and standard deviation of the noise that lead from each step's end to its start."""
    t, s = walk.times[:-1], walk.times[1:]
    ratio, std = GaussianProcess(walk.schedule).transition(torch.ones_like(t), s, t)
    return list(zip(ratio.tolist(), std.tolist(), strict=True))


def _langevin(x: Tensor, x0: Tensor, q: Point, z: Tensor, step_size: float, snr: float | None) -> Tensor:
    eps = eps_of(x, x0, q)
    if snr is None:
        return x - step_size / 2 * q.sigma * eps + math.sqrt(step_size) * q.sigma * z
    power = eps.flatten(1).square().mean(1).reshape(-1, *(1,) * (x.ndim - 1))
    delta = 4 * snr**2 / power.clamp_min(4 * snr**2)
    return x - delta / 2 * q.sigma * eps + delta.sqrt() * q.sigma * z
