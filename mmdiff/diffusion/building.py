"""Denoisers and losses for any schedule, of plain states or of pairs: pipelines and tasks do not choose.

What is plain is a :class:`~mmdiff.diffusion.denoiser.Denoiser` trained by an
:class:`~mmdiff.diffusion.objectives.Objective`; what is paired, as in critically damped Langevin diffusion, is a
:class:`~mmdiff.diffusion.langevin_denoiser.LangevinDenoiser` trained by
:class:`~mmdiff.diffusion.hybrid_score.HybridScoreMatching`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.hybrid_score import HybridScoreMatching
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser
from mmdiff.diffusion.mixed_denoiser import MixedDenoiser
from mmdiff.diffusion.objectives import Objective
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.schedules import CosineVP, Levels, Schedule
from mmdiff.diffusion.times import LevelsOf, Times, Uniform
from mmdiff.diffusion.weightings import Weighting

_OF_X = ("edm", "x0")  # what a network of plain states can say of pairs


def build_denoiser(
    network: nn.Module,
    schedule: Schedule,
    prediction: str = "v",
    noise_input: str = "t",
    *,
    sigma_data: float = 1.0,
    clamp: tuple[float, float] | None = None,
    dynamic_threshold: float | None = None,
    mixed: int = 0,
    axis: int = 1,
) -> Denoiser:
    """Build the denoiser that a schedule needs around a network.

    Parameters
    ----------
    network : nn.Module
        For pairs and the predictions "eps" and "mixed" one that is shown 2C channels and says C; else of C to C.
    schedule : Schedule
    prediction : str
        Of :class:`~mmdiff.diffusion.denoiser.Denoiser`, or for pairs of
        :class:`~mmdiff.diffusion.langevin_denoiser.LangevinDenoiser`, where "v" is taken for "edm", which it is for
        data of variance 1 but for its sign.
    noise_input, sigma_data, clamp, dynamic_threshold
        Of both.

    mixed : int >= 0
        Channels of data of which the network corrects a normal distribution, each by a share of its own; 0 for none.
        See :class:`~mmdiff.diffusion.mixed_denoiser.MixedDenoiser`, which is of plain states.
    axis : int
        Where these channels are.

    Returns
    -------
    Denoiser

    Raises
    ------
    InputError
        As the denoiser's own.
    """
    common: dict[str, Any] = {
        "sigma_data": sigma_data, "clamp": clamp, "dynamic_threshold": dynamic_threshold
    }  # fmt: skip
    if mixed:
        return MixedDenoiser(network, schedule, mixed, prediction, noise_input, axis=axis, **common)
    if not isinstance(schedule, CriticallyDamped):
        return Denoiser(network, schedule, prediction, noise_input, **common)
    prediction = "edm" if prediction == "v" else prediction
    sees = "reduced" if prediction in _OF_X else "pair"
    return LangevinDenoiser(network, schedule, prediction, noise_input, sees=sees, **common)


def build_objective(
    schedule: Schedule,
    *,
    target: str = "v",
    norm: str = "l2",
    weighting: str | Weighting | Callable[[Levels], Tensor] = "uniform",
    times: Times | None = None,
    normalize_weight: bool = True,
) -> Objective | HybridScoreMatching:
    """Build the loss that a denoiser with this schedule is trained by.

    Parameters
    ----------
    schedule : Schedule
    target : str
        In what the error is measured: v, of pairs that of their reduced state, so that either learns the same. "eps" is
        the noise of pairs' velocity, as in the paper: under the same noise levels it counts a tenth of that and less
        where little of the data shows, and what a sound or picture is of is decided there.
    norm, weighting, normalize_weight
        Of both. For pairs a weighting is "uniform", "likelihood" or a function of levels.
    times : Times, optional
        Default: :func:`usual_times`.

    Returns
    -------
    Objective or HybridScoreMatching
        Both are called alike.

    Raises
    ------
    InputError
        As the loss's own.
    """
    settings: dict[str, Any] = {"norm": norm, "weighting": weighting, "normalize_weight": normalize_weight}
    settings |= {"target": target, "times": usual_times(schedule) if times is None else times}
    if isinstance(schedule, CriticallyDamped):
        return HybridScoreMatching(schedule, **settings)
    return Objective(schedule, **settings)


def usual_sampler(schedule: Schedule, sampler: str) -> str:
    """Return the sampler a model uses unless told: this one, or "sscs" where it does not serve pairs.

    Examples
    --------
    >>> usual_sampler(CriticallyDamped(), "deis")
    'sscs'
    """
    fits = not schedule.paired or sampler not in SAMPLERS or SAMPLERS[sampler].pairs
    return sampler if fits else "sscs"


def usual_times(schedule: Schedule, data_std: float = 1.0) -> Times:
    """Return where training times are drawn from unless told: uniform, or for pairs with the cosine's noise levels."""
    return LevelsOf(CosineVP(), data_std) if schedule.paired else Uniform()


def usual_grid(schedule: Schedule, grid: str) -> str:
    """Return the grid a model uses unless told: this one, or "quadratic" for pairs.

    The noise of pairs rises with the third power of time: equal steps would take most of them where there is no data
    left to be seen, and equal steps of log-SNR a few where figures take shape.
    """
    return "quadratic" if schedule.paired else grid
