"""One optimizer update: micro-steps, clipping, the guard against NaN, averages."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, send_to_device
from torch import Tensor, nn

from mmdiff.errors import InputError, RecipeError
from mmdiff.training.data import step_seed
from mmdiff.training.ema import EMA
from mmdiff.training.optim import Part, load_moments, split_parameters


def make_accelerator(device: str | None, precision: str) -> Accelerator:
    """Choose device and autocast.

    Parameters
    ----------
    device : {"cpu", "cuda"} or None
        None: the fastest there is.
    precision : {"no", "bf16", "fp16"}

    Returns
    -------
    Accelerator

    Raises
    ------
    InputError
        The device is missing or cannot compute in this precision.
    """
    if precision not in ("no", "bf16", "fp16"):
        raise InputError(f"precision={precision!r} must be 'no', 'bf16' or 'fp16'")
    # Accelerate keeps device and precision in process-wide state; a second Trainer may want others.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    on_cpu = device == "cpu" or (device is None and not torch.cuda.is_available())
    if on_cpu and precision == "fp16":
        raise InputError("precision='fp16' needs a GPU; use 'bf16' or 'no' on the CPU")
    handlers = [
        # A task may leave parameters out of a step, say those of a second stage.
        DistributedDataParallelKwargs(gradient_as_bucket_view=True, find_unused_parameters=True),
        # The other processes wait while the main one validates.
        InitProcessGroupKwargs(timeout=datetime.timedelta(hours=2)),
    ]
    try:
        accelerator = Accelerator(cpu=on_cpu, mixed_precision=precision, kwargs_handlers=handlers)
    except ValueError as error:
        raise InputError(f"precision={precision!r} does not work here: {error}") from None
    if device not in (None, accelerator.device.type):
        raise InputError(
            f"device={device!r} is not there, only {accelerator.device.type!r}; choose that, 'cpu' or None"
        )
    return accelerator


class Updater:
    """Applies updates to a task and keeps all state that changes with them, except the weights.

    Parameters
    ----------
    task : nn.Module
        On the accelerator's device.
    optimizer : torch.optim.Optimizer
        Over the task's trained parameters.
    ema : EMA
        Updated after every optimizer step.
    accelerator : Accelerator
    accumulate : int > 0
        Micro-steps of one update.
    grad_clip : float > 0 or None
        Greatest norm of the gradient, without the parts'.
    parts : mapping of str to Part
        Submodules that the optimizer trains otherwise; see :func:`make_adamw`.
    seed : int
        Of noise and dropout.

    Attributes
    ----------
    bad, skipped : int
        Updates skipped in a row until now, and in all.
    """

    def __init__(
        self,
        task: nn.Module,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        accelerator: Accelerator,
        *,
        accumulate: int,
        grad_clip: float | None,
        seed: int,
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        self._task, self._ema, self._accelerator = task, ema, accelerator
        self._model, self._optimizer = accelerator.prepare(task, optimizer)
        parts = parts or {}
        self._trained = split_parameters(task, parts)
        clips = {"": grad_clip, **{name: part.grad_clip for name, part in parts.items()}}
        self._limits = {name: math.inf if clip is None else clip for name, clip in clips.items()}
        self._accumulate, self._seed = accumulate, seed
        self.bad, self.skipped = 0, 0

    def __call__(
        self, step: int, batches: Iterator[Any], *, learning_rate: float, stop: int = 0
    ) -> tuple[dict[str, Tensor], dict[str, float], bool]:
        """Make update number ``step`` (from 0), or skip it if its loss or gradient is not finite.

        Parameters
        ----------
        step : int >= 0
        batches : iterator
            Gives one batch for each micro-step.
        learning_rate : float
            Of this update.
        stop : int
            Non-zero: this process was asked to stop.

        Returns
        -------
        totals : dict of str to Tensor
            The task's outputs, averaged over micro-steps (the loss over processes too), and ``grad_norm``
            before clipping, a part's as ``grad_norm_{name}``; empty if skipped.
        bad : dict of str to float
            ``loss`` and ``grad_norm`` if skipped, else empty.
        stop : bool
            Any process was asked to stop.
        """
        totals: dict[str, Tensor] = {}
        for micro in range(self._accumulate):
            for name, value in self._micro_step(step, micro, next(batches)).items():
                part = value.detach().float().mean() / self._accumulate
                totals[name] = totals[name] + part if name in totals else part
        norms = self._clip()
        totals.update(norms)
        norm = torch.stack(list(norms.values())).sum()
        # One transfer for everything that decides how to go on, summed so that all processes decide alike.
        decisive = torch.stack([totals["loss"], norm, torch.full_like(totals["loss"], float(stop))])
        shared = self._accelerator.reduce(decisive, "sum")
        loss, norm_sum, stops = shared.tolist()
        totals["loss"] = shared[0] / self._accelerator.num_processes
        bad = {}
        if math.isfinite(loss) and math.isfinite(norm_sum):
            self._apply(learning_rate)
        else:
            ranks = self._accelerator.num_processes
            totals, bad = {}, {"loss": loss / ranks, "grad_norm": norm_sum / ranks}
            self._skip()
        self._optimizer.zero_grad()
        return totals, bad, bool(stops)

    def _micro_step(self, step: int, micro: int, batch: Any) -> dict[str, Tensor]:
        rank, device = self._accelerator.process_index, self._accelerator.device
        torch.manual_seed(step_seed(self._seed, step, micro, rank, stream=0))  # dropout reads the global one
        generator = torch.Generator(device).manual_seed(step_seed(self._seed, step, micro, rank, stream=1))
        batch = send_to_device(batch, device, non_blocking=True)
        last = micro + 1 == self._accumulate
        with contextlib.nullcontext() if last else self._accelerator.no_sync(self._model):
            outputs: dict[str, Tensor] = self._model(batch, generator)
            if "loss" not in outputs or outputs["loss"].ndim:
                shapes = {name: tuple(value.shape) for name, value in outputs.items()}
                raise RecipeError(f'the task must return a scalar tensor "loss", got the shapes {shapes}')
            self._accelerator.backward(outputs["loss"] / self._accumulate)
        return outputs

    def _clip(self) -> dict[str, Tensor]:
        """Shorten gradients that are too long, each part's by itself; their norms before."""
        norms = {}
        for name, trained in self._trained.items():
            # Accelerate's also undoes the scaling of losses under fp16, which must happen once
            clip = torch.nn.utils.clip_grad_norm_ if name else self._accelerator.clip_grad_norm_
            norm = clip(trained, self._limits[name])
            assert isinstance(norm, Tensor)
            norms[f"grad_norm_{name}" if name else "grad_norm"] = norm.float()
        return norms

    def _apply(self, learning_rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * group.get("rate", 1.0)
        self._optimizer.step()
        self._ema.update(self._task)
        self.bad = 0

    def _skip(self) -> None:
        self.bad += 1
        self.skipped += 1
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.update()  # lowers the loss scale: the usual reason under fp16

    def state(self) -> dict[str, Any]:
        """Everything but the weights and averages, as tensors and plain values."""
        scaler = self._accelerator.scaler
        return {
            "optimizer": self._optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "ema_updates": self._ema.updates,
            "bad": self.bad,
            "skipped": self.skipped,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state` gave."""
        load_moments(self._optimizer, state["optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._ema.updates = state["ema_updates"]
        self.bad, self.skipped = state["bad"], state["skipped"]
