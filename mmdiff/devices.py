"""Where and in what precision models run: the one place that decides about devices and dtypes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from mmdiff.errors import InputError

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str | None = None) -> torch.device:
    """Device by name; by default a GPU that CUDA knows, else the CPU.

    Apple's GPUs ("mps") are not for us: they have no float64, in which times and levels of noise are computed.

    Raises
    ------
    InputError
        The name is unknown, or the device is not on this machine or has no float64.
    """
    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(str(name))
        if device.type == "mps":
            raise RuntimeError("it has no float64, in which times and levels of noise are computed")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name!r} cannot be used: {reason}; try 'cpu' or leave it out") from None
    return device


def pick_compute_dtype(device: torch.device, name: str | None = None) -> torch.dtype | None:
    """Dtype of matrix products: None (float32), or a half precision.

    Parameters
    ----------
    device : torch.device
    name : {"auto", "float32", "bfloat16", "float16"}, optional
        "auto" takes bfloat16 where the hardware multiplies in it (GPUs since Ampere; CPUs with AMX or
        AVX-512-BF16), else float32.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if name in (None, "auto"):
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        fast = device.type == "cpu" and _cpu_multiplies_bfloat16()
        return torch.bfloat16 if fast else None
    if name not in _DTYPES:
        raise InputError(f"dtype={name!r} must be one of auto, {', '.join(_DTYPES)}")
    return _DTYPES[str(name)]


def _cpu_multiplies_bfloat16() -> bool:
    queries = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(query is not None and query() for query in queries)


def set_compute_dtype(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Tell every network in ``model`` in what dtype to multiply; None is float32."""
    for module in model.modules():
        if hasattr(module, "compute_dtype"):
            setattr(module, "compute_dtype", dtype)  # noqa: B010 - Module types no such attribute


def multiplying(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Make the context in which a network multiplies in ``dtype``; None keeps to what surrounds it."""
    kind = device.type
    enabled = dtype is not None or torch.is_autocast_enabled(kind)
    return torch.autocast(kind, dtype=dtype or torch.get_autocast_dtype(kind), enabled=enabled)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Make the context for what is measured, or small: matrix products are those of their operands, whatever surrounds.

    In bfloat16, which has three digits, a spectrogram of a training would be coarser than the one that is told later.
    """
    if not torch.amp.is_autocast_available(device.type):
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def same_compute_dtype(model: nn.Module) -> Iterator[None]:
    """Leave the dtypes in which networks multiply as they are, whatever is told them inside the block."""
    before = [
        (module, module.compute_dtype) for module in model.modules() if hasattr(module, "compute_dtype")
    ]
    try:
        yield
    finally:
        for module, dtype in before:
            setattr(module, "compute_dtype", dtype)  # noqa: B010 - Module types no such attribute


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with so many CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
