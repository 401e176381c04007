"""Clips to look at: contact sheets of their frames, and clips side by side in one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.video.encode import check_video

Clips = Tensor | Sequence[Tensor]
_GAP = 2  # pixels between frames
_MARGIN = 8  # pixels between clips
_TEXT = 13  # pixels, height of letters
_LINE = 18  # pixels, height of a line of text
_LEGIBLE = 64  # pixels that the shorter side of a frame is zoomed to
_PAPER, _INK = 24, 232  # grey levels
_MAX_SIDE = 1 << 15


def contact_sheet(
    videos: Clips,
    captions: Sequence[str] | None = None,
    *,
    frames: int | None = None,
    columns: int = 1,
    zoom: int | None = None,
) -> np.ndarray:
    """Lay out the frames of clips as strips, one under the other, with a caption above each.

    Parameters
    ----------
    videos : Tensor, shape (B, C, F, H, W) or (C, F, H, W), or sequence of (C, F, H, W)
        Clips in [-1, 1] or uint8; lengths and sizes may differ.
    captions : sequence of str, one for each clip, optional
        A line of text each, cut where the strip ends.
    frames : int > 0, optional
        How many frames to show of each clip, evenly spaced from the first to the last. By default all.
    columns : int > 0
        Strips side by side.
    zoom : int > 0, optional
        Whole factor by which pixels are repeated; by default so that frames are at least 64 pixels high and
        wide.

    Returns
    -------
    ndarray, shape (height, width, 3), uint8
        The sheet.

    Raises
    ------
    InputError
        There is no clip, shapes or numbers do not fit, or the sheet would be over 32768 pixels wide or high.

    Examples
    --------
    >>> contact_sheet(torch.zeros(2, 3, 16, 32, 32), ["one", "two"], frames=8).shape
    (188, 542, 3)
    """
    clips = [check_video(video) for video in _clips(videos)]
    if captions is not None and len(captions) != len(clips):
        raise InputError(f"captions has {len(captions)} entries: there must be one for each of {len(clips)}")
    for name, value in (("frames", frames), ("columns", columns), ("zoom", zoom)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value!r} must be positive")
    strips = [_strip(clip, frames, zoom) for clip in clips]
    if captions is not None:
        strips = [_captioned(s, text) for s, text in zip(strips, captions, strict=True)]
    rows = [strips[n : n + columns] for n in range(0, len(strips), columns)]
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(len(rows[0]))]
    heights = [max(strip.shape[0] for strip in row) for row in rows]
    width = sum(widths) + _MARGIN * (len(widths) + 1)
    height = sum(heights) + _MARGIN * (len(heights) + 1)
    if max(width, height) > _MAX_SIDE:
        raise InputError(f"a sheet of {width}x{height} pixels is too large: show fewer frames or clips")
    sheet = np.full((height, width, 3), _PAPER, np.uint8)
    top = _MARGIN
    for row, tall in zip(rows, heights, strict=True):
        left = _MARGIN
        for strip, wide in zip(row, widths, strict=False):
            sheet[top : top + strip.shape[0], left : left + strip.shape[1]] = strip
            left += wide + _MARGIN
        top += tall + _MARGIN
    return sheet


def save_sheet(
    path: str | Path,
    videos: Clips,
    captions: Sequence[str] | None = None,
    *,
    frames: int | None = None,
    columns: int = 1,
    zoom: int | None = None,
) -> Path:
    """Write a :func:`contact_sheet` to a .png file and return its path.

    Raises
    ------
    InputError
        As :func:`contact_sheet`, or the path does not end in .png.
    """
    target = Path(path).expanduser()
    if target.suffix.lower() != ".png":
        raise InputError(f"path={str(path)!r} must end in .png")
    sheet = contact_sheet(videos, captions, frames=frames, columns=columns, zoom=zoom)
    with atomic_file(target) as temporary:
        Image.fromarray(sheet).save(temporary)
    return target


def side_by_side(videos: Sequence[Tensor], labels: Sequence[str] | None = None) -> Tensor:
    """Put clips next to each other in one clip, to compare them.

    Parameters
    ----------
    videos : sequence of Tensor, shape (C, F, H, W), in [-1, 1] or uint8, all of one type
        Shorter ones stay on their last frame; lower ones are centred on the height of the tallest.
    labels : sequence of str, one for each clip, optional
        A line of text above each, cut where its clip ends.

    Returns
    -------
    Tensor, shape (3, F, H', W')
        Of the type of the clips, on the device of the first.

    Raises
    ------
    InputError
        There is no clip, or shapes, types or numbers do not fit.

    Examples
    --------
    >>> side_by_side([torch.zeros(3, 16, 32, 32), torch.zeros(3, 8, 32, 48)]).shape
    torch.Size([3, 16, 32, 82])
    """
    clips = _clips(videos)
    if labels is not None and len(labels) != len(clips):
        raise InputError(
            f"labels has {len(labels)} entries: there must be one for each of {len(clips)} clips"
        )
    first = clips[0]
    for clip in clips:
        if clip.ndim != 4 or clip.shape[0] not in (1, 3) or clip.numel() == 0:
            raise InputError(
                f"video.shape={tuple(clip.shape)} must be (C, F, H, W) with C = 3, or 1 for grey"
            )
        if clip.dtype != first.dtype:
            raise InputError(f"videos have types {first.dtype} and {clip.dtype}: convert them to one")
    length, tallest = (max(clip.shape[axis] for clip in clips) for axis in (1, 2))
    head = _LINE if labels is not None else 0
    width = sum(clip.shape[3] for clip in clips) + _GAP * (len(clips) - 1)
    paper = _level(_PAPER, first)
    out = first.new_full((3, length, head + tallest, width), paper)
    left = 0
    for n, clip in enumerate(clips):
        high, wide = clip.shape[2:]
        top = head + (tallest - high) // 2
        still = clip[:, -1:].expand(-1, length - clip.shape[1], -1, -1)
        out[:, :, top : top + high, left : left + wide] = torch.cat([clip, still], 1).to(out.device)
        if labels is not None:
            line = torch.from_numpy(_text(labels[n], wide)).permute(2, 0, 1)[:, None].to(out.device)
            values = line if out.dtype == torch.uint8 else line.to(out.dtype) / 127.5 - 1
            out[:, :, :head, left : left + wide] = values
        left += wide + _GAP
    return out


def _clips(videos: Clips) -> list[Tensor]:
    clips = [videos] if isinstance(videos, Tensor) and videos.ndim == 4 else list(videos)
    if not clips:
        raise InputError("videos is empty: give at least one clip")
    return clips


def _level(grey: int, like: Tensor) -> float:
    return grey if like.dtype == torch.uint8 else grey / 127.5 - 1


def _strip(pixels: np.ndarray, frames: int | None, zoom: int | None) -> np.ndarray:
    """Lay the frames (F, H, W, 3) of a clip next to each other."""
    count, height, width = pixels.shape[:3]
    if pixels.size == 0:
        raise InputError(f"a clip of {count} frames of {height}x{width} pixels cannot be shown")
    shown = min(count, frames or count)
    chosen = pixels[np.round(np.linspace(0, count - 1, shown)).astype(int)]
    factor = zoom or max(1, math.ceil(_LEGIBLE / min(height, width)))
    if max(height * factor, shown * (width * factor + _GAP)) > _MAX_SIDE:
        raise InputError(
            f"{shown} frames of {height}x{width} pixels, zoomed {factor} times, are too wide for a sheet: "
            f"give frames={max(1, _MAX_SIDE // (width * factor + _GAP))} or less"
        )
    large = chosen.repeat(factor, 1).repeat(factor, 2)
    spaced = np.pad(large, ((0, 0), (0, 0), (0, _GAP), (0, 0)), constant_values=_PAPER)
    return np.concatenate(list(spaced), 1)[:, :-_GAP]


def _captioned(strip: np.ndarray, text: str) -> np.ndarray:
    return np.concatenate([_text(text, strip.shape[1]), strip])


def _text(text: str, width: int) -> np.ndarray:
    """Draw one line of text, shape (_LINE, width, 3)."""
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), _TEXT)
    line = " ".join(text.split())
    if font.getlength(line) > width:
        while line and font.getlength(line + "…") > width:
            line = line[:-1]
        line += "…"
    image = Image.new("RGB", (width, _LINE), (_PAPER, _PAPER, _PAPER))
    ImageDraw.Draw(image).text((0, 1), line, fill=(_INK, _INK, _INK), font=font)
    return np.array(image)
