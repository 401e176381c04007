"""Models of this project as the trainers of LMNT's packages save theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmdiff.audio.waveform import WaveformDiffusion
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.errors import InputError


def check_exportable(model: nn.Module) -> tuple[WaveformDiffusion, BetaTable]:
    """Return a model and its schedule if LMNT's packages diffuse and sample the same way.

    Raises
    ------
    InputError
        They do not.
    """
    assert isinstance(model, WaveformDiffusion)
    schedule = model.denoiser.schedule
    if not isinstance(schedule, BetaTable):
        raise InputError(
            f"schedule={type(schedule).__name__} must be a BetaTable: the packages have no other"
        )
    for name in ("prior", "level_ahead"):
        if value := getattr(model, name, None):
            raise InputError(f"{name}={value} must not be set: the packages sample without it")
    if model.latents or model.denoiser.prediction != "eps":
        raise InputError(
            f"prediction={model.denoiser.prediction!r} must be 'eps', and latents={model.latents} 0: the packages' "
            "networks find noise"
        )
    if model.clamp != "state":
        raise InputError(
            f"clamp={model.clamp!r} must be 'state': the packages keep the sampler's state within [-1, 1] and not "
            "what the network finds, so that their samples would differ; clamp is of sampling alone: write "
            '"clamp": "state" into model of config.json, listen, and convert again'
        )
    return model, schedule


def trainer_content(
    network: nn.Module, names: Mapping[str, str], params: Mapping[str, Any], step: int
) -> dict[str, Any]:
    """Collect what the trainers save, so that they can go on from it with a fresh optimiser.

    Parameters
    ----------
    network : nn.Module
    names : mapping of str to str
        Module of the package, and of this network, which both have a weight and a bias.
    params : mapping
        Hyper-parameters.
    step : int
        Updates so far.
    """
    ours = network.state_dict()
    kinds = ("weight", "bias")
    state = {f"{theirs}.{kind}": ours[f"{own}.{kind}"] for theirs, own in names.items() for kind in kinds}
    assert len(state) == len(ours), "weights would be lost"
    optimizer = torch.optim.Adam([nn.Parameter(tensor) for tensor in state.values()], params["learning_rate"])
    return {
        "step": step,
        "model": state,
        "optimizer": optimizer.state_dict(),
        "params": dict(params),
        "scaler": {},
    }
