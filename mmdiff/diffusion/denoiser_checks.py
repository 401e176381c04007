"""What the arguments of denoisers must be, and the noise levels that they may tell their networks."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from mmdiff.diffusion.process import Prediction
from mmdiff.diffusion.schedules import BetaTable, Schedule, ZeroTerminalSNR
from mmdiff.errors import InputError

NoiseInput = Literal["t", "index", "aligned_index", "sqrt_alpha_bar", "log_snr", "sigma", "c_noise"]

SMALLEST_ALPHA = 1e-6
"""Below it, dividing by alpha turns float32 rounding (6e-8) into errors above 5 % of the data."""


def table_length(schedule: Schedule) -> int:
    """Return the number of steps of a table, or raise InputError."""
    if isinstance(schedule, BetaTable):
        return len(schedule.betas)
    if isinstance(schedule, ZeroTerminalSNR):
        return table_length(schedule.base)
    raise InputError(
        f"noise_input='index' must come with a BetaTable; got schedule={type(schedule).__name__}; "
        f"try noise_input='t' or 'log_snr'"
    )


def check_prediction(prediction: str, schedule: Schedule) -> None:
    """Raise InputError unless networks may predict this with the schedule."""
    kinds = (*get_args(Prediction), "edm")
    if prediction not in kinds:
        raise InputError(f"prediction={prediction!r} must be one of {', '.join(kinds)}")
    last = float(schedule(torch.ones((), dtype=torch.float64)).alpha)
    if prediction in ("eps", "score") and last < SMALLEST_ALPHA:
        raise InputError(
            f"prediction={prediction!r} must have signal left at t=1 to recover x0 from; got "
            f"alpha(1)={last:.1g} from {type(schedule).__name__}; predict v, x0, velocity or edm instead"
        )


def check_noise_input(noise_input: str, schedule: Schedule) -> None:
    """Raise InputError unless networks may be told this of the schedule."""
    if noise_input not in get_args(NoiseInput):
        raise InputError(f"noise_input={noise_input!r} must be one of {', '.join(get_args(NoiseInput))}")
    if noise_input == "index":
        table_length(schedule)
    if noise_input == "aligned_index" and not isinstance(schedule, BetaTable):
        raise InputError(
            f"noise_input='aligned_index' must come with a BetaTable; got schedule={type(schedule).__name__}; "
            f"try noise_input='log_snr'"
        )


def check_range(clamp: tuple[float, float] | None, quantile: float | None) -> None:
    """Raise InputError unless these can be a denoiser's clamp and threshold."""
    if clamp is not None and not (len(clamp) == 2 and clamp[0] < clamp[1]):
        raise InputError(f"clamp={clamp} must be (lowest, highest) with lowest < highest, as in (-1, 1)")
    if quantile is None:
        return
    if not 0 < quantile <= 1:
        raise InputError(f"dynamic_threshold={quantile} must be a quantile in (0, 1]; the paper takes 0.995")
    if clamp is not None and clamp[0] != -clamp[1]:
        raise InputError(f"clamp={clamp} must be symmetric, as in (-1, 1), when dynamic_threshold is set")
