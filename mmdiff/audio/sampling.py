"""What the pipelines of this room decide before they sample: steps, sampler, times and seeds."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.adversarial import check_trained
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource, find_grid, find_table


class Sampling(NamedTuple):
    """How a waveform is sampled, decided."""

    steps: int
    """Network evaluations."""
    sampler: str
    grid: Tensor
    """Times at which the sampler stops."""


class SampledModel(ABC):
    """What all models of sound have for their sampler, whatever they make.

    Attributes
    ----------
    default_steps : int
        Network evaluations if nothing else is asked for.
    default_sampler : str
        A key of :data:`mmdiff.diffusion.samplers.SAMPLERS`.
    other_evaluations : int
        Network evaluations beside the sampler's steps.
    latents : int
        Size of the random vectors that its network is told at each step; 0 for a denoiser.
    denoiser : Denoiser
        Of what is diffused.
    """

    default_steps: int
    default_sampler: str
    other_evaluations: int = 0
    latents: int = 0
    denoiser: Denoiser

    @abstractmethod
    def grid(self, steps: int) -> Tensor:
        """Times at which the sampler stops for so many network evaluations: (n + 1,), float64, falling."""


def decide_sampling(
    model: SampledModel,
    steps: int | None = None,
    sampler: str | None = None,
    grid: GridSource | None = None,
) -> Sampling:
    """Decide how a model samples with these options, of which those not given are the model's.

    Raises
    ------
    InputError
        A name or number makes no sense, the grid has another number of steps, or the model is a generator that was
        not trained for such a run.
    """
    sampling = _decide(model, steps, sampler, grid)
    if model.latents:
        check_trained(model.denoiser.schedule, sampling.grid, sampling.sampler)
    return sampling


def _decide(model: SampledModel, steps: int | None, sampler: str | None, grid: GridSource | None) -> Sampling:
    if steps is not None and steps < 1:
        raise InputError(f"steps={steps} must be at least 1; {model.default_steps} is usual")
    table = None if grid is None else find_table(grid)
    sampler = sampler or (table.sampler if table else None) or model.default_sampler
    if sampler not in SAMPLERS:
        raise InputError(f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}")
    if grid is None:
        steps = steps or model.default_steps
        return Sampling(steps, sampler, model.grid(steps))
    if steps and isinstance(grid, Tensor) and len(grid) == len(model.grid(steps)) == 1:
        return Sampling(steps, sampler, grid)  # none of the evaluations is the sampler's
    asked, usual = (None if n is None else len(model.grid(n)) - 1 for n in (steps, model.default_steps))
    if asked == 0:
        raise InputError(
            f"steps={steps} must leave one evaluation for the sampler at least, whose schedule is given, and the model "
            "takes all for something else; take more steps, or no schedule"
        )
    times = find_grid(table or grid, model.denoiser.schedule, asked, int(usual or 1))
    told = [known.asked for known in table.grids if known.steps == len(times) - 1] if table else []
    return Sampling(steps or _evaluations(model, len(times) - 1, told), sampler, times)


def _evaluations(model: SampledModel, count: int, told: Sequence[int]) -> int:
    """Network evaluations of which so many are the sampler's: as told, as usual for the model, or the fewest."""
    if not model.other_evaluations:
        return count
    numbers = (*told, model.default_steps, *range(count, count + model.other_evaluations + 1))
    return next(n for n in numbers if len(model.grid(n)) - 1 == count)


def item_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """A seed for each item: those given, or the numbers from the one given on.

    Raises
    ------
    InputError
        There are more or fewer than items, or one has more than 64 bits.
    """
    try:
        first = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        seeds = [int(s) for s in seed]  # type: ignore[union-attr]
    else:
        seeds = list(range(first, first + count))
    if len(seeds) != count:
        raise InputError(
            f"seed has {len(seeds)} entries for {count} item(s); give one per item, or one number"
        )
    if not all(-(1 << 63) <= s < 1 << 63 for s in seeds):
        raise InputError(f"seed={seed} must be a whole number of 64 bits, below 2^63")
    return seeds


def place_seeds(seed: int, count: int, place: int) -> list[int]:
    """Seeds of the items at a place of a longer sound: seed + place and on, begun anew where 64 bits end.

    Raises
    ------
    InputError
        The seed itself has more.
    """
    (first,) = item_seeds(seed, 1)
    return [(first + place + n + (1 << 63)) % (1 << 64) - (1 << 63) for n in range(count)]


def item_generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """A source of fresh noise for each item, which depends on its seed alone."""
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]
