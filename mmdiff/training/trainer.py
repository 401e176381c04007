"""One loop for every task: any device, exact resume, averages, a guard against NaN, clean stops."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from torch import nn

from mmdiff.errors import RecipeError
from mmdiff.training.data import IndexedData, MicroBatches, loaded
from mmdiff.training.ema import EMA, Profile
from mmdiff.training.folder import RunFolder
from mmdiff.training.log import RunLog, Validation
from mmdiff.training.lr import LearningRate
from mmdiff.training.optim import Part, make_adamw
from mmdiff.training.progress import Means, Reporter
from mmdiff.training.settings import check_settings, task_settings
from mmdiff.training.signals import StopSignals
from mmdiff.training.updates import Updater, make_accelerator


class Trainer:
    """Train a task on a dataset, in a folder that holds everything needed to go on.

    A *task* is a module called as ``task(batch, generator)`` that returns a dictionary of scalar tensors
    with ``"loss"``; all its entries are logged. A *dataset* gives item ``n >= 0`` by ``dataset[n]``, a pure
    function of n. The generator, and the global one that dropout uses, are seeded from (seed, step,
    micro-step, rank), so a resumed run repeats an uninterrupted one exactly without stored random state.

    Parameters
    ----------
    run_dir : str or Path
        Gets ``checkpoints/step-*/``, ``log.jsonl``, ``media/`` and ``tensorboard/``.
    task : nn.Module
        Moved to the device; parameters with ``requires_grad`` are trained. Its public attributes of plain values are
        settings of the run, with which alone it is resumed; others' names begin with an underscore.
    dataset : IndexedData
        Step s reads the items s·batch_size ... (s + 1)·batch_size - 1.
    steps : int > 0
        Updates of the whole run.
    batch_size : int > 0
        Items of one update over all processes and micro-steps.
    learning_rate : float > 0
        Peak of the schedule.
    betas, weight_decay
        Of AdamW; vectors (biases, gains) are not decayed.
    lr_schedule : {"cosine", "constant", "linear", "inverse_sqrt"}
        See :class:`mmdiff.training.lr.LearningRate`.
    warmup_steps : int >= 0
        Updates over which the learning rate rises from 0.
    grad_clip : float > 0 or None
        Greatest norm of the gradient.
    parts : mapping of str to Part, optional
        Submodules of the task with a learning rate, betas and a clipped gradient of their own, such as a critic's;
        see :mod:`mmdiff.training.adversarial`.
    accumulate : int > 0
        Micro-steps of one update; each sees ``batch_size / accumulate`` items.
    precision : {"no", "bf16", "fp16"}
        Autocast of the task's forward pass; weights stay float32. fp16 needs a GPU.
    ema : sequence of float or str
        Averages to keep, e.g. ``(0.999, "power:0.05")``; see :class:`mmdiff.training.ema.EMA`.
    workers : int >= 0
        Processes that load data; 0 loads in this one.
    validate : callable or None
        ``validate(task, step) -> Validation``, called in evaluation mode, without gradients and with the
        first average in place, on the main process only.
    validate_every, checkpoint_every, log_every : int
        In updates; 0 = only at the end.
    keep : int > 0
        Newest checkpoints to keep.
    best : str or None
        Validation metric whose best checkpoint is kept as ``checkpoints/best``; ``"-pesq"`` for the greatest
        ``pesq``, ``"loss"`` for the least ``loss``.
    max_bad_steps : int > 0
        Consecutive updates with a non-finite loss or gradient, which are skipped, before the run stops.
    seed : int
        Of the noise and dropout; the dataset has its own.
    collate : callable or None
        From a list of items to a batch; default: PyTorch's.
    device : {"cpu", "cuda"} or None
        None: the fastest there is.
    tensorboard : bool
        Write TensorBoard events if it is installed.

    Raises
    ------
    InputError
        An argument breaks its rule.

    Examples
    --------
    >>> from mmdiff.training import load_weights
    >>> _ = torch.manual_seed(0)
    >>> class Fit(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.line = nn.Linear(1, 1)
    ...     def forward(self, batch, generator):
    ...         x, y = batch
    ...         return {"loss": (self.line(x) - y).square().mean()}
    >>> class Points:
    ...     def __getitem__(self, n):
    ...         return torch.tensor([n % 5.0]), torch.tensor([2.0 * (n % 5)])
    >>> trainer = Trainer("runs/line", Fit(), Points(), steps=100, batch_size=4, learning_rate=0.1)
    >>> checkpoint = trainer.fit()  # doctest: +ELLIPSIS
    step 50/100  loss 2.372  grad_norm 4.293  lr 0.05157  steps_per_second ...
    step 100/100  loss 0.002059  grad_norm 0.1237  lr 2.467e-05  steps_per_second ...
    finished 100 steps; saved in runs/line/checkpoints/step-00000100
    >>> load_weights(trainer.task, checkpoint, ema=0)
    100
    """

    def __init__(
        self,
        run_dir: str | Path,
        task: nn.Module,
        dataset: IndexedData,
        *,
        steps: int,
        batch_size: int,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        lr_schedule: str = "cosine",
        warmup_steps: int = 0,
        grad_clip: float | None = 1.0,
        parts: Mapping[str, Part] | None = None,
        accumulate: int = 1,
        precision: Literal["no", "bf16", "fp16"] = "no",
        ema: Sequence[Profile] = (0.999,),
        workers: int = 0,
        validate: Callable[[nn.Module, int], Validation] | None = None,
        validate_every: int = 0,
        checkpoint_every: int = 1000,
        keep: int = 2,
        best: str | None = None,
        log_every: int = 50,
        max_bad_steps: int = 20,
        seed: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        device: str | None = None,
        tensorboard: bool = True,
    ) -> None:
        settings = {
            "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "betas": betas,
            "weight_decay": weight_decay, "lr_schedule": lr_schedule, "warmup_steps": warmup_steps,
            "grad_clip": grad_clip, "accumulate": accumulate, "precision": precision, "ema": tuple(ema),
            "seed": seed, "task": task_settings(task),
        }  # fmt: skip
        if parts:  # runs from before there were parts have no such setting
            settings["parts"] = {name: asdict(part) for name, part in parts.items()}
        self.accelerator = make_accelerator(device, precision)
        settings["processes"] = self.accelerator.num_processes
        check_settings({**settings, "workers": workers, "best": best, "validate": validate})
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.run_dir, self.dataset, self.steps = Path(run_dir), dataset, steps
        self.validate, self.validate_every = validate, validate_every
        self.checkpoint_every, self.log_every = checkpoint_every, log_every
        self.max_bad_steps, self.tensorboard = max_bad_steps, tensorboard
        self._learning_rate = LearningRate(learning_rate, lr_schedule, warmup_steps, steps)
        self.task = task.to(self.accelerator.device)
        self.ema = EMA(self.task, ema)
        optimizer = make_adamw(
            self.task, learning_rate=learning_rate, betas=betas, weight_decay=weight_decay, parts=parts
        )
        self._updater = Updater(
            self.task, optimizer, self.ema, self.accelerator,
            accumulate=accumulate, grad_clip=grad_clip, parts=parts, seed=seed,
        )  # fmt: skip
        self._folder = RunFolder(
            self.run_dir, self.task, self.ema, self._updater, settings=self.settings, keep=keep, best=best
        )
        self._workers, self._collate = workers, collate

    def fit(self, resume: bool = False) -> Path:
        """Train to the last step.

        Parameters
        ----------
        resume : bool, default=False
            Go on from the newest whole checkpoint in ``run_dir``, or start if there is none.

        Returns
        -------
        Path
            The final checkpoint, for :func:`mmdiff.training.checkpoint.load_weights`.

        Raises
        ------
        RecipeError
            The folder holds a run and ``resume`` is false, or ``max_bad_steps`` updates in a row were not
            finite.
        CheckpointError
            The run in the folder has other settings, or all its checkpoints are broken.
        SystemExit
            After SIGINT (code 130) or SIGTERM (143), when the checkpoint is written.
        """
        main = self.accelerator.is_main_process
        self._report = Reporter(self.steps, quiet=not main)
        say = self._report.say
        step = self._folder.restore(say) if resume else self._folder.begin()
        with (
            contextlib.closing(self._report),
            RunLog(self.run_dir, step=step, tensorboard=self.tensorboard, active=main, say=say) as self._log,
            StopSignals() as signals,
        ):
            self._log.row("resume" if step else "start", step, {"settings": self.settings})
            self._report.start(step)
            self._run(step, signals)
            say(f"finished {self.steps} steps; saved in {self._folder.path(self.steps)}")
        return self._folder.path(self.steps)

    def _run(self, step: int, signals: StopSignals) -> None:
        if step and self._due(step, self.validate_every):
            self._validate(step)  # the run may have been stopped between its checkpoint and its validation
        self.task.train()
        with self._batches(step) as batches:
            self._loop(step, batches, signals)

    def _loop(self, step: int, batches: Iterator[Any], signals: StopSignals) -> None:
        means = Means()
        while step < self.steps:
            rate = self._learning_rate(step)
            totals, bad, stop = self._updater(step, batches, learning_rate=rate, stop=signals.received)
            step += 1
            self._report.advance(step)
            means.add(totals)
            if bad:
                self._report_bad(step, bad)
            if self._due(step, self.log_every):
                self._log_row(step, rate, means)
                means = Means()
            with means.paused():
                if stop or self._due(step, self.checkpoint_every):
                    self._save(step)
                if stop:
                    self._exit(step, signals.received)
                if self._due(step, self.validate_every):
                    self._validate(step)

    def _due(self, step: int, every: int) -> bool:
        return step == self.steps or (every > 0 and step % every == 0)

    def _batches(self, step: int) -> contextlib.AbstractContextManager[Iterator[Any]]:
        size, parts = self.settings["batch_size"], self.settings["accumulate"]
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        indices = MicroBatches(step, self.steps, size, parts, rank, ranks)
        pin = self.accelerator.device.type == "cuda"
        return loaded(self.dataset, indices, workers=self._workers, collate=self._collate, pin=pin)

    def _report_bad(self, step: int, bad: dict[str, float]) -> None:
        row = self._updater.bad
        figures = f"loss={bad['loss']:g}, grad_norm={bad['grad_norm']:g}"
        self._log.row("skipped", step, {**bad, "in_a_row": row})
        self._report.say(f"step {step}: not finite, update skipped ({figures}; {row} in a row)")
        if row >= self.max_bad_steps:
            rate, warmup = self.settings["learning_rate"], self.settings["warmup_steps"]
            raise RecipeError(
                f"max_bad_steps={self.max_bad_steps} updates in a row were not finite (step {step}: {figures}); "
                f"lower learning_rate={rate}, lengthen warmup_steps={warmup} or check the data, and start again"
            )

    def _log_row(self, step: int, rate: float, means: Means) -> None:
        row = {**means.values(), "lr": rate, "steps_per_second": means.steps_per_second()}
        self._log.row("train", step, row)
        self._report.row(step, row)

    def _save(self, step: int) -> None:
        if self.accelerator.is_main_process:
            self._folder.save(step)
        self.accelerator.wait_for_everyone()

    def _exit(self, step: int, signal_number: int) -> NoReturn:
        place = self._folder.path(step)
        self._report.say(f"stopped after step {step}; saved in {place}; resume to go on from there")
        raise SystemExit(128 + (signal_number or signal.SIGTERM))  # 0: another process got the signal

    def _validate(self, step: int) -> None:
        if self.validate is None:
            return
        if self.accelerator.is_main_process and self._log.last_validation < step:
            began = time.monotonic()
            self.task.eval()
            averaged = self.ema.applied(self.task) if len(self.ema) else contextlib.nullcontext(self.task)
            with averaged, torch.no_grad():
                result = self.validate(self.task, step)
            self.task.train()
            self._log.validation(step, result)
            figures = "  ".join(f"{name} {value:.4g}" for name, value in result.metrics.items())
            self._report.say(f"step {step}: validation ({time.monotonic() - began:.1f} s)  {figures}")
            self._folder.offer(step, result.metrics)
        self.accelerator.wait_for_everyone()
