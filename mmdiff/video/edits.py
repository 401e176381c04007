"""What is known of a video that is to be made, for each way of editing one: masks and operators, nothing else.

An :class:`Edit` describes the whole video: how long and large it shall be, and what is known of it. The functions
below make one for each task. :mod:`mmdiff.video.long` cuts it into blocks, of each of which
:class:`mmdiff.video.known.Known` says what is known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.video.checks import check_count, check_tensor
from mmdiff.video.convert import convert
from mmdiff.video.known import Known


@dataclass(frozen=True)
class Edit:
    """A video to be made, and what is known of it.

    Parameters
    ----------
    frames : int > 0
        Its length.
    size : (height, width), pixels
    video : Tensor, shape (N, C, f, H, W), uint8 or in [-1, 1], optional
        Known pixels of f frames; what lies outside the mask does not matter.
    mask : Tensor of bool, shape (N or 1, 1, f, H or 1, W or 1), optional
        Where they are known.
    first : int >= 0
        The frame of the result at which ``video`` begins.
    loop : bool
        The last frame shall be followed by the first.
    small : Tensor, shape (N, C, f, H / factor, W / factor), uint8 or in [-1, 1], optional
        The video at low resolution, instead of ``video``.
    factor, time_factor : int > 0
        How much larger the result is: a small frame holds means over squares of every ``time_factor``-th frame.
    """

    frames: int
    size: tuple[int, int]
    video: Tensor | None = None
    mask: Tensor | None = None
    first: int = 0
    loop: bool = False
    small: Tensor | None = None
    factor: int = 1
    time_factor: int = 1

    def __post_init__(self) -> None:
        check_count("frames", self.frames)

    @property
    def clips(self) -> int:
        """N, how many different videos are known; 1 where nothing is."""
        return max(len(video) for video in (self.video, self.small, torch.empty(1)) if video is not None)

    def items(self, begin: int, end: int) -> Edit:
        """Return the edit of some of the clips; where there is one clip, of that."""
        if self.clips == 1:
            return self
        cut = {
            name: value[begin:end]
            for name in ("video", "mask", "small")
            if (value := getattr(self, name)) is not None and len(value) > 1
        }
        return dataclasses.replace(self, **cut)

    @property
    def of_whole_frames(self) -> bool:
        """Whether each frame is known in every pixel or in none."""
        frames = None if self.mask is None else self.mask.movedim(2, 0).flatten(1)
        return self.small is None and (frames is None or bool((frames.all(1) | ~frames.any(1)).all()))

    def whole(self) -> list[bool]:
        """For each frame, whether it is known in every pixel."""
        known = [False] * self.frames
        if self.mask is not None:
            known[self.first : self.first + self.mask.shape[2]] = (
                self.mask.flatten(3).all(3).all(1).all(0).tolist()
            )
        return known

    def part(self, begin: int, end: int, channels: int, device: torch.device) -> Known:
        """What is known of the frames from ``begin`` to ``end``, where those after the last are unknown."""
        video = torch.zeros(self.clips, channels, end - begin, *self.size, device=device)
        mask = torch.zeros(1, 1, end - begin, *self.size, dtype=torch.bool, device=device)
        if self.video is not None and self.mask is not None:
            length = self.video.shape[2]
            low, high = max(begin, self.first), min(end, self.first + length)
            if low < high:
                inside = slice(low - self.first, high - self.first)
                here = self.mask[:, :, inside].to(device).expand(-1, -1, -1, *self.size)
                pixels = convert(self.video[:, :, inside].to(device), torch.float32)
                mask = mask.expand(len(here), -1, -1, -1, -1).clone()
                mask[:, :, low - begin : high - begin] = here
                video[:, :, low - begin : high - begin] = torch.where(here, pixels, 0.0)
        return Known(video, mask, *self._means(begin, end, device))

    def _means(
        self, begin: int, end: int, device: torch.device
    ) -> tuple[Tensor | None, tuple[int, ...], int]:
        if self.small is None:
            return None, (), 1
        step = self.time_factor
        first, last = -(-begin // step), -(-min(end, self.frames) // step)
        small = convert(self.small[:, :, first:last].to(device), torch.float32)
        return small, tuple(n * step - begin for n in range(first, last)), self.factor


def blank(frames: int, size: tuple[int, int], *, loop: bool = False) -> Edit:
    """Nothing is known."""
    return Edit(frames, size, loop=loop)


def continuation(clip: Tensor, frames: int) -> Edit:
    """What follows a clip is unknown.

    Parameters
    ----------
    clip : Tensor, shape (C, F, H, W) or (N, C, F, H, W), uint8 or in [-1, 1]
    frames : int > 0
        How many to add.
    """
    clip = as_clips(clip)
    check_count("frames", frames, f": how many to add to the clip's {clip.shape[2]}")
    return Edit(clip.shape[2] + frames, _size(clip), clip, _all(clip.shape[2]))


def between(keyframes: Tensor | Sequence[Tensor], frames: int, places: Sequence[int] | None = None) -> Edit:
    """Only some frames are known.

    Parameters
    ----------
    keyframes : Tensor, shape (C, K, H, W) or (N, C, K, H, W), or sequence of K Tensors (C, H, W)
        uint8 or in [-1, 1].
    frames : int
        Length of the result.
    places : sequence of K int, optional
        Their frame numbers, rising; default: evenly from the first frame to the last.
    """
    clip = as_clips(keyframes if isinstance(keyframes, Tensor) else _stacked(keyframes))
    check_count("frames", frames)
    count = clip.shape[2]
    if places is None:
        places = [round(n * (frames - 1) / max(1, count - 1)) for n in range(count)]
    rising = all(a < b for a, b in pairwise(places))
    if len(places) != count or not rising or places[0] < 0 or places[-1] >= frames:
        raise InputError(
            f"places={list(places)} must be {count} rising frame numbers from 0 to {frames - 1}, one for each "
            "key frame; take other places or more frames"
        )
    first, length = places[0], places[-1] - places[0] + 1
    inside = [place - first for place in places]
    video = clip.new_zeros(*clip.shape[:2], length, *clip.shape[3:])
    video[:, :, inside] = clip
    mask = torch.zeros(1, 1, length, 1, 1, dtype=torch.bool, device=clip.device)
    mask[:, :, inside] = True
    return Edit(frames, _size(clip), video, mask, first)


def inpainting(clip: Tensor, mask: Tensor) -> Edit:
    """Part of the pixels is to be made anew.

    Parameters
    ----------
    clip : Tensor, shape (C, F, H, W) or (N, C, F, H, W), uint8 or in [-1, 1]
    mask : Tensor, shape (H, W), (F, H, W), (1, F, H, W) or (N, 1, F, H, W); F may be 1
        Where to paint: True, or numbers in [0, 1] of which 0.5 and more count.
    """
    clip = as_clips(clip)
    check_tensor("mask", mask)
    if not torch.isfinite(mask).all():
        raise InputError("mask must be finite, but has values that are NaN or infinite; say where to paint")
    length, (height, width) = clip.shape[2], _size(clip)
    paint = mask if mask.dtype == torch.bool else mask >= 0.5
    paint = paint[(None,) * (5 - paint.ndim)] if paint.ndim <= 5 else paint
    fits = (len(paint) in (1, len(clip)), paint.shape[1:2] == (1,), paint.shape[2] in (1, length))
    if paint.ndim != 5 or not all(fits) or paint.shape[3:] != (height, width):
        raise InputError(
            f"mask={tuple(mask.shape)} must be (H, W), (F, H, W) or (1, F, H, W) with F = 1 or {length} frames of "
            f"{height}x{width}, those of the clip; resize it"
        )
    return Edit(length, (height, width), clip, ~paint.to(clip.device).expand(-1, -1, length, -1, -1))


def outpainting(
    clip: Tensor,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    before: int = 0,
    after: int = 0,
    unit: int = 1,
) -> Edit:
    """The clip goes on beyond its edges, by so many pixels, and in time, by so many frames.

    Parameters
    ----------
    clip : Tensor, shape (C, F, H, W) or (N, C, F, H, W), uint8 or in [-1, 1]
    left, right, top, bottom : int >= 0, pixels
    before, after : int >= 0, frames
    unit : int > 0, pixels
        What height and width of the result must be divisible by.
    """
    clip = as_clips(clip)
    margins = (left, right, top, bottom)
    whole = all(isinstance(margin, int) for margin in (*margins, before, after))
    if not whole or min(*margins, before, after) < 0 or not any((*margins, before, after)):
        raise InputError(
            f"left={left!r}, right={right!r}, top={top!r}, bottom={bottom!r}, before={before!r}, after={after!r} must "
            "be whole numbers of at least 0, and one of them more; to cut a clip, index it"
        )
    size = (clip.shape[3] + top + bottom, clip.shape[4] + left + right)
    if any(side % unit for side in size):
        raise InputError(
            f"left={left}, right={right}, top={top}, bottom={bottom} would make {size[0]}x{size[1]}, which must be "
            f"divisible by {unit} along both sides; left={left}, right={right + -size[1] % unit}, top={top}, "
            f"bottom={bottom + -size[0] % unit} would do"
        )
    inner = torch.ones(1, 1, 1, *_size(clip), dtype=torch.bool, device=clip.device)
    mask = functional.pad(inner, margins).expand(-1, -1, clip.shape[2], -1, -1)
    video = functional.pad(clip, margins) if any(margins) else clip
    return Edit(before + clip.shape[2] + after, _size(video), video, mask, before)


def enlargement(clip: Tensor, factor: int = 2, time_factor: int = 1) -> Edit:
    """The clip is known at low resolution only.

    Parameters
    ----------
    clip : Tensor, shape (C, F, H, W) or (N, C, F, H, W), uint8 or in [-1, 1]
    factor : int > 0
        Of height and width: a small pixel is the mean of a square.
    time_factor : int > 0
        Of the number of frames: a small frame is every ``time_factor``-th.
    """
    clip = as_clips(clip)
    whole = isinstance(factor, int) and isinstance(time_factor, int)
    if not whole or factor < 1 or time_factor < 1 or factor * time_factor == 1:
        raise InputError(
            f"factor={factor!r} and time_factor={time_factor!r} must be whole numbers of at least 1, one of them more"
        )
    size = (clip.shape[3] * factor, clip.shape[4] * factor)
    return Edit(clip.shape[2] * time_factor, size, small=clip, factor=factor, time_factor=time_factor)


def as_clips(video: Tensor) -> Tensor:
    """Give one clip (C, F, H, W) its batch dimension; check that it is pixels.

    Raises
    ------
    InputError
        It is no tensor, has another number of dimensions or is empty, of another type, or out of range.
    """
    check_tensor("video", video)
    clips = video[None] if video.ndim == 4 else video
    if clips.ndim != 5 or not clips.numel():
        raise InputError(f"video={tuple(video.shape)} must be (C, F, H, W) or (N, C, F, H, W), and not empty")
    if clips.dtype == torch.uint8:
        return clips
    if not clips.is_floating_point():
        raise InputError(f"video.dtype={video.dtype} must be uint8, or floating point in [-1, 1]")
    peak = float(clips.abs().max())
    if not peak <= 1.001:
        raise InputError(f"video must lie in [-1, 1], but its largest magnitude is {peak:.4g}; scale it")
    return clips


def _stacked(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures (C, H, W) as a clip (C, K, H, W)."""
    if not isinstance(pictures, list | tuple) or not pictures:
        check_tensor("keyframes", pictures)
    for picture in pictures:
        check_tensor("each of keyframes", picture)
        if picture.ndim != 3 or picture.shape != pictures[0].shape:
            shapes = ", ".join(str(tuple(each.shape)) for each in pictures)
            raise InputError(f"keyframes are {shapes}, but must be (C, H, W), all of one size; resize them")
    return torch.stack(list(pictures), 1)


def _size(clip: Tensor) -> tuple[int, int]:
    return int(clip.shape[3]), int(clip.shape[4])


def _all(frames: int) -> Tensor:
    return torch.ones(1, 1, frames, 1, 1, dtype=torch.bool)
