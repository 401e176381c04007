"""Frames of one item of a data set as bytes, whatever it is: a video, a part of one, a picture, in a tar or not."""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.video import io
from mmdiff.video.items import VideoItem, local_file
from mmdiff.video.resize import Fit, check_fit, check_size

_BLOCK = 32  # frames decoded at a time

if hasattr(os, "register_at_fork"):
    # FFmpeg's scalers and decoders wait for their threads when they are freed. A forked loader has inherited
    # them without the threads, so it would wait for ever where it collects one: leave them to the parent.
    os.register_at_fork(after_in_child=gc.freeze)


@dataclass(frozen=True)
class Frames:
    """How items are decoded.

    Parameters
    ----------
    size : (height, width), pixels
    fps : float > 0, optional
        Rate to bring videos to; by default each keeps its own.
    fit : {"crop", "pad", "stretch"}
        See :func:`mmdiff.video.resize.resize`.
    """

    size: tuple[int, int]
    fps: float | None = None
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        check_size(self.size)
        check_fit(self.fit)
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise InputError(f"fps={self.fps} must be in (0, 1000], or None to keep each video's own")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a frame: (3, H, W)."""
        return (3, *self.size)

    def every(self, item: VideoItem) -> Iterator[np.ndarray]:
        """Yield all frames of an item in blocks, uint8 (f, 3, H, W)."""
        with local_file(item) as path:
            seconds = None if item.end is None else item.end - item.start
            for block in io.stream(
                path, _BLOCK, fps=self.fps, start=item.start, seconds=seconds,
                size=self.size, fit=self.fit, dtype=torch.uint8,
            ):  # fmt: skip
                yield _frames_first(block)

    def measure(self, item: VideoItem) -> tuple[int, float]:
        """Return how many frames an item has, without decoding them, and its frames a second."""
        with local_file(item) as path:
            about = io.info(path)
        fps = self.fps or about.fps
        there = max(0, math.ceil((about.seconds - item.start) * fps - 1e-4))
        if item.end is None:
            return there, fps
        return min(there, max(1, round((item.end - item.start) * fps))), fps

    def some(self, item: VideoItem, numbers: np.ndarray, fps: float) -> np.ndarray:
        """Decode the frames of these rising numbers, given the item's rate: uint8 (len(numbers), 3, H, W)."""
        first, last = int(numbers[0]), int(numbers[-1])
        with local_file(item) as path:
            clip = io.read(
                path, fps=self.fps, start=item.start + first / fps, frames=last - first + 1,
                size=self.size, fit=self.fit, dtype=torch.uint8,
            )  # fmt: skip
        frames = _frames_first(clip.video)
        return frames[np.minimum(numbers - first, len(frames) - 1)]


def _frames_first(video: Tensor) -> np.ndarray:
    return np.ascontiguousarray(video.transpose(0, 1).numpy())
