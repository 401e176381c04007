"""How commands speak: results on the output stream, remarks and failures on the error stream."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def say(text: str) -> None:
    """Print a result for a reader; one who has left, such as `head`, does not stop the work."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        silence()


def say_json(record: Mapping[str, Any]) -> None:
    """Print a result for a program: one JSON object on one line, null where a number does not exist."""
    say(json.dumps(finite(record)))


def write_json(path: str, content: Any) -> None:
    """Write results to a file, null where a number does not exist."""
    from mmdiff.files import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(finite(content), indent=1) + "\n", encoding="utf-8")


def silence() -> None:
    """Send what is printed from now on nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def remark(text: str) -> None:
    """Print what is worth knowing beside the result."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def failed(text: str) -> None:
    """Print what went wrong with one input."""
    print(f"failed: {text}", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table; columns after the first are numbers, set to the right."""
    widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
    rules = [f":{'-' * (w - 1)}" if i == 0 else f"{'-' * (w - 1)}:" for i, w in enumerate(widths)]
    aligned = [
        [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        for row in (header, rules, *rows)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold, nan and infinity, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value
