"""Denoisers made of denoisers: classifier-free, weak-model and classifier guidance.

Each wrapper is called like what it wraps, ``guided(x, t, **cond) -> x0``, so guidance composes with every
sampler, with each other and with :mod:`mmdiff.diffusion.measurement`. Combinations are taken of x0: at a
given x_t, eps, v, velocity and score are affine in x0, so these are the usual combinations of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.diffusion.conditions import APART, joined, per_item, without_condition
from mmdiff.diffusion.denoiser import DenoiserFunction, per_item_time
from mmdiff.diffusion.denoiser_checks import SMALLEST_ALPHA
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.process import expand
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance: x0 = uncond + scale (cond - uncond).

    scale 1 is the conditional denoiser, 0 the unconditional one; more than 1 exaggerates the condition.
    (Ho & Salimans write 1 + w for this scale.)

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``, trained with its condition dropped at times
        (see :func:`mmdiff.diffusion.conditions.drop_condition`).
    scale : float
    null_cond : mapping
        For each condition that guidance exaggerates, what stands for its absence: a tensor that broadcasts
        to the condition (B, ...), a number to fill it with, or None. Other conditions stay as they are.
    rescale : float in [0, 1], default 0
        How far the result is scaled back to the standard deviation of the conditional x0
        (Lin et al. 2023, section 3.4, which recommends 0.7); keeps high scales from over-exposing.
    interval : (float, float), default (0, 1)
        Times, ends included, at which guidance acts; elsewhere the result is the conditional denoiser's
        (Kynkäänniemi et al. 2024).
    batched : bool, default True
        Evaluate both in one call of twice the batch, rather than in two calls. Conditions that cannot be
        concatenated (None, other shapes) are always evaluated in two calls.

    Raises
    ------
    InputError
        rescale or interval is out of range; on calling, a condition of ``null_cond`` is missing.

    References
    ----------
    Ho & Salimans (2022), https://arxiv.org/abs/2207.12598; Lin et al. (2023), "Common diffusion noise
    schedules and sample steps are flawed", https://arxiv.org/abs/2305.08891; Kynkäänniemi et al. (2024),
    "Applying guidance in a limited interval", https://arxiv.org/abs/2404.07724
    """

    denoiser: DenoiserFunction
    scale: float
    null_cond: Mapping[str, Any]
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)
    batched: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise InputError(f"rescale={self.rescale} must be in [0, 1]; 0 is off, 0.7 is usual")
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise InputError(f"interval={self.interval} must be (first, last) with 0 <= first <= last <= 1")
        if not self.null_cond:
            raise InputError("null_cond={} must name at least one condition and what stands for its absence")

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the guided x0, shape (B, C, *space). See the class for the conditions."""
        t = per_item_time(t, x)
        limited = tuple(self.interval) != (0.0, 1.0)
        inside = (t >= self.interval[0]) & (t <= self.interval[1])
        if self.scale == 1 or (limited and not inside.any()):
            return self.denoiser(x, t, **cond)
        null = without_condition(cond, self.null_cond, len(x))
        if self.scale == 0 and not limited and self.rescale == 0:
            return self.denoiser(x, t, **null)
        positive, negative = self._both(x, t, cond, null)
        guided = negative + self.scale * (positive - negative)
        if self.rescale > 0:
            guided = rescale_std(guided, positive, self.rescale)
        return torch.where(per_item(inside, guided), guided, positive) if limited else guided

    def _both(
        self, x: Tensor, t: Tensor, cond: dict[str, Any], null: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        pairs = {name: joined(cond[name], null[name], len(x)) for name in cond}
        if not self.batched or any(pair is APART for pair in pairs.values()):
            return self.denoiser(x, t, **cond), self.denoiser(x, t, **null)
        positive, negative = self.denoiser(torch.cat([x, x]), torch.cat([t, t]), **pairs).chunk(2)
        return positive, negative


@dataclass(frozen=True)
class AutoGuidance:
    """Guidance away from a weaker version of the denoiser: x0 = weak + scale (denoiser - weak).

    Parameters
    ----------
    denoiser, weak : callable
        ``(x, t, **cond) -> x0``; both see the same conditions. ``weak`` is smaller or trained less.
    scale : float
        1 is the denoiser alone.

    References
    ----------
    Karras et al. (2024), "Guiding a diffusion model with a bad version of itself",
    https://arxiv.org/abs/2406.02507
    """

    denoiser: DenoiserFunction
    weak: DenoiserFunction
    scale: float

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the guided x0, shape (B, C, *space)."""
        strong = self.denoiser(x, t, **cond)
        if self.scale == 1:
            return strong
        weak = self.weak(x, t, **cond)
        return weak + self.scale * (strong - weak)


@dataclass(frozen=True)
class ClassifierGuidance:
    """Guidance by a classifier of noisy data: score + scale grad_x log p(y | x_t).

    By Tweedie's formula this moves x0 by scale sigma^2 / alpha grad_x log p(y | x_t). With the true
    classifier and scale 1 the result is the denoiser of the class.

    Parameters
    ----------
    denoiser : callable
        ``(x, t, **cond) -> x0``.
    log_prob : callable
        ``log_prob(x, t) -> (B,)``: log p(y | x_t), differentiable in x, for the y that is wanted; an
        unknown constant may be left out.
    schedule : Schedule
    scale : float, default 1

    Notes
    -----
    Where alpha = 0, x_t says nothing of y: the gradient is 0 and x0 is left alone there.

    References
    ----------
    Dhariwal & Nichol (2021), "Diffusion models beat GANs on image synthesis", section 4,
    https://arxiv.org/abs/2105.05233
    """

    denoiser: DenoiserFunction
    log_prob: Callable[[Tensor, Tensor], Tensor]
    schedule: Schedule
    scale: float = 1.0

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the guided x0, shape (B, C, *space)."""
        t = per_item_time(t, x)
        x0 = self.denoiser(x, t, **cond)
        if self.scale == 0:
            return x0
        with gradients_on():
            leaf, seen = moved_by_data(x, t, self.schedule)
            total = self.log_prob(seen, usable(t)).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        return x0 + self.scale * score_to_x0_factor(self.schedule, t, x0) * gradient


def rescale_std(guided: Tensor, reference: Tensor, amount: float) -> Tensor:
    """Scale each item of ``guided`` towards the standard deviation of ``reference``.

    Parameters
    ----------
    guided, reference : Tensor, shape (B, ...)
    amount : float in [0, 1]
        1 gives exactly the reference's standard deviation.

    References
    ----------
    Lin et al. (2023), eqs. 15 and 16, https://arxiv.org/abs/2305.08891
    """
    wanted = reference.flatten(1).std(1)
    present = guided.flatten(1).std(1)
    # A constant item has nothing to rescale.
    factor = torch.where(present > 0, wanted / torch.where(present > 0, present, 1.0), 1.0)
    return guided * per_item(1 + amount * (factor - 1), guided)


def score_to_x0_factor(schedule: Schedule, t: Tensor, x: Tensor) -> Tensor:
    """Return sigma^2 / alpha, which turns a change of the score into one of x0; 0 where alpha is 0.

    Returns
    -------
    Tensor, shape (B, 1, ..., 1), dtype of x
    """
    levels = expand(schedule(t), x)
    seen = levels.alpha > SMALLEST_ALPHA
    return torch.where(seen, levels.sigma**2 / torch.where(seen, levels.alpha, 1.0), 0.0)


@contextmanager
def gradients_on() -> Iterator[None]:
    """Record gradients here even when the caller samples under ``no_grad`` or ``inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def constant_parameters(denoiser: object) -> Iterator[None]:
    """Keep nothing here for gradients by the parameters of the modules in a denoiser and its wrappers.

    Afterwards the parameters are as before. Modules in training mode are left alone: somebody may train them in
    another thread.
    """
    modules = [module for whole in _modules_in(denoiser) for module in whole.modules() if not module.training]
    held = [p for module in modules for p in module.parameters(recurse=False) if p.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _modules_in(denoiser: object) -> Iterator[nn.Module]:
    if isinstance(denoiser, nn.Module):
        yield denoiser
    elif is_dataclass(denoiser):
        for field in fields(denoiser):
            yield from _modules_in(getattr(denoiser, field.name))


def fresh_leaf(x: Tensor) -> Tensor:
    """Copy x into a tensor that gradients can be taken for. Call inside :func:`gradients_on`."""
    return x.detach().clone().requires_grad_(True)


def moved_by_data(x: Tensor, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Make a leaf (B, C, *space) for gradients by what the state says of the data, and the state that follows it.

    A plain state is its own leaf. A pair moves as its reduced state does, along the mean that data give it, so that
    formulas in α, σ and gradients by the state hold for both. Call inside :func:`gradients_on`.
    """
    if not schedule.paired:
        leaf = fresh_leaf(x)
        return leaf, leaf
    assert isinstance(schedule, CriticallyDamped)
    leaf = fresh_leaf(torch.zeros_like(x[:, 0]))
    return leaf, schedule.shifted(usable(x), leaf, usable(t))


def usable(value: Any) -> Any:
    """Return the value; a tensor made under ``inference_mode`` as a copy autograd may keep."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value
