"""What every sampler shares: levels at its grid's points, the denoiser there, noise, the first-order step.

The probability-flow ODE of any Gaussian process, x_t = α x0 + σ ε, is ``dx = x̂0 dα + ε̂ dσ`` along *any*
path in the (α, σ) plane, where x̂0 is the denoiser's answer and ε̂ = (x − α x̂0)/σ: a marginal depends on
α/σ, apart from the scale. The samplers use nothing else, so none of them asks which schedule it serves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError

DenoiserFn: TypeAlias = Callable[..., Tensor]
"""``denoiser(x, t, **cond) -> x0``: x and x0 of shape (B, C, *space), t of shape (B,)."""
Callback: TypeAlias = Callable[[int, int, float, Tensor, Tensor], object]
"""``callback(step, steps, t, x, x0)`` after each step: steps done, steps in all (0 when unknown), the time
that x has reached, and the last estimate of the data."""
Generators: TypeAlias = torch.Generator | Sequence[torch.Generator] | Callable[[], Tensor] | None
"""The source of noise: one for the batch, one per item, what is called for each draw, or None for torch's own."""
Frame: TypeAlias = Literal["line", "noise"]

_BLANK = 1e-12  # below this ratio of α to σ a level counts as pure noise


class Point(NamedTuple):
    """A time and its levels, as Python floats: coefficients made of them never wait for an accelerator."""

    t: float
    alpha: float
    sigma: float
    lam: float
    """log(α/σ), half of the log-SNR: the λ of the DPM-Solver papers. Infinite where α or σ is 0."""


def points_at(schedule: Schedule, times: Tensor) -> list[Point]:
    """Levels at float64 times of shape (N,)."""
    times = times.double()
    levels, log_snr = schedule(times), schedule.log_snr(times)
    columns = (times, levels.alpha, levels.sigma, log_snr / 2)
    return [_rounded(Point(*row)) for row in zip(*(c.tolist() for c in columns), strict=True)]


def _rounded(p: Point) -> Point:
    # cos(π/2) is 6e-17, not 0: a sampler would divide by it.
    return p._replace(alpha=0.0, lam=-math.inf) if p.alpha <= _BLANK * p.sigma else p


def check_grid(grid: Tensor) -> Tensor:
    """Return the grid in float64.

    Raises
    ------
    InputError
        It is not one axis of at least two finite times in [0, 1] that strictly decrease.
    """
    if not isinstance(grid, Tensor) or grid.ndim != 1 or len(grid) < 2:
        shape = tuple(grid.shape) if isinstance(grid, Tensor) else type(grid).__name__
        raise InputError(f"grid={shape} must be a tensor of steps + 1 >= 2 times; see make_grid")
    times = grid.detach().double()
    if not bool(torch.isfinite(times).all()) or bool((times < 0).any()) or bool((times > 1).any()):
        raise InputError(
            f"grid={times.tolist()} must hold times in [0, 1], 0 = data and 1 = noise; see make_grid"
        )
    if not bool((times[1:] < times[:-1]).all()):
        raise InputError(
            f"grid={times.tolist()} must decrease strictly, from noise to data; try grid.flip(0)"
        )
    return times


def draw_noise(shape: Sequence[int], like: Tensor, generator: Generators) -> Tensor:
    """Draw standard normal noise with the device and dtype of a tensor.

    With one generator per item, item n is drawn from generator n alone, so it does not depend on the batch.
    What a callable draws must have the shape.

    Raises
    ------
    InputError
        There are not as many generators as items.
    """
    kind: dict[str, Any] = {"device": like.device, "dtype": like.dtype}
    if generator is None or isinstance(generator, torch.Generator):
        return torch.randn(tuple(shape), generator=generator, **kind)
    if callable(generator):
        return generator().to(like)
    if len(generator) != shape[0]:
        raise InputError(f"generator={len(generator)} generators must be one per item, here {shape[0]}")
    return torch.stack([torch.randn(tuple(shape[1:]), generator=g, **kind) for g in generator])


def x0_and_learned_variance(
    denoiser: DenoiserFn, x: Tensor, t: Tensor, cond: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """x̂0, and the fraction of the variance that a denoiser has learned, which must be one that has.

    Raises
    ------
    InputError
        It has not learned any.
    """
    ask = getattr(denoiser, "x0_and_variance", None)
    x0, fraction = (None, None) if ask is None else ask(x, t, **cond)
    if x0 is None or fraction is None:
        raise InputError(
            f"variance='learned' must come with a denoiser that learned one, and {type(denoiser).__name__} gives none; "
            "try variance='small'"
        )
    return x0.to(x.dtype), fraction.to(x.dtype)


class CountEvaluations:
    """A denoiser that counts how often it was asked.

    Attributes
    ----------
    calls : int
        Evaluations of the wrapped denoiser so far, whatever the batch.
    """

    def __init__(self, denoiser: DenoiserFn) -> None:
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """Denoise."""
        self.calls += 1
        return self.denoiser(x, t, **cond)

    def x0_and_variance(self, x: Tensor, t: Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        """Denoise, and give the fraction of the variance where the denoiser has learned one."""
        self.calls += 1
        ask = getattr(self.denoiser, "x0_and_variance", None)
        return (self.denoiser(x, t, **cond), None) if ask is None else ask(x, t, **cond)


class Stops:
    """The times at which a sampler stops and the levels there, as plain numbers.

    Samplers make it of their grid, or take it instead of one: while a graph of a whole run is traced, a tensor's
    numbers cannot be looked at.

    Parameters
    ----------
    schedule : Schedule
    grid : Tensor, shape (steps + 1,)
        As the samplers take it.

    Attributes
    ----------
    times : Tensor, shape (steps + 1,), float64
    points : list of Point
        As many.
    """

    def __init__(self, schedule: Schedule, grid: Tensor) -> None:
        self.times = check_grid(grid)
        self.points = points_at(schedule, self.times)
        self.process = GaussianProcess(schedule)

    def __len__(self) -> int:
        return len(self.points)

    def to(self, device: torch.device) -> Stops:
        """Return itself: numbers are on no device."""
        return self

    @functools.cached_property
    def posterior(self) -> list[tuple[float, ...]]:
        """Weights of x_t and x̂0 in the posterior mean, and the small and large variance, of each step."""
        t, s = self.times[:-1], self.times[1:]
        one, zero = torch.ones_like(t), torch.zeros_like(t)
        of_x, small = self.process.posterior(one, zero, s, t)
        of_x0, _ = self.process.posterior(zero, one, s, t)
        large = self.process.posterior_variance(s, t, "large")
        return list(zip(*(c.tolist() for c in (of_x, of_x0, small, large)), strict=True))


class Walk:
    """One run of a sampler: the grid's points and the denoiser at them.

    Parameters
    ----------
    denoiser, grid, schedule, callback, cond
        As the samplers take them.
    """

    def __init__(
        self,
        denoiser: DenoiserFn,
        grid: Tensor | Stops,
        schedule: Schedule,
        callback: Callback | None,
        cond: Mapping[str, Any],
    ) -> None:
        self.denoiser, self.schedule, self.callback, self.cond = denoiser, schedule, callback, cond
        self.stops = grid if isinstance(grid, Stops) else Stops(schedule, grid)
        self.times, self.points = self.stops.times, self.stops.points
        self.steps = len(self.points) - 1

    def __iter__(self) -> Iterator[tuple[int, Point, Point]]:
        """Go through the steps: number from 0, the point it leaves and the point it reaches."""
        return ((i, self.points[i], self.points[i + 1]) for i in range(self.steps))

    def x0(self, x: Tensor, t: float) -> Tensor:
        """Denoise, in the state's dtype whatever the network's."""
        return self.denoiser(x, x.new_full(x.shape[:1], t), **self.cond).to(x.dtype)

    def report(self, i: int, x: Tensor, x0: Tensor) -> None:
        """Tell the callback that step i is done."""
        if self.callback is not None:
            self.callback(i + 1, self.steps, self.points[i + 1].t, x, x0)


def as_state(x: Tensor) -> Tensor:
    """Return x in float32 or float64: half precision would lose the small last steps."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def eps_of(x: Tensor, x0: Tensor, p: Point) -> Tensor:
    """ε̂ = (x − α x̂0)/σ; finite wherever there is noise, α = 0 included."""
    return (x - p.alpha * x0) / p.sigma


def step_in_lambda(p: Point, q: Point) -> float:
    """H = λ_q − λ_p; infinite where either is."""
    return math.inf if math.isinf(p.lam) else q.lam - p.lam


def first_order_step(x: Tensor, x0: Tensor, p: Point, q: Point) -> Tensor:
    """Step of first order from p to q, exact where x̂0 stays constant (DDIM, 2010.02502, eq. 12 with σ = 0).

    It is at once Euler's method in σ/α, in α/σ and along the straight line between the points: these agree.
    Legal at α = 0 and into σ = 0.
    """
    ratio = q.sigma / p.sigma
    return ratio * x + (q.alpha - p.alpha * ratio) * x0


def frame_ratio(p: Point, q: Point, frame: Frame) -> float:
    """Scale of the state at q over that at p, where a frame holds dx = x̂0 dα + ε̂ dσ.

    "line" takes the state as it is: Euler, Heun, ... in t for the linear flow, in σ for EDM. "noise" follows
    x/α, where only σ/α moves, as DDIM and EDM do for every schedule; from α = 0 it has no meaning and "line"
    is used.
    """
    return q.alpha / p.alpha if frame == "noise" and p.alpha > 0 else 1.0


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise InputError unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"{name}={value!r} must be one of {', '.join(map(repr, choices))}")
