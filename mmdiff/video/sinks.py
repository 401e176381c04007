"""What pictures are written into where it is no film: a series of images, one image, an archive of arrays."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.video.stills import numbered

SINGLE = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Sink(Protocol):
    """What takes pictures (f, H, W, 3) uint8 and sound (channels, samples) float32, block by block."""

    def pictures(self, block: np.ndarray) -> None:
        """Append pictures."""
        ...

    def sound(self, wave: np.ndarray) -> None:
        """Append sound."""
        ...

    def finish(self) -> None:
        """Complete the file."""
        ...


class Series:
    """Numbered images, from 0 on."""

    def __init__(self, pattern: Path, stack: contextlib.ExitStack) -> None:
        self._pattern, self._stack, self._count = pattern, stack, 0
        numbered(pattern)  # refuses what has more than one number

    def pictures(self, block: np.ndarray) -> None:
        """Append pictures."""
        self._pattern.parent.mkdir(exist_ok=True)
        for pixels in block:
            target = self._pattern.with_name(self._pattern.name % self._count)
            temporary = self._stack.enter_context(atomic_file(target))
            Image.fromarray(pixels).save(temporary)
            self._count += 1

    def sound(self, wave: np.ndarray) -> None:
        """Images have none: files are refused sound before."""
        raise AssertionError

    def finish(self) -> None:
        """Remove what a longer clip of this name has left."""
        for number, file in numbered(self._pattern):
            if number >= self._count:
                file.unlink()


class Archive:
    """An .npz with the entries video (F, H, W, 3), fps, and sound with sample_rate."""

    def __init__(self, temporary: Path, fps: float, sample_rate: int | None) -> None:
        self._temporary, self._fps, self._rate = temporary, fps, sample_rate
        self._blocks: list[np.ndarray] = []
        self._waves: list[np.ndarray] = []

    def pictures(self, block: np.ndarray) -> None:
        """Append pictures."""
        self._blocks.append(block.copy())

    def sound(self, wave: np.ndarray) -> None:
        """Append sound."""
        self._waves.append(wave.copy())

    def finish(self) -> None:
        """Write the file."""
        entries: dict[str, Any] = {"video": np.concatenate(self._blocks), "fps": self._fps}
        if self._waves:
            entries |= {"sound": np.concatenate(self._waves, 1), "sample_rate": self._rate}
        with self._temporary.open("wb") as file:
            np.savez_compressed(file, **entries)


class Single:
    """One image."""

    def __init__(self, target: Path, temporary: Path) -> None:
        self._target, self._temporary = target, temporary
        self._pixels: np.ndarray | None = None

    def pictures(self, block: np.ndarray) -> None:
        """Append pictures."""
        if self._pixels is not None or len(block) > 1:
            name = self._target.with_name(f"{self._target.stem}_%04d{self._target.suffix}").name
            raise InputError(
                f"path={str(self._target)!r} can hold one picture only: name a series as {name}, a .gif or "
                ".mp4, or draw a sheet with mmdiff.video.sheet.save_sheet"
            )
        self._pixels = block[0]

    def sound(self, wave: np.ndarray) -> None:
        """Images have none: files are refused sound before."""
        raise AssertionError

    def finish(self) -> None:
        """Write the file."""
        assert self._pixels is not None
        Image.fromarray(self._pixels).save(self._temporary)
