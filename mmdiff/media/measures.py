"""How measures of media are listed, chosen, and undefined."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mmdiff.errors import InputError


class Metric(NamedTuple):
    """A measure against a reference, and how to read it."""

    function: Callable[..., float]
    """``(reference, estimate, ...) -> float``."""
    unit: str
    """Unit of the value; empty for a pure number."""
    higher_is_better: bool
    """Direction."""
    package: str = ""
    """What it needs beyond the project's own packages."""


def chosen(names: Sequence[str] | None, known: Mapping[str, Metric]) -> dict[str, Callable[..., float]]:
    """Return the functions of the measures of these names, all of them unless given, or raise InputError."""
    names = tuple(known) if names is None else names
    for name in names:
        if name not in known:
            raise InputError(f"name={name!r} must be a known measure: one of {', '.join(known)}")
    return {name: known[name].function for name in names}


def undefined(name: str, reason: str) -> float:
    """Return nan, and warn the measure's caller why."""
    warnings.warn(f"{name} is undefined here and counts as nan: {reason}", stacklevel=3)
    return math.nan
