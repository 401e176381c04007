"""A process that runs one system whenever it is told to, and says how long that took and how much memory.

It is run as a script, by any interpreter, and imports nothing but the standard library, so that other people's
packages are measured as they are installed::

    python worker.py FILE

FILE is a Python file with ``build(task)``, which returns a mapping of calls: "warm" loads libraries by a small
computation, "full" is what is measured, and "make", which not every system has, reads one file and writes another.
Requests come as JSON objects, one a line, and so do the answers:

    {"do": "prepare", "task": {...}}                 -> {"megabytes": 12.5}
    {"do": "run"}                                    -> {"seconds": 0.25}
    {"do": "make", "source": "a", "target": "b"}     -> {}

An answer to what went wrong is ``{"error": "..."}``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Calls = Mapping[str, Callable[..., Any]]


class Answering:
    """Answers requests about one system.

    Parameters
    ----------
    build : callable
        From a task to the calls.
    """

    def __init__(self, build: Callable[[dict[str, Any]], Calls]) -> None:
        self.build = build
        self.calls: Calls = {}

    def __call__(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked for; what goes wrong is an answer too."""
        try:
            return self._do(request)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}

    def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] == "prepare":
            self.calls = self.build(request["task"])
            return {"megabytes": added_memory(self.calls["warm"], self.calls["full"])}
        if request["do"] == "run":
            return {"seconds": duration(self.calls["full"])}
        self.calls["make"](request["source"], request["target"])
        return {}


def duration(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def added_memory(warm: Callable[[], Any], full: Callable[[], Any]) -> float:
    """Megabytes that a call adds to the peak of this process, beyond weights and what libraries set aside."""
    warm()
    gc.collect()
    _forget_peak()
    before = peak_memory()
    full()
    return peak_memory() - before


def peak_memory() -> float:
    """Most memory this process has had, in megabytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux that of a new process begins with that of the process that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _forget_peak() -> None:
    """Let the peak begin anew where the system can; elsewhere building a network may hide part of a run."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def load(file: str) -> Callable[[dict[str, Any]], Calls]:
    """Read ``build`` from a file."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build: Callable[[dict[str, Any]], Calls] = module.build
    return build


def _main() -> None:
    sys.path.pop(0)  # the folder of this file, whose other files are no modules of that interpreter
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what packages print is no answer
    answering = Answering(lambda task: load(sys.argv[1])(task))  # imports wait until it is this one's turn
    for line in sys.stdin:
        print(json.dumps(answering(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    _main()
