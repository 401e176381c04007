"""The settings that decide a run's weights: their rules, and whether two runs share them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdiff.errors import CheckpointError, InputError
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
    if settings["weight_decay"] < 0:
        raise InputError(f"weight_decay={settings['weight_decay']} must be 0 or more")
    if settings["grad_clip"] is not None and not settings["grad_clip"] > 0:
        raise InputError(f"grad_clip={settings['grad_clip']} must be positive, or None for no clipping")
    size, parts, processes = (settings[name] for name in ("batch_size", "accumulate", "processes"))
    if size % (parts * processes):
        raise InputError(
            f"batch_size={size} must be divisible by accumulate={parts} times {processes} process(es); "
            "batch_size counts the items of a whole update"
        )


def compare_settings(own: Mapping[str, Any], stored: Mapping[str, Any], source: Path) -> None:
    """Refuse to go on with a run of other settings: it would end with other weights.

    Parameters
    ----------
    own, stored : mapping
        JSON values of this run and of the checkpoint.
    source : Path
        The checkpoint, for the message.

    Raises
    ------
    CheckpointError
        Names the first setting that differs. The number of steps may, where the learning rate ignores it.
    """
    for key, value in own.items():
        free = key == "steps" and "lr_schedule" in own and own["lr_schedule"] not in USES_STEPS
        if stored.get(key) != value and not free:
            raise CheckpointError(
                f"{key}={value!r} must be {stored.get(key)!r}, as in {source}, to resume that run exactly; "
                "change it back, or start a new run in another folder from its weights (load_weights)"
            )
