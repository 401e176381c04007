"""From a command line to a call: find the function, read its options, turn its errors into messages."""

from __future__ import annotations

import contextlib
import importlib
import io
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import mmdiff
from mmdiff.commands.report import say, silence
from mmdiff.errors import MmdiffError
from mmdiff.parsing import describe, parse

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit statuses."""


def dispatch(commands: Mapping[str, str], argv: list[str]) -> int:
    """Run one command.

    Parameters
    ----------
    commands : mapping
        ``module:function`` by name.
    argv : list of str
        What follows ``mmdiff`` on the command line.

    Returns
    -------
    int
        Exit status: 0 all went well, 1 some inputs failed, 2 the request makes no sense, 130 interrupted,
        143 terminated.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text that can be printed
    if not argv or argv[0] in ("-h", "--help", "--version"):
        say(mmdiff.__version__ if argv[:1] == ["--version"] else _overview(commands))
        return OK if argv else USAGE
    name, *rest = argv
    if name not in commands:
        _complain("mmdiff", f"command {name!r} must be one of {', '.join(commands)}; see mmdiff --help")
        return USAGE
    try:
        with _termination_as_exit():
            return _guarded(f"mmdiff {name}", find_function(commands[name]), rest)
    except KeyboardInterrupt:
        _complain(f"mmdiff {name}", "interrupted")
        return INTERRUPTED


@contextlib.contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Let SIGTERM unwind the stack, so that half-written files are removed; the trainer has its own handler."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(prog: str, function: Callable[..., int | None], argv: list[str]) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            arguments = parse(function, argv, prog)
            status = function(**arguments)
            sys.stdout.flush()
            return status or OK
    except SystemExit as stop:  # from the parser, which has printed help or a complaint
        return int(stop.code or OK)
    except BrokenPipeError:
        silence()
        return OK
    except MmdiffError as error:
        _complain(prog, str(error))
        return USAGE
    except OSError as error:
        _complain(prog, f"{error.strerror or error}: {error.filename or 'no file named'}")
        return SOME_FAILED


def find_function(place: str) -> Callable[..., int | None]:
    """Import the function at ``module:function``."""
    module, _, name = place.partition(":")
    function: Callable[..., int | None] = getattr(importlib.import_module(module), name)
    return function


def _overview(commands: Mapping[str, str]) -> str:
    width = max(map(len, commands))
    lines = [
        f"  {name:{width}}  {describe(find_function(place)).summary}" for name, place in commands.items()
    ]
    return "\n".join(
        [
            "usage: mmdiff COMMAND ...",
            "",
            "Diffusion for sound and moving pictures.",
            "",
            "commands:",
            *lines,
            "",
            "mmdiff COMMAND --help explains one of them; mmdiff --version tells the version.",
        ]
    )


def _complain(prog: str, message: str) -> None:
    print(f"{prog}: error: {message}", file=sys.stderr)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    # Users are told what is odd about their files, not which line noticed it; libraries' own are theirs.
    if issubclass(category, UserWarning) and not issubclass(category, (FutureWarning, DeprecationWarning)):
        print(f"warning: {message}", file=sys.stderr)
