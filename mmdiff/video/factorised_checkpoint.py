"""Weights and sizes of ``video-diffusion-pytorch`` checkpoints in the terms of :class:`FactorisedUNet`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmdiff.errors import CheckpointError

_SPATIAL_HEAD_WIDTH = 32

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
