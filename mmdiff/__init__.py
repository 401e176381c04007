"""mmdiff: the diffusion toolkit for sound and moving pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__version__ = "0.1.0"


def load(source: str | Path, device: str | None = None, dtype: str | None = None) -> Any:
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
    Vocoder, SoundGenerator or ClipGenerator
        Whichever suits the model: :class:`mmdiff.audio.vocoder.Vocoder` makes sound of spectrograms,
        :class:`mmdiff.audio.generator.SoundGenerator` makes it of labels or of nothing,
        :class:`mmdiff.video.generator.ClipGenerator` makes clips.

    Raises
    ------
    InputError
        There is no such device or dtype, ``source`` is empty, or the model is no generative one.
    CheckpointError
        There is no such model, or the folder is broken or needs another version of mmdiff.

    Examples
    --------
    >>> voc = load("vocoder-16k")
    >>> wave = voc(mel, seed=0)  # doctest: +SKIP
    >>> gen = load("clips-32")  # doctest: +SKIP
    >>> clip = gen("a seven moving left", seed=0)  # doctest: +SKIP
    """
    from mmdiff.audio.sound_model import SoundMaker
    from mmdiff.audio.vocoder_model import VocoderModel
    from mmdiff.errors import InputError
    from mmdiff.hub import find_model, load_model

    model = load_model(find_model(source, "SpectralVocoder", "MelSoundModel", "ClipModel"))
    if isinstance(model, VocoderModel):  # who wants a vocoder need not import video
        from mmdiff.audio.vocoder import Vocoder

        return Vocoder(model, device, dtype)
    if isinstance(model, SoundMaker):
        from mmdiff.audio.generator import SoundGenerator

        vocoder = load_model(model.vocoder) if model.vocoder else None
        if not isinstance(vocoder, VocoderModel | None):
            raise InputError(f"source={str(source)!r} needs {model.vocoder!r}, which is no vocoder")
        return SoundGenerator(model, device, dtype, vocoder)
    from mmdiff.video.generator import ClipGenerator
    from mmdiff.video.model import ClipModel

    if not isinstance(model, ClipModel):
        raise InputError(
            f"source={str(source)!r} holds a {type(model).__name__}, which is no vocoder and no model of sound or clips"
        )
    return ClipGenerator(model, device, dtype)
