"""A module's tensors in a safetensors file, and back with every mismatch named."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdiff.errors import CheckpointError


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, each tensor once even when two names share it."""
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    persistent = module.state_dict(keep_vars=True).keys()
    tensors.update({name: buffer for name, buffer in module.named_buffers() if name in persistent})
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, half: Container[str] = ()) -> None:
    """Write tensors to a safetensors file.

    Parameters
    ----------
    path : Path
        File to write.
    tensors : mapping of str to Tensor
        Tensors on any device.
    half : container of str
        Names of tensors to store as float16 if they are float32 or float64.

    Raises
    ------
    CheckpointError
        A value is not finite, or becomes infinite in float16.
    """
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        narrow = name in half and tensor.dtype in (torch.float32, torch.float64)
        kept = tensor.to(torch.float16) if narrow else tensor
        if narrow and not torch.isfinite(kept).all():
            raise CheckpointError(
                f"{name} has values float16 cannot hold (largest {tensor.abs().max().item():g}, "
                "limit 65504); save with half=False, or look for a diverged training run"
            )
        stored[name] = kept.contiguous()
    save_tensors(path, stored)


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors as they are, with the permissions that a new file has (safetensors: its owner's)."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata)
    path.chmod(mode)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU.

    Raises
    ------
    CheckpointError
        The file is missing, cut short or not a safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch or write the file again") from None


def assign_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Copy tensors into a module's parameters and buffers, casting to the module's dtypes.

    Parameters
    ----------
    module : nn.Module
        Receiver; unchanged if anything does not fit.
    tensors : mapping of str to Tensor
        One for every name of :func:`named_tensors`, of the same shape.
    source : str or Path
        Where the tensors come from, for the message.

    Raises
    ------
    CheckpointError
        Names every missing, unexpected and wrongly shaped tensor (the first eight of each).
    """
    wanted = named_tensors(module)
    problems = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "wrong shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(target.shape)}"
            for name, target in wanted.items()
            if name in tensors and tensors[name].shape != target.shape
        ],
    }
    found = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}: {'; '.join(found)}; "
            "build the module with the arguments it was saved with"
        )
    with torch.no_grad():
        for name, target in wanted.items():
            target.copy_(tensors[name])


def _some(names: list[str], limit: int = 8) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")
