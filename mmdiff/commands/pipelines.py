"""Models for commands: the pipeline a command works with, or a message which command to use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import mmdiff
from mmdiff.commands.dispatch import find_function
from mmdiff.errors import InputError
from mmdiff.hub import find_model, shipped_models

P = TypeVar("P")


class _Kind(NamedTuple):
    """What commands know of a kind of pipeline."""

    command: str
    """Which works with it."""
    models: tuple[str, ...]
    """Classes of models behind it."""
    evaluation: str
    """Place of its evaluation, see :func:`evaluate_pipeline`."""
    likelihood: str
    """Place of the function that measures bits per dimension of files, see :func:`likelihood_of`."""


_OF_SOUND = "mmdiff.audio.evaluation.likelihood:evaluate_sound_likelihood"
_KINDS = {
    "Vocoder": _Kind(
        "mmdiff vocode", ("SpectralVocoder",), "mmdiff.commands.evaluate_sound:evaluate_vocoder", _OF_SOUND
    ),
    "ClipGenerator": _Kind(
        "mmdiff clip",
        ("ClipModel",),
        "mmdiff.commands.evaluate_clips:evaluate_clips",
        "mmdiff.video.evaluate_likelihood:evaluate_clip_likelihood",
    ),
    "SoundGenerator": _Kind(
        "mmdiff sound",
        ("MelSoundModel", "SoundModel", "LatentSoundModel"),
        "mmdiff.commands.evaluate_spoken:evaluate_sounds",
        _OF_SOUND,
    ),
}
"""By the name of the pipeline's class, so that none is imported before it is wanted."""


def evaluate_pipeline(pipeline: Any, asked: Mapping[str, Any]) -> int:
    """Measure a pipeline by its own evaluation: a function of it and of ``asked`` that refuses what is not its own.

    Parameters
    ----------
    pipeline : Vocoder, SoundGenerator or ClipGenerator
    asked : mapping
        All options of ``mmdiff evaluate`` by name.

    Returns
    -------
    int
        Exit status.
    """
    evaluation: Callable[..., int | None] = find_function(_KINDS[type(pipeline).__name__].evaluation)
    return evaluation(pipeline, asked) or 0


def likelihood_of(pipeline: Any) -> Callable[..., Any]:
    """Function that measures files' likelihood under the model of a pipeline, its first argument."""
    return find_function(_KINDS[type(pipeline).__name__].likelihood)


def load_pipeline(kind: type[P], model: str, device: str | None, dtype: str | None) -> P:
    """Load a model that must be of one kind.

    Raises
    ------
    InputError
        It is of another.
    CheckpointError
        There is no such model, or it is broken.
    """
    own = _KINDS[kind.__name__]
    pipeline = mmdiff.load(find_model(model, *own.models), device, dtype)
    if not isinstance(pipeline, kind):
        other = _KINDS[type(pipeline).__name__].command
        shipped = ", ".join(shipped_models(*own.models))
        such = f", such as the shipped {shipped}" if shipped else ""
        raise InputError(f"model={model!r} must be one for `{own.command}`{such}; it is one for `{other}`")
    return pipeline
