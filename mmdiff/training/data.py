"""Batches and random numbers as pure functions of the step: what makes resuming exact."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Sampler


class IndexedData(Protocol):
    """Endless map-style data: item n is a pure function of n (and of a seed the data holds)."""

    def __getitem__(self, index: int, /) -> Any:
        """Item ``index`` >= 0, whatever was asked for before."""
        ...


def step_seed(seed: int, step: int, micro: int, rank: int, stream: int) -> int:
    """Seed of one stream of random numbers in one micro-step: 63 bits, unrelated for differing arguments."""
    digest = hashlib.blake2b(repr((seed, step, micro, rank, stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class MicroBatches(Sampler[list[int]]):
    """Indices of one rank's micro-batches from step ``first`` to step ``last``.

    Step s consumes the items s·B ... s·B + B - 1. Micro-step m takes the m-th part of them, and rank r every
    ``ranks``-th item of that part, so a run sees the same items in each update whatever its accumulation and
    number of processes.

    Parameters
    ----------
    first, last : int
        Steps, ``last`` excluded.
    batch_size : int
        B, items of one update over all ranks and micro-steps; divisible by ``accumulate`` · ``ranks``.
    accumulate, rank, ranks : int
        Micro-steps of one update; this process and their number.
    """

    def __init__(
        self, first: int, last: int, batch_size: int, accumulate: int, rank: int, ranks: int
    ) -> None:
        self.first, self.last, self.batch_size = first, last, batch_size
        self.accumulate, self.rank, self.ranks = accumulate, rank, ranks

    def __len__(self) -> int:
        return (self.last - self.first) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch_size // self.accumulate
        for start in range(self.first * self.batch_size, self.last * self.batch_size, part):
            yield list(range(start + self.rank, start + part, self.ranks))


def _outlive_signals(worker: int) -> None:
    # Ctrl-C and schedulers signal the whole process group; the trainer still needs its workers to finish
    # the step. A second SIGTERM ends the worker, as the loader itself may send one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def make_loader(
    dataset: Any,
    batches: MicroBatches,
    *,
    workers: int,
    collate: Callable[[list[Any]], Any] | None,
    pin: bool,
) -> DataLoader[Any]:
    """Loader over ``batches`` that leaves the global random state alone."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # else the loader draws a seed from the global generator
    )
