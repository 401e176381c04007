"""Samplers that draw from a reverse transition: ancestral DDPM, and DDIM with its dial of noise."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import (
    Callback,
    DenoiserFn,
    Generators,
    Stops,
    Walk,
    as_state,
    check_choice,
    draw_noise,
    eps_of,
    x0_and_learned_variance,
)
from mmdiff.errors import InputError


def ddpm(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor | Stops,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    variance: Literal["small", "large", "learned"] = "small",
    noise_scale: float = 1.0,
    limit: float | Tensor | None = None,
    **cond: Any,
) -> Tensor:
    """Ancestral sampling (Ho et al. 2006.11239, algorithm 2): draw from q(x_s | x_t, x̂0), step by step.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them.
    variance : {"small", "large", "learned"}
        Of a step: the posterior's, right for data that are a point; the transition's, right for data that are
        standard normal; or between them in the logarithm (Nichol and Dhariwal 2102.09672, eq. 15), by the
        fraction that ``denoiser.x0_and_variance(x, t, **cond) -> (x0, fraction)`` gives. No noise is added in
        a step into σ = 0.
    noise_scale : float
        Standard deviation of the fresh noise, over the right one.
    limit : float or Tensor, > 0, optional
        Largest absolute value of the state, clipped to it after each step, as LMNT's vocoders do; broadcast to
        x. It cuts the noise too: to restrict the estimates of the data, clamp those in the denoiser.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        The variance is unknown, or is to be learned and the denoiser has none.
    """
    check_choice("variance", variance, ("small", "large", "learned"))
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    posterior = walk.stops.posterior
    for i, p, q in walk:
        of_x, of_x0, small, large = posterior[i]
        std: float | Tensor = math.sqrt(large if variance == "large" else small)
        if variance == "learned":
            t = x.new_full((len(x),), p.t)
            x0, fraction = x0_and_learned_variance(walk.denoiser, x, t, walk.cond)
            std = std * (large / small) ** (fraction / 2) if small > 0 else 0.0
        else:
            x0 = walk.x0(x, p.t)
        x = of_x * x + of_x0 * x0
        if q.sigma > 0:
            x = x + noise_scale * std * draw_noise(x.shape, x, generator)
        if limit is not None:
            most = torch.as_tensor(limit, dtype=x.dtype, device=x.device)
            x = x.clamp(-most, most)
        walk.report(i, x, x0)
    return x


def ddim(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor | Stops,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    eta: float = 0.0,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """DDIM (Song et al. 2010.02502, eq. 12 and 16); order one, deterministic when eta = 0.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, **cond
        As :mod:`~mmdiff.diffusion.sampler_table` has them.
    eta : float in [0, 1]
        Standard deviation of a step over that of ancestral sampling with the small variance: 1 is
        :func:`ddpm` and, what is the same, :func:`euler_ancestral`.
    noise_scale : float
        Standard deviation of the fresh noise, over the right one.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.

    Raises
    ------
    InputError
        eta is out of range.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta={eta} must be in [0, 1]; 0 is deterministic, 1 is ancestral sampling")
    walk, x = Walk(denoiser, grid, schedule, callback, cond), as_state(x)
    posterior = walk.stops.posterior if eta else None
    for i, p, q in walk:
        x0 = walk.x0(x, p.t)
        std = eta * math.sqrt(posterior[i][2]) if posterior is not None else 0.0
        x = q.alpha * x0 + math.sqrt(max(q.sigma**2 - std**2, 0.0)) * eps_of(x, x0, p)
        if std > 0:
            x = x + noise_scale * std * draw_noise(x.shape, x, generator)
        walk.report(i, x, x0)
    return x


def euler_ancestral(
    denoiser: DenoiserFn,
    x: Tensor,
    grid: Tensor | Stops,
    schedule: Schedule,
    *,
    generator: Generators = None,
    callback: Callback | None = None,
    eta: float = 1.0,
    noise_scale: float = 1.0,
    **cond: Any,
) -> Tensor:
    """Euler steps to a lower noise than the next point's, then noise up to it, in σ/α (as in k-diffusion).

    With σ_up = η (σ_s/σ_t) √(σ_t² − σ_s²) in units of σ/α this is DDIM with that η, and is computed as such.

    Parameters
    ----------
    denoiser, x, grid, schedule, generator, callback, eta, noise_scale, **cond
        As for :func:`ddim`.

    Returns
    -------
    Tensor
        State at the grid's last time, of x's shape.
    """
    return ddim(
        denoiser, x, grid, schedule,
        eta=eta, noise_scale=noise_scale, generator=generator, callback=callback, **cond,
    )  # fmt: skip
