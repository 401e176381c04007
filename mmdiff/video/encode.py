"""Write video files in one go or piece by piece: under temporary names until they are complete."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio.encode import check_wave
from mmdiff.audio.resampling import check_rate
from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.media.opening import AV_ERRORS
from mmdiff.media.writing import naming_errors
from mmdiff.video.convert import convert
from mmdiff.video.film import CODECS, QUALITY, Film
from mmdiff.video.resize import Size, check_size
from mmdiff.video.sinks import SINGLE, Archive, Series, Single, Sink
from mmdiff.video.stills import is_pattern

WRITABLE = (*CODECS, ".npz", *SINGLE)
_GIF_FASTEST = 50.0  # frames a second: viewers slow shorter delays down to a tenth of a second


class Writer:
    """A video file being written; made by :func:`writer`.

    Attributes
    ----------
    path : Path
        The name the file will have.
    frames : int
        Pictures written so far.
    """

    def __init__(self, path: Path, size: tuple[int, int], channels: int, sink: Sink) -> None:
        self.path = path
        self.frames = 0
        self._size = size
        self._channels = channels
        self._sink = sink

    def write(
        self, video: Tensor | np.ndarray | None = None, sound: Tensor | np.ndarray | None = None
    ) -> None:
        """Append pictures, sound or both; over the file, about as much of one as of the other.

        Parameters
        ----------
        video : Tensor | ndarray, shape (C, f, H, W), floating point in [-1, 1] or uint8
            Any number of pictures; C is 3, or 1 for grey. What lies outside is clipped.
        sound : Tensor | ndarray, shape (channels, samples) or (samples,), floating point in [-1, 1]
            The sound that goes on with them.

        Raises
        ------
        InputError
            Shape, type or range does not fit, a value is not finite, or the disk is full.
        """
        if video is not None:
            block = check_video(video, self._size)
            with naming_errors(self.path, AV_ERRORS):
                self._sink.pictures(block)
            self.frames += len(block)
        if sound is not None:
            wave = _check_sound(sound, self._channels)
            with naming_errors(self.path, AV_ERRORS):
                self._sink.sound(wave)

    def _finish(self) -> None:
        if self.frames == 0:
            raise InputError(f"path={str(self.path)!r} would hold no picture: write at least one")
        with naming_errors(self.path, AV_ERRORS):
            self._sink.finish()


@contextlib.contextmanager
def writer(
    path: str | os.PathLike[str],
    fps: float,
    size: Size,
    *,
    sample_rate: int | None = None,
    channels: int = 1,
    quality: int | None = None,
) -> Iterator[Writer]:
    """Open a video file for writing piece by piece, in a ``with`` block; memory stays bounded.

    The file gets its name when the block ends well; when it ends in an exception nothing is left behind, and
    a file that had the name before is untouched.

    Parameters
    ----------
    path, fps, quality
        As for :func:`mmdiff.video.io.write`. An .npz is held in memory until the end.
    size : int | (height, width), pixels
        Of the pictures.
    sample_rate : int, Hz, optional
        Rate of the sound that will be written; None for a silent film.
    channels : int in [1, 2]
        Of the sound.

    Yields
    ------
    Writer
        Its ``write(video, sound)`` appends.

    Raises
    ------
    InputError
        The format, an argument or the folder is not possible.

    Examples
    --------
    >>> with writer("small.mp4", 25, (36, 64)) as file:  # doctest: +SKIP
    ...     for block in stream("film.mp4", 100, fps=25, size=(36, 64)):
    ...         file.write(block)
    """
    target = Path(path).expanduser()
    height, width = check_size(size)
    suffix = _check_target(target, fps, sample_rate, channels, quality)
    fps = float(fps)
    stack = contextlib.ExitStack()
    try:
        with naming_errors(target, AV_ERRORS):
            sink = _open(target, suffix, fps, (height, width), sample_rate, channels, quality, stack)
        file = Writer(target, (height, width), channels if sample_rate else 0, sink)
        yield file
        file._finish()
    except BaseException:
        with contextlib.suppress(OSError):  # of clearing up: the first error is the one to tell
            stack.__exit__(*sys.exc_info())
        raise
    with naming_errors(target, AV_ERRORS):
        stack.close()


def _open(
    target: Path,
    suffix: str,
    fps: float,
    size: tuple[int, int],
    sample_rate: int | None,
    channels: int,
    quality: int | None,
    stack: contextlib.ExitStack,
) -> Sink:
    """Return what writes the format; leaving ``stack`` gives the file its name, or removes it."""
    if is_pattern(target):
        return Series(target, stack)
    temporary = stack.enter_context(atomic_file(target))
    if suffix in CODECS:
        film = Film(temporary, suffix, fps, size, sample_rate, channels, quality)
        stack.callback(film.close)
        return film
    return Archive(temporary, fps, sample_rate) if suffix == ".npz" else Single(target, temporary)


def check_video(video: Tensor | np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return a clip (C, F, H, W) as pixels (F, H, W, 3) uint8, or raise InputError."""
    video = torch.as_tensor(video).detach()
    shape = tuple(video.shape)
    if video.ndim != 4 or shape[0] not in (1, 3):
        raise InputError(f"video.shape={shape} must be (C, F, H, W) with C = 3, or 1 for grey")
    if size is not None and shape[2:] != size:
        raise InputError(f"video.shape={shape} must be (C, F, {size[0]}, {size[1]}), as the file was opened")
    if video.dtype != torch.uint8 and not video.is_floating_point():
        raise InputError(f"video.dtype={video.dtype} must be uint8, or floating point in [-1, 1]")
    if video.is_floating_point() and video.numel():
        if not video.isfinite().all():
            raise InputError("video has NaN or infinite values: it must be finite to be written")
        peak = float(video.abs().max())
        if peak > 4:
            raise InputError(f"video has values up to {peak:.3g}: scale it to [-1, 1], or give uint8")
    pixels = convert(video.cpu(), torch.uint8).expand(3, -1, -1, -1)
    return pixels.permute(1, 2, 3, 0).contiguous().numpy()


def _check_sound(sound: Tensor | np.ndarray, channels: int) -> np.ndarray:
    if not channels:
        raise InputError("sound is given, but no sample_rate: open the file with one")
    return check_wave(sound, channels, "sound").clamp(-1, 1).numpy()


def _check_target(path: Path, fps: float, sample_rate: int | None, channels: int, quality: int | None) -> str:
    suffix = path.suffix.lower()
    if is_pattern(path) and suffix not in SINGLE:
        raise InputError(f"path={str(path)!r} must end in {', '.join(SINGLE)}: it names a series of images")
    if suffix not in WRITABLE:
        raise InputError(f"path={str(path)!r} must end in {', '.join(WRITABLE)}")
    if not (isinstance(fps, Real) and math.isfinite(fps) and 0.01 <= fps <= 1000):
        raise InputError(f"fps={fps!r} must be a number of frames a second from 0.01 to 1000")
    if suffix == ".gif" and fps > _GIF_FASTEST:
        raise InputError(
            f"fps={fps} must be at most {_GIF_FASTEST:.0f} for .gif: use .mp4, or leave out frames"
        )
    _check_quality(suffix, quality)
    if sample_rate is not None:
        check_rate(sample_rate)
        if suffix != ".npz" and CODECS.get(suffix, ("", None))[1] is None:
            raise InputError(f"path={str(path)!r} cannot hold sound: use .mp4, .webm, .mkv or .mov")
        if channels not in (1, 2):
            raise InputError(f"channels={channels} must be 1 or 2; sound has shape (channels, samples)")
    if os.path.isdir(path):  # unlike Path.is_dir, says no to a name that cannot be
        raise InputError(f"path={str(path)!r} is a folder: name a file, or a series as frame_%04d.png in it")
    folder = path.parent.parent if is_pattern(path) else path.parent
    if not folder.is_dir():
        raise InputError(f"path={str(path)!r} must lie in a folder that exists: make {str(folder)!r}")
    return suffix


def _check_quality(suffix: str, quality: int | None) -> None:
    if quality is None:
        return
    codec = CODECS.get(suffix, ("", None))[0]
    if codec not in QUALITY:
        raise InputError(f"quality={quality} has no meaning for {suffix}: leave it out")
    best, default, worst = QUALITY[codec]
    if not best <= quality <= worst:
        raise InputError(f"quality={quality} must be from {best} (best) to {worst}; the default is {default}")
