"""Training data out of videos and pictures: random clips that are a pure function of (seed, number)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from mmdiff.errors import InputError
from mmdiff.media.draws import draw_by_length, item_rng
from mmdiff.video.cache import CachedFrames
from mmdiff.video.collate import collate_clips
from mmdiff.video.flips import DIRECTION_WORDS, check_flip, may_flip
from mmdiff.video.frames import Frames
from mmdiff.video.items import VideoItem
from mmdiff.video.layouts import find_images, find_train_valid, find_videos
from mmdiff.video.resize import Fit, check_size

__all__ = [
    "DIRECTION_WORDS",
    "ImageFolder",
    "VideoClips",
    "VideoItem",
    "collate_clips",
    "find_images",
    "find_train_valid",
    "find_videos",
    "leave_out_broken",
]


def leave_out_broken(
    train: Sequence[VideoItem],
    valid: Sequence[VideoItem],
    size: int | tuple[int, int],
    *,
    fps: float | None = None,
    fit: Fit = "crop",
    cache: str | Path | Literal[False] | None = None,
) -> tuple[list[VideoItem], list[VideoItem]]:
    """Decode the videos of both parts of a data set, and leave out those that cannot be read.

    Up to a tenth of them, or one, are left out with one warning that names them; more are an error, which
    names those of both parts at once.

    Parameters
    ----------
    train, valid : sequence of VideoItem
    size, fps, fit, cache
        As for :class:`VideoClips`, which then finds the frames in the cache.

    Returns
    -------
    train, valid : list of VideoItem

    Raises
    ------
    InputError
        Too many cannot be read, or all of a part.
    """
    frames = CachedFrames([*train, *valid], Frames(check_size(size), fps, fit), cache)
    usable = frames.lengths > 0
    parts = []
    for name, part, good in (("train", train, usable[: len(train)]), ("valid", valid, usable[len(train) :])):
        parts.append([item for item, well in zip(part, good, strict=True) if well])
        if not parts[-1]:
            raise InputError(
                f"all {len(part)} videos of the split {name} cannot be read: repair or replace them"
            )
    return parts[0], parts[1]


class VideoClips:
    """Endless random clips of videos.

    Clip n draws a video with probability proportional to its number of frames, a start within it, and
    whether it is mirrored. Nothing but ``(seed, n)`` decides, so any number of workers and any resumed run
    see the same data. Videos are decoded once, into files that all processes map into memory.

    Parameters
    ----------
    items : sequence of VideoItem
        The videos, see :func:`find_videos`.
    frames : int > 0
        Length of a clip.
    size : int > 0 | (height, width), pixels
    fps : float > 0, optional
        Rate that all videos are brought to, by time stamps; by default each keeps its own.
    stride : int > 0
        Take every stride-th frame.
    seed : int
        Names the sequence of clips.
    flip : {"auto", True, False}
        Mirror half of the clips. "auto" leaves those as they are that have actions, or whose captions hold
        one of :data:`DIRECTION_WORDS`.
    fit : {"crop", "pad", "stretch"}
        How videos of another shape come to ``size``: the middle, black borders, or distorted.
    short : {"hold", "skip"}
        What becomes of videos shorter than a clip: their last frame is held, or they are left out.
    cache : path, optional
        Folder for decoded frames, 3·height·width bytes each; by default mmdiff's folder in the user's
        cache. False keeps nothing and decodes each clip when it is asked for, which is slow.
    cache_gb : float > 0
        Most that the decoded frames may take, in 10⁹ bytes.
    progress : bool
        Show a progress bar while decoding.

    Attributes
    ----------
    items : list of VideoItem

    Raises
    ------
    InputError
        An argument breaks its rule, or the videos cannot be used.

    Examples
    --------
    >>> clips = VideoClips(find_videos("UCF-101"), 16, 64, fps=12.5, seed=0)  # doctest: +SKIP
    >>> clips[0]["video"].shape, clips[0]["caption"]  # doctest: +SKIP
    (torch.Size([3, 16, 64, 64]), 'playing cello')
    """

    def __init__(
        self,
        items: Sequence[VideoItem],
        frames: int,
        size: int | tuple[int, int],
        *,
        fps: float | None = None,
        stride: int = 1,
        seed: int,
        flip: Literal["auto"] | bool = "auto",
        fit: Fit = "crop",
        short: Literal["hold", "skip"] = "hold",
        cache: str | Path | Literal[False] | None = None,
        cache_gb: float = 50.0,
        progress: bool = True,
    ) -> None:
        for name, value in (("frames", frames), ("stride", stride)):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if short not in ("hold", "skip"):
            raise InputError(f"short={short!r} must be 'hold' or 'skip'")
        check_flip(flip)
        self.items, self.seed = list(items), seed
        self._labelled = all(item.label is not None for item in self.items)
        self._acted = all(item.actions is not None for item in self.items)
        self._may_flip = [
            flip is True or (flip == "auto" and item.actions is None and may_flip(item.caption))
            for item in self.items
        ]
        self._numbers = stride * np.arange(frames)
        how = Frames(check_size(size), fps, fit)
        self._frames = CachedFrames(self.items, how, cache, most_gb=cache_gb, progress=progress)
        lengths = self._frames.lengths
        usable = lengths if short == "hold" else np.where(lengths > self._numbers[-1], lengths, 0)
        if not usable.any():
            raise InputError(
                f"frames={frames} at stride={stride}: all videos are shorter, {lengths.max()} frames at most. "
                "Ask for fewer, or set short='hold'"
            )
        self._ends = np.cumsum(usable)

    @property
    def frames_in_all(self) -> int:
        """Number of frames of all usable videos together."""
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return clip ``index`` >= 0.

        Returns
        -------
        dict
            ``video`` uint8 (3, frames, H, W), ``caption`` str, empty where there is none, and, if all
            items have one, ``label`` int; if all have some, ``actions`` int64 (frames,).
        """
        rng = item_rng(self.seed, index)
        number = draw_by_length(self._ends, rng)
        item, length = self.items[number], int(self._frames.lengths[number])
        first = int(rng.integers(max(length - int(self._numbers[-1]), 1)))
        places = np.minimum(first + self._numbers, length - 1)
        frames = self._frames.read(number, places)
        if rng.integers(2) and self._may_flip[number]:
            frames = frames[..., ::-1]
        video = torch.from_numpy(np.ascontiguousarray(frames.swapaxes(0, 1)))
        clip: dict[str, Any] = {"video": video, "caption": item.caption or ""}
        if self._labelled:
            clip["label"] = item.label
        if self._acted:
            actions = torch.tensor(item.actions)  # spread evenly where the rate of frames was changed
            clip["actions"] = actions[torch.from_numpy(places * len(actions) // length)]
        return clip


class ImageFolder:
    """Endless random pictures: as :class:`VideoClips`, each picture equally likely.

    Parameters
    ----------
    source : path, or sequence of VideoItem
        A folder of pictures, a manifest or shards, see :func:`find_images`.
    size : int > 0 | (height, width), pixels
    seed : int
        Names the sequence of pictures.
    flip, fit, cache, cache_gb, progress
        As for :class:`VideoClips`.

    Raises
    ------
    InputError
        An argument breaks its rule, or the pictures cannot be used.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[VideoItem],
        size: int | tuple[int, int],
        *,
        seed: int,
        flip: Literal["auto"] | bool = "auto",
        fit: Fit = "crop",
        cache: str | Path | Literal[False] | None = None,
        cache_gb: float = 50.0,
        progress: bool = True,
    ) -> None:
        items = find_images(source) if isinstance(source, str | os.PathLike) else source
        self._clips = VideoClips(
            items, 1, size, seed=seed, flip=flip, fit=fit, cache=cache, cache_gb=cache_gb, progress=progress
        )

    @property
    def items(self) -> list[VideoItem]:
        """The pictures."""
        return self._clips.items

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return picture ``index`` >= 0: ``image`` uint8 (3, H, W), ``caption``, and ``label`` if all have one."""
        clip = self._clips[index]
        return {"image": clip.pop("video")[:, 0], **clip}
