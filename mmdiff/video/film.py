"""Films written by FFmpeg: H.264 and VP9 with sound, and GIF."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np

from mmdiff.media.opening import AV_ERRORS

CODECS: dict[str, tuple[str, str | None]] = {
    ".mp4": ("libx264", "aac"),
    ".m4v": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".mkv": ("libx264", "libopus"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".gif": ("gif", None),
}
"""Codecs of pictures and sound by suffix."""

QUALITY = {"libx264": (1, 14, 51), "libvpx-vp9": (0, 16, 63)}
"""Best, default and worst constant rate factor of a codec; 0 of H.264 makes files that few players open."""

_OPTIONS = {
    "libx264": {"preset": "medium"},
    "libvpx-vp9": {"b": "0", "row-mt": "1", "cpu-used": "3"},
    "gif": {},
}
_KEY_SECONDS = 2.0  # between pictures that need no other
_QUICKTIME = (".mp4", ".m4v", ".mov")
_TICKS = 90_000  # a second: divides by the usual frame rates, those of NTSC included
_GIF_TICKS = 100  # a second, by the format
_BT709, _LIMITED = 1, 1  # numbers of ITU-T H.273
# to 4:2:0 with the chroma where H.264 and VP9 say it is, level with every other column
_TO_YUV = (
    "out_color_matrix=bt709:out_range=limited:out_chroma_loc=left:"
    "flags=bicubic+full_chroma_inp+full_chroma_int+accurate_rnd"
)
_PALETTE = "stats_mode=single:reserve_transparent=0"  # 256 colours for each picture
_DITHER = "new=1:dither=bayer:bayer_scale=5"  # a fixed pattern: noise would flicker
_AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
_BITS_A_CHANNEL = 96_000  # a second, of sound


class Film:
    """A film being written.

    Parameters
    ----------
    file : path
        Where to.
    suffix : str
        Key of :data:`CODECS`.
    fps : float > 0, frames a second
        Rate of the pictures. Time stamps are rounded one by one, so that they do not drift.
    size : (height, width), pixels
        Of the pictures.
    sample_rate : int, Hz, optional
        Of the sound; None for a silent film.
    channels : {1, 2}
        Of the sound.
    quality : int, optional
        As in :data:`QUALITY`.
    """

    def __init__(
        self,
        file: Path,
        suffix: str,
        fps: float,
        size: tuple[int, int],
        sample_rate: int | None,
        channels: int,
        quality: int | None,
    ) -> None:
        codec, sound_codec = CODECS[suffix]
        self._fps, self._count, self._size = fps, 0, size
        self._ticks = _GIF_TICKS if codec == "gif" else _TICKS
        options = {"movflags": "+faststart"} if suffix in _QUICKTIME else {}
        self._container = cast(Any, av.open(str(file), "w", options=options))
        self._stream: Any = self._container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        even = 2 if codec == "libx264" else 1
        self._stream.height, self._stream.width = (-(-side // even) * even for side in size)
        self._configure(codec, quality)
        padded = (self._stream.height, self._stream.width)
        self._filter = _palette_filter(padded) if codec == "gif" else _yuv_filter(padded)
        self._track = _Track(self._container, sound_codec, sample_rate, channels) if sample_rate else None

    def pictures(self, block: np.ndarray) -> None:
        """Append pictures, shape (f, H, W, 3), uint8."""
        tall, wide = self._stream.height - self._size[0], self._stream.width - self._size[1]
        if tall or wide:
            block = np.pad(block, ((0, 0), (0, tall), (0, wide), (0, 0)), mode="edge")
        for pixels in block:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.time_base = Fraction(1, self._ticks)
            frame.pts = round(self._count * self._ticks / self._fps)
            self._count += 1
            self._filter.push(frame)
            self._encode_filtered()

    def sound(self, wave: np.ndarray) -> None:
        """Append sound, shape (channels, samples), float32."""
        assert self._track is not None
        self._track.write(wave)

    def finish(self) -> None:
        """Write what encoders still hold, and the index."""
        self._filter.push(None)
        self._encode_filtered()
        self._container.mux(self._stream.encode(None))
        if self._track is not None:
            self._track.finish()
        self._container.close()

    def close(self) -> None:
        """Release the file, finished or not."""
        with contextlib.suppress(*AV_ERRORS):
            self._container.close()

    def _configure(self, codec: str, quality: int | None) -> None:
        context = self._stream.codec_context
        context.time_base = Fraction(1, self._ticks)
        # entered quickly anywhere, at little cost in size
        context.options = _OPTIONS[codec] | {"g": str(max(1, round(_KEY_SECONDS * self._fps)))}
        self._stream.pix_fmt = "pal8" if codec == "gif" else "yuv420p"
        if codec in QUALITY:
            context.options |= {"crf": str(QUALITY[codec][1] if quality is None else quality)}
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED

    def _encode_filtered(self) -> None:
        for frame in _ready(self._filter):
            self._container.mux(self._stream.encode(frame))


class _Track:
    """The sound of a film, brought to a rate that its codec takes."""

    def __init__(self, container: Any, codec: str | None, sample_rate: int, channels: int) -> None:
        # Opus at other rates than its own comes back late
        rate = sample_rate if codec == "aac" and sample_rate in _AAC_RATES else 48_000
        self._container, self._given, self._position = container, sample_rate, 0
        self._layout = "stereo" if channels == 2 else "mono"
        self._stream = container.add_stream(codec, rate=rate, layout=self._layout)
        self._stream.bit_rate = _BITS_A_CHANNEL * channels
        self._convert = av.AudioResampler(self._stream.codec_context.format, self._layout, rate)

    def write(self, wave: np.ndarray) -> None:
        for first in range(0, wave.shape[1], self._given):
            block = np.ascontiguousarray(wave[:, first : first + self._given])
            frame = av.AudioFrame.from_ndarray(block, "fltp", self._layout)
            frame.rate, frame.pts, frame.time_base = self._given, self._position, Fraction(1, self._given)
            self._position += block.shape[1]
            self._push(frame)

    def finish(self) -> None:
        self._push(None)
        self._container.mux(self._stream.encode(None))

    def _push(self, frame: av.AudioFrame | None) -> None:
        for ready in self._convert.resample(frame):
            self._container.mux(self._stream.encode(ready))


def _yuv_filter(size: tuple[int, int]) -> Any:
    graph, source = _graph(size, _TICKS)
    chain = [source, graph.add("scale", _TO_YUV), graph.add("format", "yuv420p"), graph.add("buffersink")]
    for one, other in itertools.pairwise(chain):
        one.link_to(other)
    graph.configure()
    return graph


def _palette_filter(size: tuple[int, int]) -> Any:
    graph, source = _graph(size, _GIF_TICKS)
    both, maker = graph.add("split"), graph.add("palettegen", _PALETTE)
    user, sink = graph.add("paletteuse", _DITHER), graph.add("buffersink")
    source.link_to(both)
    both.link_to(maker, 0, 0)
    both.link_to(user, 1, 0)
    maker.link_to(user, 0, 1)
    user.link_to(sink)
    graph.configure()
    return graph


def _graph(size: tuple[int, int], ticks: int) -> tuple[Any, Any]:
    graph = cast(Any, av.filter.Graph())
    source = graph.add_buffer(width=size[1], height=size[0], format="rgb24", time_base=Fraction(1, ticks))
    return graph, source


def _ready(graph: Any) -> Iterator[av.VideoFrame]:
    """Yield what a filter has finished so far."""
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
        while True:
            yield graph.pull()
