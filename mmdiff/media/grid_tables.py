"""Tables of searched grids as JSON files, and the grid that a user gives: by name, by file or by its times."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

import mmdiff
from mmdiff.diffusion.grids import GRIDS, make_grid
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_grid
from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.media.searched_grids import GridTable, SearchedGrid

FORMAT = 1
MAX_BYTES = 2**20


def write_table(path: str | Path, table: GridTable) -> Path:
    """Write a table as JSON.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    table : GridTable

    Returns
    -------
    Path
        ``path``.
    """
    content: dict[str, Any] = {"format": FORMAT, "mmdiff": mmdiff.__version__}
    for name in ("model", "schedule", "sampler", "measure", "higher_is_better"):
        content[name] = getattr(table, name)
    content["data"] = dict(table.data)
    content["grids"] = [
        {
            "steps": grid.steps,
            "asked": grid.asked,
            "times": list(grid.times),
            "log_snr": [x if math.isfinite(x) else str(x) for x in grid.log_snr],
            "score": _number_or_none(grid.score),
            "others": {name: _number_or_none(score) for name, score in grid.others.items()},
            "history": [list(entry) for entry in grid.history],
        }
        for grid in table.grids
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return Path(path)


def read_table(path: str | Path) -> GridTable:
    """Read what :func:`write_table` wrote, or what was written by hand: "times" and "log_snr" suffice.

    Parameters
    ----------
    path : path

    Returns
    -------
    GridTable

    Raises
    ------
    InputError
        The file cannot be read, is too large or of another format, or holds what is no grid.
    """
    path = Path(path).expanduser()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"table {str(path)!r} has {path.stat().st_size} bytes, the limit is {MAX_BYTES}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"table {str(path)!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"table {str(path)!r} is no JSON: {error}; write one with mmdiff search") from None
    try:
        return _table(content)
    except InputError as error:
        raise InputError(f"table {str(path)!r}: {error}") from None


def _table(content: Any) -> GridTable:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"format={found!r} must be {FORMAT}: write a table with mmdiff search")
    if not isinstance(content.get("grids"), list) or not content["grids"]:
        raise InputError("it must have a list of grids; write one with mmdiff search")
    grids = [_grid(entry) for entry in content["grids"]]
    counts = [grid.steps for grid in grids]
    if len(set(counts)) < len(counts):
        raise InputError(f"grids of {counts} steps must differ in their number of steps")
    words = {name: content.get(name, "") for name in ("model", "schedule", "sampler", "measure")}
    higher, data = content.get("higher_is_better", False), content.get("data", {})
    if not all(isinstance(v, str) for v in words.values()) or not isinstance(higher, bool):
        raise InputError(f"{', '.join(words)} must be text, and higher_is_better true or false")
    return GridTable(
        tuple(grids), **words, higher_is_better=higher, data=data if isinstance(data, dict) else {}
    )


def _grid(entry: Any) -> SearchedGrid:
    if not isinstance(entry, dict):
        raise InputError(f"a grid must be an object with times and log_snr, got {type(entry).__name__}")
    times = _numbers(entry, "times")
    log_snr = _numbers(entry, "log_snr")
    if len(times) != len(log_snr) or entry.get("steps", len(times) - 1) != len(times) - 1:
        raise InputError(
            f"steps={entry.get('steps')!r} must be one less than the {len(times)} times and {len(log_snr)} log_snr"
        )
    asked = entry.get("asked", len(times) - 1)
    if type(asked) is not int or asked < len(times) - 1:
        raise InputError(f"asked={asked!r} must be a whole number, no less than the {len(times) - 1} steps")
    check_grid(torch.tensor(times, dtype=torch.float64))
    if any(not a < b for a, b in itertools.pairwise(log_snr)):
        raise InputError(f"log_snr={list(log_snr)} must rise, as the times fall")
    others, history = entry.get("others"), entry.get("history")
    try:
        known: dict[str, Any] = {
            "score": _number(entry.get("score")),
            "others": {str(k): _number(v) for k, v in (others or {}).items()},
            "history": tuple((int(n), _number(score)) for n, score in history or ()),
        }
    except (TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(
            "score, others and history must hold numbers, as mmdiff search writes them"
        ) from None
    return SearchedGrid(times, log_snr, asked=asked, **known)


def _numbers(entry: Mapping[str, Any], name: str) -> tuple[float, ...]:
    values = entry.get(name)
    infinite = ("inf", "-inf") if name == "log_snr" else ()
    if not isinstance(values, list) or len(values) < 2:
        raise InputError(f"{name}={str(values)[:40]} must be a list of two numbers or more")
    for value in values:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
        if not plain and value not in infinite:
            raise InputError(f"{name}: {str(value)[:40]!r} must be a finite number")
    return tuple(float(value) for value in values)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _number_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


GridSource: TypeAlias = "str | Path | Tensor | Sequence[float] | GridTable"
"""A name in :data:`mmdiff.diffusion.grids.GRIDS`, a file of :func:`write_table`, what it holds, or times."""


def find_table(source: GridSource) -> GridTable | None:
    """Table that a source is or names, None where it is something else."""
    if isinstance(source, GridTable):
        return source
    if not isinstance(source, str | Path) or source in GRIDS:
        return None
    if not Path(source).expanduser().is_file():
        raise InputError(
            f"grid={str(source)!r} must be one of {', '.join(GRIDS)}, or a file that mmdiff search wrote"
        )
    return read_table(source)


def find_grid(source: GridSource, schedule: Schedule, steps: int | None, default: int) -> Tensor:
    """Times of a sampler, however they are given.

    Parameters
    ----------
    source : str, Path, GridTable, Tensor or sequence of float
        See :data:`GridSource`.
    schedule : Schedule
    steps : int or None
        Of the sampler. None: as many as are given.
    default : int
        Number of steps where neither ``steps`` nor the source say it.

    Returns
    -------
    Tensor, shape (steps + 1,), float64

    Raises
    ------
    InputError
        There is no such grid, or it has another number of steps.
    """
    if isinstance(source, str) and source in GRIDS:
        return make_grid(source, schedule, default if steps is None else steps)
    if (table := find_table(source)) is not None:
        several = steps is None and len(table.grids) > 1
        return table.grid(schedule, default if several else steps)
    assert not isinstance(source, str | Path | GridTable)
    grid = check_grid(torch.as_tensor(source, dtype=torch.float64))
    if steps is not None and len(grid) != steps + 1:
        raise InputError(f"grid of {len(grid) - 1} steps must have the steps={steps} asked for")
    return grid
