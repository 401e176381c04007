"""Write sound files in one go or piece by piece: under a temporary name until they are complete."""

from __future__ import annotations

import contextlib
import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from mmdiff.audio.decode import MAX_CHANNELS
from mmdiff.audio.resampling import check_rate
from mmdiff.errors import InputError
from mmdiff.files import TEMPORARY
from mmdiff.media.writing import naming_errors

_FORMATS = {
    (".wav", 16): ("WAV", "PCM_16"),
    (".wav", 24): ("WAV", "PCM_24"),
    (".wav", 32): ("WAV", "FLOAT"),
    (".flac", 16): ("FLAC", "PCM_16"),
    (".flac", 24): ("FLAC", "PCM_24"),
    (".ogg", 16): ("OGG", "VORBIS"),
    (".mp3", 16): ("MP3", "MPEG_LAYER_III"),
}
_LOSSY = (".ogg", ".mp3")
_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_MOST_CHANNELS = {".flac": 8, ".mp3": 2}
_WAV_LIMIT = (1 << 32) - (1 << 16)  # bytes: sizes in a wav header have 32 bits
_PIECE = 1 << 16  # frames: libvorbis overflows its stack on much larger pieces
_ERRORS = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)


class Writer:
    """A sound file being written; made by :func:`writer`.

    Attributes
    ----------
    path : Path
        The name the file will have.
    frames : int
        Samples per channel written so far.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int, bits: int) -> None:
        self.path = path
        self.frames = 0
        self._channels = channels
        self._peak = 0.0
        self._format, self._subtype = _FORMATS[
            path.suffix.lower(), 16 if path.suffix.lower() in _LOSSY else bits
        ]
        self._temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:8]}-{path.name}")
        with self._cleared_up():
            self._file = soundfile.SoundFile(
                str(self._temporary), "w", sample_rate, channels, self._subtype, format=self._format
            )

    def write(self, wave: Tensor | np.ndarray) -> None:
        """Append sound.

        Parameters
        ----------
        wave : Tensor | ndarray, shape (channels, samples) or (samples,), floating point
            Sound in [-1, 1], any number of samples.

        Raises
        ------
        InputError
            Its shape or type does not fit, it is not finite, or the disk is full.
        """
        samples = check_wave(wave, self._channels).T
        width = {"PCM_16": 2, "PCM_24": 3}.get(self._subtype, 4)
        if self._format == "WAV" and (self.frames + len(samples)) * self._channels * width > _WAV_LIMIT:
            raise InputError(f"path={str(self.path)!r} would pass 4 GiB, which wav cannot: use .flac")
        if samples.numel():
            self._peak = max(self._peak, float(samples.abs().max()))
        with self._cleared_up():
            for piece in torch.split(samples, _PIECE):
                self._file.write(_quantise(piece, self._subtype))
        self.frames += len(samples)

    def finish(self) -> None:
        """Close the file and give it its name."""
        if self.frames == 0:
            raise InputError(f"path={str(self.path)!r} would hold no sound: write at least one sample")
        with self._cleared_up():
            self._file.close()
            os.replace(self._temporary, self.path)
        if self._peak > 1 and self._subtype != "FLOAT":
            warnings.warn(f"{self.path.name}: clipped, its peak was {self._peak:.3g} of 1", stacklevel=4)

    def discard(self) -> None:
        """Close and remove the temporary file, if there still is one."""
        with contextlib.suppress(*_ERRORS):
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _cleared_up(self) -> Iterator[None]:
        try:
            with naming_errors(self.path, _ERRORS):
                yield
        except InputError:
            self._temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writer(
    path: str | os.PathLike[str], sample_rate: int, channels: int = 1, *, bits: int = 16
) -> Iterator[Writer]:
    """Open a sound file for writing piece by piece, in a ``with`` block.

    The file gets its name when the block ends well; when it ends in an exception nothing is left behind, and
    a file that had the name before is untouched.

    Parameters
    ----------
    path : path ending in .wav, .flac, .ogg (Vorbis) or .mp3
        Its folder must exist.
    sample_rate : int, Hz
        Rate of the sound.
    channels : int in [1, 64]
        At most 8 in flac, 2 in mp3.
    bits : {16, 24, 32}
        As for :func:`mmdiff.audio.io.write`.

    Yields
    ------
    Writer
        Its ``write(wave)`` appends.

    Raises
    ------
    InputError
        The format, rate, number of channels or folder is not possible.

    Examples
    --------
    >>> with writer("hour.flac", 16_000) as file:  # doctest: +SKIP
    ...     for block in stream("hour.mp3", sample_rate=16_000):
    ...         file.write(block)
    """
    target = Path(path).expanduser()
    check_rate(sample_rate)
    _check_format(target, sample_rate, channels, bits)
    file = Writer(target, sample_rate, channels, bits)
    try:
        yield file
        file.finish()
    finally:
        file.discard()


def check_wave(wave: Tensor | np.ndarray, channels: int, what: str = "wave") -> Tensor:
    """Return sound that is to be written as (channels, samples), float32 on the host, or raise InputError."""
    wave = torch.as_tensor(wave)
    if not wave.is_floating_point():
        raise InputError(f"{what}.dtype={wave.dtype} must be floating point: divide int16 by 32768.0")
    if wave.ndim not in (1, 2) or (1 if wave.ndim == 1 else wave.shape[0]) != channels:
        raise InputError(f"{what}.shape={tuple(wave.shape)} must be (channels={channels}, samples)")
    samples = wave.detach().to("cpu", torch.float32).reshape(channels, -1)
    if not samples.isfinite().all():
        raise InputError(f"{what} has NaN or infinite samples: it must be finite to be written")
    return samples


def _check_format(path: Path, sample_rate: int, channels: int, bits: int) -> None:
    suffix = path.suffix.lower()
    known = sorted({name for name, _ in _FORMATS})
    if suffix not in known:
        raise InputError(f"path={str(path)!r} must end in {', '.join(known)}")
    if suffix not in _LOSSY and (suffix, bits) not in _FORMATS:
        possible = [b for name, b in _FORMATS if name == suffix]
        raise InputError(f"bits={bits!r} must be one of {possible} for {suffix}")
    if suffix == ".mp3" and sample_rate not in _MP3_RATES:
        raise InputError(f"sample_rate={sample_rate} must be one of {_MP3_RATES} for .mp3: use .flac or .wav")
    most = _MOST_CHANNELS.get(suffix, MAX_CHANNELS)
    if not 1 <= channels <= most:
        raise InputError(
            f"channels={channels} must be 1 to {most} for {suffix}; "
            "a wave has shape (channels, samples): is it transposed?"
        )
    if path.is_dir():
        raise InputError(f"path={str(path)!r} is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"path={str(path)!r} must lie in a folder that exists: make {str(path.parent)!r}")


def _quantise(piece: Tensor, subtype: str) -> np.ndarray:
    """Round to the file's grid, with the scale that reading divides by: a round trip changes nothing."""
    if subtype == "FLOAT":
        return piece.numpy()
    if subtype == "PCM_16":
        return (piece * 32768.0).round().clamp(-32768, 32767).to(torch.int16).numpy()
    if subtype == "PCM_24":  # libsndfile takes the upper 24 bits of 32
        scaled = (piece.double() * 8388608.0).round().clamp(-8388608, 8388607)
        return (scaled.to(torch.int32) * 256).numpy()
    return piece.clamp(-1.0, 1.0).numpy()
