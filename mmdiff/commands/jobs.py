"""What a command is to work on, and where each result goes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmdiff.errors import InputError
from mmdiff.media.folders import walk


@dataclass(frozen=True)
class Job:
    """One file to read and the name of what is made of it."""

    source: Path
    target: Path


def plan(
    inputs: Sequence[str], out: str | None, *, accepts: Collection[str], writes: Sequence[str], tag: str
) -> list[Job]:
    """Find the files and name the results.

    Without ``out`` a result lies beside its input, ``speech.wav`` giving ``speech.TAG.wav``, and a folder's
    results in a folder beside it, ``clips`` giving ``clips.TAG`` with the same tree inside. With ``out`` they
    go to that folder, or, for a single file, to that file.

    Parameters
    ----------
    inputs : sequence of str
        Files, and folders that are searched for files with an accepted suffix.
    out : str or None
        Folder, or file with one of the suffixes ``writes``.
    accepts : collection of str
        Suffixes, in small letters with their dot, taken from folders. A file named by itself may have any.
    writes : sequence of str
        Suffixes a result may have, the default first.
    tag : str
        What default names are marked with.

    Returns
    -------
    list of Job

    Raises
    ------
    InputError
        A folder has nothing to work on, ``out`` does not fit, or a result would replace an input.
    """
    pairs = [pair for name in inputs for pair in _pairs(Path(name).expanduser(), accepts, tag)]
    single = len(pairs) == 1 and not Path(inputs[0]).expanduser().is_dir()
    as_folder = out is None or out.endswith(("/", os.sep)) or Path(out).is_dir()
    as_file = out is not None and Path(out).suffix.lower() in writes and not as_folder
    if as_file and not single:
        raise InputError(f"out={out!r} names one file, but there are {len(pairs)} inputs: name a folder")
    if single and not as_file and not as_folder and Path(str(out)).suffix:
        raise InputError(f"out={out!r} must be a folder or end in {', '.join(writes)}")
    jobs = [Job(pairs[0][0], Path(str(out)).expanduser())] if as_file else _named(pairs, out, writes[0])
    _refuse_replacing_inputs(jobs)
    return jobs


def _pairs(path: Path, accepts: Collection[str], tag: str) -> Iterator[tuple[Path, Path, Path]]:
    """Yield each file, where it is relative to what the user named, and its result's default stem."""
    if not path.is_dir():
        yield path, Path(path.name), path.with_name(f"{path.stem}.{tag}")
        return
    root = Path(os.path.abspath(path))
    found = list(_files(path, accepts))
    if not found:
        raise InputError(f"folder {str(path)!r} has no file ending in {', '.join(sorted(accepts))}")
    for file in found:
        inside = file.relative_to(path)
        yield file, inside, root.with_name(f"{root.name}.{tag}") / inside.with_suffix("")


def _files(folder: Path, accepts: Collection[str]) -> Iterator[Path]:
    for inner in walk(folder, links=False):
        yield from inner.ending_in(accepts)


def _named(pairs: list[tuple[Path, Path, Path]], out: str | None, suffix: str) -> list[Job]:
    folder = None if out is None else Path(out).expanduser()
    stems = [default if folder is None else folder / inside.with_suffix("") for _, inside, default in pairs]
    count = Counter(stems)
    jobs = []
    for (source, inside, _), stem in zip(pairs, stems, strict=True):
        # a.wav and a.flac of one folder would otherwise both give a.wav
        name = f"{stem.name}{suffix}" if count[stem] == 1 else f"{stem.name}.{inside.suffix[1:]}{suffix}"
        jobs.append(Job(source, stem.with_name(name)))
    return jobs


def refuse_replacing(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read.

    Parameters
    ----------
    targets, inputs : iterable of Path
        Files.

    Raises
    ------
    InputError
        A target is an input.
    """
    given = {os.path.realpath(path) for path in inputs}
    for path in targets:
        if os.path.realpath(path) in given:
            raise InputError(f"out: {str(path)!r} is an input and would be replaced; choose another name")


def _refuse_replacing_inputs(jobs: list[Job]) -> None:
    refuse_replacing([job.target for job in jobs], [job.source for job in jobs])
    targets = Counter(os.path.realpath(job.target) for job in jobs)
    for job in jobs:
        if targets[os.path.realpath(job.target)] > 1:
            raise InputError(
                f"out: several inputs would be written to {str(job.target)!r}; "
                "give them one by one, or the folder that holds them"
            )
