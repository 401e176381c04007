"""Hybrid score matching: the loss of denoisers of pairs, with the data given and their first velocity not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mmdiff.diffusion.denoiser import DenoiserFunction
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser, check_paired
from mmdiff.diffusion.objectives import Norm, draw_times_and_noise, weighted_mean
from mmdiff.diffusion.schedules import Levels
from mmdiff.diffusion.solver_tools import check_choice
from mmdiff.diffusion.times import Times, Uniform
from mmdiff.errors import InputError

HybridTarget = Literal["eps", "x0", "v"]
HybridWeighting = Literal["uniform", "likelihood"]


@dataclass(frozen=True)
class HybridScoreMatching:
    """Loss of a denoiser of pairs: weight(t) |ε̂_v - ε_v|², averaged over each item's elements.

    Called like :class:`~mmdiff.diffusion.objectives.Objective`. Its least value is the weighted variance of ε_v given
    u: for normal data of variance s² that is a² s²/(1 + s²q), where a is the second of L⁻¹μ and q = |L⁻¹μ|². An error
    of ε_v is a times one of x_0, so other targets differ from it by their weight alone.

    Parameters
    ----------
    schedule : CriticallyDamped
        The denoiser's.
    target : {"eps", "x0", "v"}, default "eps"
        In which quantity the error is measured: ε_v, x_0, or v of the reduced state, which can be compared with that
        of any variance-preserving process at the same log-SNR.
    norm : {"l1", "l2"}, default "l2"
        Absolute or squared error.
    weighting : {"uniform", "likelihood"} or callable, default "uniform"
        "uniform" is the paper's for the looks of samples. "likelihood", Γβ/l_vv², makes the excess over the least
        value of the squared error of ε_v, averaged over uniform t, a bound of the divergence of samples from data in
        nats per element. A function of the reduced state's ``Levels`` (B,) returns factors (B,).
    times : Times
        Where t is drawn from. Default: uniform from 1e-5 on, as in the paper.
    normalize_weight : bool, default True
        Divide by the sum of the per-element weights, not by the number of elements.

    Raises
    ------
    InputError
        A name is unknown, "likelihood" is asked of another loss, or the schedule is not one of pairs.

    References
    ----------
    Dockhorn et al. 2022, arXiv:2112.07068, equations 8-9 and appendix B.3.
    """

    schedule: CriticallyDamped
    target: str = "eps"
    norm: str = "l2"
    weighting: str | Callable[[Levels], Tensor] = "uniform"
    times: Times = field(default_factory=lambda: Uniform(1e-5))
    normalize_weight: bool = True

    def __post_init__(self) -> None:
        check_choice("target", self.target, get_args(HybridTarget))
        check_choice("norm", self.norm, get_args(Norm))
        if isinstance(self.weighting, str):
            check_choice("weighting", self.weighting, get_args(HybridWeighting))
        if self.weighting == "likelihood" and (self.target, self.norm) != ("eps", "l2"):
            raise InputError(
                f"weighting='likelihood' must weigh the squared error of eps, not target={self.target!r} with "
                f"norm={self.norm!r}"
            )
        check_paired(self.schedule)

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
        elements = error.abs() if self.norm == "l1" else error**2
        loss = weighted_mean(elements, weight, self.normalize_weight)
        return self._factor(t).to(loss.dtype) * loss

    def _factor(self, t: Tensor) -> Tensor:
        """Return what the norm of the error of ε_v is multiplied with, shape (B,)."""
        at, levels = self.schedule.pair_levels(t), self.schedule(t)
        scale = torch.ones_like(t)
        if self.target != "eps":
            scale = -1 / at.whitened[1]
        if self.target == "v":
            scale = scale / levels.sigma
        factor = scale if self.norm == "l1" else scale**2
        if not isinstance(self.weighting, str):
            return factor * self.weighting(levels)
        if self.weighting == "uniform":
            return factor
        return factor * 2 * self.schedule.rate(t) * self.schedule.mass / at.l_vv**2
