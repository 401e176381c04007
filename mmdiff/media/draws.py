"""Random draws for training data that is a pure function of (seed, number)."""

from __future__ import annotations

import numpy as np


def item_rng(seed: int, index: int, stream: int = 0) -> np.random.Generator:
    """Return the random numbers of one item of endless data.

    Parameters
    ----------
    seed : int
        Names the data.
    index : int >= 0
        Number of the item.
    stream : int >= 0
        Of several for one item, which are unrelated like those of different items (Philox).

    Raises
    ------
    IndexError
        ``index`` is negative.
    """
    if index < 0:
        raise IndexError(f"index={index} must be 0 or more: endless data has no last item")
    key = np.array([seed % 2**64, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64)))


def draw_by_length(ends: np.ndarray, rng: np.random.Generator) -> int:
    """Draw an item with probability proportional to its length.

    Parameters
    ----------
    ends : ndarray of int, shape (items,)
        Running sum of the lengths, of which one at least is positive.
    rng : numpy.random.Generator
    """
    return int(np.searchsorted(ends, rng.integers(ends[-1]), side="right"))
