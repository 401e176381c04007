"""Other projects' checkpoints, recognised by what is in them and turned into models of this one."""

from __future__ import annotations

import importlib
import inspect
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.errors import CheckpointError, InputError
from mmdiff.files import atomic_file, check_writable
from mmdiff.hub import find_model, load_model, read_config

MAX_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint.

    Attributes
    ----------
    name : str
        Of the project.
    place : str
        Module with ``recognise(content) -> bool`` and
        ``build_model(content, **options) -> (model, facts)``. Under "assumed" facts name those that
        the file does not tell, unless an option of the same name does.
    """

    name: str
    place: str

    def recognise(self, content: Any) -> bool:
        """Say whether a loaded file is of this kind."""
        return bool(importlib.import_module(self.place).recognise(content))

    @property
    def builder(self) -> Callable[..., tuple[nn.Module, dict[str, Any]]]:
        """What makes a model of a loaded file."""
        function: Callable[..., tuple[nn.Module, dict[str, Any]]]
        function = importlib.import_module(self.place).build_model
        return function

    @property
    def options(self) -> tuple[str, ...]:
        """Names of what the builder can be told beyond the file."""
        return tuple(inspect.signature(self.builder).parameters)[1:]


FORMATS = (
    Format("video-diffusion-pytorch", "mmdiff.video.factorised_checkpoint"),
    Format("WaveGrad by LMNT", "mmdiff.audio.checkpoints.lmnt_wavegrad"),
    Format("WaveGrad by ivanvovk", "mmdiff.audio.checkpoints.ivanvovk_wavegrad"),
    Format("PriorGrad", "mmdiff.audio.checkpoints.priorgrad"),
    Format("DiffWave by LMNT", "mmdiff.audio.checkpoints.lmnt_diffwave"),
)
"""Tried in turn."""


EXPORTS = {
    "lmnt": {
        "WaveGrad": "mmdiff.audio.checkpoints.lmnt_wavegrad",
        "DiffWave": "mmdiff.audio.checkpoints.lmnt_diffwave",
    },
}
"""For each project, the networks that it can load, and modules with ``export_model(model, step) -> content``."""


def convert(path: str | Path, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Read a checkpoint of another project.

    Parameters
    ----------
    path : str or Path
        File written by ``torch.save``. Nothing but tensors and plain values is read from it: no code runs.
    **options
        What the file does not tell, or which of its weights to take, by the names of the format's
        :attr:`Format.options`; those that are None count as not given.

    Returns
    -------
    model : nn.Module
        Of a registered class, for :func:`mmdiff.hub.save_model`.
    facts : dict
        What was found and decided, as JSON values; ``format`` first. ``assumed`` lists what neither the file nor
        an option tells.

    Raises
    ------
    CheckpointError
        The file cannot be read, holds something unsafe, or is of no known kind.
    InputError
        An option is not for this kind of checkpoint, or is out of range.

    Examples
    --------
    >>> model, facts = convert("model-100.pt", size=32, frames=16)  # doctest: +SKIP
    """
    content = read_checkpoint(path)
    kind = next((kind for kind in FORMATS if kind.recognise(content)), None)
    if kind is None:
        raise CheckpointError(
            f"{path} is of no known kind ({', '.join(kind.name for kind in FORMATS)}): it holds {_summary(content)}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    if wrong := sorted(given.keys() - set(kind.options)):
        raise InputError(
            f"options={', '.join(wrong)} must be among those for {kind.name}: {', '.join(kind.options)}"
        )
    model, facts = kind.builder(content, **given)
    assumed = [name for name in facts.pop("assumed", ()) if name not in given]
    return model, {"format": kind.name, **facts, "assumed": assumed}


def export(folder: str | Path, out: str | Path, to: str = "lmnt") -> dict[str, Any]:
    """Write a model folder's weights as a checkpoint that another project loads, where that is exact.

    Parameters
    ----------
    folder : str or Path
        Or anything else that :func:`mmdiff.hub.load_model` finds.
    out : str or Path
        File to write: all of it or nothing.
    to : {"lmnt"}
        The packages ``wavegrad`` and ``diffwave`` by LMNT.

    Returns
    -------
    dict
        What was written, as JSON values.

    Raises
    ------
    InputError
        The project has no such network, or would compute or sample something else.
    CheckpointError
        The folder cannot be read.

    Examples
    --------
    >>> facts = export("models/mine", "weights.pt")  # doctest: +SKIP
    """
    if to not in EXPORTS:
        raise InputError(f"to={to!r} must be one of {', '.join(EXPORTS)}")
    check_writable(out)
    model = load_model(folder, "cpu")
    network = type(getattr(getattr(model, "denoiser", None), "network", model)).__name__
    if network not in EXPORTS[to]:
        raise InputError(
            f"to={to!r} must have a model of {' or '.join(EXPORTS[to])}; {folder} is a {type(model).__name__} "
            f"of {network}"
        )
    converted = read_config(find_model(folder)).get("converted")
    steps = converted.get("training_steps") if isinstance(converted, Mapping) else None
    module = importlib.import_module(EXPORTS[to][network])
    content = module.export_model(model, steps if isinstance(steps, int) else 0)
    with atomic_file(out) as temporary, temporary.open("wb") as file:  # torch's own writer tells no reasons
        torch.save(content, file)
    return {
        "format": f"{network} by {to.upper()}",
        "training_steps": content["step"],
        "parameters": sum(tensor.numel() for tensor in content["model"].values()),
        "params": content["params"],
    }


def read_checkpoint(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Read what ``torch.save`` wrote, on the CPU, without running code from it.

    Raises
    ------
    CheckpointError
        The file is missing, too large, damaged, of another kind, holds more than tensors and plain values,
        or claims larger tensors than it has bytes for.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not path.is_file() or size > max_bytes:
            raise CheckpointError(
                f"{path} must be a file of at most {max_bytes} bytes; "
                + (f"it has {size}" if path.is_file() else "it is a folder: give the file in it")
            )
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None
        )
    except Exception as error:
        # whatever a strange file makes PyTorch stumble over; its words are about its own source files
        if isinstance(error, OSError) and error.strerror:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
        raise CheckpointError(
            f"cannot read {path} as a checkpoint: it must be a whole file that torch.save wrote, "
            "with tensors and plain values only"
        ) from None
    tensors = _tensors(content)
    strange = [t for t in tensors if t.layout != torch.strided or t.device.type != "cpu"]
    if strange:
        raise CheckpointError(
            f"{path} holds a tensor without numbers of its own ({strange[0].layout}, on {strange[0].device}); "
            "save dense tensors that lie in memory"
        )
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    if claimed > size:
        raise CheckpointError(
            f"{path} claims tensors of {claimed} bytes and has {size}: it is damaged or made to fill memory"
        )
    return content


def _tensors(content: Any) -> list[Tensor]:
    """Tensors in nested mappings and lists, each storage's largest once."""
    found: dict[int, Tensor] = {}
    stack, seen = [content], set()
    while stack:
        value = stack.pop()
        if isinstance(value, Tensor):
            dense = value.layout == torch.strided
            key = (value.untyped_storage().data_ptr() if dense else 0) or id(value)
            if key not in found or found[key].numel() < value.numel():
                found[key] = value
        elif isinstance(value, (Mapping, list, tuple)) and id(value) not in seen:
            seen.add(id(value))  # lists that hold each other many times over are looked through once
            stack += value.values() if isinstance(value, Mapping) else value
    return list(found.values())


def _summary(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [str(key)[:40] for key in content]
    return f"{len(names)} entries, {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
