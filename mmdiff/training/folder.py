"""A run's checkpoints: where they are, which to keep, and whether one fits the run that asks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmdiff.errors import CheckpointError, InputError, RecipeError
from mmdiff.training.checkpoint import (
    latest_checkpoint,
    list_checkpoints,
    read_checkpoint,
    rotate,
    write_checkpoint,
)
from mmdiff.training.ema import EMA
from mmdiff.training.settings import compare_settings
from mmdiff.training.updates import Updater
from mmdiff.weights import assign_tensors


class RunFolder:
    """Checkpoints of one run, in ``run_dir/checkpoints``.

    Parameters
    ----------
    run_dir : Path
    task, ema, updater
        What a checkpoint stores and restores.
    settings : dict
        JSON values that a resumed run must share with the one it goes on with.
    keep : int > 0
        Newest checkpoints to keep.
    best : str or None
        Metric whose best checkpoint is kept too; a leading ``-`` means that greater is better.

    Raises
    ------
    InputError
        ``keep`` is not positive.
    """

    def __init__(
        self,
        run_dir: Path,
        task: nn.Module,
        ema: EMA,
        updater: Updater,
        *,
        settings: dict[str, Any],
        keep: int,
        best: str | None,
    ) -> None:
        self._run_dir, self._folder = run_dir, run_dir / "checkpoints"
        self._task, self._ema, self._updater = task, ema, updater
        self._settings, self._keep, self._best = settings, keep, best
        if keep < 1:
            raise InputError(f"keep={keep} must be at least 1, the newest checkpoint")

    def path(self, step: int) -> Path:
        """Folder of the checkpoint at ``step``."""
        return self._folder / f"step-{step:08d}"

    def save(self, step: int) -> None:
        """Write the checkpoint at ``step`` and delete what is too old."""
        self._write(self.path(step), step, {})
        rotate(self._folder, self._keep)

    def _write(self, path: Path, step: int, more: Mapping[str, Any]) -> None:
        averages = [self._ema.tensors(index) for index in range(len(self._ema))]
        meta = {"step": step, "settings": self._settings, **more}
        write_checkpoint(path, self._task, averages, self._updater.state(), meta)

    def offer(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write ``best`` if these metrics are better than those it was written for.

        Raises
        ------
        RecipeError
            The metric to compare is not among them.
        """
        if self._best is None:
            return
        name, sign = self._best.removeprefix("-"), -1.0 if self._best.startswith("-") else 1.0
        if name not in metrics:
            known = ", ".join(metrics) or "there is none"
            raise RecipeError(f"best={self._best!r} must name a metric of the validation: {known}")
        value, path = float(metrics[name]), self._folder / "best"
        with contextlib.suppress(CheckpointError):  # none yet, or a broken one: written anew
            # Written like this, a NaN is never better
            if not sign * value < sign * read_checkpoint(path).meta["best"]:
                return
        if value == value:
            self._write(path, step, {"best": value})

    def begin(self) -> int:
        """Make sure that no run is overwritten.

        Returns
        -------
        int
            0.

        Raises
        ------
        RecipeError
            The folder has checkpoints.
        """
        if list_checkpoints(self._folder):
            raise RecipeError(
                f"run_dir={self._run_dir} holds a run; resume it, delete it, or choose another folder"
            )
        return 0

    def restore(self, say: Callable[[str], None]) -> int:
        """Load the newest whole checkpoint.

        Parameters
        ----------
        say : callable
            Told what is loaded and what is passed over.

        Returns
        -------
        int
            Its step; 0 if there is none.

        Raises
        ------
        CheckpointError
            A setting or tensor differs, or all checkpoints are broken.
        """
        found = latest_checkpoint(self._folder, say)
        if found is None:
            return 0
        compare_settings(self._settings, found.meta["settings"], found.path)
        assign_tensors(self._task, found.weights(), source=found.path)
        for index in range(len(self._ema)):
            self._ema.load(index, found.average(index))
        self._updater.load(found.training())
        say(f"resuming after step {found.step} from {found.path}")
        return found.step
