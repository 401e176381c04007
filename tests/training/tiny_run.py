"""A run small enough for tests, in this process or in one of its own."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.training import Trainer


class Points:
    """Item n: a random point and the sum of its coordinates; NaN where ``bad`` says so; an end if asked."""

    def __init__(self, bad: tuple[int, ...] = (), end: float = float("inf")) -> None:
        self.bad, self.end = bad, end

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index >= self.end:
            raise LookupError(f"no item {index}")
        x = torch.randn(4, generator=torch.Generator().manual_seed(1000 + index))
        return x, x.sum() * (float("nan") if index in self.bad else 1.0)


class Regression(nn.Module):
    """Fit the points; with noise from the generator and dropout from the global state if asked."""

    def __init__(self, noise: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        state = torch.random.get_rng_state()
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(dropout), nn.GELU(), nn.Linear(16, 1))
        torch.random.set_rng_state(state)
        self.register_buffer("calls", torch.zeros(()))
        self.noise = noise
        self._kill: tuple[int, int, int] | None = None

    def forward(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        x, y = batch
        x = x + self.noise * torch.randn(x.shape, generator=generator)
        self.calls += 1
        if self._kill is not None and int(self.calls) == self._kill[0] and rank() == self._kill[2]:
            send_signal(self._kill[1])
        error = self.net(x).squeeze(1) - y
        return {"loss": error.square().mean(), "mean_error": error.mean()}


def send_signal(number: int) -> None:
    """To this process; if it leads its group, to all of it, as Ctrl-C and schedulers do."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), number)
    else:
        os.kill(os.getpid(), number)


def rank() -> int:
    """Of this process."""
    return int(os.environ.get("RANK", "0"))


def make_trainer(
    folder: Path,
    *,
    noise: float = 0.1,
    dropout: float = 0.2,
    bad: tuple[int, ...] = (),
    end: float = float("inf"),
    kill: tuple[int, int, int] | None = None,
    **options: Any,
) -> Trainer:
    """Build a trainer; ``kill=(call, signal, rank)`` sends that rank a signal during that call."""
    task = Regression(noise, dropout)
    task._kill = kill
    settings: dict[str, Any] = {
        "steps": 20, "batch_size": 8, "learning_rate": 1e-2, "warmup_steps": 4, "ema": (0.9, "power:0.1"),
        "checkpoint_every": 8, "log_every": 1, "device": "cpu", "tensorboard": False,
    }  # fmt: skip
    return Trainer(folder, task, Points(bad, end), **{**settings, **options})


def run(folder: Path, environment: dict[str, str], resume: bool, options: dict[str, Any]) -> None:
    """Train, in a fresh process."""
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as outside of tests
    os.setsid()  # a group of its own, with its workers
    os.environ.update(environment)
    torch.set_num_threads(1)
    make_trainer(folder, **options).fit(resume=resume)
