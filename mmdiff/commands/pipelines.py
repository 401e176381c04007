"""Models for commands: the pipeline a command works with, or a message which command to use."""

from __future__ import annotations

from typing import TypeVar

import mmdiff
from mmdiff.errors import InputError

P = TypeVar("P")
_COMMANDS = {"Vocoder": "mmdiff vocode", "ClipGenerator": "mmdiff clip"}


def load_pipeline(kind: type[P], model: str, device: str | None, dtype: str | None) -> P:
    """Load a model that must be of one kind.

    Raises
    ------
    InputError
        It is of another.
    """
    pipeline = mmdiff.load(model, device, dtype)
    if not isinstance(pipeline, kind):
        other = _COMMANDS.get(type(pipeline).__name__, "another command")
        raise InputError(
            f"model={model!r} must be one for `{_COMMANDS[kind.__name__]}`; it is one for `{other}`"
        )
    return pipeline
