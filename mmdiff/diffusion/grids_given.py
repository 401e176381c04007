"""Grids through given points: times, a short table of betas, or the log-SNRs that a search has found."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError


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
    falling(grid, f"times={grid.tolist()}", "remove repeated times")
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
    return falling(grid, f"betas={tuple(betas)}", "use larger betas")


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
    >>> searched_grid(LinearFlow(), [-float("inf"), 0.0, float("inf")]).tolist()
    [1.0, 0.5, 0.0]
    """
    wanted = torch.as_tensor(log_snr, dtype=torch.float64).flatten()
    if len(wanted) < 2 or not bool((wanted.diff() > 0).all()):
        raise InputError(f"log_snr={wanted.tolist()} must be two numbers or more that rise")
    grid = schedule.time_of_log_snr(wanted)
    lowest, highest = schedule.log_snr_range
    what = f"log_snr={wanted.tolist()}, of which the schedule has {lowest:g} .. {highest:g},"
    return falling(grid, what, "use a grid searched for a schedule of this range")


def falling(grid: Tensor, what: str, remedy: str) -> Tensor:
    """Return the grid if its times fall strictly; the error says ``what`` does not, and the ``remedy``."""
    if not bool((grid.diff() < 0).all()):
        raise InputError(f"{what} must fall strictly, but two times coincide or rise; {remedy}")
    return grid
