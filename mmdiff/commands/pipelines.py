"""Models for commands: the pipeline a command works with, or a message which command to use."""

from __future__ import annotations

from typing import TypeVar

import mmdiff
from mmdiff.errors import InputError
from mmdiff.hub import find_model, shipped_models

P = TypeVar("P")
_COMMANDS = {"Vocoder": "mmdiff vocode", "ClipGenerator": "mmdiff clip", "SoundGenerator": "mmdiff sound"}
_SHIPPED = {
    "Vocoder": ("SpectralVocoder",),
    "ClipGenerator": ("ClipModel",),
    "SoundGenerator": ("MelSoundModel", "SoundModel"),
}


def load_pipeline(kind: type[P], model: str, device: str | None, dtype: str | None) -> P:
    """Load a model that must be of one kind.

    Raises
    ------
    InputError
        It is of another.
    CheckpointError
        There is no such model, or it is broken.
    """
    classes = _SHIPPED[kind.__name__]
    pipeline = mmdiff.load(find_model(model, *classes), device, dtype)
    if not isinstance(pipeline, kind):
        other = _COMMANDS.get(type(pipeline).__name__, "mmdiff.load in Python")
        shipped = ", ".join(shipped_models(*classes))
        such = f", such as the shipped {shipped}" if shipped else ""
        raise InputError(
            f"model={model!r} must be one for `{_COMMANDS[kind.__name__]}`{such}; it is one for `{other}`"
        )
    return pipeline
