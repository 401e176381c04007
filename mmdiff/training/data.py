"""Batches and random numbers as pure functions of the step: what makes resuming exact."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
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


def _outlive_signals(leaving: Any, trainer: int, worker: int) -> None:
    # Ctrl-C and schedulers signal the whole process group, but the trainer needs its workers to finish the
    # step. Once it leaves or is gone, a SIGTERM must work.
    def on_term(number: int, frame: FrameType | None) -> None:
        try:
            os.kill(trainer, 0)
        except ProcessLookupError:
            os._exit(0)
        if leaving.value:
            os._exit(0)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_term)


@contextlib.contextmanager
def loaded(
    dataset: Any,
    indices: MicroBatches,
    *,
    workers: int,
    collate: Callable[[list[Any]], Any] | None,
    pin: bool,
) -> Iterator[Iterator[Any]]:
    """Batches of ``dataset`` at ``indices``; the global random state is left alone.

    Parameters
    ----------
    dataset : IndexedData
    indices : MicroBatches
    workers : int >= 0
        Processes that load ahead; they survive signals to the process group as long as the block runs.
    collate : callable or None
        From a list of items to a batch; default: PyTorch's.
    pin : bool
        Put batches into memory that a GPU can fetch from.

    Yields
    ------
    iterator
        One batch for each list of indices.
    """
    leaving = multiprocessing.RawValue("b", 0)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin,
        worker_init_fn=functools.partial(_outlive_signals, leaving, os.getpid()),
        generator=torch.Generator(),  # else the loader draws a seed from the global generator
    )
    try:
        yield iter(loader)
    finally:
        leaving.value = 1
