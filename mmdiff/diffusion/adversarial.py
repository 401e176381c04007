"""Denoising diffusion GANs: few large reverse steps, each by a generator that draws x0, and the losses that train it.

The reverse step from t to s is p(x_s | x_t) = ∫ p_G(x0 | x_t) q(x_s | x_t, x0) dx0 with x0 = G(x_t, z, t) for a
standard normal z. Where a denoiser that knows only the mean of x0 makes the step Gaussian, this one can have as many
peaks as the true one, which has them as soon as steps are large.

The step itself is that of ancestral sampling: :func:`mmdiff.diffusion.solvers_ancestral.ddpm` with the small variance
on the grid that was trained, its denoiser a generator that :func:`with_latents` gives a fresh z at each call::

    schedule = BetaTable(vp_betas(4))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    sample(with_latents(denoiser, 64, generators), shape, schedule=schedule, sampler="ddpm", steps=4,
           generator=generators)

References
----------
Xiao, Kreis and Vahdat 2022, "Tackling the generative learning trilemma with denoising diffusion GANs",
arXiv:2112.07804.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.schedules import BetaTable, Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, check_grid, draw_noise
from mmdiff.errors import InputError

Critic = Callable[..., Tensor]
"""``critic(x_s, x_t, t, **cond) -> score`` (B,): how much x_s, at the end of the step that leaves x_t at the time t,
looks like data's; high for data."""


class Step(NamedTuple):
    """One step of the forward chain for each item, from the cleaner time s to t."""

    x_s: Tensor
    """(B, C, *space); data itself where s = 0."""
    x_t: Tensor
    """(B, C, *space)."""
    s: Tensor
    """Times (B,), float64."""
    t: Tensor
    """Times (B,), float64."""


def with_latents(denoiser: DenoiserFn, latents: int, generator: Generators) -> DenoiserFn:
    """Make a generator G(x_t, z, t) a denoiser for samplers, which draws z anew at each call.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, z=z, **cond) -> x0`` with z of shape (B, latents).
    latents : int >= 0
        Size of z; 0 for what is a denoiser already, and returned as it is.
    generator : Generators
        Those that the sampler draws its noise from: with one per item an item depends on its own alone.

    Returns
    -------
    callable
        ``(x, t, **cond) -> x0``. What wraps denoisers, such as guidance, goes inside: all its calls for one step are
        then of the same z.
    """
    if latents == 0:
        return denoiser

    def draw(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return denoiser(x, t, z=draw_noise((len(x), latents), x, generator), **cond)

    return draw


def check_trained(schedule: Schedule, grid: Tensor, sampler: str) -> None:
    """Complain of a run of a sampler for which a generator of reverse steps was not trained.

    It was at the times of its table alone, n/N; steps of several of these at once are of the same kind.

    Parameters
    ----------
    schedule : Schedule
        Of the generator.
    grid : Tensor, shape (steps + 1,)
        Where the sampler stops.
    sampler : str
        Its name.

    Raises
    ------
    InputError
        The grid stops elsewhere, the sampler is not "ddpm", or the schedule is no table.
    """
    if sampler != "ddpm":
        raise InputError(
            f"sampler={sampler!r} must be 'ddpm': the model draws x0 anew at each step, and other samplers take it for "
            "a mean"
        )
    if not isinstance(schedule, BetaTable):
        raise InputError(
            f"schedule={type(schedule).__name__} must be a BetaTable, whose steps a generator is trained for"
        )
    times, count = check_grid(grid), schedule.steps
    inner = times[:-1] * count
    if times[-1] != 0 or not torch.allclose(inner, inner.round(), rtol=0.0, atol=1e-6):
        whole = " or ".join(str(n) for n in range(count, 0, -1) if count % n == 0)
        known = ", ".join(f"{n / count:g}" for n in range(count, 0, -1))
        raise InputError(
            f"steps={len(times) - 1} must be {whole}, equally long: the model is a generator of {count} reverse steps, "
            f"trained at the times {known} alone, and a grid may stop there, and end at 0"
        )


def draw_step(schedule: Schedule, grid: Tensor, x0: Tensor, generator: Generators) -> Step:
    """Draw a step of the chain for each item of the data: uniformly which one, then x_s and x_t.

    Parameters
    ----------
    schedule : Schedule
    grid : Tensor, shape (steps + 1,)
        Times, falling to 0: those at which the sampler will stop.
    x0 : Tensor, shape (B, C, *space)
        Data.
    generator : torch.Generator or None
        Source of the choice, then of the noise of x_s and of what x_t has more; on x0's device.

    Raises
    ------
    InputError
        The grid does not fall to 0.
    """
    times = check_grid(grid)
    if times[-1] != 0:
        raise InputError(f"grid={times.tolist()} must end at 0: the last step makes data")
    assert generator is None or isinstance(generator, torch.Generator), "one for the batch"
    which = torch.randint(len(times) - 1, (len(x0),), generator=generator, device=x0.device)
    times = times.to(x0.device)
    s, t = times[which + 1], times[which]
    process = GaussianProcess(schedule)
    x_s = process.diffuse(x0, s, draw_noise(x0.shape, x0, generator))
    mean, std = process.transition(x_s, s, t)
    x_t = (mean + std * draw_noise(x0.shape, x0, generator)).to(x0.dtype)
    return Step(x_s, x_t, s, t)


def reverse_step(schedule: Schedule, step: Step, x0: Tensor, generator: Generators) -> Tensor:
    """Draw x_s from q(x_s | x_t, x0), with gradients to x0: what a generator makes of a step's x_t.

    Parameters
    ----------
    schedule : Schedule
    step : Step
        Its x_s is not looked at.
    x0 : Tensor, shape (B, C, *space)
        What the generator drew.
    generator : Generators
    """
    mean, variance = GaussianProcess(schedule).posterior(step.x_t, x0, step.s, step.t)
    return (mean + variance.sqrt() * draw_noise(x0.shape, x0, generator)).to(x0.dtype)


def logistic_critic(real: Tensor, made: Tensor) -> Tensor:
    """Loss of the critic: -log sigmoid of data's scores and -log(1 - sigmoid) of what was made, means over each.

    Parameters
    ----------
    real, made : Tensor, any shapes
        Scores. Where the critic is best they are log p_data - log p_made, and the loss is 2 log 2 - 2 JSD.

    References
    ----------
    Goodfellow et al. 2014, arXiv:1406.2661, equation 1; Xiao et al. 2022, equation 5.
    """
    return functional.softplus(-real).mean() + functional.softplus(made).mean()


def logistic_generator(made: Tensor) -> Tensor:
    """Loss of the generator that does not saturate: -log sigmoid of its scores, the mean (section 3 of 1406.2661)."""
    return functional.softplus(-made).mean()


def gradient_penalty(critic: Critic, x_s: Tensor, *rest: Any, **cond: Any) -> Tensor:
    """Squared length of the gradient of each item's score with respect to x_s: R1, without its factor γ/2.

    Parameters
    ----------
    critic : callable
        Whose scores of one item depend on this item alone.
    x_s : Tensor, shape (B, C, *space)
        Data's; no gradient flows into it.
    *rest, **cond
        Other arguments of the critic.

    Returns
    -------
    Tensor, shape (B,)
        With gradients to the critic's parameters.

    References
    ----------
    Mescheder et al. 2018, arXiv:1801.04406, section 4.1; Xiao et al. 2022, appendix C.
    """
    with torch.enable_grad():
        x_s = x_s.detach().requires_grad_()
        (slope,) = torch.autograd.grad(critic(x_s, *rest, **cond).sum(), x_s, create_graph=True)
    return slope.flatten(1).square().sum(1)
