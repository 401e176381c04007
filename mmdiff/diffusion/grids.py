"""Times at which a sampler stops: float64 tensors that fall from noise (t near 1) to data (t = 0)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmdiff.diffusion.grids_given import falling
from mmdiff.diffusion.grids_given import noise_table_grid as noise_table_grid
from mmdiff.diffusion.grids_given import searched_grid as searched_grid
from mmdiff.diffusion.grids_given import table_grid as table_grid
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError

# Where lambda is infinite, grids in lambda or sigma step from these finite values to the exact end:
# sigma/alpha of 80 and 0.002, EDM's range (Karras et al. 2022, table 1).
LAMBDA_MIN = -2 * math.log(80.0)
LAMBDA_MAX = -2 * math.log(0.002)


MOST_STEPS = 1_000_000
"""More are a slip of the hand."""


def make_grid(
    name: str, schedule: Schedule, steps: int, *, t_min: float = 0.0, t_max: float = 1.0, **options: float
) -> Tensor:
    """Choose the times for a sampler that takes ``steps`` steps.

    Parameters
    ----------
    name : str
        "uniform": equal steps of t. On a table of N betas, N steps visit exactly its points.
        "quadratic": equal steps of sqrt(t), more of them near the data (Song et al. 2021,
        arXiv:2010.02502, appendix D).
        "flow_shift": equal steps of t' with t = shift t' / (1 + (shift - 1) t'); option ``shift`` > 0,
        default 3 (Esser et al. 2024, arXiv:2403.03206).
        "karras": equal steps of (sigma/alpha)^(1/rho); option ``rho`` > 0, default 7 (Karras et al.
        2022, arXiv:2206.00364, equation 5).
        "log_snr": equal steps of lambda (Lu et al. 2022, arXiv:2206.00927).
        The last two take ``lambda_min`` and ``lambda_max``: the finite values between which the steps
        are spread when lambda is infinite at an end; the end itself is then one more step.
    schedule : Schedule
        What the times belong to.
    steps : int > 0
        Number of steps, at most :data:`MOST_STEPS`.
    t_min, t_max : float, 0 <= t_min < t_max <= 1
        Last and first time.
    **options : float
        As listed for each name.

    Returns
    -------
    Tensor, shape (steps + 1,), float64
        Strictly falling from t_max to t_min.

    Raises
    ------
    InputError
        Unknown name or option, or a value out of range.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import LinearFlow
    >>> make_grid("uniform", LinearFlow(), 4).tolist()
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if name not in GRIDS:
        raise InputError(f"grid={name!r} must be one of {', '.join(GRIDS)}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps={steps!r} must be a positive integer; try 20")
    if steps > MOST_STEPS:
        raise InputError(f"steps={steps} must be at most {MOST_STEPS}; 20 are usual")
    if not 0 <= t_min < t_max <= 1:
        raise InputError(f"t_min={t_min}, t_max={t_max} must satisfy 0 <= t_min < t_max <= 1; try 0 and 1")
    known = list(inspect.signature(GRIDS[name]).parameters)[4:]
    for option in options:
        if option not in known:
            raise InputError(
                f"{option}={options[option]} is no option of grid {name!r}; "
                f"it takes {', '.join(known) or 'none'}"
            )
    grid = GRIDS[name](schedule, steps, t_min, t_max, **options)
    grid[0], grid[-1] = t_max, t_min  # exactly, whatever was rounded on the way
    return falling(grid, f"grid {name!r} of {steps} steps", "take fewer steps")


def _uniform(schedule: Schedule, steps: int, t_min: float, t_max: float) -> Tensor:
    count = torch.arange(steps, -1, -1, dtype=torch.float64)
    return t_min + (t_max - t_min) * (count / steps)


def _quadratic(schedule: Schedule, steps: int, t_min: float, t_max: float) -> Tensor:
    return _uniform(schedule, steps, math.sqrt(t_min), math.sqrt(t_max)) ** 2


def _flow_shift(schedule: Schedule, steps: int, t_min: float, t_max: float, shift: float = 3.0) -> Tensor:
    _positive("shift", shift)
    # The unshifted ends are the shift by 1/shift of the wanted ends.
    low, high = (t / (shift - (shift - 1) * t) for t in (t_min, t_max))
    t = _uniform(schedule, steps, low, high)
    return shift * t / (1 + (shift - 1) * t)


def _log_snr(
    schedule: Schedule,
    steps: int,
    t_min: float,
    t_max: float,
    lambda_min: float = LAMBDA_MIN,
    lambda_max: float = LAMBDA_MAX,
) -> Tensor:
    def spread(low: float, high: float, count: int) -> Tensor:
        return torch.linspace(low, high, count, dtype=torch.float64)

    return _spread_lambda(schedule, steps, (t_min, t_max), (lambda_min, lambda_max), spread)


def _karras(
    schedule: Schedule,
    steps: int,
    t_min: float,
    t_max: float,
    rho: float = 7.0,
    lambda_min: float = LAMBDA_MIN,
    lambda_max: float = LAMBDA_MAX,
) -> Tensor:
    _positive("rho", rho)

    def spread(low: float, high: float, count: int) -> Tensor:
        # (sigma/alpha)^(1/rho) = exp(-lambda / (2 rho))
        ends = (math.exp(-0.5 * low / rho), math.exp(-0.5 * high / rho))
        return -2 * rho * torch.log(torch.linspace(*ends, count, dtype=torch.float64))

    return _spread_lambda(schedule, steps, (t_min, t_max), (lambda_min, lambda_max), spread)


def _spread_lambda(
    schedule: Schedule,
    steps: int,
    ends: tuple[float, float],
    clamps: tuple[float, float],
    spread: Callable[[float, float, int], Tensor],
) -> Tensor:
    """Set times whose lambda ``spread`` chooses between finite ends; an infinite end is one more step."""
    high, low = schedule.log_snr(torch.tensor(ends, dtype=torch.float64)).tolist()
    times = []
    if low == -math.inf:
        times.append(ends[1])
        low = clamps[0]
    last = []
    if high == math.inf:
        last.append(ends[0])
        high = clamps[1]
        if schedule.first_time > 0:  # a network trained on a table knows nothing below its first step
            high = min(high, float(schedule.log_snr(schedule.first_time)))
    inner = steps + 1 - len(times) - len(last)
    if inner > 0 and not low < high:
        raise InputError(
            f"lambda_min={low:g}, lambda_max={high:g} must satisfy lambda_min < lambda_max; "
            "lambda = log(alpha²/sigma²) is high near the data"
        )
    if inner == 1:  # the start if that is finite, else the middle
        values = spread(low, high, 3)[1:2] if times else spread(low, high, 2)[:1]
    else:
        values = spread(low, high, inner)
    middle = schedule.time_of_log_snr(values)
    return torch.cat([middle.new_tensor(times), middle, middle.new_tensor(last)])


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name}={value} must be positive and finite")


GRIDS: dict[str, Callable[..., Tensor]] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "flow_shift": _flow_shift,
    "karras": _karras,
    "log_snr": _log_snr,
}
"""Grids by name; see :func:`make_grid`."""
