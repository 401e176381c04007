"""DiffWave in the sizes of its paper, and small; the weight names of the ``diffwave`` package."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.waveform import upsampling_factors
from mmdiff.errors import InputError


def diffwave_base(n_mels: int = 80, hop_length: int = 256) -> DiffWave:
    """Build the paper's Base vocoder, 64 channels and 30 layers: 2,619,971 parameters (section 5.1).

    It is also the network of the ``diffwave`` package by LMNT; load its weights through :func:`lmnt_state`.
    """
    return DiffWave(n_mels, 64, 30, 10, _two_factors(hop_length))


def diffwave_large(n_mels: int = 80, hop_length: int = 256) -> DiffWave:
    """Build the paper's Large vocoder, 128 channels and 30 layers: 6,885,315 parameters (section 5.1)."""
    return DiffWave(n_mels, 128, 30, 10, _two_factors(hop_length))


def diffwave_small(n_mels: int = 80, hop_length: int = 256) -> DiffWave:
    """Build a vocoder of 32 channels and 20 layers, 387,011 parameters, for one processor core."""
    return DiffWave(n_mels, 32, 20, 10, _two_factors(hop_length), step_width=128)


def diffwave_sound(classes: int = 0) -> DiffWave:
    """Build the paper's network for sound without a spectrogram: 256 channels, 36 layers, dilations to 2048.

    Section 5.2 has it unconditional and section 5.3 with the ten digits' ``classes``, for a second at 16 kHz.
    """
    return DiffWave(0, 256, 36, 12, classes=classes)


def diffwave_sound_small(classes: int = 0) -> DiffWave:
    """Build a network for sound without a spectrogram on one processor core: 48 channels, dilations as the paper's."""
    return DiffWave(0, 48, 24, 12, classes=classes, step_width=128)


def _two_factors(hop_length: int) -> tuple[int, ...]:
    return upsampling_factors(hop_length, 2)


def lmnt_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the ``diffwave`` package's model to those of :class:`DiffWave`.

    Parameters
    ----------
    state : mapping from str to Tensor
        State dictionary: ``checkpoint["model"]`` of a ``weights-*.pt`` file.

    Returns
    -------
    dict from str to Tensor
        For ``load_state_dict``; the tensors are the same objects.

    Raises
    ------
    InputError
        A key does not belong to that model.
    """
    return {_lmnt_name(key): tensor for key, tensor in state.items()}


_PLACES = {"input_projection": "wave_in", "skip_projection": "skip_out", "output_projection": "out"}
_PARTS = {
    "dilated_conv": "dilated",
    "diffusion_projection": "step",
    "conditioner_projection": "mel",
    "output_projection": "out",
}


def _lmnt_name(key: str) -> str:
    match key.split("."):
        case [place, kind] if place in _PLACES:
            return f"{_PLACES[place]}.{kind}"
        case ["diffusion_embedding", ("projection1" | "projection2") as layer, kind]:
            return f"embed_step.{'first' if layer == 'projection1' else 'second'}.{kind}"
        case ["spectrogram_upsampler", ("conv1" | "conv2") as layer, kind]:
            return f"upsample.convs.{int(layer[-1]) - 1}.{kind}"
        case ["residual_layers", n, part, kind] if part in _PARTS:
            return f"layers.{n}.{_PARTS[part]}.{kind}"
    raise InputError(f"key={key!r} is not of a diffwave checkpoint: pass the mapping under its key 'model'")
