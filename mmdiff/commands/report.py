"""How commands speak: results on the output stream, remarks and failures on the error stream."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mmdiff.errors import InputError
from mmdiff.media.tables import ScoreTable, finite

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def say(text: str) -> None:
    """Print a result for a reader; one who has left, such as `head`, does not stop the work."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence()


def say_json(record: Mapping[str, Any]) -> None:
    """Print a result for a program: one JSON object on one line, null where a number does not exist."""
    say(json.dumps(finite(record)))


def check_report(out: str | None) -> None:
    """Raise InputError unless scores can be written so: before they are measured."""
    if out is None:
        return
    if Path(out).suffix.lower() not in _FORMATS:
        raise InputError(
            f"out={out!r} must end in .json, for all numbers, or .md, for the table that is printed"
        )
    if Path(out).is_dir():
        raise InputError(f"out={out!r} must be a file, and is a folder")


def report(table: ScoreTable, out: str | None, as_json: bool) -> None:
    """Print scores as a table, or as one JSON object a line, and write them in the format that ``out`` ends in."""
    if out is not None:
        from mmdiff.files import atomic_file
        from mmdiff.media.writing import naming_errors

        text = _FORMATS[Path(out).suffix.lower()](table)
        with naming_errors(Path(out), (OSError,)), atomic_file(out) as temporary:
            temporary.write_text(text, encoding="utf-8")
    if as_json:
        for record in table.records(details=False):
            say_json(record)
        return
    say(table.markdown())
    for note in table.notes():
        remark(note)


def given_options(options: Mapping[str, Any]) -> list[str]:
    """Those of a command's options that were given, as they are written on the command line."""
    return [
        f"--{name.replace('_', '-')}"
        for name, value in options.items()
        if value is not None and value is not False and value != []
    ]


def refuse_options(options: Mapping[str, Any], owner: str) -> None:
    """Raise InputError if any of these options was given, since they are for another ``owner``."""
    if given := given_options(options):
        raise InputError(f"{', '.join(given)} must be left out: for {owner}")


def take_options(kind: type[T], asked: Mapping[str, Any], owner: str) -> T:
    """Build the dataclass of the options that an evaluation has; the others are for another ``owner``.

    Raises
    ------
    InputError
        One of those was given.
    """
    own = [field.name for field in fields(kind)]
    refuse_options({name: value for name, value in asked.items() if name not in (*own, "model")}, owner)
    return kind(**{name: asked[name] for name in own})


def silence() -> None:
    """Send what is printed from now on nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def remark(text: str) -> None:
    """Print what is worth knowing beside the result."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def failed(text: str) -> None:
    """Print what went wrong with one input."""
    print(f"failed: {text}", file=sys.stderr, flush=True)


def _json(table: ScoreTable) -> str:
    return json.dumps(finite(table.records()), indent=1) + "\n"


def _markdown(table: ScoreTable) -> str:
    notes = [f"- {note}" for note in table.notes()]
    return "\n".join([table.markdown(), *(["", *notes] if notes else ()), ""])


_FORMATS = {".json": _json, ".md": _markdown}
"""How scores are written, by the suffix of the file."""
