"""Checkpoints of the ``diffwave`` package by LMNT, with and without a spectrogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmdiff.audio.checkpoints.assemble import make_sound_model, make_vocoder
from mmdiff.audio.checkpoints.reading import (
    HIGHEST_RATE,
    Params,
    build_network,
    check_tensors,
    choose_mel,
    count,
    find_state,
    lmnt_mel,
    rename,
    size,
    training_steps,
)
from mmdiff.audio.checkpoints.writing import check_exportable, trainer_content
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.check import describe
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.waveform import WaveformDiffusion
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, diffwave_fast_betas
from mmdiff.errors import CheckpointError, InputError
from mmdiff.registry import to_config

SIGNS = (
    "input_projection.weight",
    "diffusion_embedding.projection1.weight",
    "residual_layers.0.dilated_conv.weight",
)
"""Tensors that tell the network's state from others."""
_RELEASED = {
    "batch_size": 16,
    "learning_rate": 2e-4,
    "max_grad_norm": None,
    "sample_rate": 22_050,
    "n_mels": 80,
    "n_fft": 1024,
    "hop_samples": 256,
    "crop_mel_frames": 62,
    "unconditional": False,
    "audio_len": 110_250,
}
_LONGEST_CYCLE = 17  # dilations to 65536; the package takes 10


def module_names(layers: int, upsampling: int) -> dict[str, str]:
    """Name the modules of the package's network, and what they are called in :class:`DiffWave`.

    Parameters
    ----------
    layers : int > 0
    upsampling : int >= 0
        Layers that bring the spectrogram to the waveform's rate; 0 for a network without one.
    """
    names = {
        "input_projection": "wave_in",
        "diffusion_embedding.projection1": "embed_step.first",
        "diffusion_embedding.projection2": "embed_step.second",
        "skip_projection": "skip_out",
        "output_projection": "out",
    }
    names |= {f"spectrogram_upsampler.conv{n + 1}": f"upsample.convs.{n}" for n in range(upsampling)}
    parts = {"dilated_conv": "dilated", "diffusion_projection": "step", "output_projection": "out"}
    if upsampling:
        parts["conditioner_projection"] = "mel"
    for n in range(layers):
        names |= {f"residual_layers.{n}.{theirs}": f"layers.{n}.{ours}" for theirs, ours in parts.items()}
    return names


def diffwave_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the package's network to those of :class:`DiffWave`.

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
    upsampling = sum(f"spectrogram_upsampler.conv{n}.weight" in state for n in (1, 2))
    return rename(state, module_names(count(state, "residual_layers.{}.dilated_conv.weight"), upsampling))


def read_network(state: Mapping[str, Tensor], params: Params) -> tuple[DiffWave, dict[str, Any]]:
    """Build the network whose weights these are.

    Parameters
    ----------
    state : mapping of str to Tensor
        With the package's names.
    params : Params

    Returns
    -------
    network : DiffWave
    arguments : dict
        What it was built with.

    Raises
    ------
    CheckpointError
        The weights and parameters do not describe one network.
    """
    weights = diffwave_state(state)
    conditioned = "layers.0.mel.weight" in weights
    # kernels are twice the factors, which the weights do not hold
    factors = tuple(size(weights, f"upsample.convs.{n}.weight", 3) // 2 for n in range(2 * conditioned))
    arguments: dict[str, Any] = {
        "n_mels": size(weights, "layers.0.mel.weight", 1) if conditioned else 0,
        "channels": size(weights, "wave_in.weight", 0),
        "layers": count(weights, "layers.{}.dilated.weight"),
        "cycle": params.integer("dilation_cycle_length", 1, _LONGEST_CYCLE),
        "factors": factors or (1,),
        "step_width": size(weights, "embed_step.first.weight", 0),
    }
    shown = {"residual_layers": arguments["layers"], "residual_channels": arguments["channels"]}
    if conditioned:
        shown["hop_samples"] = math.prod(factors)
    for name, value in shown.items():
        if params.integer(name, 1, 2**31, value) != value:
            raise CheckpointError(
                f"params[{name!r}]={params.values[name]} of the checkpoint must be {value}, as its weights have it"
            )
    return build_network(DiffWave, arguments, weights), arguments


def recognise(content: Any) -> bool:
    """Say whether a loaded file is a checkpoint of the package, or its network's state."""
    return find_state(content, SIGNS) is not None


def build_model(
    content: Mapping[str, Any],
    *,
    mel: str | None = None,
    betas: Sequence[float] | None = None,
) -> tuple[WaveformDiffusion, dict[str, Any]]:
    """Build the model of a checkpoint of the package: a vocoder, or a model of sound without a spectrogram.

    It samples as the package does: ancestrally, the state clipped after each step. A vocoder takes the file's fast
    table by default; with as many steps as the training table has, it takes the training table.

    Parameters
    ----------
    content : mapping
        ``{"step": int, "model": state, "params": {...}, ...}`` as the package's trainer saves it.
    mel : str, optional
        Preset of the spectrogram. Default: what the package computes with the numbers in the file.
    betas : sequence of float, optional
        Noise variances for few steps, least noisy first; default: those in the file.

    Returns
    -------
    model : WaveformVocoder or SoundModel
    facts : dict
        What was found, as JSON values.

    Raises
    ------
    CheckpointError
        Hyper-parameters are missing or out of range, or weights do not fit together.
    InputError
        An option does not fit the network.
    """
    params = Params(content, "DiffWave by LMNT")
    network, arguments = read_network(check_tensors(find_state(content, SIGNS) or {}), params)
    if params.flag("unconditional", not network.n_mels) == bool(network.n_mels):
        raise CheckpointError(
            f"params['unconditional']={params.values['unconditional']} of the checkpoint contradicts its weights"
        )
    rate = params.integer("sample_rate", 1000, HIGHEST_RATE)
    schedule = BetaTable(params.betas("noise_schedule"))
    model: WaveformDiffusion
    if network.n_mels:
        hop, n_fft = network.hop_length, params.integer("n_fft", 2, 2**20)
        spec = choose_mel(mel, lmnt_mel(rate, hop, network.n_mels, n_fft), hop, network.n_mels)
        fast = params.betas("inference_noise_schedule", diffwave_fast_betas(schedule.steps))
        model, facts = make_vocoder(
            network, arguments, mel=spec, schedule=schedule, betas=betas, stored=fast, clamp="state"
        )
    elif mel is not None or betas is not None:
        raise InputError("mel and betas must not be given for a network without a spectrogram")
    else:
        seconds = params.integer("audio_len", 1, 2**31, 5 * rate) / rate
        model, facts = make_sound_model(
            network, arguments, schedule=schedule, sample_rate=rate, seconds=seconds, clamp="state"
        )
        facts["assumed"] = [] if "audio_len" in params.values else ["seconds"]
    return model, {"training_steps": training_steps(content), **facts}


def export_model(model: nn.Module, step: int) -> dict[str, Any]:
    """Make what the package's trainer would have saved of a model.

    Parameters
    ----------
    model : nn.Module
        A vocoder or a model of sound whose network is a :class:`DiffWave`.
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
    diffusion, schedule = check_exportable(model)
    network = to_config(diffusion.network)
    fixed = {"classes": 0, "step_width": 512, **({"factors": [16, 16]} if network["n_mels"] else {})}
    if different := [f"{name}={network[name]}" for name, value in fixed.items() if network[name] != value]:
        raise InputError(f"network with {', '.join(different)} must have {fixed}, as the package has")
    params = {
        **_RELEASED,
        "residual_layers": network["layers"],
        "residual_channels": network["channels"],
        "dilation_cycle_length": network["cycle"],
        "noise_schedule": list(schedule.betas),
        "inference_noise_schedule": list(diffusion.inference_betas or diffwave_fast_betas(schedule.steps)),
        **(_mel_params(diffusion.mel) if isinstance(diffusion, WaveformVocoder) else {}),
    }
    if isinstance(diffusion, SoundModel):
        length = round(diffusion.seconds * diffusion.sample_rate)
        params |= {"unconditional": True, "sample_rate": diffusion.sample_rate, "audio_len": length}
    names = module_names(network["layers"], 2 if network["n_mels"] else 0)
    return trainer_content(diffusion.network, names, params, step)


def _mel_params(spec: MelSpec) -> dict[str, Any]:
    if spec != lmnt_mel(spec.sample_rate, spec.hop_length, spec.n_mels, spec.n_fft):
        raise InputError(f"mel={describe(spec)} must be what the package computes, such as lmnt-diffwave-22k")
    return {"sample_rate": spec.sample_rate, "n_mels": spec.n_mels, "n_fft": spec.n_fft}
