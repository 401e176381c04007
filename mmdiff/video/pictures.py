"""Any source of pictures, opened and sampled at the times, size and type wanted, and the sound under them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio import decode
from mmdiff.errors import InputError
from mmdiff.media.opening import PathLike, check_path
from mmdiff.video.convert import convert
from mmdiff.video.decode import Movie
from mmdiff.video.resize import Fit, Size, resize
from mmdiff.video.stills import ARRAYS, IMAGES, Array, Images, is_pattern
from mmdiff.video.timing import Timing, at_times

_WORK_BYTES = 1 << 24  # decoded pictures held before they are scaled


class Pictures(Protocol):
    """Any open source of pictures: a film, a series of images or an array."""

    timing: Timing
    width: int
    height: int
    rotation: int
    alpha: bool
    sound: bool
    codec: str

    def shown(self, start: float) -> Iterator[tuple[float, float, Any]]:
        """Yield (begin, end, undecoded picture) from one that has begun at ``start`` on."""
        ...

    def picture(self, raw: Any) -> np.ndarray:
        """Return a picture (H, W, 3), uint8, uint16 or float32 in [-1, 1]."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@contextlib.contextmanager
def opened(path: PathLike, fps: float | None) -> Iterator[Pictures]:
    """Open whatever ``path`` is; ``fps`` is for what has no rate of its own."""
    file = Path(path).expanduser()
    source: Pictures
    if is_pattern(file) or os.path.isdir(file) or file.suffix.lower() in IMAGES:
        source = Images(file, fps)
    elif file.suffix.lower() in ARRAYS:
        source = Array(file, fps)
    else:
        source = Movie(check_path(file))
    try:
        yield source
    finally:
        source.close()


def blocks(
    source: Pictures,
    path: PathLike,
    fps: float,
    start: float,
    count: int | None,
    size: Size | None,
    fit: Fit,
    dtype: torch.dtype,
) -> Iterator[Tensor]:
    """Yield the clip (3, f, H, W) in pieces of no particular size, of which a few fit into memory."""
    held: list[np.ndarray] = []
    done = 0
    for pixels in _sampled(source, fps, start, count):
        if held and (pixels.shape, pixels.dtype) != (held[0].shape, held[0].dtype):
            if size is None and pixels.shape != held[0].shape:
                old, new = held[0].shape[1::-1], pixels.shape[1::-1]
                raise InputError(
                    f"path={str(path)!r} has pictures of different sizes, {old} and {new}: give size=(H, W)"
                )
            yield _finished(held, size, fit, dtype)
            held = []
        held.append(pixels)
        done += 1
        if len(held) * pixels.nbytes >= _WORK_BYTES:
            yield _finished(held, size, fit, dtype)
            held = []
    if held:
        yield _finished(held, size, fit, dtype)
    if not done:
        raise InputError(
            f"start={start} must be before the end of path={str(path)!r}, which has "
            f"{source.timing.seconds or 0:.2f} s"
        )


def _sampled(source: Pictures, fps: float, start: float, count: int | None) -> Iterator[np.ndarray]:
    """Yield the pictures on screen at the times wanted; one that is repeated is decoded once."""
    last: Any = None
    pixels = np.empty(0)
    shown = at_times(source.shown(start), start, fps, source.timing.tolerance)
    for n, raw in enumerate(shown):
        if n == 0 or raw is not last:
            last, pixels = raw, source.picture(raw)
        yield pixels
        if count is not None and n + 1 >= count:
            return


def _finished(held: list[np.ndarray], size: Size | None, fit: Fit, dtype: torch.dtype) -> Tensor:
    """Turn pictures (H, W, 3) into a piece (3, f, H, W) of the right size and type."""
    stacked = np.stack(held)
    if stacked.dtype == np.uint16:
        stacked = stacked.astype(np.float32) * np.float32(2 / 65535) - 1
    video = torch.from_numpy(stacked).permute(0, 3, 1, 2)
    if size is not None:
        video = resize(video, size, fit)
    return convert(video.transpose(0, 1), dtype)


def sound_under(
    source: Pictures, path: PathLike, start: float, seconds: float
) -> tuple[Tensor | None, int | None]:
    """Return the sound under a clip, silence where there is none yet or no more."""
    if not source.sound:
        return None, None
    if isinstance(source, Array) and source.track is not None:
        wave, rate = source.track
        first = round(start * rate)
        return _exactly(torch.from_numpy(wave[:, first:]), round(seconds * rate)), rate
    ahead = source.sound_lead() if isinstance(source, Movie) else 0.0
    with decode.opened(path) as track:
        rate = track.sample_rate
        first, length = round((start + ahead) * rate), round(seconds * rate)
        silence = torch.zeros(track.channels, min(length, max(0, -first)))
        pieces = [torch.from_numpy(np.ascontiguousarray(b.T)) for b in
                  track.blocks(max(0, first), max(1, first + length))] if first + length > 0 else []  # fmt: skip
        return _exactly(torch.cat([silence, *pieces], -1), length), rate


def _exactly(wave: Tensor, length: int) -> Tensor:
    missing = max(0, length - wave.shape[-1])
    return torch.nn.functional.pad(wave[:, :length], (0, missing)).contiguous()
