"""Video files: read any, whole, in part or in blocks, at any frame rate and size; write without half files.

A clip in memory is RGB of shape (C, F, H, W): C = 3 colours, F frames of H x W pixels, float32 in [-1, 1]
(or uint8 from 0 to 255), shown at ``fps`` frames a second. Time 0 is when the first picture is shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.blocks import check_span, rebuffer
from mmdiff.media.opening import PathLike
from mmdiff.video.convert import convert
from mmdiff.video.encode import WRITABLE, Writer, writer
from mmdiff.video.pictures import blocks, opened, sound_under
from mmdiff.video.resize import Fit, Size, check_fit, check_size, resize
from mmdiff.video.stills import ARRAYS, IMAGES
from mmdiff.video.timing import EXACT
from mmdiff.video.write import write

__all__ = [
    "READABLE",
    "WRITABLE",
    "Clip",
    "VideoInfo",
    "Writer",
    "convert",
    "info",
    "read",
    "resize",
    "stream",
    "write",
    "writer",
]

READABLE = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".gif", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv",
            ".ogv", ".3gp", *ARRAYS, *IMAGES)  # fmt: skip
MAX_BYTES = 4 << 30
_MAX_FPS = 1000.0


class Clip(NamedTuple):
    """Pictures ``video`` (C, F, H, W) at ``fps``, and ``sound`` (channels, samples) at ``sample_rate``."""

    video: Tensor
    fps: float
    sound: Tensor | None
    sample_rate: int | None


class VideoInfo(NamedTuple):
    """What a video file holds.

    ``frames`` as stored (None where only decoding would tell), ``seconds``, ``fps`` (of a variable rate the
    usual one where most pictures keep to one, else the average), ``width`` and
    ``height`` as displayed, after the clockwise ``rotation`` in degrees that the file asks for; whether it
    has ``sound``, a ``variable_rate`` or transparency (``alpha``); its ``container/codec``.
    """

    frames: int | None
    seconds: float
    fps: float
    width: int
    height: int
    rotation: int
    sound: bool
    variable_rate: bool
    alpha: bool
    codec: str


def info(path: PathLike) -> VideoInfo:
    """Describe a video file from its headers and its first picture.

    Packets of up to 64 MiB are counted, not decoded; of longer files ``frames`` is what the header says.

    Raises
    ------
    InputError
        As :func:`read`.
    """
    with opened(path, None) as source:
        timing = source.timing
        seconds = timing.seconds
        if seconds is None:
            seconds = max((end for _, end, _ in source.shown(0.0)), default=0.0)
        return VideoInfo(timing.frames, seconds, timing.fps, source.width, source.height, source.rotation,
                         source.sound, timing.variable, source.alpha, source.codec)  # fmt: skip


def read(
    path: PathLike,
    *,
    fps: float | None = None,
    start: float = 0.0,
    frames: int | None = None,
    seconds: float | None = None,
    size: Size | None = None,
    fit: Fit = "crop",
    sound: bool = False,
    dtype: torch.dtype = torch.float32,
    max_bytes: int = MAX_BYTES,
) -> Clip:
    """Read a clip.

    Frame n is the picture on screen at ``start + n / fps``: the latest that has begun by then, whatever the
    frame rate of the file, constant or variable. (A picture that begins later by less than what the
    container rounds times to counts as begun.) Films are entered near ``start``, not decoded up to it.

    Parameters
    ----------
    path : path
        mp4, mkv, webm, mov, avi, gif, ...; a folder of images, shown in natural order; a series of images
        such as ``frame_%04d.png``; one image; or .npy / .npz, see :class:`mmdiff.video.stills.Array`.
    fps : float > 0, frames a second, optional
        Frame rate of the clip. By default that of the file: every picture once, or for a variable rate the
        usual or average one, see :class:`VideoInfo`. Images have no rate of their own: all are read, at 25 by default.
    start : float >= 0, seconds
        Where to begin.
    frames : int > 0, optional
    seconds : float > 0, optional
        How much to read, one or the other; less comes back where the file ends earlier. By default all.
    size, fit
        Height and width to bring the pictures to, and how: see :func:`resize`. By default they keep theirs.
    sound : bool
        Read the sound too, all its channels, exactly as long as the pictures.
    dtype : torch.float32 | torch.uint8
        Of the pictures: [-1, 1] or 0 to 255. Pictures of more than 8 bits keep them in float32.
    max_bytes : int
        Refuse to return more.

    Returns
    -------
    Clip
        ``sound`` and ``sample_rate`` are None unless asked for and there.

    Notes
    -----
    Pictures are turned and mirrored as the file asks, brought to square pixels, and converted to RGB by the
    colour matrix and range that the file states (BT.601, limited, where it states none). What is transparent
    becomes black. High dynamic range is not mapped to a screen's. Interlaced fields are not separated.

    Raises
    ------
    InputError
        The file is missing, empty, of unknown format, without pictures, damaged, cut short; ``start`` lies
        past its end; an argument is impossible; or more than ``max_bytes`` would come back.

    Examples
    --------
    >>> clip = read("film.mp4", fps=8, start=2.5, frames=16, size=64)  # doctest: +SKIP
    >>> clip.video.shape  # doctest: +SKIP
    torch.Size([3, 16, 64, 64])
    """
    _check_arguments(fps, start, frames, seconds, size, fit, dtype)
    with opened(path, fps) as source:
        rate = fps or source.timing.fps
        count = _count(frames, seconds, rate)
        height, width = (source.height, source.width) if size is None else check_size(size)
        frame_bytes = 3 * height * width * dtype.itemsize
        timing = source.timing
        likely = math.inf if timing.seconds is None else math.ceil((timing.seconds - start) * rate - 1e-3)
        expected = max(1, int(min(likely, count or math.inf, 1 << 40)))
        if timing.seconds is not None or count is not None:
            _check_memory(path, expected, frame_bytes, (height, width), max_bytes, rate)
        else:
            expected = 64
        video = torch.empty(3, expected, height, width, dtype=dtype)
        filled = 0
        for block in blocks(source, path, rate, start, count, size, fit, dtype):
            _check_memory(path, filled + block.shape[1], frame_bytes, (height, width), max_bytes, rate)
            if filled + block.shape[1] > video.shape[1]:
                more = max(block.shape[1], video.shape[1] // 2)
                video = torch.cat([video, video.new_empty(3, more, height, width)], 1)
            video[:, filled : filled + block.shape[1]] = block
            filled += block.shape[1]
        video = video[:, :filled].contiguous()
        wave, sample_rate = sound_under(source, path, start, filled / rate) if sound else (None, None)
    return Clip(video, rate, wave, sample_rate)


def stream(
    path: PathLike,
    block: int,
    *,
    fps: float | None = None,
    start: float = 0.0,
    frames: int | None = None,
    seconds: float | None = None,
    size: Size | None = None,
    fit: Fit = "crop",
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """Read a video of any length in blocks; joined, they are exactly what :func:`read` returns.

    Parameters
    ----------
    block : int > 0, frames
        Length of every block but the last. Memory is bounded by two blocks.
    path, fps, start, frames, seconds, size, fit, dtype
        As for :func:`read`.

    Yields
    ------
    Tensor, shape (C, f, H, W)
        Consecutive blocks.

    Raises
    ------
    InputError
        As :func:`read`; what is wrong with the arguments at once, the rest when the stream gets there.
    """
    _check_arguments(fps, start, frames, seconds, size, fit, dtype)
    if block < 1:
        raise InputError(f"block={block!r} must be a positive number of frames")

    def pieces() -> Iterator[Tensor]:
        with opened(path, fps) as source:
            rate = fps or source.timing.fps
            count = _count(frames, seconds, rate)
            yield from rebuffer(blocks(source, path, rate, start, count, size, fit, dtype), block, dim=1)

    return pieces()


def _count(frames: int | None, seconds: float | None, fps: float) -> int | None:
    return frames if seconds is None else max(1, round(seconds * fps))


def _check_arguments(
    fps: float | None,
    start: float,
    frames: int | None,
    seconds: float | None,
    size: Size | None,
    fit: Fit,
    dtype: torch.dtype,
) -> None:
    if fps is not None and not (EXACT <= fps <= _MAX_FPS):
        raise InputError(f"fps={fps!r} must be a positive number of frames a second, at most {_MAX_FPS:.0f}")
    check_span(start, seconds, "seconds")
    if frames is not None and seconds is not None:
        raise InputError(f"frames={frames} and seconds={seconds} say the same thing: give one of them")
    if frames is not None and frames < 1:
        raise InputError(f"frames={frames!r} must be positive, or None for all")
    if size is not None:
        check_size(size)
    check_fit(fit)
    if dtype not in (torch.float32, torch.uint8):
        raise InputError(f"dtype={dtype} must be torch.float32 or torch.uint8")


def _check_memory(
    path: PathLike, frames: int, frame_bytes: int, size: tuple[int, int], max_bytes: int, fps: float
) -> None:
    if frames * frame_bytes <= max_bytes:
        return
    most = max(1, max_bytes // frame_bytes)
    raise InputError(
        f"path={str(path)!r} has {frames} frames of {size[0]}x{size[1]} to read, {frames * frame_bytes / 2**30:.1f} "
        f"GiB, more than {max_bytes / 2**30:.3g}: give frames={most} or less, seconds={most / fps:.2f} or less, "
        "a smaller size=, dtype=torch.uint8, or use stream()"
    )
