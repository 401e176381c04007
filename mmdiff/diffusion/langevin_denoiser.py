"""Networks for pairs of data and velocity: a denoiser as samplers and guidance want it, and the loss that trains it.

A pair is u = μ x_0 + L ε with two standard normal ε, of which the second, ε_v, moves the velocity alone. The score that
the reverse process needs is that of the velocity, -E[ε_v | u] / l_vv: hybrid score matching, in which the data are
given and the initial velocity is not. For a given u, ε_v and x_0 are one linear map apart, so the denoiser says x_0
like any other, and guidance that combines estimates of x_0 combines scores here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mmdiff.diffusion.denoiser import Denoiser, DenoiserFunction
from mmdiff.diffusion.langevin import CriticallyDamped, PairLevels
from mmdiff.diffusion.objectives import draw_times_and_noise, weighted_mean
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_choice
from mmdiff.diffusion.times import Times, Uniform
from mmdiff.errors import InputError
from mmdiff.registry import register

PairPrediction = Literal["eps", "mixed", "edm"]
View = Literal["pair", "reduced"]
HybridWeighting = Literal["uniform", "likelihood"]


@register
class LangevinDenoiser(Denoiser):
    """Turn a network into the denoiser x0-hat(u, t) of pairs u (B, 2, C, *space).

    Parameters
    ----------
    network : nn.Module
        Called as ``network(seen, level, **cond)``; returns (B, C, *space).
    schedule : CriticallyDamped
        The process.
    prediction : {"eps", "mixed", "edm"}, default "mixed"
        "eps" is ε_v, of which -1/l_vv times is the score of v. "mixed" adds the network to the ε_v of a velocity
        that is normal by itself, l_vv v / Var v, as the paper does. "edm" adds c_out times the network to the best
        linear estimate of x_0 from x and v, with a target of unit variance: the preconditioning of Karras et al.
        (2022), for pairs.
    noise_input : {"t", "log_snr", "sigma", "sqrt_alpha_bar", "c_noise"}, default "t"
        See :class:`~mmdiff.diffusion.denoiser.Denoiser`; the log-SNR is that of the pair.
    sigma_data : float > 0, default 1
        Standard deviation of the data, used by "mixed" and "edm"; the paper has 1.
    sees : {"pair", "reduced"}, default "pair"
        The network is shown x and v/√M, concatenated to (B, 2C, *space), each over its standard deviation for
        "edm"; or the pair's reduced state (B, C, *space), which says as much of x_0 and fits any network of plain
        states.
    clamp, dynamic_threshold
        See :class:`~mmdiff.diffusion.denoiser.Denoiser`.

    Raises
    ------
    InputError
        An argument is out of range, or the schedule is not one of pairs.

    References
    ----------
    Dockhorn et al. 2022, arXiv:2112.07068, section 3.2 and appendix B.3.

    Examples
    --------
    >>> import torch
    >>> class Zero(torch.nn.Module):
    ...     def forward(self, x, level):
    ...         return torch.zeros_like(x[:, :3])
    >>> denoiser = LangevinDenoiser(Zero(), CriticallyDamped())
    >>> denoiser(torch.ones(1, 2, 3, 8), torch.tensor(0.5)).shape
    torch.Size([1, 3, 8])
    """

    schedule: CriticallyDamped

    def __init__(
        self,
        network: nn.Module,
        schedule: CriticallyDamped,
        prediction: str = "mixed",
        noise_input: str = "t",
        sigma_data: float = 1.0,
        sees: str = "pair",
        clamp: tuple[float, float] | None = None,
        dynamic_threshold: float | None = None,
    ) -> None:
        check_choice("sees", sees, get_args(View))
        super().__init__(
            network,
            schedule,
            prediction,
            noise_input,
            sigma_data,
            clamp=clamp,
            dynamic_threshold=dynamic_threshold,
        )
        self.sees = sees

    def convert(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Turn the network's prediction into x0 (B, C, *space), neither clamped nor thresholded."""
        if self.prediction == "edm":
            scales = linear_estimate(self.schedule.levels_like(t, output), self.sigma_data)
            first, second = x.to(output.dtype).unbind(1)
            return scales.of_x * first + scales.of_v * second + scales.out * output
        return self.schedule.x0(x.to(output.dtype), output + self._normal_part(x, t), t)

    def error(self, output: Tensor, u: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Error in ε_v of a prediction about ``u = diffuse(x0, t, noise)``, shape (B, C, *space).

        Nothing is divided by what vanishes at t = 0, which :meth:`convert` and back would do.
        """
        first, second = noise.unbind(1)
        if self.prediction != "edm":
            return output + self._normal_part(u, t) - second
        at = self.schedule.levels_like(t, output)
        (of_x, of_v), scales = at.whitened, linear_estimate(at, self.sigma_data)
        # (x_0 - its linear estimate)/c_out with u = μ x_0 + L ε put in
        target = scales.out / self.sigma_data**2 * x0 - scales.out * (of_x * first + of_v * second)
        return -of_v * scales.out * (output - target)

    def _normal_part(self, u: Tensor, t: Tensor) -> Tensor:
        """ε_v of the velocity taken by itself, for normal data; 0 without mixing."""
        v = u[:, 1]
        if self.prediction == "eps":
            return torch.zeros_like(v)
        at = self.schedule.levels_like(t, v)
        variance = at.l_vx**2 + at.l_vv**2 + (self.sigma_data * at.mean_v) ** 2
        return at.l_vv / variance * v

    def _seen(self, x: Tensor, t: Tensor) -> Tensor:
        if self.sees == "reduced":
            return self.schedule.reduce(x, t)
        first, second = x.unbind(1)
        if self.prediction == "edm":
            at = self.schedule.levels_like(t, first)
            first = first / torch.hypot(self.sigma_data * at.mean_x, at.l_xx)
            second = second / torch.hypot(self.sigma_data * at.mean_v, torch.hypot(at.l_vx, at.l_vv))
        else:
            second = second / self.schedule.mass**0.5
        return torch.cat([first, second], 1)

    def _data_shape(self, x: Tensor) -> torch.Size:
        if x.ndim < 3 or x.shape[1] != 2:
            raise InputError(
                f"x.shape={tuple(x.shape)} must be that of pairs, (B, 2, C, *space); sample with 'sscs', "
                "'langevin_em' or 'langevin_ode'"
            )
        return x[:, 0].shape

    def _check(self, prediction: str, schedule: Schedule) -> None:
        _check_schedule(schedule)
        check_choice("prediction", prediction, get_args(PairPrediction))


class LinearEstimate(NamedTuple):
    """Best linear estimate of centred data from a pair, and the standard deviation of its error."""

    of_x: Tensor
    of_v: Tensor
    out: Tensor


def linear_estimate(at: PairLevels, sigma_data: float) -> LinearEstimate:
    """Weights s²q/(1 + s²q) of the unbiased estimate, and s/√(1 + s²q), for data of standard deviation s."""
    of_x, of_v = at.whitened
    inverse = 1 / (of_x**2 + of_v**2)
    share = sigma_data**2 / (sigma_data**2 + inverse)
    first, second = at.readout
    out = sigma_data * (inverse / (sigma_data**2 + inverse)).sqrt()
    return LinearEstimate(share * first, share * second, out)


@dataclass(frozen=True)
class HybridScoreMatching:
    """Loss of a denoiser of pairs: weight(t) |ε̂_v - ε_v|², averaged over each item's elements.

    Called like :class:`~mmdiff.diffusion.objectives.Objective`. Its least value is the weighted variance of ε_v given
    u: for normal data of variance s² that is a² s²/(1 + s²q), where a is the second of L⁻¹μ and q = |L⁻¹μ|².

    Parameters
    ----------
    schedule : CriticallyDamped
        The denoiser's.
    weighting : {"uniform", "likelihood"}, default "uniform"
        "uniform" is the paper's for the looks of samples. "likelihood", Γβ/l_vv², makes the excess over the least
        value, averaged over uniform t, a bound of the divergence of samples from data in nats per element.
    times : Times
        Where t is drawn from. Default: uniform from 1e-5 on, as in the paper.
    normalize_weight : bool, default True
        Divide by the sum of the per-element weights, not by the number of elements.

    Raises
    ------
    InputError
        The weighting is unknown, or the schedule is not one of pairs.

    References
    ----------
    Dockhorn et al. 2022, arXiv:2112.07068, equations 8-9 and appendix B.3.
    """

    schedule: CriticallyDamped
    weighting: str = "uniform"
    times: Times = field(default_factory=lambda: Uniform(1e-5))
    normalize_weight: bool = True

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, get_args(HybridWeighting))
        _check_schedule(self.schedule)

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
            A :class:`LangevinDenoiser`, or any function ``(u, t, **cond) -> x0``.
        x0 : Tensor, shape (B, C, *space)
            Clean data.
        generator : torch.Generator or None
            Source of t, then of the noise; None takes torch's own.
        weight : Tensor >= 0, broadcastable to x0, optional
            Per-element weights.
        t : Tensor or float, shape (B,) or (), optional
            Times, instead of drawing them.
        noise : Tensor, shape (B, 2, C, *space), optional
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
        pairs = (len(x0), 2, *x0.shape[1:])
        t, noise = draw_times_and_noise(x0, pairs, self.times, self.schedule, generator, t, noise)
        u = self.schedule.diffuse(x0, t, noise)
        if not isinstance(denoiser, LangevinDenoiser):
            error = self.schedule.eps(u, denoiser(u, t, **cond), t) - noise[:, 1]
        elif denoiser.schedule != self.schedule:
            raise InputError(
                f"the denoiser's schedule {denoiser.schedule} must equal the objective's, {self.schedule}; "
                "pass schedule=denoiser.schedule"
            )
        else:
            error = denoiser.error(denoiser.raw(u, t, **cond), u, x0, noise, t)
        loss = weighted_mean(error**2, weight, self.normalize_weight)
        if self.weighting == "uniform":
            return loss
        spread = self.schedule.pair_levels(t).l_vv
        factor = 2 * self.schedule.rate(t) * self.schedule.mass / spread**2
        return factor.to(loss.dtype) * loss


def _check_schedule(schedule: Schedule) -> None:
    if not isinstance(schedule, CriticallyDamped):
        raise InputError(
            f"schedule={type(schedule).__name__} must be CriticallyDamped; others have Denoiser and Objective"
        )
