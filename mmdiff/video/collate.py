"""Batches of clips whose captions stay text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.video.checks import check_steps


def collate_clips(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of items, as the Trainer's ``collate``.

    Parameters
    ----------
    items : sequence of mapping
        With the same keys.

    Returns
    -------
    dict
        Tensors are stacked, numbers and tuples of numbers become tensors of shape (B,) or (B, n), and
        everything else, captions above all, stays a list of length B.

    Raises
    ------
    InputError
        Items differ in their keys, the shapes of their tensors, or the steps of their ``positions``: attention
        across frames takes one distance for all clips.

    Examples
    --------
    >>> batch = collate_clips([{"caption": "a", "label": 0}, {"caption": "b", "label": 2}])
    >>> batch["caption"], batch["label"]
    (['a', 'b'], tensor([0, 2]))
    """
    if any(item.keys() != items[0].keys() for item in items):
        raise InputError(f"items must have the same keys, not {sorted({tuple(item) for item in items})}")
    batch = {key: _joined(key, [item[key] for item in items]) for key in items[0]}
    places = batch.get("positions")
    if isinstance(places, Tensor) and places.ndim == 2:
        check_steps(places)
    return batch


def _joined(key: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Tensor):
        if any(value.shape != first.shape for value in values):
            shapes = sorted({tuple(value.shape) for value in values})
            raise InputError(f"{key} must have one shape in a batch, not {shapes}: see size and frames")
        return torch.stack(values)
    if isinstance(first, int | float) or (isinstance(first, tuple) and _is_numbers(first)):
        return torch.tensor(values)
    return values


def _is_numbers(values: tuple[Any, ...]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values)
