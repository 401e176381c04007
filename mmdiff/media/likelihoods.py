"""Bits per dimension of files under a model, and how well they tell files of other kinds apart."""

from __future__ import annotations

import functools
import itertools
import math
import zlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from scipy.optimize import brentq
from torch import Tensor

from mmdiff.diffusion.decoders import find_data_end
from mmdiff.diffusion.likelihood import continuous_bound
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators
from mmdiff.errors import InputError
from mmdiff.media.estimates import NORMAL_95, Estimate, mean_estimate
from mmdiff.media.tables import Measure, Score
from mmdiff.progress import track

LIKELIHOOD_MEASURES = {
    "files": Measure("files"),
    "bits": Measure("bits/dim", higher_is_better=False, decimals=4),
    "diffusion": Measure("of the reverse steps", decimals=4),
    "decoder": Measure(
        "of the last step",
        decimals=4,
        note="of models of latents that of the decoder, and before it what latents cost beyond their own entropy",
    ),
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


class Bits(Protocol):
    """Upper bound of -log2 p(x) of B files and its parts, in bits per dimension, each (B,)."""

    @property
    def total(self) -> Tensor:
        """The sum of the next two, and of what a prior at the end of a chain costs."""

    @property
    def diffusion(self) -> Tensor:
        """Of what is diffused."""

    @property
    def decoder(self) -> Tensor:
        """Of the step into the data."""

    @property
    def std_error(self) -> Tensor:
        """Of the estimate of ``total``."""


class Measuring(NamedTuple):
    """A likelihood that is ready to measure files."""

    measure: Callable[..., Bits]
    """``measure(states, generator=..., **cond)`` of states (B, C, *space)."""
    about: Mapping[str, Any]
    """What is said of it beside the results."""


class Likelihood(Protocol):
    """What :func:`measure_sets` asks of a model."""

    def fitted(self, x: Tensor, *, generator: Generators = None, **cond: Any) -> Measuring:
        """Choose by some files (B, C, *space) what the model leaves open; any choice makes a bound of others."""


@dataclass(frozen=True)
class ChainLikelihood:
    """The variational bound of continuous time of a model that diffuses the files themselves.

    Where the chain ends, and the distribution of its last step, are chosen by some files.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(x, t, **cond) -> x0``.
    schedule : Schedule
    quantised : Quantisation, optional
        Which values the items' states take.
    draws : int > 0
        Evaluations for each file's integral; two more are for the last step.
    """

    denoiser: DenoiserFn
    schedule: Schedule
    quantised: Quantisation | None = None
    draws: int = 16

    def fitted(self, x: Tensor, *, generator: Generators = None, **cond: Any) -> Measuring:
        """Choose the end of the chain."""
        bins: dict[str, Any] = {"quantised": self.quantised}
        end = find_data_end(self.denoiser, x, self.schedule, generator=generator, **bins, **cond)
        settings: dict[str, Any] = {"schedule": self.schedule, "draws": self.draws, **bins, **end._asdict()}
        levels = self.schedule(end.t_min)
        about = {"draws": self.draws, "last_noise": float(levels.sigma / levels.alpha)}
        return Measuring(functools.partial(continuous_bound, self.denoiser, **settings), about)


def set_name(source: str | Path, taken: Container[str]) -> str:
    """Name of the set of files in a place, which no other set has: its last part, the whole, or that with a number."""
    names = [Path(source).name or str(source), str(source)]
    numbered = (f"{source} ({n})" for n in itertools.count(2))
    return next(name for name in itertools.chain(names, numbered) if name not in taken)


def measure_sets(
    likelihood: Likelihood,
    sets: Mapping[str, Sequence[Item]],
    *,
    seed: int = 0,
    batch: int = 4,
    progress: bool = True,
) -> list[Score]:
    """Measure sets of files by a model's bound of their likelihood.

    What the likelihood chooses is chosen by up to four files of the first set, and serves for all.

    Parameters
    ----------
    likelihood : Likelihood
        Such as :class:`ChainLikelihood`, or for latents :class:`mmdiff.latent.likelihood.PairLikelihood`.
    sets : mapping from str to sequence of Item
        The first is of what the model was trained on; others are ranked against it.
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
        The batch is not positive, or a set is empty.
    """
    if batch < 1:
        raise InputError(f"batch={batch} must be positive")
    if empty := [name for name, items in sets.items() if not items]:
        raise InputError(f"{', '.join(empty)} must have files to be measured")
    ready = _fitted(likelihood, next(iter(sets.values())), seed)
    found = {
        name: _measured(ready, items, seed, track(_batches(items, batch), name, show=progress))
        for name, items in sets.items()
    }
    inside = next(iter(found.values()))
    return [_score(name, measured, inside, ready.about) for name, measured in found.items()]


def _batches(items: Sequence[Item], batch: int) -> list[list[Item]]:
    """Consecutive items of one shape, at most ``batch`` at a time."""
    runs = (list(run) for _, run in itertools.groupby(items, key=lambda item: item.state.shape))
    return [run[n : n + batch] for run in runs for n in range(0, len(run), batch)]


def _together(items: Sequence[Item], seeds: range) -> tuple[Tensor, dict[str, Any]]:
    states = torch.stack([item.state for item in items])
    cond: dict[str, Any] = {name: torch.cat([item.cond[name] for item in items]) for name in items[0].cond}
    generators = [torch.Generator(states.device).manual_seed(seed) for seed in seeds]
    return states, {"generator": generators, **cond}


@torch.no_grad()
def _fitted(likelihood: Likelihood, items: Sequence[Item], seed: int) -> Measuring:
    alike = [item for item in items if item.state.shape == items[0].state.shape]
    count = min(_CALIBRATED, len(alike))
    chosen = [alike[n * len(alike) // count] for n in range(count)]
    states, told = _together(chosen, range(seed, seed + count))
    return likelihood.fitted(states, **told)


@torch.no_grad()
def _measured(ready: Measuring, items: Sequence[Item], seed: int, batches: Iterable[list[Item]]) -> Measured:
    bounds: list[Bits] = []
    for part in batches:
        states, told = _together(part, range(seed, seed + len(part)))
        seed += len(part)
        bounds.append(ready.measure(states, **told))
    total, diffusion, decoder, error = (
        torch.cat([getattr(bound, part) for bound in bounds]).double().cpu()
        for part in ("total", "diffusion", "decoder", "std_error")
    )
    coded = torch.tensor([item.coded for item in items], dtype=torch.float64)
    return Measured([item.name for item in items], total, diffusion, decoder, coded, error)


def _score(name: str, measured: Measured, inside: Measured, about: Mapping[str, Any]) -> Score:
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
