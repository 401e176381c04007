"""Open a media file and hand out its sound block by block: libsndfile where it can, FFmpeg for the rest.

Files are untrusted. Only the formats named here are tried, no file may make another one be opened (play
lists), headers are checked before anything is believed, and nothing is allocated on a header's word.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import soundfile

from mmdiff.audio.resampling import MAX_RATE
from mmdiff.errors import InputError
from mmdiff.media.opening import (
    AV_ERRORS,
    CUT_SLACK,
    PathLike,
    check_path,
    container_name,
    cut_short,
    damaged,
    open_container,
)

MAX_CHANNELS = 64
MAX_PER_BYTE = 1 << 16  # samples a byte can stand for; FLAC blocks of digital silence come nearest
BLOCK = 1 << 16  # frames decoded at a time
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,ogg,mp3,aac,flac,wav,w64,aiff,au,caf,avi,mpegts,mpeg,flv,asf,"
    "g722,gsm,amr,ape,wv,tta,ac3,eac3"
)
_HEADERLESS = {".g722": "g722", ".gsm": "gsm"}  # the name is all there is
_UNKNOWN = "is in no known sound format, or damaged: use wav, flac, mp3, ogg, opus, m4a or a video with sound"
_SEEKABLE = "mov"  # FFmpeg's family of containers whose time stamps count samples
_STREAMED = 0x7FFF0000  # RIFF sizes from here on mean "unknown when the header was written"
_SOUNDFILE_ERRORS = (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, OSError)


class Sound(Protocol):
    """An open sound file.

    ``frames`` is the length its header claims, in samples per channel, or None when it claims none that can
    be trusted.
    """

    sample_rate: int
    channels: int
    frames: int | None
    codec: str

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        """Yield float32 arrays (frames, channels) that cover samples start to stop, or to the end."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[Sound]:
    """Open the sound of a media file.

    Raises
    ------
    InputError
        The path is no readable sound file, or its header is absurd.
    """
    file = check_path(path)
    sound = _open(file)
    try:
        if not 1 <= sound.sample_rate <= MAX_RATE:
            raise damaged(file, f"its header says sample_rate={sound.sample_rate}, not 1 to {MAX_RATE} Hz")
        if not 1 <= sound.channels <= MAX_CHANNELS:
            raise damaged(file, f"its header says channels={sound.channels}, not 1 to {MAX_CHANNELS}")
        if (sound.frames or 0) > MAX_PER_BYTE * file.stat().st_size:
            raise damaged(
                file, f"its header says {sound.frames} samples, which {file.stat().st_size} bytes cannot hold"
            )
        yield sound
    finally:
        sound.close()


def _open(file: Path) -> Sound:
    if headerless := _HEADERLESS.get(file.suffix.lower()):
        return _FFmpegSound(file, headerless)
    if _is_cut_ogg(file):
        raise damaged(file, "the end of its Ogg stream is missing")
    with contextlib.suppress(*_SOUNDFILE_ERRORS):
        return _LibsndfileSound(file)
    return _FFmpegSound(file, None)


class _LibsndfileSound:
    def __init__(self, file: Path) -> None:
        self.file = file
        self._sound = soundfile.SoundFile(str(file))
        self.sample_rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        self.codec = f"{self._sound.format}/{self._sound.subtype}".lower()
        claimed = self._sound.frames
        if self._sound.format in ("WAV", "WAVEX") and claimed:
            claimed += _missing_bytes(file) * claimed // file.stat().st_size
        self.frames: int | None = claimed if 0 < claimed < 1 << 60 else None

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        position = start
        try:
            self._sound.seek(start)
            while stop is None or position < stop:
                count = BLOCK if stop is None else min(BLOCK, stop - position)
                block = self._sound.read(count, dtype="float32", always_2d=True)
                if not len(block):
                    break
                position += len(block)
                yield block
        except _SOUNDFILE_ERRORS:
            raise _cut(self.file, position / self.sample_rate, None) from None
        if self.frames is not None and position < min(stop or self.frames, self.frames):
            raise _cut(self.file, position / self.sample_rate, self.frames / self.sample_rate)

    def close(self) -> None:
        self._sound.close()


class _FFmpegSound:
    def __init__(self, file: Path, container_format: str | None) -> None:
        self.file = file
        self._container = open_container(file, _FORMATS, _UNKNOWN, only=container_format)
        if not self._container.streams.audio:
            self._container.close()
            raise InputError(f"path={str(file)!r} has no sound in it: choose a file with an audio track")
        self._stream: Any = self._container.streams.audio[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise InputError(
                f"path={str(file)!r} codes its sound in an unknown way: convert it to wav or flac"
            )
        self.sample_rate: int = self._stream.rate or 0
        self.channels: int = self._stream.channels or 0
        self.container = container_name(self._container)
        self.codec = f"{self.container}/{self._stream.codec_context.name}"
        self.frames: int | None = None  # what FFmpeg reports may be an estimate

    def blocks(self, start: int, stop: int | None) -> Iterator[np.ndarray]:
        position = 0
        try:
            for first, wave in self._waves(self._seek(start)):
                position = first + len(wave)
                piece = wave[max(start - first, 0) : None if stop is None else max(stop - first, 0)]
                if len(piece):
                    yield piece
                if stop is not None and position >= stop:
                    return
        except AV_ERRORS:
            raise _cut(self.file, position / self.sample_rate, None) from None
        claimed = self._claimed_seconds()
        if claimed is not None and position / self.sample_rate < claimed - CUT_SLACK:
            raise _cut(self.file, position / self.sample_rate, claimed)

    def _seek(self, start: int) -> bool:
        """Go to a second before ``start`` where time stamps are exact; return whether that was done."""
        if self.container != _SEEKABLE or start < 2 * self.sample_rate:
            return False
        # the run-in is for codecs that build a sample from the packets before it
        seconds = start / self.sample_rate - 1.0
        self._container.seek(self._origin() + int(seconds / self._stream.time_base), stream=self._stream)
        return True

    def _waves(self, sought: bool) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the decoded sound (frames, channels) with the position of its first sample."""
        convert = av.AudioResampler(format="flt", layout=self._stream.layout, rate=self.sample_rate)
        position = 0
        for frame in self._container.decode(self._stream):
            if sought and frame.pts is not None:
                seconds = (frame.pts - self._origin()) * self._stream.time_base
                position, sought = round(seconds * self.sample_rate), False
            for plain in convert.resample(frame):
                wave = plain.to_ndarray().reshape(-1, self.channels)
                yield position, wave
                position += len(wave)

    def _origin(self) -> int:
        """Return the time stamp of the first sample."""
        return self._stream.start_time or 0

    def _claimed_seconds(self) -> float | None:
        if self.container != _SEEKABLE or self._stream.duration is None:
            return None
        return float(self._stream.duration * self._stream.time_base)

    def close(self) -> None:
        self._container.close()


def _cut(path: Path, seconds: float, claimed: float | None) -> InputError:
    said = "it cannot be decoded further" if claimed is None else f"its header says {claimed:.2f} s"
    return cut_short(path, seconds, said, "duration")


def _missing_bytes(file: Path) -> int:
    """Return how much shorter a RIFF file is than it says; libsndfile forgives this silently."""
    with file.open("rb") as stream:
        head = stream.read(8)
    if len(head) < 8 or head[:4] != b"RIFF":
        return 0
    (claimed,) = struct.unpack("<I", head[4:])
    return 0 if claimed >= _STREAMED else max(0, claimed + 8 - file.stat().st_size)


def _is_cut_ogg(file: Path) -> bool:
    """Say whether an Ogg file lacks its last page; decoders play what is left without a word."""
    with file.open("rb") as stream:
        if stream.read(4) != b"OggS":
            return False
        stream.seek(max(0, file.stat().st_size - (1 << 17)))  # no page is longer than 65307 bytes
        tail = stream.read()
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    ends_stream = bool(page[5] & 4)
    return not ends_stream or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]])
