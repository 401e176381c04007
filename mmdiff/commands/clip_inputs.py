"""What ``mmdiff clip`` reads: videos and pictures, brought to what the model works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.commands.clip_options import option, read_margins, read_size
from mmdiff.errors import InputError
from mmdiff.video import edits, io
from mmdiff.video.convert import in_channels
from mmdiff.video.edits import Edit
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.pictures import opened
from mmdiff.video.request import stride

TAGS = {
    "continue_from": "continued",
    "keyframes": "between",
    "inpaint": "inpainted",
    "outpaint": "outpainted",
    "upscale": "upscaled",
}
"""What default names are marked with, for each task."""
_NEEDS = {"mask": "inpaint", "places": "keyframes", "margins": "outpaint", "factor": "upscale"}
_NEAR = 2.5  # times the area of training clips, that a video's own size may have


@dataclass(frozen=True)
class Source:
    """What was read.

    Attributes
    ----------
    edit : Edit
        The video to be made, and what is known of it.
    files : tuple of Path
        The user's.
    tag : str or None
        For default names.
    fps : float
        Of the result.
    sound : (Tensor (channels, samples), int Hz) or None
        Of the result.
    notes : tuple of str
    """

    edit: Edit
    files: tuple[Path, ...]
    tag: str | None
    fps: float
    sound: tuple[Tensor, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def reads(self) -> bool:
        """Whether a video was read at the frame rate."""
        return self.tag not in (None, TAGS["keyframes"])


def read_source(
    gen: ClipGenerator,
    tasks: Mapping[str, str | list[str] | None],
    more: Mapping[str, Any],
    frames: int | None,
    size: str | None,
    fps: float | None,
) -> Source:
    """Read what is given and say what is to be made.

    Parameters
    ----------
    gen : ClipGenerator
    tasks : mapping
        File or files of each of :data:`TAGS`; one at most.
    more : mapping
        ``mask``, ``places``, ``margins``, ``factor``.
    frames, size, fps
        As the user said.

    Raises
    ------
    InputError
        Options do not go together, or a file cannot be used.
    """
    for name, value in {**tasks, "mask": more["mask"]}.items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise InputError(f"{option(name)} '' must name a file, or be left out")
    chosen = [name for name, value in tasks.items() if value]
    if len(chosen) > 1:
        raise InputError(
            f"{' and '.join(map(option, chosen))} must not be given together; do one after the other"
        )
    for name, task in _NEEDS.items():
        if more[name] and task not in chosen:
            raise InputError(f"{option(name)} must come with {option(task)}")
    wanted, rate = read_size(size), gen.fps if fps is None else fps
    if not chosen:
        length = gen.model.frames if frames is None else frames
        return Source(edits.blank(length, wanted or _trained(gen)), (), None, rate)
    task = chosen[0]
    if frames is not None and task not in ("continue_from", "keyframes"):
        raise InputError(f"frames={frames} must be left out with {option(task)}: the video decides")
    if task == "keyframes":
        return _read_keyframes(gen, list(tasks[task] or ()), more["places"], frames, wanted, rate)
    path = Path(str(tasks[task])).expanduser()
    if task == "upscale" and fps is None:
        rate = _own_rate(path, rate)
    video, sound, notes = _read_video(gen, path, wanted, rate, fps is None, own_size=task == "upscale")
    source = Source(edits.blank(1, (1, 1)), (path,), TAGS[task], rate, sound, notes)
    return _edited(gen, source, task, video, more, frames)


def _edited(
    gen: ClipGenerator, source: Source, task: str, video: Tensor, more: Mapping[str, Any], frames: int | None
) -> Source:
    files, rate, sound, notes = source.files, source.fps, source.sound, source.notes
    if task == "continue_from":
        edit = edits.continuation(video, gen.model.frames if frames is None else frames)
    elif task == "inpaint":
        if not more["mask"]:
            raise InputError("--inpaint must come with --mask: a picture or video, white where to paint")
        files = (*files, Path(more["mask"]).expanduser())
        paint = _read_mask(files[-1], files[0], video, rate)
        if not paint.any():
            raise InputError(f"mask={more['mask']!r} must be white somewhere: that is where to paint")
        if paint.all():
            notes = (*notes, f"{files[-1].name} is white everywhere: everything is painted anew")
        edit = edits.inpainting(video, paint)
    elif task == "outpaint":
        margins = read_margins(more["margins"])
        edit = edits.outpainting(video, **margins, unit=stride(gen.model))
        if sound is not None and margins["before"]:
            silence = sound[0].new_zeros(len(sound[0]), round(margins["before"] / rate * sound[1]))
            sound = (torch.cat((silence, sound[0]), 1), sound[1])
    else:
        factor = list(more["factor"]) or [2]
        if len(factor) > 2:
            raise InputError(
                f"factor={factor} must be one number for height and width, and one for the frame rate"
            )
        edit = edits.enlargement(video, *factor)
        rate *= edit.time_factor
    return Source(edit, files, source.tag, rate, sound, notes)


def _read_video(
    gen: ClipGenerator,
    path: Path,
    size: tuple[int, int] | None,
    fps: float,
    remark_rate: bool,
    own_size: bool,
) -> tuple[Tensor, tuple[Tensor, int] | None, tuple[str, ...]]:
    """Pictures (C, F, H, W) uint8, sound, and what was done to them."""
    about, own = io.info(path), _own_size(path)
    notes = []
    if size is None:
        size = own if own_size or _suits(gen, own) else _trained(gen)
        notes += _cut(path, own, size)
    own_rate = _own_rate(path, fps)
    if remark_rate and abs(own_rate - fps) > 1e-3 and about.frames != 1:
        notes.append(f"{path.name} has {own_rate:g} frames a second: read at {fps:g}; choose with --fps")
    clip = io.read(path, fps=fps, size=size, sound=True, dtype=torch.uint8)
    sound = None
    if clip.sound is not None and clip.sample_rate is not None:
        wave = clip.sound if len(clip.sound) <= 2 else clip.sound.mean(0, keepdim=True)
        sound = (wave, clip.sample_rate)
    return in_channels(clip.video, gen.model.channels), sound, tuple(notes)


def _read_keyframes(
    gen: ClipGenerator,
    names: Sequence[str],
    places: Sequence[int],
    frames: int | None,
    size: tuple[int, int] | None,
    fps: float,
) -> Source:
    files = tuple(Path(name).expanduser() for name in names)
    notes = []
    if size is None:
        sizes = [_own_size(file) for file in files]
        size = sizes[0] if _suits(gen, sizes[0]) else _trained(gen)
        for file, own in zip(files, sizes, strict=True):
            notes += _cut(file, own, size)
    notes += [
        f"{file.name} has more than one picture: its first is taken"
        for file in files
        if io.info(file).frames != 1
    ]
    clips = [io.read(file, frames=1, size=size, dtype=torch.uint8) for file in files]
    pictures = [in_channels(clip.video, gen.model.channels) for clip in clips]
    if frames is None:
        frames = max(gen.model.frames, len(files), *(place + 1 for place in places))
    edit = edits.between(torch.cat(pictures, 1), frames, list(places) or None)
    return Source(edit, files, TAGS["keyframes"], fps, notes=tuple(notes))


def _read_mask(path: Path, film: Path, video: Tensor, fps: float) -> Tensor:
    """Where to paint, (1, 1 or F, H, W) of bool."""
    length, size = video.shape[1], (int(video.shape[2]), int(video.shape[3]))
    about, own, shape = io.info(path), _own_size(film), _own_size(path)
    # cut like the video if it has the video's shape; one for what was cut from the video lies on that
    if not _alike(shape, own) and not _alike(shape, size):
        raise InputError(
            f"mask={str(path)!r} of {shape[0]}x{shape[1]} must have the shape of {film.name}, {own[0]}x{own[1]}, or of "
            f"what is read from it, {size[0]}x{size[1]}, to lie on it"
        )
    rate = None if about.frames == 1 else fps
    white = io.read(path, fps=rate, frames=length, size=size, dtype=torch.uint8).video
    if white.shape[1] not in (1, length):
        raise InputError(
            f"mask={str(path)!r} has {white.shape[1]} frames at {fps:g} a second, the video {length}: give a picture, "
            "or a mask as long as the video"
        )
    return white.amax(0, keepdim=True) >= 128


def _own_size(path: Path) -> tuple[int, int]:
    about = io.info(path)
    return about.height, about.width


def _own_rate(path: Path, fps: float) -> float:
    """Frames a second of a video; ``fps`` for pictures and arrays that say nothing of a rate."""
    with opened(path, fps) as source:
        return float(source.timing.fps)


def _cut(path: Path, own: tuple[int, int], size: tuple[int, int]) -> list[str]:
    if own == size:
        return []
    return [f"{path.name} is {own[0]}x{own[1]}: read at {size[0]}x{size[1]}, cut to fit; choose with --size"]


def _alike(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether heights and widths are as one to the other, but for rounding to whole pixels."""
    (height, width), (tall, wide) = one, other
    return abs(height * wide - width * tall) <= min(max(one), max(other))


def _suits(gen: ClipGenerator, size: tuple[int, int]) -> bool:
    unit, trained = stride(gen.model), gen.model.size[0] * gen.model.size[1]
    return not any(side % unit for side in size) and trained / _NEAR < size[0] * size[1] < _NEAR * trained


def _trained(gen: ClipGenerator) -> tuple[int, int]:
    height, width = gen.model.size
    return height, width
