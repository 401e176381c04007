"""What a denoiser is trained on: a distribution over t, a target, a norm, a weighting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mmdiff.diffusion.denoiser import Denoiser, DenoiserFunction, per_item_time
from mmdiff.diffusion.process import GaussianProcess, expand
from mmdiff.diffusion.schedules import Levels, Schedule
from mmdiff.diffusion.times import Times, Uniform
from mmdiff.diffusion.weightings import Weighting, gain, weighting_named
from mmdiff.errors import InputError

Target = Literal["eps", "x0", "v", "velocity"]
Norm = Literal["l1", "l2"]


class Trial(NamedTuple):
    """One noisy batch and what the denoiser said about it."""

    x0: Tensor
    """Clean data (B, C, *space)."""
    x_t: Tensor
    """Noisy data (B, C, *space)."""
    t: Tensor
    """Times (B,)."""
    error: Tensor
    """The prediction's error in its own parameterisation (B, C, *space)."""
    gain: Tensor
    """That parameterisation's :func:`gain` (B,)."""
    output: Tensor
    """The prediction (B, C, *space)."""
    fraction: Tensor | None
    """Learned variance's place between its bounds (B, C, *space), unclamped; None where not learned."""


@dataclass(frozen=True)
class Objective:
    """Denoising loss: weight(t) x norm(target-hat - target), averaged over each item's elements.

    The error is taken in the network's own parameterisation and rescaled to the target's, which is the
    same number without its divisions by alpha or sigma: the loss is finite for every t, also where
    alpha = 0 or sigma = 0, whenever its limit is. Clamping and thresholding of x0 take no part.

    Parameters
    ----------
    schedule : Schedule
        The denoiser's schedule.
    target : {"eps", "x0", "v", "velocity"}, default "v"
        In which quantity the error is measured. It need not be what the network predicts.
        ("velocity" on :class:`LinearFlow` with uniform weighting is flow matching.)
    norm : {"l1", "l2"}, default "l2"
        Absolute or squared error.
    weighting : str, Weighting or callable, default "uniform"
        A name of ``WEIGHTINGS`` or a :class:`Weighting`, whose squared-error loss is the same for every
        target (with "l1" the same factor multiplies the target's absolute error), or a function of
        ``Levels`` with fields (B,) that returns factors (B,) on the target's error.
    times : Times, default Uniform()
        Where t is drawn from.
    normalize_weight : bool, default True
        Divide by the sum of the per-element weights (a mask then gives the mean over what it keeps), not
        by the number of elements.

    Raises
    ------
    InputError
        A name is unknown, or the schedule is one of pairs, which have
        :class:`~mmdiff.diffusion.hybrid_score.HybridScoreMatching`.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import CosineVP
    >>> objective = Objective(CosineVP(), target="v", weighting="min_snr")
    >>> def exact(x, t):  # the denoiser of data that is always zero
    ...     return torch.zeros_like(x)
    >>> objective(exact, torch.zeros(2, 1, 8), generator=torch.Generator().manual_seed(0))
    tensor([0., 0.])
    """

    schedule: Schedule
    target: str = "v"
    norm: str = "l2"
    weighting: str | Weighting | Callable[[Levels], Tensor] = "uniform"
    times: Times = field(default_factory=Uniform)
    normalize_weight: bool = True

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise InputError(f"target={self.target!r} must be one of {', '.join(get_args(Target))}")
        if self.norm not in get_args(Norm):
            raise InputError(f"norm={self.norm!r} must be l1 or l2")
        if isinstance(self.weighting, str):
            weighting_named(self.weighting)
        if self.schedule.paired:
            raise InputError(
                f"schedule={type(self.schedule).__name__} must not be one of pairs; they have HybridScoreMatching"
            )

    def __call__(
        self,
        denoiser: DenoiserFunction,
        x0: Tensor,
        *,
        generator: torch.Generator | None,
        weight: Tensor | None = None,
        t: Tensor | float | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Tensor:
        """Draw times and noise, denoise, and return each item's loss.

        Parameters
        ----------
        denoiser : callable
            A :class:`Denoiser`, or any function ``(x, t, **cond) -> x0``.
        x0 : Tensor, shape (B, C, *space)
            Clean data.
        generator : torch.Generator or None
            Source of t, then of the noise; None takes torch's own.
        weight : Tensor >= 0, broadcastable to x0, optional
            Per-element weights: a mask of valid frames, an energy.
        t : Tensor or float, shape (B,) or (), optional
            Times, instead of drawing them.
        noise : Tensor, shape (B, C, *space), optional
            Noise, instead of drawing it.
        **cond
            Passed to the denoiser.

        Returns
        -------
        Tensor, shape (B,)

        Raises
        ------
        InputError
            The denoiser was made for another schedule, or a shape does not fit.
        """
        trial = self.attempt(denoiser, x0, generator=generator, t=t, noise=noise, **cond)
        return self.loss(trial, weight)

    def attempt(
        self,
        denoiser: DenoiserFunction,
        x0: Tensor,
        *,
        generator: torch.Generator | None,
        t: Tensor | float | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Trial:
        """Noise the data and let the denoiser try: the part that objectives share. See :meth:`__call__`."""
        t, noise = draw_times_and_noise(x0, x0.shape, self.times, self.schedule, generator, t, noise)
        x_t = GaussianProcess(self.schedule).diffuse(x0, t, noise)
        if not isinstance(denoiser, Denoiser):
            output = denoiser(x_t, t, **cond)
            return Trial(x0, x_t, t, output - x0, self.schedule(t).sigma, output, None)
        if denoiser.schedule != self.schedule:
            raise InputError(
                f"the denoiser's schedule ({type(denoiser.schedule).__name__}) must equal the objective's "
                f"({type(self.schedule).__name__}), with the same settings; pass schedule=denoiser.schedule"
            )
        output, fraction = denoiser.split(denoiser.raw(x_t, t, **cond))
        error, error_gain = self._native_error(denoiser, output, x0, noise, t)
        return Trial(x0, x_t, t, error, error_gain, output, fraction)

    def loss(self, trial: Trial, weight: Tensor | None = None) -> Tensor:
        """Return the weighted norm of a trial's error, shape (B,)."""
        factor = self._factor(self.schedule(trial.t), trial.gain)
        elements = trial.error.abs() if self.norm == "l1" else trial.error**2
        return factor.to(elements.dtype) * weighted_mean(elements, weight, self.normalize_weight)

    def _native_error(
        self, denoiser: Denoiser, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        plain = self.schedule(t)
        levels = expand(plain, output)
        kind = denoiser.prediction
        if kind == "score":  # taken as eps = -sigma score, which is finite where the score is not
            kind, output = "eps", -levels.sigma * output
        truth = _native_target(kind, x0, noise, levels, denoiser.sigma_data)
        return output - truth, gain(kind, plain, denoiser.sigma_data)

    def _factor(self, levels: Levels, error_gain: Tensor) -> Tensor:
        """Return what the norm of the native error is multiplied with, shape (B,)."""
        tiny = torch.finfo(error_gain.dtype).tiny ** 0.5  # its inverse's square is still finite
        target_gain = gain(self.target, levels)
        # 0 / 0 at an end of time means that prediction and target are the same thing there.
        ratio = torch.where(target_gain == error_gain, 1.0, target_gain / error_gain.clamp_min(tiny))
        power = 1 if self.norm == "l1" else 2
        weighting = self.weighting if not isinstance(self.weighting, str) else weighting_named(self.weighting)
        if weighting is None:
            return ratio**power
        if not isinstance(weighting, Weighting):
            return ratio**power * weighting(levels)
        other = target_gain if self.norm == "l1" else error_gain
        return weighting(levels) / error_gain.clamp_min(tiny) / other.clamp_min(tiny)


def draw_times_and_noise(
    x0: Tensor,
    shape: Sequence[int],
    times: Times,
    schedule: Schedule,
    generator: torch.Generator | None,
    t: Tensor | float | None,
    noise: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Draw what is not given: times (B,) for items x0, then noise of their shape or of that of pairs.

    Raises
    ------
    InputError
        Given times are not one for each item, or given noise has another shape.
    """
    if t is None:
        dtype = torch.promote_types(x0.dtype, torch.float32)
        t = times.draw(len(x0), schedule, generator=generator, device=x0.device, dtype=dtype)
    if noise is None:
        source = x0.device if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=source, dtype=x0.dtype).to(x0.device)
    elif noise.shape != torch.Size(shape):
        whose = "x0" if len(shape) == x0.ndim else "pairs of x0"
        raise InputError(f"noise.shape={tuple(noise.shape)} must be that of {whose}, {tuple(shape)}")
    return per_item_time(t, x0), noise


def weighted_mean(elements: Tensor, weight: Tensor | None, normalize: bool = True) -> Tensor:
    """Average each item's elements.

    Parameters
    ----------
    elements : Tensor, shape (B, ...)
    weight : Tensor >= 0, broadcastable to elements, optional
    normalize : bool, default True
        Divide by the item's sum of weights (an item without any weight gives 0) instead of by the number
        of its elements.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    InputError
        The weight does not broadcast to the elements' shape.
    """
    if weight is None:
        return elements.flatten(1).mean(1)
    try:
        weight = weight.to(elements.dtype).expand_as(elements)
    except RuntimeError:
        raise InputError(
            f"weight.shape={tuple(weight.shape)} must broadcast to x0's {tuple(elements.shape)}; "
            f"a mask of frames has shape (B, 1, frames)"
        ) from None
    total = (weight * elements).flatten(1).sum(1)
    if not normalize:
        return total / elements[0].numel()
    share = weight.flatten(1).sum(1)
    return torch.where(share > 0, total / torch.where(share > 0, share, 1.0), 0.0)


def _native_target(kind: str, x0: Tensor, noise: Tensor, levels: Levels, sigma_data: float) -> Tensor:
    alpha, sigma, d_alpha, d_sigma = levels
    if kind == "x0":
        return x0
    if kind == "eps":
        return noise
    if kind == "v":
        return alpha * noise - sigma * x0
    if kind == "velocity":
        return d_alpha * x0 + d_sigma * noise
    assert kind == "edm", kind
    # (x0 - c_skip x_t) / c_out with both divisions by sigma carried out
    deviation = (alpha**2 * sigma_data**2 + sigma**2).sqrt()
    return (sigma * x0 - alpha * sigma_data**2 * noise) / (sigma_data * deviation)
