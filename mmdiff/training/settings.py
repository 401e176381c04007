"""The settings that decide a run's weights: their rules, and whether two runs share them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mmdiff.errors import CheckpointError, InputError
from mmdiff.registry import to_config
from mmdiff.training.lr import USES_STEPS


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be trained with.

    Raises
    ------
    InputError
        Names the first that breaks its rule.
    """
    for name in ("steps", "batch_size", "accumulate"):
        if not settings[name] > 0:
            raise InputError(f"{name}={settings[name]} must be positive")
    if not all(0 <= beta < 1 for beta in settings["betas"]):
        raise InputError(f"betas={settings['betas']} must lie in [0, 1)")
    if settings["weight_decay"] < 0:
        raise InputError(f"weight_decay={settings['weight_decay']} must be 0 or more")
    if settings["grad_clip"] is not None and not settings["grad_clip"] > 0:
        raise InputError(f"grad_clip={settings['grad_clip']} must be positive, or None for no clipping")
    if settings["workers"] < 0:
        raise InputError(f"workers={settings['workers']} must be 0 or more")
    if settings["best"] and settings["validate"] is None:
        raise InputError(f"best={settings['best']!r} needs validate, which measures it")
    size, parts, processes = (settings[name] for name in ("batch_size", "accumulate", "processes"))
    if size % (parts * processes):
        raise InputError(
            f"batch_size={size} must be divisible by accumulate={parts} times {processes} process(es); "
            "batch_size counts the items of a whole update"
        )


def task_settings(task: nn.Module) -> dict[str, Any]:
    """What a task says of itself in plain values: the weights of its losses, and the configuration of its models.

    Public attributes are taken that are JSON values, registered objects (:mod:`mmdiff.registry`), or dataclasses of
    such; what else it has, like networks of its own, is left to the names and shapes of its weights.
    """
    found = {name: _plain(value) for name, value in {**vars(task), **task._modules}.items() if name[0] != "_"}
    return {name: value for name, value in found.items() if value is not None and name != "training"}


def _plain(value: object) -> Any:
    """JSON of a value; None where there is none."""
    with contextlib.suppress(CheckpointError):
        return to_config(value)
    if dataclasses.is_dataclass(value):
        parts = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name: part for name, part in parts.items() if part is not None}
    return None


def compare_settings(own: Mapping[str, Any], stored: Mapping[str, Any], source: Path) -> None:
    """Refuse to go on with a run of other settings: it would end with other weights.

    Parameters
    ----------
    own, stored : mapping
        JSON values of this run and of the checkpoint. Runs from before there were settings of the "task" have none.
    source : Path
        The checkpoint, for the message.

    Raises
    ------
    CheckpointError
        Names the first setting that differs. The number of steps may, where the learning rate ignores it.
    """
    free = {"steps"} if "lr_schedule" in own and own["lr_schedule"] not in USES_STEPS else set()
    free |= {"task"} - stored.keys()
    for key in dict.fromkeys((*own, "parts")):  # these are told by runs that have any
        if key not in free and (found := _difference(key, own.get(key), stored.get(key))):
            name, value, known = found
            raise CheckpointError(
                f"{name}={value!r} must be {known!r}, as in {source}, to resume that run exactly; "
                "change it back, or start a new run in another folder from its weights (load_weights)"
            )


def _difference(name: str, own: Any, stored: Any) -> tuple[str, Any, Any] | None:
    """The first place where JSON values differ, by a dotted name; what rounding changes is the same."""
    if isinstance(own, Mapping) and isinstance(stored, Mapping):
        keys = dict.fromkeys([*own, *stored])
        inner = (_difference(f"{name}.{key}", own.get(key), stored.get(key)) for key in keys)
        return next((found for found in inner if found), None)
    if isinstance(own, list) and isinstance(stored, list) and len(own) == len(stored):
        pairs = zip(own, stored, strict=True)
        return (name, own, stored) if any(_difference(name, *pair) for pair in pairs) else None
    if isinstance(own, float) and isinstance(stored, float):
        return None if math.isclose(own, stored, rel_tol=1e-4) else (name, own, stored)
    return None if own == stored else (name, own, stored)
