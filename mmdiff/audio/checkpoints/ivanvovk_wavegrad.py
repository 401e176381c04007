"""Checkpoints of WaveGrad as github.com/ivanvovk/WaveGrad trains it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.audio.checkpoints.assemble import make_vocoder
from mmdiff.audio.checkpoints.reading import (
    check_tensors,
    choose_mel,
    count,
    find_state,
    rename,
    stored_mel,
    training_steps,
)
from mmdiff.audio.checkpoints.wavegrad import SIX_STEPS, read_network
from mmdiff.audio.mel import LN_10, MelSpec
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, wavegrad_betas
from mmdiff.errors import CheckpointError

_NETWORK = "nn."
_SIGNS = ("nn.ublock_preconv.conv1d.weight", "nn.dblock_preconv.conv1d.weight")
_OLD_CODE = "positional_encoding.pe"
MEL = MelSpec(22_050, 1024, 1024, 300, 80, 80.0, 8000.0, "htk", None, 2.0, gain=1 / LN_10, floor=1e-10)
"""What the project computes by default. Its logarithm has no floor; where a band is empty it writes 0."""


def wavegrad_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the project's network to those of :class:`WaveGrad`.

    Parameters
    ----------
    state : mapping from str to Tensor
        State dictionary of its ``WaveGradNN``.

    Raises
    ------
    CheckpointError
        A weight is missing, or does not belong to that network.
    """
    levels = count(state, "ublocks.{}.first_block_residual_branch.0.conv1d.weight")
    names = {"ublock_preconv": "mel_in", "ublock_postconv": "out", "dblock_preconv": "wave_in"}
    for n in range(levels):
        first, second = f"ublocks.{n}.first_block_", f"ublocks.{n}.second_block_main_branch.modulation_"
        names |= {
            f"{first}residual_branch.0": f"up.{n}.shortcut",
            f"{first}main_branch.upsampling.2": f"up.{n}.convs.0",
            f"{first}main_branch.modulation.convolution": f"up.{n}.convs.1",
            f"{second}0.convolution": f"up.{n}.convs.2",
            f"{second}1.convolution": f"up.{n}.convs.3",
            f"films.{n}.signal_conv.0": f"film.{n}.conv_in",
            f"films.{n}.shift_conv": f"film.{n}.shift",
            f"films.{n}.scale_conv": f"film.{n}.scale",
        }
    for n in range(levels - 1):
        names[f"dblocks.{n}.residual_branch.0"] = f"down.{n}.shortcut"
        names |= {f"dblocks.{n}.main_branch.{i + 1}.convolution": f"down.{n}.convs.{i}" for i in range(3)}
    renamed = rename(state, {f"{theirs}.conv1d": ours for theirs, ours in names.items()})
    for n in range(levels):
        for kind in ("weight", "bias"):
            halves = [renamed.pop(f"film.{n}.{half}.{kind}") for half in ("shift", "scale")]
            renamed[f"film.{n}.conv_out.{kind}"] = _joined(halves)
    return renamed


def _joined(halves: list[Tensor]) -> Tensor:
    if halves[0].shape != halves[1].shape:
        raise CheckpointError(
            f"shift and scale of the checkpoint must be alike; got {tuple(halves[0].shape)} and "
            f"{tuple(halves[1].shape)}"
        )
    return torch.cat(halves)


def recognise(content: Any) -> bool:
    """Say whether a loaded file is a checkpoint of the project."""
    return find_state(content, _SIGNS) is not None


def build_model(
    content: Mapping[str, Any],
    *,
    mel: str | None = None,
    factors: Sequence[int] | None = None,
    dilations: Sequence[Sequence[int]] | None = None,
    betas: Sequence[float] | None = None,
    sample_rate: int | None = None,
) -> tuple[WaveformVocoder, dict[str, Any]]:
    """Build the model of a checkpoint of the project.

    The file holds weights and the noise table that it was last tested with: all else is in a configuration
    beside it, and taken to be the project's own where no option says otherwise. The model samples as the project
    does: the network is told the noise level that a step reaches, not the one that it leaves.

    Parameters
    ----------
    content : mapping
        ``{"model": state, ...}`` as its logger saves it.
    mel : str, optional
        Preset of the spectrogram.
    factors, dilations : sequences, optional
        ``factors`` and ``upsampling_dilations`` of the configuration.
    betas : sequence of float, optional
        Noise variances for few steps, least noisy first; default: the project's six for LJSpeech.
    sample_rate : int, optional
        ``sample_rate`` of the configuration. Default: 22050.

    Returns
    -------
    model : WaveformVocoder
    facts : dict
        What was found, as JSON values.

    Raises
    ------
    CheckpointError
        Weights are missing or do not fit together.
    InputError
        An option does not fit the network.
    """
    tensors = check_tensors(find_state(content, _SIGNS) or {})
    state = {key.removeprefix(_NETWORK): t for key, t in tensors.items() if key.startswith(_NETWORK)}
    if any(key.endswith(_OLD_CODE) for key in state):
        raise CheckpointError(
            "the checkpoint is of an early version that coded the position of samples, not the noise level: "
            "networks of versions from October 2020 on can be converted"
        )
    network, arguments = read_network(
        wavegrad_state(state), factors, dilations, level_scale=5000.0, linear=True
    )
    hop = math.prod(arguments["factors"])
    stored = stored_mel(
        MEL, sample_rate=sample_rate or MEL.sample_rate, hop_length=hop, n_mels=network.n_mels
    )
    model, facts = make_vocoder(
        network,
        arguments,
        mel=choose_mel(mel, stored, hop, network.n_mels),
        schedule=BetaTable(wavegrad_betas()),
        betas=betas,
        stored=SIX_STEPS,
        clamp="data",
        level_ahead=True,
    )
    assumed = ["mel", "sample_rate", "factors", "dilations", "schedule", "betas"]
    return model, {"training_steps": training_steps(content), **facts, "assumed": assumed}
