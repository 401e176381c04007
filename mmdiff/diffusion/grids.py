"""Times at which a sampler stops: float64 tensors that fall from noise (t near 1) to data (t = 0)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError

# Where lambda is infinite, grids in lambda or sigma step from these finite values to the exact end:
# sigma/alpha of 80 and 0.002, EDM's range (Karras et al. 2022, table 1).
LAMBDA_MIN = -2 * math.log(80.0)
LAMBDA_MAX = -2 * math.log(0.002)


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
        Number of steps.
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
    return _falling(grid, f"grid {name!r} of {steps} steps", "take fewer steps")


def table_grid(schedule: Schedule, times: Sequence[float] | Tensor) -> Tensor:
    """Build a grid of given times, in either order; t = 0 is added as the end if missing.

    Parameters
    ----------
    schedule : Schedule
        What the times belong to. For a table of N betas, step n is the time n/N.
    times : sequence of float, in [0, 1]
        At least one time above 0, without repetition.

    Returns
    -------
    Tensor, shape (steps + 1,), float64
        Strictly falling.

    Raises
    ------
    InputError
        A time is out of range or repeated.
    """
    grid = torch.as_tensor(times, dtype=torch.float64).flatten()
    if grid.numel() == 0 or not bool(((grid >= 0) & (grid <= 1)).all()):
        hint = "divide table steps by the number of steps of the table"
        raise InputError(f"times={grid.tolist()} must be one or more numbers in [0, 1]; {hint}")
    grid = grid.sort(descending=True).values
    if grid[-1] > 0:
        grid = torch.cat([grid, grid.new_zeros(1)])
    _falling(grid, f"times={grid.tolist()}", "remove repeated times")
    if grid.numel() < 2:
        raise InputError(f"times={grid.tolist()} must hold a time above 0")
    return grid


def noise_table_grid(schedule: Schedule, betas: Sequence[float]) -> Tensor:
    """Find the times of the schedule whose noise matches a short inference table of betas.

    Step n of the short table is put where the schedule has the same alpha²/sigma² as the product of
    (1 - beta_i), i <= n. An ancestral sampler on this grid then takes exactly the short table's steps;
    WaveGrad's and DiffWave's fast tables are meant this way.

    Parameters
    ----------
    schedule : Schedule
        The one the network was trained with.
    betas : sequence of float, each in (0, 1)
        Least noisy step first, as published, e.g. DiffWave's 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5.

    Returns
    -------
    Tensor, shape (len(betas) + 1,), float64
        Strictly falling to 0. The first time is below 1 when the short table ends with less noise
        than the schedule; the published samplers start there from pure noise nevertheless.

    Raises
    ------
    InputError
        A beta is out of (0, 1), or the table is noisier than the schedule.

    References
    ----------
    Chen et al. 2020, arXiv:2009.00713, section 4; Kong et al. 2020, arXiv:2009.09761, appendix B.
    """
    for n, beta in enumerate(betas):
        if not 0 < beta < 1:
            raise InputError(f"betas[{n}]={beta} must lie strictly between 0 and 1")
    if len(betas) == 0:
        raise InputError("betas=() must hold at least one step; try (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5)")
    exponent = -torch.log1p(-torch.tensor(tuple(betas), dtype=torch.float64)).cumsum(0)
    log_snr = -(exponent + torch.log(-torch.expm1(-exponent)))
    grid = torch.cat([schedule.time_of_log_snr(log_snr).flip(0), log_snr.new_zeros(1)])
    lowest, highest = schedule.log_snr_range
    if float(log_snr[-1]) < lowest - 1e-9 or float(log_snr[0]) > highest:
        raise InputError(
            f"betas with log-SNR {float(log_snr[-1]):.3f} .. {float(log_snr[0]):.3f} must lie within the "
            f"schedule's {lowest:.3f} .. {highest:.3f}; drop the steps outside"
        )
    return _falling(grid, f"betas={tuple(betas)}", "use larger betas")


def searched_grid(schedule: Schedule, log_snr: Sequence[float]) -> Tensor:
    """Find the times of given log-SNRs, such as those that a search has found with another schedule.

    Processes that differ by their schedule alone are the same process in log-SNR, but for a scale, so a grid
    that serves one serves the other (Kingma et al. 2021, arXiv:2107.00630, section 5.1).

    Parameters
    ----------
    schedule : Schedule
        What the times shall belong to.
    log_snr : sequence of float
        log(alpha²/sigma²) of two times or more, rising; -inf stands for t = 1 and inf for t = 0, whatever the
        schedule has there. Values beyond the schedule's range are put at its nearer end.

    Returns
    -------
    Tensor, shape (steps + 1,), float64
        Strictly falling.

    Raises
    ------
    InputError
        They do not rise, or several lie beyond one end of the schedule.

    See Also
    --------
    mmdiff.diffusion.search : how such grids are found.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import LinearFlow
    >>> searched_grid(LinearFlow(), [-math.inf, 0.0, math.inf]).tolist()
    [1.0, 0.5, 0.0]
    """
    wanted = torch.as_tensor(log_snr, dtype=torch.float64).flatten()
    if len(wanted) < 2 or not bool((wanted.diff() > 0).all()):
        raise InputError(f"log_snr={wanted.tolist()} must be two numbers or more that rise")
    grid = schedule.time_of_log_snr(wanted)
    lowest, highest = schedule.log_snr_range
    what = f"log_snr={wanted.tolist()}, of which the schedule has {lowest:g} .. {highest:g},"
    return _falling(grid, what, "use a grid searched for a schedule of this range")


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


def _falling(grid: Tensor, what: str, remedy: str) -> Tensor:
    if not bool((grid.diff() < 0).all()):
        raise InputError(f"{what} must fall strictly, but two times coincide or rise; {remedy}")
    return grid


GRIDS: dict[str, Callable[..., Tensor]] = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "flow_shift": _flow_shift,
    "karras": _karras,
    "log_snr": _log_snr,
}
"""Grids by name; see :func:`make_grid`."""
