"""Numbers that took long to find, kept in a file line by line: an interrupted search goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from mmdiff.errors import InputError


class ScoreFile(MutableMapping[str, float]):
    """A mapping from names to numbers that is a file of JSON lines; what is added is on disk at once.

    The first line says what the numbers belong to, each other line is one of them. A last line that was not
    finished, because the process was killed, is forgotten.

    Parameters
    ----------
    path : path
        Made with its folder if it does not exist.
    about : mapping
        JSON values on which the numbers depend.

    Raises
    ------
    InputError
        The file is of something else, or no such file.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._scores: dict[str, float] = {}
        about = json.loads(json.dumps(dict(about)))
        complete = self._lines()
        if complete:
            self._check(complete[0], about)
            for line in complete[1:]:
                name, score = self._record(line)
                self._scores[name] = score
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._append({"about": about})

    def _lines(self) -> list[str]:
        """Complete lines; whatever follows them is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.truncate(self.path, len(complete))
        return complete.decode("utf-8", errors="replace").splitlines()

    def _check(self, line: str, about: Mapping[str, Any]) -> None:
        try:
            known = json.loads(line)["about"]
            differing = [key for key in {**known, **about} if known.get(key) != about.get(key)]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(
                f"{self.path} is no file of scores; move it away or choose another name"
            ) from None
        if differing:
            told = ", ".join(
                f"{key}={_short(known.get(key))}, now {_short(about.get(key))}" for key in differing
            )
            raise InputError(
                f"{self.path} has scores of another search ({told}); remove it, or choose another name, to begin anew"
            )

    def _record(self, line: str) -> tuple[str, float]:
        try:
            record = json.loads(line)
            return str(record["grid"]), float(record["score"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise InputError(
                f"{self.path} has a line that is no score: {_short(line)}; remove that line"
            ) from None

    def _append(self, record: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def __getitem__(self, name: str) -> float:
        return self._scores[name]

    def __setitem__(self, name: str, score: float) -> None:
        self._append({"grid": name, "score": score})
        self._scores[name] = score

    def __delitem__(self, name: str) -> None:
        raise TypeError("scores are kept")

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
