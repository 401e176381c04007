"""Training checkpoints: written whole or not at all, found by name, broken ones passed over."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.errors import CheckpointError
from mmdiff.files import TEMPORARY, atomic_folder
from mmdiff.weights import assign_tensors, named_tensors, read_tensors, write_tensors

FORMAT = 1
_STEP_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """What a folder ``step-00001000/`` holds.

    Attributes
    ----------
    path : Path
        ``meta.json``, ``model.safetensors``, ``ema-0.safetensors`` ... and ``training.pt``.
    meta : dict
        ``step``, ``settings`` and whatever the writer added.
    """

    path: Path
    meta: dict[str, Any]

    @property
    def step(self) -> int:
        """Updates made when it was written."""
        return int(self.meta["step"])

    def weights(self) -> dict[str, Tensor]:
        """Every parameter and buffer of the task."""
        return read_tensors(self.path / "model.safetensors")

    def average(self, index: int = 0) -> dict[str, Tensor]:
        """Trained parameters of one average."""
        return read_tensors(self.path / f"ema-{index}.safetensors")

    def training(self) -> dict[str, Any]:
        """Optimizer state and counters; read without running any code of the file's."""
        file = self.path / "training.pt"
        try:
            state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise CheckpointError(f"cannot read {file}: {error}") from None
        return state


def _checksum(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            value = zlib.crc32(block, value)
    return value


def write_checkpoint(
    path: Path,
    task: nn.Module,
    averages: list[dict[str, Tensor]],
    training: Mapping[str, Any],
    meta: Mapping[str, Any],
) -> Path:
    """Write one checkpoint folder, replacing one of the same name.

    Parameters
    ----------
    path : Path
        Folder to appear.
    task : nn.Module
        Its parameters and persistent buffers are stored.
    averages : list of dict
        Averaged parameters by name.
    training : mapping
        Tensors and plain values only: it is read back with ``weights_only=True``.
    meta : mapping
        JSON values, with ``step`` and ``settings``.

    Returns
    -------
    Path
        ``path``.
    """
    with atomic_folder(path) as folder:
        write_tensors(folder / "model.safetensors", named_tensors(task))
        for index, tensors in enumerate(averages):
            write_tensors(folder / f"ema-{index}.safetensors", tensors)
        torch.save(dict(training), folder / "training.pt")
        files = {file.name: _checksum(file) for file in sorted(folder.iterdir())}
        text = json.dumps({"format": FORMAT, **meta, "files": files}, indent=2)
        (folder / "meta.json").write_text(text + "\n")
    return path


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint and compare its files with their checksums.

    Raises
    ------
    CheckpointError
        A file is missing, changed or cut short, or the format is newer than this version of mmdiff.
    """
    try:
        meta = json.loads((path / "meta.json").read_text())
        files, found, step = meta["files"], meta["format"], int(meta["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is no checkpoint: meta.json: {error!r}") from None
    if found != FORMAT:
        raise CheckpointError(f"{path} has format={found}, this mmdiff reads {FORMAT}; update mmdiff")
    assert step >= 0
    for name, checksum in files.items():
        file = path / Path(name).name
        if not file.is_file() or _checksum(file) != checksum:
            raise CheckpointError(f"{file} is missing or damaged")
    return Checkpoint(path, meta)


def list_checkpoints(folder: Path) -> list[Path]:
    """Folders ``step-*`` in ``folder``, oldest first; nothing is opened."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _STEP_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def latest_checkpoint(folder: Path, say: Callable[[str], None] = lambda text: None) -> Checkpoint | None:
    """Newest checkpoint that is whole.

    Parameters
    ----------
    folder : Path
        ``run_dir/checkpoints``.
    say : callable
        Told about each one that is passed over.

    Returns
    -------
    Checkpoint or None
        None if there is none at all.

    Raises
    ------
    CheckpointError
        There are some, but every one is broken.
    """
    candidates = list_checkpoints(folder)
    for path in reversed(candidates):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            say(f"passing over a broken checkpoint: {error}")
    if candidates:
        raise CheckpointError(f"all {len(candidates)} checkpoints in {folder} are broken; start a new run")
    return None


def rotate(folder: Path, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, and what a killed run left half written."""
    for path in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(path)
    for path in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path)


def load_weights(task: nn.Module, path: str | Path, *, ema: int | None = 0) -> int:
    """Put a checkpoint's weights into a task, to export, evaluate or start another run from them.

    Parameters
    ----------
    task : nn.Module
        Built with the same arguments as the trained one.
    path : str or Path
        A checkpoint folder, or a run folder (its newest whole checkpoint).
    ema : int or None, default=0
        Which average to use; None for the weights themselves.

    Returns
    -------
    int
        The checkpoint's step.

    Raises
    ------
    CheckpointError
        There is no whole checkpoint, it has no such average, or a tensor does not fit.
    """
    path = Path(path)
    inside = path / "checkpoints"
    checkpoint = latest_checkpoint(inside) if inside.is_dir() else read_checkpoint(path)
    if checkpoint is None:
        raise CheckpointError(f"{inside} has no checkpoint yet; train longer or look in another folder")
    tensors = checkpoint.weights()
    if ema is not None:
        averages = checkpoint.meta["settings"]["ema"]
        if not 0 <= ema < len(averages):
            raise CheckpointError(
                f"ema={ema} must be one of the {len(averages)} stored averages {averages}, or None"
            )
        tensors.update(checkpoint.average(ema))
    assign_tensors(task, tensors, source=checkpoint.path)
    return checkpoint.step
