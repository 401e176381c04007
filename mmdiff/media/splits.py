"""Holding out part of a data set that has no split of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")

_EVERY = 50  # groups of which one validates
_MOST = 100  # groups that validate


def hold_out(items: Sequence[T], group: Callable[[T], Hashable]) -> tuple[list[T], list[T]]:
    """Part items into those to train on and those to validate on.

    Parameters
    ----------
    items : sequence
    group : callable
        What training and validation may not share. Of every fifty groups one validates, evenly spaced in
        the order of the items, 1 to 100 of them.

    Returns
    -------
    train, valid : list
        In the order of the items; a single group is left to validation.

    Examples
    --------
    >>> hold_out(["a1", "a2", "b1", "c1"], lambda name: name[0])
    (['a1', 'a2', 'c1'], ['b1'])
    """
    groups = list(dict.fromkeys(map(group, items)))
    count = min(_MOST, max(1, len(groups) // _EVERY)) if groups else 0
    held = {groups[(2 * i + 1) * len(groups) // (2 * count)] for i in range(count)}
    valid = [item for item in items if group(item) in held]
    return apart(items, valid, group), valid


def apart(items: Iterable[T], others: Iterable[T], group: Callable[[T], Hashable]) -> list[T]:
    """Return the items that share no group with the others."""
    theirs = {group(item) for item in others}
    return [item for item in items if group(item) not in theirs]
