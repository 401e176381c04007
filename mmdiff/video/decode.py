"""Films of any container through FFmpeg: opened with care, entered at any time, pictures upright in RGB.

Files are untrusted. Only the containers named here are tried, no file may make another one be opened (play
lists), sizes are checked before a picture is decoded, and half a film is not taken for a whole one.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmdiff.errors import InputError
from mmdiff.media.opening import AV_ERRORS, CUT_SLACK, container_name, cut_short, damaged, open_container
from mmdiff.video.pixels import check_pixels, display_matrix, has_alpha, to_rgb, turning
from mmdiff.video.timing import Timing, measure

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,apng,ogg,flv,asf,mpegts,mpeg,mpegvideo,h264,hevc"
_UNKNOWN = (
    "is in no known video format, or damaged or cut short: "
    "use mp4, webm, mkv, mov, avi or gif, or export it again"
)
_SEQUENTIAL = ("gif", "apng", "mpeg")  # pictures that change the one before, or have no time of their own
_SCANNED = 1 << 26  # bytes of a file read to learn its frame rate
_BACK = (0.0, 1.0, 5.0, 25.0)  # seconds to go back further when a seek ends too late


class Movie:
    """A film open for reading.

    Attributes
    ----------
    width, height : int, pixels
        As displayed: after rotation, with square pixels.
    timing : Timing
        Its frame rate.
    rotation : {0, 90, 180, 270}, degrees
        Clockwise turn that the file asks for and :meth:`picture` applies.
    alpha, sound : bool
        Whether pictures have transparency, and whether there is a sound track.
    codec : str
        ``container/codec``.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._open()
        try:
            status = file.stat()
            self.timing = _timing(str(file), status.st_size, status.st_mtime_ns)
            pictures, first = self._decoded(), None
            with contextlib.suppress(*AV_ERRORS):
                first = next(pictures, None)
            if first is None:
                raise damaged(file, "no picture in it can be decoded")
            self._fresh: Iterator[av.VideoFrame] | None = chain([first], pictures)
            self._origin: int = first.pts or 0
            self._describe(first)
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._container, self._stream = _open(self.file)
        self._decode = _decoder(self._stream)

    def _describe(self, first: av.VideoFrame) -> None:
        matrix = display_matrix(first)
        self._turn, self.rotation = turning(matrix)
        shape = self._stream.sample_aspect_ratio or 1  # of a pixel
        self._stored = (max(1, round(first.width * shape)), first.height)
        turned = matrix is not None and abs(matrix[0]) < abs(matrix[1])
        self.width, self.height = self._stored[::-1] if turned else self._stored
        check_pixels(self.file, self.width, self.height)
        self.alpha = has_alpha(first.format)
        self.sound = bool(self._container.streams.audio)
        self.codec = f"{self._format}/{self._stream.codec_context.name}"

    @property
    def _format(self) -> str:
        return container_name(self._container)

    @property
    def _counts(self) -> bool:
        """Whether time stamps do not follow presentation, so that pictures have to be counted."""
        return self._format == "avi" and bool(self._stream.codec_context.has_b_frames)

    def shown(self, start: float) -> Iterator[tuple[float, float, av.VideoFrame]]:
        """Yield (begin, end, picture) in seconds from one that has begun at ``start`` on, to the end.

        Raises
        ------
        InputError
            The file is damaged or ends before its header says.
        """
        begin = end = 0.0
        period, count = 1 / self.timing.fps, 0
        try:
            for count, frame in enumerate(self._from(start)):
                begin = count * period if self._counts else self._begin(frame, end)
                end = begin + (period if not self.timing.variable else self._lasts(frame, period))
                yield begin, end, frame
        except AV_ERRORS:
            raise cut_short(self.file, end, "it cannot be decoded further", "seconds") from None
        claimed = self._claimed_seconds()
        if claimed is not None and end < claimed - max(CUT_SLACK, 2.5 * period):
            raise cut_short(self.file, end, f"its header says {claimed:.2f} s", "seconds")
        if self._format == "gif" and not _ends_like_a_gif(self.file):
            raise cut_short(self.file, end, "its end is missing", "seconds")

    def picture(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a picture upright in RGB, shape (height, width, 3), uint8 or, above 8 bits, uint16.

        What is transparent becomes black.
        """
        return self._turn(to_rgb(frame, self._stored))

    def sound_lead(self) -> float:
        """Return by how many seconds the sound begins before the pictures."""
        container, _ = _open(self.file)
        with container, contextlib.suppress(*AV_ERRORS):
            # decoded, because a track's own start may count what decoders leave out
            for frame in container.decode(container.streams.audio[0]):
                if frame.pts is not None:
                    return float(self._origin * self._stream.time_base - frame.pts * frame.time_base)
        return 0.0

    def close(self) -> None:
        """Release the file."""
        self._fresh = None
        self._container.close()

    def _begin(self, frame: av.VideoFrame, previous_end: float) -> float:
        if frame.pts is None:
            return previous_end
        seconds = float((frame.pts - self._origin) * self._stream.time_base)
        if self.timing.variable:
            return seconds
        return round(seconds * self.timing.fps) / self.timing.fps

    def _lasts(self, frame: av.VideoFrame, period: float) -> float:
        ticks = getattr(frame, "duration", 0) or 0
        return float(ticks * self._stream.time_base) or period

    def _from(self, start: float) -> Iterator[av.VideoFrame]:
        """Decode from a picture on that has begun at ``start``, as near to it as the file allows."""
        searchable = self._format not in _SEQUENTIAL and not self._counts
        latest = start + self.timing.tolerance
        for back in _BACK if searchable else ():
            if start - back <= 0:
                break
            self._fresh = None
            with contextlib.suppress(*AV_ERRORS):
                # a tick to spare, because FFmpeg compares rounded times
                target = int((start - back) / self._stream.time_base) + self._origin - 1
                self._container.seek(target, stream=self._stream)
                pictures = self._after_seek()
                first = next(pictures, None)
                if first is not None and first.pts is not None and self._begin(first, math.inf) <= latest:
                    return chain([first], pictures)
        return self._from_the_beginning()

    def _from_the_beginning(self) -> Iterator[av.VideoFrame]:
        if self._fresh is None:
            self._container.close()
            self._open()
            return self._decoded()
        pictures, self._fresh = self._fresh, None
        return pictures

    def _after_seek(self) -> Iterator[av.VideoFrame]:
        self._decode = _decoder(self._stream)
        pictures = self._decoded(forgiving=True)
        for frame in pictures:
            if frame.key_frame:  # what comes before refers to pictures that were jumped over
                yield frame
                yield from pictures

    def _decoded(self, forgiving: bool = False) -> Iterator[av.VideoFrame]:
        for packet in self._container.demux(self._stream):
            try:
                frames = self._decode(packet)
            except av.error.InvalidDataError:
                if forgiving:
                    continue
                yield from self._decode(None)  # what is sound before the damage
                raise
            for frame in frames:
                forgiving = False
                yield frame

    def _claimed_seconds(self) -> float | None:
        """Return the length that the header states for the pictures, where it is reliable."""
        if self._format == "mov" and self._stream.duration:
            return float(self._stream.duration * self._stream.time_base)
        stated = self._stream.metadata.get("DURATION", "")  # Matroska
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = (float(part) for part in stated.split(":"))
            begins = float(self._origin * self._stream.time_base)
            return hours * 3600 + minutes * 60 + seconds - begins
        return None


def _open(file: Path) -> tuple[Any, Any]:
    """Return the container and its first real picture track."""
    container = open_container(file, _FORMATS, _UNKNOWN)
    try:
        streams = [s for s in container.streams.video if not _is_cover(s)]
        if not streams:
            what = "holds only sound" if container.streams.audio else "has no pictures in it"
            raise InputError(f"path={str(file)!r} {what}: choose a file with a video track")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"path={str(file)!r} codes its pictures in an unknown way: convert it to mp4")
        check_pixels(file, stream.codec_context.width, stream.codec_context.height)
    except BaseException:
        container.close()
        raise
    return container, stream


def _is_cover(stream: Any) -> bool:
    return "attached_pic" in str(getattr(stream, "disposition", "")).lower()


def _decoder(stream: Any) -> Callable[[av.Packet | None], list[av.VideoFrame]]:
    """Return what turns packets into frames; FFmpeg's own VP8 and VP9 decoders drop transparency."""
    context = stream.codec_context
    if context.name in ("vp8", "vp9") and stream.metadata.get("alpha_mode") == "1":
        context = av.CodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[context.name], "r")
    return lambda packet: context.decode(packet if packet is not None and packet.size else None)


@functools.lru_cache(maxsize=4096)
def _timing(path: str, size: int, modified: int) -> Timing:
    """Read packets without decoding them; the file's size and time are there to tell versions apart."""
    container, stream = _open(Path(path))
    with container:
        stamps, last, read, complete = [], (0, 0), 0, True
        with contextlib.suppress(*AV_ERRORS):
            for packet in container.demux(stream):
                stamp = packet.dts if packet.pts is None else packet.pts
                if not packet.size or packet.is_discard or stamp is None:
                    continue
                stamps.append(stamp)
                last = max(last, (stamp, packet.duration or 0))
                read += packet.size
                if read > _SCANNED:
                    complete = False
                    break
        hints = [float(rate) for rate in (stream.average_rate, stream.base_rate) if rate]
        timing = measure(sorted(set(stamps)), last[1], float(stream.time_base), hints, complete)
        if complete:
            return timing
        seconds = float(container.duration) / av.time_base if container.duration else None
        return timing._replace(frames=stream.frames or None, seconds=seconds)


def _ends_like_a_gif(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-min(64, file.stat().st_size), 2)
        return stream.read().rstrip(b"\0").endswith(b";")
