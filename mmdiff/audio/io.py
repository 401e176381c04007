"""Sound files: read any, whole, in part or in blocks; write wav, flac, ogg and mp3, never half of one.

Sound in memory is float32 of shape (channels, samples), nominally in [-1, 1]. Integer files are divided by
their full scale; float files are passed on as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio.decode import opened
from mmdiff.audio.encode import Writer, writer
from mmdiff.audio.resampling import check_rate, resample, resample_blocks
from mmdiff.errors import InputError
from mmdiff.media.blocks import check_span, rebuffer
from mmdiff.media.opening import PathLike

__all__ = ["AudioInfo", "Writer", "check", "info", "read", "resample", "stream", "write", "writer"]

MAX_READ = 1 << 30  # values that read() returns at most: 4 GiB
SILENT = 1e-4  # peak below which sound counts as silence: -80 dBFS
LOUD = 8.0  # peak above which samples are surely not scaled to [-1, 1]


class AudioInfo(NamedTuple):
    """What a sound file holds: rate in Hz, channels, samples per channel, seconds, ``container/codec``."""

    sample_rate: int
    channels: int
    frames: int
    seconds: float
    codec: str


def info(path: PathLike) -> AudioInfo:
    """Describe a sound file, or the first sound track of a video.

    Where the header does not state the length reliably (AAC, G.722, videos) the sound is decoded once and
    counted, in bounded memory.

    Raises
    ------
    InputError
        As :func:`read`.
    """
    with opened(path) as sound:
        frames = sound.frames
        if frames is None:
            frames = sum(len(block) for block in sound.blocks(0, None))
        rate = sound.sample_rate
        return AudioInfo(rate, sound.channels, frames, frames / rate, sound.codec)


def read(
    path: PathLike,
    *,
    sample_rate: int | None = None,
    mono: bool = True,
    start: float = 0.0,
    duration: float | None = None,
) -> tuple[Tensor, int]:
    """Read a sound file, or the first sound track of a video.

    Parameters
    ----------
    path : path
        wav, flac, ogg, opus, mp3, aiff, au, m4a, aac, G.722, wma, ape, ..., or mp4, mkv, webm, avi, mov.
    sample_rate : int, Hz, optional
        Resample to this rate; by default the file's own is kept.
    mono : bool
        Average the channels into one. False keeps them all.
    start : float >= 0, seconds
        Where to begin; formats that can be searched are not decoded up to there.
    duration : float > 0, seconds, optional
        How much to read: less comes back where the file ends earlier. By default up to the end.

    Returns
    -------
    wave : Tensor, shape (channels, samples), float32
        The sound. Full scale is 1; files of floats and lossy ones can exceed it, and nothing is scaled or clipped.
    rate : int, Hz
        Its sample rate.

    Raises
    ------
    InputError
        The file is missing, a folder, empty, of unknown format, without sound, damaged, cut short, or has
        NaN or infinite samples; ``start`` lies past its end; or over 4 GiB would come back.
    """
    rate = _target_rate(path, sample_rate)
    pieces, held = [], 0
    for piece in _pieces(path, sample_rate, mono, start, duration):
        pieces.append(piece)
        held += piece.numel()
        if held > MAX_READ:
            raise InputError(f"path={str(path)!r} is too long to be read at once: use stream() or a duration")
    return torch.cat(pieces, -1), rate


def stream(
    path: PathLike,
    block_seconds: float = 10.0,
    *,
    sample_rate: int | None = None,
    mono: bool = True,
    start: float = 0.0,
    duration: float | None = None,
) -> Iterator[Tensor]:
    """Read a sound file of any length in blocks; joined, they are exactly what :func:`read` returns.

    Parameters
    ----------
    path, sample_rate, mono, start, duration
        As for :func:`read`.
    block_seconds : float > 0, seconds
        Length of every block but the last. Memory is bounded by a few blocks.

    Yields
    ------
    Tensor, shape (channels, samples), float32
        Consecutive blocks at ``sample_rate``, or at the file's own rate.

    Raises
    ------
    InputError
        As :func:`read`; what is wrong with the beginning of the file at once, what comes later when the
        stream gets there.
    """
    size = block_seconds * _target_rate(path, sample_rate)
    if not 1 <= size < MAX_READ:
        raise InputError(f"block_seconds={block_seconds!r} must be positive and no more than 4 GiB of sound")
    check_span(start, duration, "duration")
    return rebuffer(_pieces(path, sample_rate, mono, start, duration), round(size), dim=-1)


def check(wave: Tensor, *, what: str = "wave", allow_silence: bool = True) -> Tensor:
    """Refuse sound that cannot be worked with; warn about sound that is probably not what was meant.

    Parameters
    ----------
    wave : Tensor, shape (..., samples)
        The sound.
    what : str
        Its name in messages, a path for example.
    allow_silence : bool
        Whether silence (peak under -80 dBFS) is only warned about.

    Returns
    -------
    Tensor
        The same tensor.

    Raises
    ------
    InputError
        It is empty, has NaN or infinite samples, or is silent where that is not allowed.
    """
    if wave.numel() == 0:
        raise InputError(f"{what} has shape {tuple(wave.shape)}: it must hold at least one sample")
    _check_finite(wave, what)
    peak = float(wave.detach().abs().max())
    if peak < SILENT:
        message = f"{what} is silent (peak {peak:.2g}, under -80 dBFS): check the recording or its channel"
        if not allow_silence:
            raise InputError(message)
        warnings.warn(message, stacklevel=2)
    elif peak > LOUD:
        warnings.warn(f"{what} has a peak of {peak:.3g}: sound must be scaled to [-1, 1]", stacklevel=2)
    return wave


def write(path: PathLike, wave: Tensor | np.ndarray, sample_rate: int, *, bits: int = 16) -> Path:
    """Write a sound file; the name appears only once all is written.

    Parameters
    ----------
    path : path ending in .wav, .flac, .ogg (Vorbis) or .mp3
        Its folder must exist. A file of that name is replaced.
    wave : Tensor | ndarray, shape (channels, samples) or (samples,), floating point
        Sound in [-1, 1]; what lies outside is clipped, with a warning that states the peak.
    sample_rate : int, Hz
        Its rate.
    bits : {16, 24, 32}
        Of wav (32: float, never clipped) and flac (16 or 24). Ignored by ogg and mp3.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The format, rate or number of channels is not possible, the wave is empty or not finite, or the
        folder cannot be written to.
    """
    wave = torch.as_tensor(wave)
    if wave.ndim not in (1, 2):
        raise InputError(f"wave.shape={tuple(wave.shape)} must be (channels, samples) or (samples,)")
    channels = 1 if wave.ndim == 1 else wave.shape[0]
    with writer(path, sample_rate, channels, bits=bits) as file:
        file.write(wave)
    return file.path


def _target_rate(path: PathLike, sample_rate: int | None) -> int:
    if sample_rate is not None:
        check_rate(sample_rate)
    with opened(path) as sound:
        return sample_rate or sound.sample_rate


def _pieces(
    path: PathLike, sample_rate: int | None, mono: bool, start: float, duration: float | None
) -> Iterator[Tensor]:
    """Yield the sound asked for, in pieces of no particular size."""
    check_span(start, duration, "duration")
    with opened(path) as sound:
        first = round(start * sound.sample_rate)
        stop = None if duration is None else first + max(1, round(duration * sound.sample_rate))
        if sound.frames is None or first < sound.frames:
            native = _tensors(sound.blocks(first, stop), mono, str(path))
            to_rate = sample_rate or sound.sample_rate
            yield from _at_least_one(
                native
                if to_rate == sound.sample_rate
                else resample_blocks(native, sound.sample_rate, to_rate),
                f"path={str(path)!r} has no sound "
                + (
                    f"from start={start} s on: choose an earlier start"
                    if start
                    else "in it: choose another file"
                ),
            )
            return
        seconds = sound.frames / sound.sample_rate
        raise InputError(
            f"start={start} must be before the end of path={str(path)!r}, which has {seconds:.2f} s"
        )


def _at_least_one(pieces: Iterable[Tensor], complaint: str) -> Iterator[Tensor]:
    empty = True
    for piece in pieces:
        empty = False
        yield piece
    if empty:
        raise InputError(complaint)


def _tensors(blocks: Iterable[np.ndarray], mono: bool, name: str) -> Iterator[Tensor]:
    """Turn blocks (frames, channels) into float32 tensors (channels, frames), refusing what is no number."""
    for block in blocks:
        wave = torch.from_numpy(np.ascontiguousarray(block.T))
        _check_finite(wave, f"path={name!r}")
        yield wave.mean(0, keepdim=True) if mono else wave


def _check_finite(wave: Tensor, what: str) -> None:
    bad = int((~wave.isfinite()).sum())
    if bad:
        raise InputError(f"{what} has {bad} samples that are NaN or infinite: it must be exported again")
