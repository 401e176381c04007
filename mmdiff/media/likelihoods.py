"""Bits per dimension of files under a diffusion model, and how well they tell files of other kinds apart."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from mmdiff.diffusion.decoders import DataEnd, find_data_end
from mmdiff.diffusion.likelihood import Bound, continuous_bound
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.errors import InputError
from mmdiff.media.estimates import NORMAL_95, Estimate, mean_estimate
from mmdiff.media.tables import Measure, Score
from mmdiff.progress import track

LIKELIHOOD_MEASURES = {
    "files": Measure("files"),
    "bits": Measure("bits/dim", higher_is_better=False, decimals=4),
    "diffusion": Measure("of the reverse steps", decimals=4),
    "decoder": Measure("of the last step", decimals=4),
    "coded": Measure("bits/dim of zlib", decimals=4),
    "auroc": Measure(
        "rank, bits/dim",
        decimals=3,
        note="share of pairs in which a file of this set has more than one of the first; 0.5 is chance",
    ),
    "auroc_beyond": Measure(
        "rank, bits/dim - zlib's",
        decimals=3,
        note="the same of what the model needs beyond a general compressor: plain pictures and silence are likely "
        "under any model",
    ),
}
"""What a score of a set of files says."""
_CALIBRATED = 4  # files of the first set that the end of the chain is chosen by


class Item(NamedTuple):
    """One file, ready to be measured."""

    name: str
    state: Tensor
    """What is diffused, (C, *space)."""
    coded: float = math.nan
    """Bits per dimension of a general compressor."""
    cond: Mapping[str, Tensor] = {}
    """What the model is told, each (1, ...)."""


class Measured(NamedTuple):
    """Parts of the bound of each file, (N,) each, in bits per dimension."""

    names: list[str]
    bits: Tensor
    diffusion: Tensor
    decoder: Tensor
    coded: Tensor
    errors: Tensor
    """Standard errors of the estimates ``bits``."""


def coded_bits(values: Tensor) -> float:
    """Bits per element that zlib needs for integers: of the differences along the last axis, bytes apart.

    Parameters
    ----------
    values : Tensor of uint8 or int16
    """
    deltas = values.to(torch.int32).diff(dim=-1, prepend=torch.zeros_like(values[..., :1], dtype=torch.int32))
    planes = [deltas & 255] if values.dtype == torch.uint8 else [deltas & 255, (deltas >> 8) & 255]
    size = sum(len(zlib.compress(plane.to(torch.uint8).numpy().tobytes(), 9)) for plane in planes)
    return 8 * size / values.numel()


def rank_estimate(outside: Tensor, inside: Tensor) -> Estimate:
    """Area under the ROC curve: the chance that a value of ``outside`` is above one of ``inside``.

    Parameters
    ----------
    outside, inside : Tensor, shapes (N,) and (M,)
        Independent values.

    Returns
    -------
    Estimate
        Its interval is that of Newcombe (2006, doi:10.1002/sim.2324, method 5), which is none of width 0 where the sets
        are wholly apart.
    """
    above = (outside[:, None] > inside).double() + (outside[:, None] == inside).double() / 2
    area, (n, m) = float(above.mean()), above.shape

    def beyond(truth: float) -> float:
        """How much further than its interval reaches the area lies from a truth."""
        tail = ((n + m) / 2 - 1) * ((1 - truth) / (2 - truth) + truth / (1 + truth))
        variance = truth * (1 - truth) * (1 + tail) / (n * m)
        return abs(area - truth) - NORMAL_95 * math.sqrt(variance)

    inner = 1e-9  # beside the area itself, where both sides vanish if it is 0 or 1
    low = 0.0 if area == 0 else float(brentq(beyond, 1e-12, area * (1 - inner)))
    high = 1.0 if area == 1 else float(brentq(beyond, area + (1 - area) * inner, 1 - 1e-12))
    return Estimate(area, low, high, samples=n)


def measure_sets(
    denoiser: DenoiserFn,
    sets: Mapping[str, Sequence[Item]],
    schedule: Schedule,
    *,
    quantised: Quantisation | None = None,
    draws: int = 16,
    seed: int = 0,
    batch: int = 4,
    progress: bool = True,
) -> list[Score]:
    """Measure sets of files by the variational bound of continuous time.

    Where the chain ends, and the distribution of its last step, are chosen by up to four files of the first set and
    serve for all.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``.
    sets : mapping from str to sequence of Item
        The first is of what the model was trained on; others are ranked against it.
    schedule : Schedule
    quantised : Quantisation, optional
        Which values the items' states take.
    draws : int > 0
        Evaluations for each file's integral; two more are for the last step.
    seed : int
        Of the first item's noise in each set; the next has the next number.
    batch : int > 0
        Items of equal shape measured at once.
    progress : bool
        Show progress bars.

    Returns
    -------
    list of Score
        Of :data:`LIKELIHOOD_MEASURES`, with each file's numbers in ``details``.

    Raises
    ------
    InputError
        A number breaks its rule, or a set is empty.
    """
    if draws < 1 or batch < 1:
        raise InputError(f"draws={draws} and batch={batch} must be positive")
    if empty := [name for name, items in sets.items() if not items]:
        raise InputError(f"{', '.join(empty)} must have files to be measured")
    first = next(iter(sets.values()))
    end = _chosen_end(denoiser, first, schedule, quantised, seed)
    found = {
        name: _measured(
            denoiser,
            items,
            schedule,
            end,
            quantised,
            draws,
            seed,
            track(_batches(items, batch), name, show=progress),
        )
        for name, items in sets.items()
    }
    inside = next(iter(found.values()))
    noise = schedule(end.t_min)
    about = {"draws": draws, "last_noise": float(noise.sigma / noise.alpha)}
    return [_score(name, measured, inside, about) for name, measured in found.items()]


def _batches(items: Sequence[Item], batch: int) -> list[list[Item]]:
    """Consecutive items of one shape, at most ``batch`` at a time."""
    runs = (list(run) for _, run in itertools.groupby(items, key=lambda item: item.state.shape))
    return [run[n : n + batch] for run in runs for n in range(0, len(run), batch)]


def _together(items: Sequence[Item], seeds: range) -> tuple[Tensor, dict[str, Any]]:
    states = torch.stack([item.state for item in items])
    cond: dict[str, Any] = {name: torch.cat([item.cond[name] for item in items]) for name in items[0].cond}
    generators = [torch.Generator(states.device).manual_seed(seed) for seed in seeds]
    return states, {"generator": generators, **cond}


def _chosen_end(
    denoiser: DenoiserFn,
    items: Sequence[Item],
    schedule: Schedule,
    quantised: Quantisation | None,
    seed: int,
) -> DataEnd:
    alike = [item for item in items if item.state.shape == items[0].state.shape]
    count = min(_CALIBRATED, len(alike))
    chosen = [alike[n * len(alike) // count] for n in range(count)]
    states, told = _together(chosen, range(seed, seed + count))
    return find_data_end(denoiser, states, schedule, quantised=quantised, **told)


@torch.no_grad()
def _measured(
    denoiser: DenoiserFn,
    items: Sequence[Item],
    schedule: Schedule,
    end: DataEnd,
    quantised: Quantisation | None,
    draws: int,
    seed: int,
    batches: Iterator[list[Item]],
) -> Measured:
    bounds: list[Bound] = []
    for part in batches:
        states, told = _together(part, range(seed, seed + len(part)))
        seed += len(part)
        last: dict[str, Any] = {"t_min": end.t_min, "decoder": end.decoder, "quantised": quantised}
        bounds.append(continuous_bound(denoiser, states, schedule, draws=draws, **last, **told))
    total, diffusion, decoder, error = (
        torch.cat([getattr(bound, part) for bound in bounds]).double().cpu()
        for part in ("total", "diffusion", "decoder", "std_error")
    )
    coded = torch.tensor([item.coded for item in items], dtype=torch.float64)
    return Measured([item.name for item in items], total, diffusion, decoder, coded, error)


def _score(name: str, measured: Measured, inside: Measured, about: dict[str, Any]) -> Score:
    parts = {part: getattr(measured, part) for part in ("bits", "diffusion", "decoder", "coded")}
    measures = {part: mean_estimate(values) for part, values in parts.items() if not values.isnan().all()}
    beyond = measured.bits - measured.coded
    if measured is not inside:
        measures["auroc"] = rank_estimate(measured.bits, inside.bits)
        if not beyond.isnan().any():
            measures["auroc_beyond"] = rank_estimate(beyond, inside.bits - inside.coded)
    rows = [
        {"file": file, "bits": bits, "std_error": error, "coded": coded}
        for file, bits, error, coded in zip(
            measured.names,
            measured.bits.tolist(),
            measured.errors.tolist(),
            measured.coded.tolist(),
            strict=True,
        )
    ]
    ranked = sorted(rows, key=lambda row: -row["bits"])
    return Score(name, measures, {"files": len(rows), **about}, {"ranking": ranked})
