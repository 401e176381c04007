"""Systems that do the same work, measured in turn, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, bootstrapped
from mmdiff.media.tables import Measure
from mmdiff.progress import track

_WORKER = Path(__file__).with_name("worker.py")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_Object = dict[str, Any]  # of JSON


@dataclass(frozen=True)
class Contender:
    """A system to be measured, in a process of its own.

    Attributes
    ----------
    name : str
    file : Path
        Python file with ``build(task)``; see :mod:`mmdiff.bench.worker`.
    task : mapping
        JSON values for it.
    python : str
        Interpreter that runs it.
    makes : sequence of (source, target)
        Files it is to make when all have been timed.
    """

    name: str
    file: Path
    task: Mapping[str, Any]
    python: str = sys.executable
    makes: Sequence[tuple[str, str]] = ()


@dataclass
class Run:
    """What was measured of one contender.

    Attributes
    ----------
    seconds : list of float
        Of each repeat.
    megabytes : float
        That the first run added to the peak of its process, beyond weights and libraries.
    error : str
        Why there are no (more) measurements; empty where all went well.
    """

    seconds: list[float] = field(default_factory=list)
    megabytes: float = 0.0
    error: str = ""


class _Job(NamedTuple):
    name: str
    request: _Object


def race(
    contenders: Sequence[Contender], *, repeats: int, threads: int | None = None, progress: bool = False
) -> dict[str, Run]:
    """Measure contenders in turn: A B C, A B C, ...

    Each has a process of its own, which waits while the others compute. Its first run is for the memory alone.

    Parameters
    ----------
    contenders : sequence of Contender
        Of different names.
    repeats : int > 0
    threads : int > 0, optional
        Processor threads of each; default: PyTorch's choice.
    progress : bool
        Show a bar.

    Returns
    -------
    dict from str to Run
        By name; one that failed has an ``error``, and the others go on.

    Raises
    ------
    InputError
        A number is not positive.
    """
    if min(repeats, threads or 1) < 1:
        raise InputError(f"repeats={repeats} and threads={threads} must be positive")
    runs = {contender.name: Run() for contender in contenders}
    assert len(runs) == len(contenders)
    with contextlib.ExitStack() as stack:
        workers = {c.name: stack.enter_context(_worker(c, threads)) for c in contenders}
        for name, request in track(_jobs(contenders, repeats), "measuring", show=progress):
            run = runs[name]
            if run.error:
                continue
            answer = workers[name](request)
            run.error = answer.get("error", "")
            run.megabytes = answer.get("megabytes", run.megabytes)
            run.seconds += [answer["seconds"]] if "seconds" in answer else []
    return runs


def _jobs(contenders: Sequence[Contender], repeats: int) -> list[_Job]:
    """All requests in their order."""
    prepare = [_Job(c.name, {"do": "prepare", "task": dict(c.task)}) for c in contenders]
    once = [_Job(c.name, {"do": "run"}) for c in contenders]
    made = [_Job(c.name, {"do": "make", "source": s, "target": t}) for c in contenders for s, t in c.makes]
    return prepare + repeats * once + made


@contextlib.contextmanager
def _worker(contender: Contender, threads: int | None) -> Iterator[Callable[[_Object], _Object]]:
    """A contender's process, which ends with the block: a call sends it a request and waits for the answer."""
    # our own files import mmdiff, which may not be installed where a clone is
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    limits = dict.fromkeys(_THREADS, str(threads or torch.get_num_threads()))
    with (
        tempfile.TemporaryFile("w+", errors="replace") as complaints,
        subprocess.Popen(
            [contender.python, str(_WORKER), str(contender.file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            env={**os.environ, **limits, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        ) as process,
    ):
        try:
            yield functools.partial(_ask, process, complaints)
        finally:
            process.kill()


def _ask(process: subprocess.Popen[str], complaints: IO[str], request: _Object) -> _Object:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(request), file=process.stdin, flush=True)
    if line := process.stdout.readline():
        answer: _Object = json.loads(line)
        return answer
    status = process.wait()
    if status < 0:
        return {"error": f"its process was ended by signal {-status}, as when memory is short"}
    complaints.seek(0)
    said = complaints.read().strip().splitlines()
    return {"error": said[-1] if said else f"its process ended with status {status}"}


def race_measures(repeats: int, threads: int | None) -> dict[str, Measure]:
    """What :func:`measured` says, for a table."""
    count = threads or torch.get_num_threads()
    how = f"median of {repeats} interleaved repeat{'s' * (repeats > 1)} on {count} thread{'s' * (count > 1)}"
    beyond = "what one run adds to weights and libraries, in a process of its own"
    return {
        "seconds": Measure("time", "s", False, note=how),
        "megabytes": Measure("memory", "MB", False, 0, note=beyond),
        "speed": Measure("times as fast", "", True, 2),
        "memory": Measure("times the memory", "", False, 2),
    }


def measured(run: Run, other: Run | None = None) -> dict[str, Estimate]:
    """Medians of a run's time and memory, and their ratios to another run's.

    Parameters
    ----------
    run, other : Run

    Returns
    -------
    dict from str to Estimate
        "seconds" and "megabytes"; beside another also "speed", the median over repeats of its time over ours, with
        the bootstrap's interval, and "memory", our peak over its.
    """
    found = {"seconds": Estimate(float(_median(torch.tensor(run.seconds))), samples=len(run.seconds))}
    found["megabytes"] = Estimate(run.megabytes)
    if other is not None and other is not run:
        found["speed"] = speed(run, other)
        found["memory"] = Estimate(run.megabytes / max(other.megabytes, 1e-3))
    return found


def speed(run: Run, other: Run) -> Estimate:
    """How many times as fast as another a run was: the median over repeats measured side by side."""
    return bootstrapped(_median, torch.tensor(other.seconds) / torch.tensor(run.seconds))


def _median(values: Tensor) -> Tensor:
    return values.quantile(0.5, -1)
