"""Mel spectrograms in files: .npy, .npz, .pt and .safetensors, read without running anything they contain."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.errors import CheckpointError, InputError
from mmdiff.files import atomic_file
from mmdiff.registry import from_config, to_config
from mmdiff.weights import save_tensors

MEL_SUFFIXES = frozenset({".npy", ".npz", ".pt", ".pth", ".safetensors"})
_NAMES = ("mel", "mels", "mel_spectrogram", "mel_outputs_postnet", "spectrogram")
_SPEC_KEY = "mel_spec"
_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    KeyError,
    MemoryError,
    pickle.UnpicklingError,
    SafetensorError,
    zipfile.BadZipFile,
)


def read_mel(path: str | Path) -> tuple[Tensor, MelSpec | None]:
    """Read a mel spectrogram.

    Parameters
    ----------
    path : path ending in .npy, .npz, .pt, .pth or .safetensors
        One array or tensor of two or three dimensions, or several by name: then the one called "mel", or the
        only one of two or three dimensions.

    Returns
    -------
    mel : Tensor, shape (B, n, m), float32
        Both orientations are passed on as they are.
    spec : MelSpec or None
        The definition, where the file states it (:func:`write_mel` makes safetensors files that do).

    Raises
    ------
    InputError
        The file is missing, damaged, of another kind, or it is unclear which tensor is meant.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in MEL_SUFFIXES:
        raise InputError(f"path={str(path)!r} must end in {', '.join(sorted(MEL_SUFFIXES))}")
    if not path.is_file():
        raise InputError(f"path={str(path)!r} is no file: check the name")
    try:
        content, spec = _READERS[path.suffix.lower()](path)
    except _ERRORS as error:
        reason = (
            "it holds more than arrays" if isinstance(error, pickle.UnpicklingError) else _first_line(error)
        )
        raise InputError(
            f"path={str(path)!r} cannot be read as a mel spectrogram: {reason}. Write it again, as plain "
            "numbers: np.save or torch.save of one array or tensor"
        ) from None
    mel = _as_tensor(_choose(content, path), path)
    return mel if mel.ndim == 3 else mel[None], spec


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def write_mel(path: str | Path, mel: Tensor, spec: MelSpec | None = None) -> Path:
    """Write a mel spectrogram; the name appears only once all is written.

    Parameters
    ----------
    path : path ending in .npy or .safetensors
        Missing folders are made; a file of that name is replaced.
    mel : Tensor, shape (n_mels, frames) or (B, n_mels, frames)
    spec : MelSpec, optional
        Stored in a safetensors file, so that a reader knows what the numbers mean.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The suffix is another.
    """
    path = Path(path).expanduser()
    values = mel.detach().to("cpu", torch.float32).contiguous()
    if path.suffix.lower() not in (".npy", ".safetensors"):
        raise InputError(f"path={str(path)!r} must end in .npy or .safetensors")
    with atomic_file(path) as temporary:
        if path.suffix.lower() == ".npy":
            with temporary.open("wb") as file:
                np.save(file, values.numpy())
        else:
            metadata = None if spec is None else {_SPEC_KEY: json.dumps(to_config(spec))}
            save_tensors(temporary, {"mel": values}, metadata)
    return path


def _read_npy(path: Path) -> tuple[Any, None]:
    # Mapped first: a header that promises more than the file holds is refused before memory is taken.
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)), None


def _read_npz(path: Path) -> tuple[Any, None]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}, None


def _read_pt(path: Path) -> tuple[Any, None]:
    return torch.load(path, map_location="cpu", weights_only=True), None


def _read_safetensors(path: Path) -> tuple[Any, MelSpec | None]:
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_SPEC_KEY)
        content = {name: file.get_tensor(name) for name in list(file.keys())}
    return content, None if text is None else _spec_of(text, path)


def _spec_of(text: str, path: Path) -> MelSpec:
    try:
        config = json.loads(text)
        spec = from_config(config) if isinstance(config, dict) and config.get("class") == "MelSpec" else None
    except (ValueError, CheckpointError, RecursionError) as error:
        raise InputError(f"path={str(path)!r} states a mel definition that makes no sense: {error}") from None
    if not isinstance(spec, MelSpec):
        raise InputError(f"path={str(path)!r} states something else than a mel definition: {text[:60]!r}")
    return spec


_READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".safetensors": _read_safetensors,
}


def _choose(content: Any, path: Path) -> Any:
    """Pick the spectrogram among named values."""
    if isinstance(content, (list, tuple)) and len(content) == 1:
        content = content[0]
    if not isinstance(content, Mapping):
        return content
    shaped = {str(k): v for k, v in content.items() if getattr(v, "ndim", 0) in (2, 3)}
    for name in _NAMES:
        if name in shaped:
            return shaped[name]
    if len(shaped) == 1:
        return next(iter(shaped.values()))
    found = ", ".join(f"{k} {tuple(getattr(v, 'shape', ()))}" for k, v in list(content.items())[:8])
    raise InputError(
        f"path={str(path)!r} must hold one spectrogram, or one named 'mel'; it holds {found or 'nothing'}: "
        "save only the spectrogram"
    )


def _strange(value: Tensor) -> str | None:
    """What keeps a tensor from being plain numbers in memory."""
    if value.is_nested or value.layout != torch.strided:
        return "nested" if value.is_nested else str(value.layout)
    return "quantised" if value.is_quantized else "meta" if value.is_meta else None


def _as_tensor(value: Any, path: Path) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        value = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
    if isinstance(value, Tensor) and (strange := _strange(value)):
        raise InputError(f"path={str(path)!r} holds a {strange} tensor: save plain, dense numbers")
    if not isinstance(value, Tensor) or value.is_complex() or value.dtype == torch.bool:
        kind = getattr(value, "dtype", type(value).__name__)
        raise InputError(
            f"path={str(path)!r} holds {kind}: a mel spectrogram must be an array of real numbers"
        )
    if value.ndim not in (2, 3) or value.numel() == 0:
        raise InputError(
            f"path={str(path)!r} holds shape {tuple(value.shape)}: a mel spectrogram must be "
            "(n_mels, frames) or (batch, n_mels, frames), and not empty"
        )
    return value.detach().float()
