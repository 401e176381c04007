"""What a run leaves to read: ``log.jsonl``, media files, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from torch import Tensor

from mmdiff.files import atomic_file


@dataclass(frozen=True)
class Validation:
    """What a validation found.

    Attributes
    ----------
    metrics : dict of str to float
        Figures; names may hold ``/`` to group them.
    audio : dict of str to (Tensor, int)
        Sound (samples,) or (channels, samples) in [-1, 1] and its sample rate in Hz.
    images : dict of str to ndarray
        (H, W) shown in colours from its least to its greatest value, or (H, W, 3 or 4) as uint8 or floats in
        [0, 1]; the first row is the top.
    """

    metrics: Mapping[str, float]
    audio: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)
    images: Mapping[str, np.ndarray] = field(default_factory=dict)


def _plain(value: Any) -> Any:
    # JSON has no NaN and no infinity
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)


def _read_until(path: Path, step: int) -> list[dict[str, Any]]:
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line the killed run had only half written
        opening = row["kind"] in ("start", "resume")  # this run writes its own
        if row["step"] < step or (row["step"] == step and not opening):
            rows.append(row)
    return rows


class RunLog:
    """Writes a run's rows and media.

    Parameters
    ----------
    folder : Path
        The run's folder; gets ``log.jsonl``, ``media/step-*/`` and ``tensorboard/``.
    step : int
        Step the run starts or resumes at: rows of later steps, left by a killed run, are removed.
    tensorboard : bool
        Write TensorBoard events too, if it is installed.
    active : bool
        False writes nothing: every process but the main one.
    say : callable
        Told when TensorBoard is missing.
    """

    def __init__(
        self, folder: Path, *, step: int, tensorboard: bool, active: bool, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self._stream = None
        self._board = None
        self.last_validation = -1
        if not active:
            return
        path = folder / "log.jsonl"
        rows = _read_until(path, step)
        self.last_validation = max((r["step"] for r in rows if r["kind"] == "validation"), default=-1)
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self._stream = path.open("a", encoding="utf-8")
        self._board = self._open_board(step, say) if tensorboard else None

    def _open_board(self, step: int, say: Callable[[str], None]) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            say("tensorboard is not installed: figures and media go to files only")
            return None
        return SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in (self._stream, self._board):
            if sink is not None:
                sink.close()

    def row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one row; its numbers go to TensorBoard as ``kind/name``."""
        if self._stream is None:
            return
        plain = {name: _plain(value) for name, value in values.items()}
        self._stream.write(json.dumps({"kind": kind, "step": step, **plain}) + "\n")
        self._stream.flush()
        for name, value in values.items():
            if self._board is not None and isinstance(value, (int, float)):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def validation(self, step: int, result: Validation) -> None:
        """Append a validation's metrics and write its media."""
        self.last_validation = step
        self.row("validation", step, {name: float(value) for name, value in result.metrics.items()})
        if self._stream is None:
            return
        folder = self.folder / "media" / f"step-{step:08d}"
        for name, (wave, sample_rate) in result.audio.items():
            self._audio(folder, name, step, wave, sample_rate)
        for name, image in result.images.items():
            self._image(folder, name, step, image)

    def _audio(self, folder: Path, name: str, step: int, wave: Tensor, sample_rate: int) -> None:
        import soundfile  # heavy, and only runs that validate sound need it

        samples = wave.detach().float().cpu().clamp(-1, 1).reshape(-1, wave.shape[-1])
        with atomic_file(folder / f"{_file_name(name)}.wav") as path:
            soundfile.write(path, samples.T.numpy(), sample_rate, subtype="PCM_16", format="WAV")
        if self._board is not None:
            self._board.add_audio(name, samples.mean(0, keepdim=True), step, sample_rate)

    def _image(self, folder: Path, name: str, step: int, image: np.ndarray) -> None:
        from matplotlib import cm, colors
        from matplotlib.image import imsave

        if image.ndim == 2:
            image = cm.magma(colors.Normalize()(image.astype(np.float32)), bytes=True)[..., :3]
        with atomic_file(folder / f"{_file_name(name)}.png") as path:
            imsave(path, image, format="png")
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
