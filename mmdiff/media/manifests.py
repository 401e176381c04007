"""Text files that list media: one path a line, tables with a header, and JSON objects."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mmdiff.errors import InputError

TABLES = (".csv", ".tsv", ".jsonl")
"""Endings of manifests that name their columns, see :func:`records`."""


class Record(NamedTuple):
    """An entry of a manifest, and where it stands for messages."""

    file: Path
    number: int
    values: Mapping[str, object]

    @property
    def where(self) -> str:
        """File and line."""
        return f"{str(self.file)!r} line {self.number}"

    def first(self, *columns: str) -> object:
        """Return what the first of these columns that says anything says; None where none does."""
        found = (self.values[name] for name in columns if self.values.get(name) not in (None, ""))
        return next(found, None)

    def name_of_file(self, *columns: str) -> str:
        """Return the path that one of these columns gives, as it is written, or raise InputError."""
        name = self.first(*columns)
        if not isinstance(name, str):
            raise InputError(f"{self.where} must name its file under {', '.join(columns)}")
        return name

    def path(self, name: str) -> Path:
        """Return the file of this name, which starts at the manifest's folder, or raise InputError."""
        return existing(self.file.parent / name, self.file, self.number)


def records(file: Path) -> Iterator[Record]:
    """Read a manifest with named columns.

    Parameters
    ----------
    file : Path
        Ending in .csv or .tsv, with a header, whose names may be in capitals; or .jsonl, with one object a line.

    Yields
    ------
    Record

    Raises
    ------
    InputError
        The file is not in UTF-8, no table, or a line is no JSON object.
    """
    if file.suffix.lower() == ".jsonl":
        for number, line in lines(file):
            yield Record(file, number, _parse(line, file, number))
    else:
        yield from _rows(file)


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a text that say something; ``#`` begins a comment line.

    Raises
    ------
    InputError
        The file is not in UTF-8.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip() and not line.startswith("#"):
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError:
        raise _not_utf8(file) from None


def existing(path: Path, file: Path, number: int) -> Path:
    """Return the path that a line of a manifest names, or raise InputError where it is no file."""
    if not path.is_file():
        raise InputError(
            f"{str(file)!r} line {number} names {str(path)!r}, which is no file: correct the line"
        )
    return path


def text_of(file: Path) -> str | None:
    """Return what a small text file says, without the white space around it; None where there is no file."""
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None


def _rows(file: Path) -> Iterator[Record]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter=delimiter)
            for row in rows:
                values = {str(key).strip().lower(): value for key, value in row.items()}
                yield Record(file, rows.line_num, values)
    except UnicodeDecodeError:
        raise _not_utf8(file) from None
    except csv.Error as error:
        raise InputError(f"{str(file)!r} cannot be read as a table: {error}") from None


def _parse(line: str, file: Path, number: int) -> dict[str, object]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{str(file)!r} line {number} must be one JSON object: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{str(file)!r} line {number} must be one JSON object, not {line[:40]!r}")
    return record


def _not_utf8(file: Path) -> InputError:
    return InputError(f"{str(file)!r} must be a text file in UTF-8: save it in that encoding")
