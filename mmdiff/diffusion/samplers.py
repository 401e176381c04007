"""Sampling: one entry that draws the noise, lays the grid and runs a sampler of the table.

What a sampler is, and which there are: :mod:`mmdiff.diffusion.sampler_table`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.sampler_table import SAMPLERS as SAMPLERS
from mmdiff.diffusion.sampler_table import SamplerInfo as SamplerInfo
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import Callback, DenoiserFn, Generators, Point, Stops, draw_noise
from mmdiff.diffusion.solver_tools import CountEvaluations as CountEvaluations
from mmdiff.errors import InputError


@torch.no_grad()
def sample(
    denoiser: DenoiserFn,
    shape: Sequence[int],
    *,
    schedule: Schedule,
    sampler: str = "deis",
    steps: int = 20,
    grid: str | Tensor | Stops = "uniform",
    options: Mapping[str, Any] | None = None,
    grid_options: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    generator: Generators = None,
    noise: Tensor | None = None,
    x_init: Tensor | None = None,
    temperature: float = 1.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: bool = False,
    callback: Callback | None = None,
    **cond: Any,
) -> Tensor:
    """Generate items from noise, or from noised versions of given items.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``.
    shape : sequence of int, (B, C, *space)
        Shape of the result.
    schedule : Schedule
        The one that the denoiser was trained with.
    sampler : str
        A key of :data:`SAMPLERS`. The samplers in λ ("dpmpp_...", "unipc") lose to "deis" and "plms" on grids
        that begin at α = 0 and end at σ = 0: there λ is infinite, so that their first two and their last step
        are of first order, and equal steps of t are steps of log 2 in λ next to the ends, however many there
        are. In t nothing is infinite. From noise to data, "deis" comes about twice as near as "dpmpp_2m" at 20
        steps, and four times at 30.
    steps : int >= 1
        Steps of the grid; ignored when the grid is a tensor. "adaptive" takes its first attempt from it.
    grid : str or Tensor (steps + 1,)
        Name for :func:`~mmdiff.diffusion.grids.make_grid`, or times from noise to data, strictly decreasing.
    options : mapping, optional
        The sampler's own options, such as ``{"eta": 0.5}``; its ``SamplerInfo.options`` lists them.
    grid_options : mapping, optional
        Options of ``make_grid``, such as ``{"t_max": 0.6}`` to start half way (with ``x_init``).
    seeds : sequence of B int, optional
        One per item. An item's result then depends on its own seed only, not on its neighbours.
    generator : torch.Generator or list of B of them, optional
        Instead of seeds. With neither, torch's global generator is used.
    noise : Tensor (B, C, *space), optional
        Standard normal noise to start from, already drawn.
    x_init : Tensor (B, C, *space), optional
        Clean items to start from: noised to the grid's first time, which should be less than 1.
    temperature : float >= 0
        Standard deviation of the noise, at the start and in each step of stochastic samplers, over the right
        one.
    device : torch.device or str, optional
        Of the state; by default that of ``noise``, ``x_init``, the conditioning or the denoiser's parameters.
    dtype : torch.dtype
        float32 or float64, of the state.
    progress : bool
        Show a bar.
    callback : callable, optional
        See :data:`~mmdiff.diffusion.solver_tools.Callback`.
    **cond
        Conditioning, passed on to the denoiser.

    Returns
    -------
    Tensor (B, C, *space)
        State at the grid's last time.

    Raises
    ------
    InputError
        A name is unknown, steps < 1, the grid does not decrease, shapes and numbers of seeds do not fit, or the sampler
        is not for schedules of pairs.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import LinearFlow
    >>> points = sample(lambda x, t: torch.full_like(x, 3.0), (2, 1, 4), schedule=LinearFlow(), seeds=[0, 1])
    >>> torch.allclose(points, torch.tensor(3.0))
    True
    """
    info = _info(sampler, schedule)
    options = _checked_options(sampler, info, options or {}, temperature)
    stops = _stops(grid, schedule, steps, grid_options or {})
    if dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"dtype={dtype} must be torch.float32 or torch.float64: the state of a sampler is not halved"
        )
    where = _device(device, denoiser, noise, x_init, *cond.values())
    generator = _generators(seeds, generator, len_batch=shape[0], device=where)
    x = _start(
        shape,
        stops.points[0],
        schedule,
        noise,
        x_init,
        generator,
        temperature,
        torch.empty(0, device=where, dtype=dtype),
    )
    with _bar(progress, callback) as report:
        return info.fn(denoiser, x, stops, schedule, generator=generator, callback=report, **options, **cond)


def _info(sampler: str, schedule: Schedule) -> SamplerInfo:
    if sampler not in SAMPLERS:
        raise InputError(f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}")
    if schedule.paired and not SAMPLERS[sampler].pairs:
        fit = ", ".join(name for name, info in SAMPLERS.items() if info.pairs)
        raise InputError(
            f"sampler={sampler!r} must be one of pairs for schedule={type(schedule).__name__}: {fit}"
        )
    return SAMPLERS[sampler]


def _checked_options(
    sampler: str, info: SamplerInfo, options: Mapping[str, Any], temperature: float
) -> dict[str, Any]:
    unknown = sorted(set(options) - set(info.options))
    if unknown:
        raise InputError(
            f"options={', '.join(unknown)} must be among those of sampler {sampler!r}: "
            f"{', '.join(info.options) or 'it has none'}"
        )
    if temperature < 0:
        raise InputError(f"temperature={temperature} must be >= 0; 1 keeps the noise as it is")
    return {**info.noise_options(temperature), **options}


def _stops(
    grid: str | Tensor | Stops, schedule: Schedule, steps: int, grid_options: Mapping[str, Any]
) -> Stops:
    if isinstance(grid, Stops):
        return grid
    times = grid if isinstance(grid, Tensor) else make_grid(grid, schedule, steps, **grid_options)
    return Stops(schedule, times)


def _device(device: torch.device | str | None, denoiser: DenoiserFn, *given: object) -> torch.device:
    if device is not None:
        return torch.device(device)
    parameters = list(denoiser.parameters())[:1] if isinstance(denoiser, nn.Module) else []
    for tensor in (*given, *parameters):
        if isinstance(tensor, Tensor):
            return tensor.device
    return torch.get_default_device()


def _generators(
    seeds: Sequence[int] | None, generator: Generators, *, len_batch: int, device: torch.device
) -> Generators:
    if seeds is None:
        return generator
    if generator is not None:
        raise InputError("seeds and generator must not both be given; keep one")
    if len(seeds) != len_batch:
        raise InputError(f"seeds={len(seeds)} numbers must be one per item, here {len_batch}")
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


def _start(
    shape: Sequence[int],
    first: Point,
    schedule: Schedule,
    noise: Tensor | None,
    x_init: Tensor | None,
    generator: Generators,
    temperature: float,
    like: Tensor,
) -> Tensor:
    """State at the grid's first time: α x_init + σ noise."""
    for name, given in (("noise", noise), ("x_init", x_init)):
        if given is not None and given.shape != torch.Size(shape):
            raise InputError(f"{name}={tuple(given.shape)} must have the shape asked for, {tuple(shape)}")
    noise = draw_noise(shape, like, generator) if noise is None else noise.to(like)
    if x_init is None:
        # A grid may begin just below t = 1, where a variance-preserving state is as wide as at t = 1.
        std = schedule.prior_std if schedule.variance_preserving else first.sigma
        return temperature * std * noise
    return first.alpha * x_init.to(like) + temperature * first.sigma * noise


@contextlib.contextmanager
def _bar(progress: bool, callback: Callback | None) -> Iterator[Callback | None]:
    """Make a callback that moves a bar and then calls the given one."""
    if not progress:
        yield callback
        return
    with Progress(transient=True) as bar:
        task = bar.add_task("sampling", total=None)

        def report(step: int, steps: int, t: float, x: Tensor, x0: Tensor) -> None:
            bar.update(task, completed=step, total=steps or None)
            if callback is not None:
                callback(step, steps, t, x, x0)

        yield report
