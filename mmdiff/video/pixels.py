"""What a decoded picture looks like: RGB of full scale, nothing transparent, upright."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from mmdiff.errors import InputError
from mmdiff.media.opening import damaged

MAX_PIXELS = 1 << 27  # of one picture: 16K is just inside
ACCURATE = 0x4 | 0x2000 | 0x4000 | 0x40000  # swscale: bicubic, all of the chroma, rounded: 12 dB better
_FULL_RANGE = 2  # number of libavutil
_LAYOUTS = {
    (False, False): "rgb24",
    (False, True): "rgba",
    (True, False): "rgb48le",
    (True, True): "rgba64le",
}  # by (more than 8 bits, alpha)


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse pictures of absurd size before memory is spent on them."""
    if width < 1 or height < 1:
        raise damaged(path, f"its pictures have {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"path={str(path)!r} has pictures of {width}x{height} pixels, more than {MAX_PIXELS}: scale it down"
        )


def to_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """Convert a picture to RGB of this (width, height), over black where it is transparent.

    Returns
    -------
    ndarray, shape (height, width, 3)
        uint8 or, above 8 bits, uint16 up to 65535.
    """
    deep = any(part.bits > 8 for part in frame.format.components)
    alpha = has_alpha(frame.format)
    plain = frame.reformat(
        *size,
        _LAYOUTS[deep, alpha],
        dst_colorspace="ITU601",
        interpolation=ACCURATE,
        threads=1,  # one that is freed waits for its others, which a forked loader does not have
    )
    pixels = plain.to_ndarray()
    if deep:
        pixels = _to_full_scale(pixels, frame)
    return over_black(pixels) if alpha else pixels


def over_black(pixels: np.ndarray) -> np.ndarray:
    """Composite (..., 4) with straight alpha, uint8 or uint16, over black: (..., 3) of the same type."""
    full = np.iinfo(pixels.dtype).max
    weighted = pixels[..., :3].astype(np.uint64 if full > 255 else np.uint32) * pixels[..., 3:]
    return ((weighted + full // 2) // full).astype(pixels.dtype)


def has_alpha(pixel_format: av.VideoFormat) -> bool:
    """Say whether pictures of this format may be transparent."""
    return bool(pixel_format.has_palette) or len(pixel_format.components) in (2, 4)


def display_matrix(frame: av.VideoFrame) -> tuple[int, int, int, int] | None:
    """Return a, b, c, d of x' = a x + c y, y' = b x + d y where the file asks for a turn."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return None
    values = np.frombuffer(bytes(data), np.int32)
    return int(values[0]), int(values[1]), int(values[3]), int(values[4])


def turning(matrix: tuple[int, int, int, int] | None) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Return a function that turns pictures (H, W, 3) by quarters and mirrors them, and the clockwise angle."""
    if matrix is None:
        return lambda pixels: pixels, 0
    a, b, c, d = matrix
    across = abs(a) < abs(b)
    mirror_x, mirror_y = (c < 0, b < 0) if across else (a < 0, d < 0)

    def apply(pixels: np.ndarray) -> np.ndarray:
        upright = pixels.transpose(1, 0, 2) if across else pixels
        return upright[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1]

    return apply, round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360


def _to_full_scale(pixels: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    """Bring white to 65535 and opaque to 65535, where swscale leaves them a little below."""
    bits = frame.format.components[0].bits
    full = ((1 << bits) - 1) << (16 - bits)
    white = full
    if frame.format.is_rgb:
        white = full = 65535
    elif len(frame.format.components) > 2 and frame.color_range != _FULL_RANGE:
        white = 255 << 8
    peak = np.array([white] * 3 + [full] * (pixels.shape[-1] - 3), np.uint32)
    return np.minimum((pixels.astype(np.uint32) * 65535 + peak // 2) // peak, 65535).astype(np.uint16)
