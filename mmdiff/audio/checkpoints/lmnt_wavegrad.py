"""Checkpoints of the ``wavegrad`` package by LMNT."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.checkpoints.assemble import make_vocoder
from mmdiff.audio.checkpoints.reading import (
    HIGHEST_RATE,
    MOST_HOP,
    Params,
    check_tensors,
    choose_mel,
    count,
    find_state,
    lmnt_mel,
    rename,
    training_steps,
)
from mmdiff.audio.checkpoints.wavegrad import SIX_STEPS, read_network
from mmdiff.audio.checkpoints.writing import check_exportable, trainer_content
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.check import describe
from mmdiff.audio.networks.wavegrad_presets import wavegrad_lmnt
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.errors import InputError
from mmdiff.registry import to_config

_SIGNS = ("downsample.0.weight", "film.0.input_conv.weight", "upsample.0.block1.weight", "first_conv.weight")


def module_names(levels: int) -> dict[str, str]:
    """Name the modules of the package's network, and what they are called in :class:`WaveGrad`.

    Parameters
    ----------
    levels : int > 0
        Number of ``upsample`` blocks.
    """
    names = {"downsample.0": "wave_in", "first_conv": "mel_in", "last_conv": "out"}
    for n in range(levels):
        names |= {f"film.{n}.input_conv": f"film.{n}.conv_in", f"film.{n}.output_conv": f"film.{n}.conv_out"}
        names[f"upsample.{n}.block1"] = f"up.{n}.shortcut"
        names |= {f"upsample.{n}.block{2 + i // 2}.{i % 2}": f"up.{n}.convs.{i}" for i in range(4)}
    for n in range(levels - 1):
        names[f"downsample.{n + 1}.residual_dense"] = f"down.{n}.shortcut"
        names |= {f"downsample.{n + 1}.conv.{i}": f"down.{n}.convs.{i}" for i in range(3)}
    return names


def wavegrad_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the package's network to those of :class:`WaveGrad`.

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
    CheckpointError
        A weight is missing, or does not belong to that network.
    """
    return rename(state, module_names(count(state, "upsample.{}.block1.weight")))


def recognise(content: Any) -> bool:
    """Say whether a loaded file is a checkpoint of the package, or its network's state."""
    return find_state(content, _SIGNS) is not None


def build_model(
    content: Mapping[str, Any],
    *,
    mel: str | None = None,
    factors: Sequence[int] | None = None,
    dilations: Sequence[Sequence[int]] | None = None,
    betas: Sequence[float] | None = None,
) -> tuple[WaveformVocoder, dict[str, Any]]:
    """Build the model of a checkpoint of the package.

    It samples as the package does, ancestrally and with the state clipped after each step, but by default in six
    steps. With as many steps as the training table has, it takes the package's own.

    Parameters
    ----------
    content : mapping
        ``{"step": int, "model": state, "params": {...}, ...}`` as the package's trainer saves it.
    mel : str, optional
        Preset of the spectrogram. Default: what the package computes with the sampling rate and hop in the file;
        for 24 kHz with librosa's filters, which the public checkpoint was trained with.
    factors, dilations : sequences, optional
        Of the network, if its code was changed.
    betas : sequence of float, optional
        Noise variances for few steps, such as the package's ``noise_schedule`` finds; least noisy first.

    Returns
    -------
    model : WaveformVocoder
    facts : dict
        What was found, as JSON values.

    Raises
    ------
    CheckpointError
        Hyper-parameters are missing or out of range, or weights do not fit together.
    InputError
        An option does not fit the network.
    """
    state = wavegrad_state(check_tensors(find_state(content, _SIGNS) or {}))
    params = Params(content, "WaveGrad by LMNT")
    rate, hop = params.integer("sample_rate", 1000, HIGHEST_RATE), params.integer("hop_samples", 2, MOST_HOP)
    schedule = BetaTable(params.betas("noise_schedule"))
    network, arguments = read_network(state, factors, dilations, level_scale=1.0)
    if math.prod(arguments["factors"]) != hop:
        raise InputError(
            f"factors={arguments['factors']} must multiply to the hop of the file, {hop} samples; the weights "
            "do not tell them: take them from the code that trained it"
        )
    spec = choose_mel(mel, default_mel(rate, hop, network.n_mels), hop, network.n_mels)
    model, facts = make_vocoder(
        network, arguments, mel=spec, schedule=schedule, betas=betas, stored=SIX_STEPS, clamp="state"
    )
    open_questions = ["betas", *(["mel"] if rate == 24_000 else [])]
    return model, {"training_steps": training_steps(content), **facts, "assumed": open_questions}


def default_mel(rate: int, hop: int, n_mels: int) -> MelSpec:
    """Definition that a file with these numbers was most likely trained with."""
    spec = lmnt_mel(rate, hop, n_mels)
    return replace(spec, mel_scale="slaney", norm="slaney") if rate == 24_000 else spec


def export_model(model: nn.Module, step: int) -> dict[str, Any]:
    """Make what the package's trainer would have saved of a model.

    Parameters
    ----------
    model : nn.Module
        A vocoder whose network is a :class:`WaveGrad`.
    step : int >= 0
        Updates of training so far.

    Returns
    -------
    dict
        For ``torch.save``.

    Raises
    ------
    InputError
        The package's code would compute something else with these weights.
    """
    vocoder, schedule = check_exportable(model)
    assert isinstance(vocoder, WaveformVocoder)
    with torch.device("meta"):
        theirs = to_config(wavegrad_lmnt())
    ours, spec = to_config(vocoder.network), vocoder.mel
    if different := [f"{name}={ours[name]}" for name in theirs if ours[name] != theirs[name]]:
        raise InputError(
            f"network with {', '.join(different)} must be that of wavegrad_lmnt(), the only one of the package"
        )
    if spec != default_mel(spec.sample_rate, spec.hop_length, spec.n_mels):
        raise InputError(f"mel={describe(spec)} must be what the package computes, such as lmnt-wavegrad-22k")
    params = {
        "batch_size": 32,
        "learning_rate": 2e-4,
        "max_grad_norm": 1.0,
        "sample_rate": spec.sample_rate,
        "hop_samples": spec.hop_length,
        "crop_mel_frames": 24,
        "noise_schedule": list(schedule.betas),
    }
    return trainer_content(vocoder.network, module_names(len(ours["factors"])), params, step)
