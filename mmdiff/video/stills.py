"""Clips that are no film: folders and numbered series of images, single images, and NumPy arrays."""

from __future__ import annotations

import contextlib
import math
import os
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmdiff.errors import InputError
from mmdiff.media.opening import check_path, damaged
from mmdiff.video.pixels import MAX_PIXELS, check_pixels, over_black
from mmdiff.video.timing import EXACT, Timing

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ARRAYS = (".npz", ".npy")
DEFAULT_FPS = 25.0
_KINDS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM")
_MAY_MOVE = ("PNG", "WEBP", "TIFF")  # a photograph's preview in JPEG is no second picture
_NUMBER = re.compile(r"%0?\d*d")
# what Pillow and NumPy raise on damaged files
_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, MemoryError, NotImplementedError,
    RuntimeError, UnidentifiedImageError, struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def is_pattern(path: Path) -> bool:
    """Say whether a path names a series of images, such as ``frame_%04d.png``."""
    return _NUMBER.search(path.name) is not None


def numbered(path: Path) -> list[tuple[int, Path]]:
    """Return the files of a series with their numbers, in order."""
    before, *after = _NUMBER.split(path.name)
    if len(after) != 1:
        raise InputError(f"path={str(path)!r} must hold one %d (or %04d) for the number of the picture")
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after[0]))
    names = path.parent.iterdir() if os.path.isdir(path.parent) else ()
    matches = ((pattern.fullmatch(file.name), file) for file in names)
    return sorted((int(match[1]), file) for match, file in matches if match)


class Images:
    """A series of images shown at a constant rate; attributes as of :class:`~mmdiff.video.decode.Movie`.

    Raises
    ------
    InputError
        There is none, or the first cannot be read.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self.file = path
        self._files = _list_images(path)
        fps = fps or DEFAULT_FPS
        self.timing = Timing(fps, False, EXACT, len(self._files), len(self._files) / fps)
        self.rotation, self.sound = 0, False
        with _opened_image(self._files[0]) as image:
            self.alpha = image.has_transparency_data
            self.codec = f"images/{str(image.format).lower()}"
            turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap the sides
            self.width, self.height = image.size[::-1] if turned else image.size

    def shown(self, start: float) -> Iterator[tuple[float, float, Path]]:
        """Yield (begin, end, file) in seconds from the image that has begun at ``start`` on."""
        for begin, end, n in _shown(len(self._files), self.timing.fps, start):
            yield begin, end, self._files[n]

    def picture(self, file: Path) -> np.ndarray:
        """Return an image upright in RGB, (H, W, 3), uint8 or, above 8 bits, uint16; transparent is black."""
        with _opened_image(file) as image:
            return _pixels(ImageOps.exif_transpose(image))

    def close(self) -> None:
        """Nothing is held open."""


def _shown(count: int, fps: float, start: float) -> Iterator[tuple[float, float, int]]:
    """Begin, end and index of each of ``count`` pictures, from the one that has begun at ``start`` on."""
    first = max(0, min(count - 1, int((start + EXACT) * fps) - 1))
    return ((n / fps, (n + 1) / fps, n) for n in range(first, count))


def _list_images(path: Path) -> list[Path]:
    if is_pattern(path):
        files = [file for _, file in numbered(path)]
        if not files:
            raise InputError(f"path={str(path)!r} matches no file: check the folder and the name")
        return files
    if not os.path.isdir(path):
        return [check_path(path)]
    files = [f for f in path.iterdir() if f.suffix.lower() in IMAGES and not f.name.startswith(".")]
    if not files:
        raise InputError(
            f"path={str(path)!r} is a folder without images ({', '.join(IMAGES)}): name a video in it"
        )
    return sorted(files, key=_natural)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sort 2 before 10."""
    parts = re.split(r"(\d+)", file.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


@contextlib.contextmanager
def _opened_image(file: Path) -> Iterator[Image.Image]:
    """Open an image; what Pillow finds wrong with it, now or later in the block, is an InputError."""
    check_path(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # check_pixels has the limit
            image = Image.open(file, formats=_KINDS)
    except Image.DecompressionBombError:
        raise InputError(f"path={str(file)!r} has more than {MAX_PIXELS} pixels: scale it down") from None
    except _ERRORS:
        raise InputError(
            f"path={str(file)!r} is in no known image format, or damaged: use png or jpg"
        ) from None
    with image:
        check_pixels(file, *image.size)
        if image.format in _MAY_MOVE and getattr(image, "is_animated", False):
            raise InputError(
                f"path={str(file)!r} holds several pictures: save it as .gif or a folder of images"
            )
        try:
            yield image
        except _ERRORS as error:
            raise damaged(file, f"it cannot be decoded ({error})") from None


def _pixels(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":  # PIL's own conversion would clip at 255
        grey = np.asarray(image).astype(np.int64).clip(0, 65535).astype(np.uint16)
        return np.repeat(grey[..., None], 3, -1)
    if image.has_transparency_data:
        return over_black(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


class Array:
    """A clip in a .npy or .npz file; attributes as of :class:`~mmdiff.video.decode.Movie`.

    The pictures are the entry ``video`` of the archive, or its only array with three or four axes:
    (F, H, W, 3), (3, F, H, W), (F, H, W, 1), (1, F, H, W) or (F, H, W). uint8 is 0 to 255; floating point
    is in [-1, 1] if any value is negative or the archive says so by an entry ``range``, else in [0, 1], or
    in [0, 255] if a value passes 1. Entries ``fps``, ``sound`` (channels, samples) and ``sample_rate`` are
    understood.

    Raises
    ------
    InputError
        There is no such array in the file, or it is damaged.
    """

    def __init__(self, path: Path, fps: float | None) -> None:
        self.file = check_path(path)
        entries = _load(self.file)
        self._frames = _frames_first(self.file, _find_video(self.file, entries))
        self._low, self._high = _value_range(self.file, self._frames, entries)
        rate = _number(self.file, entries, "fps") or fps or DEFAULT_FPS
        count, self.height, self.width = self._frames.shape[:3]
        check_pixels(self.file, self.width, self.height)
        self.timing = Timing(rate, False, EXACT, count, count / rate)
        self.rotation, self.alpha = 0, False
        self.codec = f"numpy/{self._frames.dtype}"
        self.track = _sound(self.file, entries)
        self.sound = self.track is not None

    def shown(self, start: float) -> Iterator[tuple[float, float, int]]:
        """Yield (begin, end, index) in seconds from the picture that has begun at ``start`` on."""
        return _shown(len(self._frames), self.timing.fps, start)

    def picture(self, index: int) -> np.ndarray:
        """Return a picture (H, W, 3), uint8 or float32 in [-1, 1]."""
        values = np.broadcast_to(self._frames[index], (self.height, self.width, 3))
        if values.dtype == np.uint8:
            return values
        unit = (values.astype(np.float32) - self._low) / (self._high - self._low)
        if not np.isfinite(unit).all():
            raise InputError(f"path={str(self.file)!r} has values that are NaN or infinite in frame {index}")
        return np.clip(2 * unit - 1, -1, 1)

    def close(self) -> None:
        """Nothing is held open."""
        self._frames = self._frames[:0]


def _load(file: Path) -> dict[str, Any]:
    try:
        if file.suffix.lower() == ".npy":
            return {"video": np.load(file, mmap_mode="r", allow_pickle=False)}
        with np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except _ERRORS as error:
        raise damaged(file, f"it is no NumPy file of plain arrays ({error})") from None


def _find_video(file: Path, entries: dict[str, Any]) -> np.ndarray:
    if "video" in entries:
        return np.asanyarray(entries["video"])
    arrays = [a for a in entries.values() if a.ndim in (3, 4)]
    if len(arrays) != 1:
        shapes = {name: a.shape for name, a in entries.items()}
        raise InputError(f"path={str(file)!r} holds {shapes}: name the pictures 'video', shape (F, H, W, 3)")
    return np.asanyarray(arrays[0])


def _frames_first(file: Path, array: np.ndarray) -> np.ndarray:
    """Return a view (F, H, W, 3 or 1)."""
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"path={str(file)!r} has dtype={array.dtype}: it must be uint8 or floating point")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim == 4 and array.shape[-1] not in (1, 3) and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise InputError(
            f"path={str(file)!r} has pictures of shape {array.shape}: it must be (F, H, W, 3) or (3, F, H, W)"
        )
    return array


def _value_range(file: Path, frames: np.ndarray, entries: dict[str, Any]) -> tuple[float, float]:
    if frames.dtype == np.uint8:
        return 0.0, 255.0
    stated = entries.get("range")
    if stated is not None and np.shape(stated) == (2,) and stated[0] < stated[1]:
        return float(stated[0]), float(stated[1])
    low = min(float(frame.min()) for frame in frames)
    high = max(float(frame.max()) for frame in frames)
    if not (low >= -1.5 and high <= (1.5 if low < 0 else 255)):
        raise InputError(
            f"path={str(file)!r} has values from {low:.3g} to {high:.3g}: scale them to [-1, 1] or [0, 1]"
        )
    return (-1.0, 1.0) if low < 0 else (0.0, 1.0 if high <= 1.5 else 255.0)


def _number(file: Path, entries: dict[str, Any], name: str) -> float | None:
    """Return a positive number of the archive, or None where there is none of that name."""
    if name not in entries:
        return None
    array = np.asarray(entries[name])
    if array.size != 1 or array.dtype.kind not in "iuf" or not 0 < array.item() < math.inf:
        raise InputError(f"path={str(file)!r} says {name}={array}: it must be a positive number")
    return float(array.item())


def _sound(file: Path, entries: dict[str, Any]) -> tuple[np.ndarray, int] | None:
    rate = _number(file, entries, "sample_rate")
    if "sound" not in entries or rate is None:
        return None
    wave = np.asarray(entries["sound"])
    if wave.ndim != 2 or wave.dtype.kind != "f":
        raise InputError(
            f"path={str(file)!r}: sound.shape={wave.shape} must be (channels, samples), floating"
        )
    return wave.astype(np.float32), round(rate)
