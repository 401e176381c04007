"""Training for a given time of the processor instead of a number of updates, stopped and resumed exactly.

Methods are compared fairly at equal time of training, not at equal updates: an update of two players costs three times
that of one. The time is that of the processor, ``time.process_time``: on a machine with other work to do, a process
that has to wait does not lose its share. How fast the processor is while it works still depends on its neighbours, so
that what is compared should take turns.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.training.checkpoint import list_checkpoints, load_weights
from mmdiff.training.settings import compare_settings
from mmdiff.training.trainer import Trainer

_FIRST = 8  # updates by which the speed is measured
_SHARE = 0.8  # of the time left is planned at once: the speed may change


class Stopwatch(nn.Module):
    """A task that counts the time it is trained for; the count is stored in its checkpoints.

    Time passes from one call to the next, which takes in the backward pass, the optimizer's step and the data. What
    comes before the first call of a run, or after its last, is not counted; the last update of a run is when the next
    begins, as long as those before it were on average.

    Parameters
    ----------
    task : nn.Module
        As a :class:`~mmdiff.training.trainer.Trainer` wants it. Its parts are named ``task.NAME`` there.
    clock : callable
        Time in nanoseconds.
    """

    def __init__(self, task: nn.Module, clock: Callable[[], int] = time.process_time_ns) -> None:
        super().__init__()
        self.task, self._clock = task, clock
        self._last: int | None = None
        self.register_buffer("nanoseconds", torch.zeros((), dtype=torch.int64))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    nanoseconds: Tensor
    calls: Tensor

    @property
    def seconds(self) -> float:
        """How long the task was trained."""
        return int(self.nanoseconds) / 1e9

    def rest(self) -> None:
        """Do not count what comes before the next call."""
        self._last = None

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Count, and do what the task does."""
        now = self._clock()
        if self._last is not None:
            self.nanoseconds += now - self._last
        elif self.calls > 1:
            self.nanoseconds += self.nanoseconds // (self.calls - 1)
        self._last = now
        self.calls += 1
        found: dict[str, Tensor] = self.task(batch, generator)
        return found


def train_for(
    seconds: float,
    watch: Stopwatch,
    run_dir: str | Path,
    make_trainer: Callable[[int], Trainer],
    settings: Mapping[str, Any] | None = None,
) -> int:
    """Train until a stopwatch shows a time, to within a few updates, in several runs of a trainer on one folder.

    Each run plans its updates by the speed of the one before and resumes it, so that the weights are those of one run
    of all updates. An interrupted training goes on from its newest checkpoint; one that had its time already stays as
    it is.

    Parameters
    ----------
    seconds : float > 0
        Since the first update, earlier calls counted.
    watch : Stopwatch
        The task.
    run_dir : str or Path
        The trainer's folder.
    make_trainer : callable
        ``make_trainer(steps) -> Trainer`` of the stopwatch in that folder, with a learning rate that does not depend
        on the number of steps.
    settings : mapping, optional
        JSON values that make the run what it is, such as a recipe's arguments. They are stored beside the checkpoints,
        and no other ones go on from these.

    Returns
    -------
    int
        Updates made in all. The stopwatch has the weights of the last checkpoint, not their average.

    Raises
    ------
    InputError
        ``seconds`` is not positive.
    CheckpointError
        The folder holds a run with other settings.
    """
    if not seconds > 0:
        raise InputError(f"seconds={seconds} must be positive")
    if settings is not None:
        _keep_settings(Path(run_dir), settings)
    stored = list_checkpoints(Path(run_dir) / "checkpoints")
    step = load_weights(watch, run_dir, ema=None) if stored else 0
    before, then = 1, 0.0  # the last one is not counted yet
    while watch.seconds < seconds:
        known = (watch.seconds - then) / (step - before) if step > before else 0.0
        # Updates can become slower, as where a critic joins in: no run is longer than all before it.
        more = min(_planned(seconds - watch.seconds, known), step) if known else _FIRST
        before, then = max(1, step), watch.seconds
        step += more
        watch.rest()
        make_trainer(step).fit(resume=True)
    return step


def _keep_settings(run_dir: Path, settings: Mapping[str, Any]) -> None:
    """Store settings with a run, or complain that it has others."""
    file, own = run_dir / "settings.json", json.loads(json.dumps(dict(settings), default=str))
    if not file.exists():
        with atomic_file(file) as temporary:
            temporary.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")
        return
    compare_settings(own, json.loads(file.read_text(encoding="utf-8")), file)


def _planned(left: float, update: float) -> int:
    """Updates to make next, of those that take so long each."""
    number = left / update
    return math.ceil(number) if number <= _FIRST else int(_SHARE * number)
