"""mmdiff: the diffusion toolkit for sound and moving pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mmdiff.audio.vocoder import Vocoder

__version__ = "0.1.0"


def load(source: str | Path, device: str | None = None, dtype: str | None = None) -> Vocoder:
    """Load a model as a pipeline ready to call.

    Parameters
    ----------
    source : str or Path
        Name of a shipped model, a model folder, or a Hugging Face hub id ``owner/name``.
    device : str, optional
        Default: the fastest there is.
    dtype : {"auto", "float32", "bfloat16", "float16"}, optional
        Of the networks' matrix products.

    Returns
    -------
    Vocoder

    Raises
    ------
    InputError
        There is no such model, device or dtype.
    CheckpointError
        The folder is broken or needs another version of mmdiff.

    Examples
    --------
    >>> voc = load("vocoder-16k")
    >>> wave = voc(mel, seed=0)  # doctest: +SKIP
    """
    from mmdiff.audio.vocoder import Vocoder  # a moment's import that `mmdiff --help` does not pay for
    from mmdiff.audio.vocoder_model import VocoderModel
    from mmdiff.errors import InputError
    from mmdiff.hub import load_model

    model = load_model(source)
    if not isinstance(model, VocoderModel):
        raise InputError(f"source={str(source)!r} holds a {type(model).__name__}, which is no vocoder")
    return Vocoder(model, device, dtype)
