"""Ways of leaving something out of a clip, and the simplest ways of filling it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.video import edits
from mmdiff.video.edits import Edit
from mmdiff.video.small import shrink
from mmdiff.video.validation import copy_nearest

REAL = "real clips"
"""Name of what models are measured beside."""
_EVERY = 5  # frames between key frames

Baseline = Callable[[Tensor], Tensor]
"""Real clips (N, C, F, H, W) in [-1, 1], of which it only looks at what is known, to its estimate of them."""


class Task(NamedTuple):
    """One way of leaving something out."""

    name: str
    edit: Callable[[Tensor], Edit]
    """Real clips (N, C, F, H, W) in [-1, 1] to what is known of them."""
    known: Tensor
    """(F, H, W) of bool, where pixels are known."""
    baselines: Mapping[str, Baseline]


def prediction_task(frames: int, size: tuple[int, int]) -> Task:
    """The first quarter of a clip's frames is known."""
    if frames < 2:
        raise InputError(f"frames={frames} must be at least 2: one is known and one predicted")
    begin = max(1, frames // 4)
    first = _chosen(frames, range(begin))
    return Task(
        "prediction",
        lambda clips: edits.continuation(clips[:, :, :begin], frames - begin),
        first[:, None, None].expand(frames, *size),
        {"copying the last frame": lambda clips: copy_nearest(clips, first)},
    )


def edit_tasks(frames: int, size: tuple[int, int]) -> list[Task]:
    """The tasks: prediction, interpolation, inpainting, outpainting, upsampling in space and in time."""
    height, width = size
    if frames < 4 or frames % 2 or height % 4 or width % 4:
        raise InputError(
            f"frames={frames} and size={height}x{width}: clips to edit must have an even number of frames, 4 or more, "
            "and sides divisible by 4"
        )
    everywhere = torch.ones(frames, height, width, dtype=torch.bool)
    inner = torch.zeros_like(everywhere)
    up, left = height // 4, width // 4
    inner[:, up : height - up, left : width - left] = True
    keys = sorted({*range(0, frames, _EVERY), frames - 1})
    key, second = (_chosen(frames, places) for places in (keys, range(0, frames, 2)))
    return [
        prediction_task(frames, size),
        _time_task("interpolation", lambda clips: edits.between(clips[:, :, keys], frames, keys), key, size),
        Task("inpainting", lambda clips: edits.inpainting(clips, inner), ~inner, {"black": _black(~inner)}),
        Task(
            "outpainting",
            lambda clips: edits.outpainting(
                clips[..., up : height - up, left : width - left], left=left, right=left, top=up, bottom=up
            ),
            inner,
            {"black": _black(inner)},
        ),
        Task(
            "upsampling in space",
            lambda clips: edits.enlargement(shrink(clips, 2, 1), 2),
            ~everywhere,
            {"nearest pixel": _enlarged("nearest"), "bilinear": _enlarged("bilinear")},
        ),
        _time_task(
            "upsampling in time", lambda clips: edits.enlargement(clips[:, :, ::2], 1, 2), second, size
        ),
    ]


def _time_task(name: str, edit: Callable[[Tensor], Edit], known: Tensor, size: tuple[int, int]) -> Task:
    """Whole frames (F,) are known, and the others are to be found between them."""
    baselines = {
        "copying the nearest frame": lambda clips: copy_nearest(clips, known),
        "linear blending": lambda clips: blend(clips, known),
    }
    return Task(name, edit, known[:, None, None].expand(-1, *size), baselines)


def blend(video: Tensor, known: Tensor) -> Tensor:
    """Fill the frames of clips (N, C, F, H, W) that are not ``known`` (F,) by linear interpolation in time."""
    given = torch.nonzero(known)[:, 0]
    frames = torch.arange(len(known))
    after = torch.searchsorted(given, frames).clamp(max=len(given) - 1)
    before = (torch.searchsorted(given, frames, right=True) - 1).clamp(min=0)
    low, high = given[before], given[after]
    share = ((frames - low) / (high - low).clamp_min(1)).clamp(0, 1)[:, None, None]
    return video[:, :, low].lerp(video[:, :, high], share.to(video))


def _chosen(frames: int, places: Sequence[int]) -> Tensor:
    chosen = torch.zeros(frames, dtype=torch.bool)
    chosen[list(places)] = True
    return chosen


def _black(known: Tensor) -> Baseline:
    return lambda clips: torch.where(known, clips, -1.0)


def _enlarged(mode: str) -> Baseline:
    def enlarge(clips: Tensor) -> Tensor:
        size, small = tuple(clips.shape[-2:]), shrink(clips, 2, 1)
        frames = functional.interpolate(small.transpose(1, 2).flatten(0, 1), size, mode=mode)
        return frames.unflatten(0, (len(clips), -1)).transpose(1, 2)

    return enlarge
