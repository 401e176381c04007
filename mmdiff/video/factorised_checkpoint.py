"""Checkpoints of the ``video-diffusion-pytorch`` package as models of this one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mmdiff.diffusion.schedules import BetaTable, cosine_betas
from mmdiff.errors import CheckpointError, InputError
from mmdiff.video.conditioning import ConditionedNetwork
from mmdiff.video.factorised import FactorisedUNet, VectorCondition
from mmdiff.video.model import ClipModel
from mmdiff.weights import assign_tensors

_NETWORK = "denoise_fn."
_SIGNS = (
    "betas",
    "denoise_fn.init_conv.weight",
    "denoise_fn.time_rel_pos_bias.relative_attention_bias.weight",
)
"""Tensors that tell a state dictionary of the package from others."""
_MAX_BETA = 0.9999

_PLACES = (
    (r"init_conv", "read"),
    (r"init_temporal_attn\.fn", "read_time"),
    (r"time_mlp\.1", "level.0"),
    (r"time_mlp\.3", "level.2"),
    (r"(downs|ups)\.(\d+)\.([01])", r"\1.\2.blocks.\3"),
    (r"(downs|ups)\.(\d+)\.2\.fn", r"\1.\2.space"),
    (r"(downs|ups)\.(\d+)\.3\.fn", r"\1.\2.time"),
    (r"downs\.(\d+)\.4", r"shrink.\1"),
    (r"ups\.(\d+)\.4", r"grow.\1"),
    (r"mid_block1", "bottom.before"),
    (r"mid_spatial_attn\.fn", "bottom.space"),
    (r"mid_temporal_attn\.fn", "bottom.time"),
    (r"mid_block2", "bottom.after"),
    (r"final_conv\.0", "last"),
    (r"final_conv\.1", "write"),
)
"""Where modules went; the first that fits the beginning of a name counts."""

_PARTS = (
    (r"^downs\.", "down."),
    (r"^ups\.", "up."),
    (r"\.mlp\.1\.", ".steer."),
    (r"\.block1\.", ".first."),
    (r"\.block2\.", ".second."),
    (r"\.proj\.", ".conv."),
    (r"\.res_conv\.", ".shortcut."),
    (r"(first|second)\.norm\.(gamma|weight)$", r"\1.gain"),
    (r"(first|second)\.norm\.bias$", r"\1.constant"),
    (r"\.norm\.gamma$", ".norm.gain"),
    (r"\.(fn\.)+to_qkv\.", ".query_key_value."),
    (r"\.(fn\.)+to_out\.", ".out."),
)
"""What the parts within modules are called."""


def factorised_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the weights of the package's network to those of :class:`FactorisedUNet`.

    Parameters
    ----------
    state : mapping from str to Tensor
        State dictionary of a ``Unet3D``, of either vintage.

    Returns
    -------
    dict from str to Tensor
        For ``load_state_dict`` of ``FactorisedUNet(**factorised_arguments(state))``; views where possible.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith("rotary_emb.freqs"):
            renamed["frequencies"] = tensor  # one for all, stored in every attention
        elif key == "time_rel_pos_bias.relative_attention_bias.weight":
            renamed["distances.weight"] = tensor
        elif key == "null_cond_emb":
            renamed["absent"] = tensor.reshape(-1)
        else:
            name = _renamed(key)
            renamed[name] = _reshaped(name, tensor)
    return renamed


def _renamed(key: str) -> str:
    for pattern, place in _PLACES:
        found, count = re.subn(f"^{pattern}(?=\\.)", place, key)
        if count:
            key = found
            break
    for pattern, part in _PARTS:
        key = re.sub(pattern, part, key)
    return key


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    if name.endswith((".gain", ".constant")):
        return tensor.reshape(-1)
    if tensor.ndim == 5:  # a convolution over one frame
        return tensor.squeeze(2)
    return tensor.flatten(1) if ".space." in name and tensor.ndim == 4 else tensor


def factorised_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read the arguments of :class:`FactorisedUNet` off the shapes of the package's weights.

    Everything but the number of groups of the older vintage, 8 unless it was changed, shows in the shapes.

    Parameters
    ----------
    state : mapping from str to Tensor
        State dictionary of a ``Unet3D``, of either vintage.

    Returns
    -------
    dict
        Arguments by name.

    Raises
    ------
    CheckpointError
        A tensor that tells a size is missing.
    """
    try:
        base, channels, _, kernel, _ = state["init_conv.weight"].shape
        heads = state["time_rel_pos_bias.relative_attention_bias.weight"].shape[1]
        inner = state["init_temporal_attn.fn.fn.fn.to_out.weight"].shape[1]
        outputs = state["final_conv.1.weight"].shape[0]
        widths: list[int] = []
        while (weight := state.get(f"downs.{len(widths)}.0.block1.proj.weight")) is not None:
            widths.append(weight.shape[0])
        null = state.get("null_cond_emb")
        arguments = {
            "channels": channels,
            "base": base,
            "widths": tuple(widths),
            "heads": heads,
            "head_width": inner // heads,
            "condition": 0 if null is None else null.shape[1],
            "norm": "group" if "mid_block1.block1.norm.bias" in state else "rms",
            "linear_attention": "downs.0.2.fn.norm.gamma" in state,
            "outputs": outputs,
            "kernel": kernel,
        }
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"the network's tensors do not tell its sizes ({error}); is this a Unet3D of video-diffusion-pytorch?"
        ) from None
    return arguments


def recognise(content: Any) -> bool:
    """Say whether a loaded file is a checkpoint of ``video-diffusion-pytorch``, or its diffusion's state."""
    states = [content, *content.values()] if isinstance(content, Mapping) else []
    return any(isinstance(state, Mapping) and set(_SIGNS) <= state.keys() for state in states)


def build_model(
    content: Mapping[str, Any],
    *,
    weights: Literal["ema", "model"] = "ema",
    size: int = 64,
    frames: int = 10,
    fps: float = 25 / 3,
    groups: int = 8,
    dynamic_threshold: float | None = None,
) -> tuple[ClipModel, dict[str, Any]]:
    """Build the model of a checkpoint of ``video-diffusion-pytorch``.

    It samples as the package does unless told otherwise: all steps of its table, ancestral, x0 clamped.

    Parameters
    ----------
    content : mapping
        ``{"step": int, "model": state, "ema": state, ...}`` as the package's trainer saves it, or the state
        dictionary of a ``GaussianDiffusion``.
    weights : {"ema", "model"}
        The averaged ones, or the latest.
    size : int > 0, pixels
        Height and width of the clips it was trained on, which the file does not tell. Like the next two it
        says what is generated unless something else is asked for; the defaults are those of the package's
        example, at the speed of the GIFs it writes.
    frames : int > 0
    fps : float > 0
    groups : int > 0
        Groups of the group normalisation, in versions before 0.7.
    dynamic_threshold : float in (0, 1], optional
        Quantile, if the package was used with ``use_dynamic_thres``; its own default is 0.9.

    Returns
    -------
    model : ClipModel
    facts : dict
        What was found, as JSON values.

    Raises
    ------
    CheckpointError
        The weights asked for are not there, or do not fit together.
    InputError
        ``size`` is not divisible by the network's stride, or a number is not positive.
    """
    diffusion = _state(content, weights)
    state = {key.removeprefix(_NETWORK): t for key, t in diffusion.items() if key.startswith(_NETWORK)}
    arguments = factorised_arguments(state)
    if arguments["norm"] == "group":
        arguments["groups"] = groups
    network = FactorisedUNet(**arguments)
    assign_tensors(network, factorised_state(state), source="the checkpoint")
    _check_clips(size, frames, fps, network.stride)
    schedule, cosine = _schedule(diffusion["betas"])
    condition = arguments["condition"]
    model = ClipModel(
        ConditionedNetwork(network, (VectorCondition(condition),)) if condition else network,
        schedule,
        prediction="eps",
        noise_input="index",
        channels=arguments["channels"],
        frames=frames,
        size=(size, size),
        fps=fps,
        clamp=True,
        dynamic_threshold=dynamic_threshold,
        steps=schedule.steps,
        sampler="ddpm",
        grid="uniform",
    )
    facts = {
        "weights": weights if "betas" not in content else "model",
        "training_steps": int(content["step"]) if isinstance(content.get("step"), int) else None,
        "parameters": sum(p.numel() for p in network.parameters()),
        "network": {**arguments, "widths": list(arguments["widths"])},
        "condition": f"vector of {condition} numbers" if condition else None,
        "schedule": f"{'cosine' if cosine else 'custom'}, {schedule.steps} steps",
        "prediction": "eps",
        "noise_input": "index",
        "clamp": [-1.0, 1.0],
        "dynamic_threshold": dynamic_threshold,
        "size": [size, size],
        "frames": frames,
        "fps": fps,
        "assumed": ["size", "frames", "fps"],
    }
    return model, facts


def _state(content: Mapping[str, Any], weights: str) -> Mapping[str, Tensor]:
    state = content if "betas" in content else content.get(weights)
    if not isinstance(state, Mapping) or not set(_SIGNS) <= state.keys():
        there = [name for name in ("ema", "model") if recognise({name: content.get(name)})]
        raise CheckpointError(
            f"weights={weights!r} are not in the checkpoint; it has {' and '.join(there)}, choose one of them"
        )
    if odd := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(
            f"{odd[0]} of the checkpoint must be a tensor; got {type(state[odd[0]]).__name__}"
        )
    return state


def _schedule(stored: Tensor) -> tuple[BetaTable, bool]:
    """The table, and whether it is the package's cosine: then without the rounding of the stored one."""
    exact = cosine_betas(len(stored), max_beta=_MAX_BETA)
    if torch.equal(torch.tensor(exact, dtype=torch.float64).float(), stored.float()):
        return BetaTable(exact), True
    try:
        return BetaTable(tuple(stored.double().tolist())), False
    except InputError as error:
        raise CheckpointError(f"the checkpoint's table of betas is none: {error}") from None


def _check_clips(size: int, frames: int, fps: float, stride: int) -> None:
    if size < 1 or size % stride:
        raise InputError(f"size={size} must be a multiple of {stride}, by which the network shrinks frames")
    if frames < 1 or not fps > 0:
        raise InputError(f"frames={frames} and fps={fps} must be positive; try 10 and 8")
