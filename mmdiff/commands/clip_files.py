"""Where ``mmdiff clip`` writes: files for clips, a contact sheet for all of them."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmdiff.commands.jobs import refuse_replacing
from mmdiff.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

FILMS = (".mp4", ".webm", ".mkv", ".mov", ".m4v", ".gif", ".npz")
SHOWN = 16  # frames of a clip on a contact sheet
_NAME = 60  # characters of a prompt that a file name takes


class Result(NamedTuple):
    """One clip that was made; ``path`` is None where only a contact sheet was asked for."""

    path: Path | None
    prompt: str | None
    seed: int
    elapsed: float
    evaluations: int


def plan_outputs(
    out: str | None,
    prompts: Sequence[str | None],
    inputs: Sequence[Path],
    tag: str | None,
    plot: str | None,
    list_file: str | None,
    frames: int,
) -> Outputs:
    """Name the results.

    Parameters
    ----------
    out : str, optional
        As the user said.
    prompts : sequence of str or None
        Of each clip.
    inputs : sequence of Path
        What was read: files, folders of pictures, numbered pictures.
    tag : str, optional
        What default names of edited videos are marked with.
    plot : str, optional
        Contact sheet beside.
    list_file : str, optional
        Text file of the prompts.
    frames : int
        Of a clip.

    Raises
    ------
    InputError
        A result would replace an input or another result, a name does not fit, or nothing can be written there.
    """
    if out == "":
        raise InputError("out='' must name a file or folder, or be left out")
    target = None if out is None else Path(out).expanduser()
    suffix = "" if target is None else target.suffix.lower()
    single = len(prompts) == 1
    sheets = [] if plot is None else [Path(plot).expanduser()]
    clips: list[Path | None]
    if target is None:
        clips = list(numbered([_default(text, inputs, tag) for text in prompts], ".mp4"))
    elif "%" in target.name or (suffix == ".png" and single and frames == 1):
        if not single:
            raise InputError(f"out={out!r} is for one clip, but there are {len(prompts)}: name a folder")
        clips = [target]
    elif suffix == ".png":
        clips, sheets = [None] * len(prompts), [target, *sheets]
    elif suffix in FILMS and not target.is_dir():
        clips = [target] if single else list(numbered([target.with_suffix("")] * len(prompts), suffix))
    elif suffix and not target.is_dir():
        raise InputError(f"out={out!r} must be a folder or end in {', '.join((*FILMS, '.png'))}")
    else:
        clips = list(numbered([target / _default(text, inputs, tag).name for text in prompts], ".mp4"))
    if any(sheet.suffix.lower() != ".png" for sheet in sheets):
        raise InputError(f"plot={plot!r} must end in .png")
    listed = [] if list_file is None else [Path(list_file).expanduser()]
    named = [*filter(None, clips), *sheets]
    check_places(named)
    _check_replacing(named, [*inputs, *listed], frames)
    return Outputs(tuple(clips), tuple(sheets))


def _default(prompt: str | None, inputs: Sequence[Path], tag: str | None) -> Path:
    if inputs and tag:
        return inputs[0].with_name(f"{inputs[0].stem.split('%')[0] or 'clip'}.{tag}")
    return Path(re.sub(r"[^\w.]+", "-", prompt or "")[:_NAME].strip("-._").lower() or "clip")


def numbered(stems: list[Path], suffix: str) -> Iterator[Path]:
    """Add the suffix; number what would have the same name."""
    count, seen = Counter(stems), Counter[Path]()
    for stem in stems:
        name = stem.name if count[stem] == 1 else f"{stem.name}-{seen[stem]}"
        seen[stem] += 1
        yield stem.with_name(f"{name}{suffix}")


def check_places(targets: Sequence[Path]) -> None:
    """Raise InputError where a file cannot be written for what is in its way."""
    for path in targets:
        if path.exists() and not path.is_file():
            raise InputError(f"out: {str(path)!r} is there and is no file; choose another name")
        there = next((folder for folder in path.parents if os.path.lexists(folder)), Path())
        if not there.is_dir():
            raise InputError(
                f"out: {str(path)!r} cannot be written, because {str(there)!r} is no folder; choose another name"
            )


def _check_replacing(targets: Sequence[Path], inputs: Sequence[Path], frames: int) -> None:
    folders = {os.path.realpath(path): path for path in inputs if path.is_dir()}
    for path in targets:
        if (folder := folders.get(os.path.realpath(path.parent))) is not None:
            raise InputError(
                f"out: {str(path)!r} lies in {str(folder)!r}, whose pictures are the input; choose another folder"
            )
    written = [file for path in targets for file in _written(path, frames)]
    refuse_replacing(written, [file for path in inputs for file in (path, *_numbers(path))])
    count = Counter(os.path.realpath(path) for path in written)
    for path in written:
        if count[os.path.realpath(path)] > 1:
            raise InputError(f"out: {str(path)!r} would be written twice; choose another name")


def _written(path: Path, frames: int) -> list[Path]:
    """Files that are written, or removed because a longer clip of the same name has left them."""
    from mmdiff.video.stills import is_pattern

    if not is_pattern(path):
        return [path]
    new = [path.with_name(path.name % n) for n in range(frames)]
    return list(dict.fromkeys([path, *new, *_numbers(path)]))


def _numbers(path: Path) -> list[Path]:
    """The pictures there are of a numbered series."""
    from mmdiff.video.stills import is_pattern, numbered

    return [file for _, file in numbered(path)] if is_pattern(path) else []


@dataclass(frozen=True)
class Outputs:
    """Names of everything that is written.

    Attributes
    ----------
    clips : tuple of Path or None
        One for each clip.
    pictures : tuple of Path
        Contact sheets of all of them.
    """

    clips: tuple[Path | None, ...]
    pictures: tuple[Path, ...]

    @property
    def films(self) -> bool:
        """Whether anything that is written has a frame rate."""
        return any(path is not None and path.suffix.lower() in FILMS for path in self.clips)

    @contextlib.contextmanager
    def files(
        self, first: int, count: int, fps: float, size: tuple[int, int], sound: tuple[Tensor, int] | None
    ) -> Iterator[Films]:
        """Open the files of ``count`` clips; they get their names when the block ends well."""
        from mmdiff.video import io

        with contextlib.ExitStack() as stack:
            writers: list[tuple[Any, bool]] = []
            for path in self.clips[first : first + count]:
                if path is None:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                heard = sound is not None and path.suffix.lower() in FILMS and path.suffix.lower() != ".gif"
                rate = (
                    {} if sound is None or not heard else {"sample_rate": sound[1], "channels": len(sound[0])}
                )
                writers.append((stack.enter_context(io.writer(path, fps, size, **rate)), heard))
            yield Films(self.clips[first : first + count], writers, fps, sound)

    @contextlib.contextmanager
    def sheet(self, titles: Sequence[str], frames: int) -> Iterator[Strips]:
        """Collect frames for the contact sheets, which are written when the block ends well."""
        strips = Strips(len(titles) if self.pictures else 0, frames)
        yield strips
        for path in self.pictures:
            from mmdiff.video.sheet import save_sheet

            save_sheet(path, strips.videos(), titles)


class Films:
    """Clips being written side by side."""

    def __init__(
        self,
        paths: tuple[Path | None, ...],
        writers: list[tuple[Any, bool]],
        fps: float,
        sound: tuple[Tensor, int] | None,
    ) -> None:
        self.paths, self._writers, self._fps, self._sound = paths, writers, fps, sound
        self._written = 0

    def write(self, block: Tensor) -> None:
        """Append frames (B, C, f, H, W), with their sound."""
        begin, self._written = self._written, self._written + block.shape[2]
        for video, (writer, heard) in zip(block, self._writers, strict=bool(self._writers)):
            writer.write(video)
            if self._sound is not None and heard:
                wave, rate = self._sound
                low, high = (round(n / self._fps * rate) for n in (begin, self._written))
                if low < wave.shape[1]:
                    writer.write(sound=wave[:, low:high])


class Strips:
    """Evenly spaced frames of clips, as they come in.

    Parameters
    ----------
    clips : int
        How many are shown.
    frames : int
        Their length.
    """

    def __init__(self, clips: int, frames: int) -> None:
        count = min(frames, SHOWN)
        self._wanted = {round(n * (frames - 1) / max(1, count - 1)) for n in range(count)}
        self._shown: list[list[Tensor]] = [[] for _ in range(clips)]
        self._passed: Counter[int] = Counter()

    def add(self, block: Tensor, first: int) -> None:
        """Look at the next frames (B, C, f, H, W) of clip ``first`` and those after it."""
        begin = self._passed[first]
        self._passed[first] += block.shape[2]
        chosen = [n for n in range(block.shape[2]) if begin + n in self._wanted]
        if self._shown and chosen:
            for i, video in enumerate(block):
                self._shown[first + i].append(video[:, chosen].clone())

    def videos(self) -> list[Tensor]:
        """The frames of each clip, (C, F, H, W)."""
        import torch

        return [torch.cat(parts, 1) for parts in self._shown]
