"""Conditions and what stands for their absence, in training and in guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.errors import InputError


def drop_condition(
    cond: Mapping[str, Any],
    null_cond: Mapping[str, Any],
    probability: float,
    *,
    groups: Sequence[Sequence[str]] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Any]:
    """Replace the conditions of randomly chosen items by null: training for classifier-free guidance.

    Parameters
    ----------
    cond : mapping of str to Tensor, shape (B, ...)
    null_cond : mapping
        As for :class:`ClassifierFree`, tensors or numbers.
    probability : float in [0, 1]
        Of an item losing the conditions of a group; 0.1 to 0.2 is usual.
    groups : sequence of sequences of str, optional
        Names in ``null_cond`` that an item loses together. Each group is drawn for by itself, in this order, and a
        name may be in several. Default: all of them are one group.
    generator : torch.Generator, optional

    Returns
    -------
    dict
        New tensors for the names in ``null_cond``, the others as they were.

    Raises
    ------
    InputError
        The probability is out of range, a condition is missing or no tensor, or a group names what has no null.
    """
    if not 0 <= probability <= 1:
        raise InputError(f"probability={probability} must be in [0, 1]; 0.1 is usual")
    values = [value for name in null_cond if isinstance(value := cond.get(name), Tensor)]
    if not values or len(values) < len(null_cond):
        raise InputError(
            f"null_cond names {sorted(null_cond)}: each must be a tensor among the conditions {sorted(cond)}"
        )
    groups = [list(null_cond)] if groups is None else groups
    if unknown := sorted({name for group in groups for name in group} - set(null_cond)):
        raise InputError(
            f"groups name {', '.join(unknown)}, but must be of names in null_cond: {sorted(null_cond)}"
        )
    batch, device = len(values[0]), values[0].device
    source = device if generator is None else generator.device
    kept = dict(cond)
    for group in groups:
        drop = (torch.rand(batch, generator=generator, device=source) < probability).to(device)
        null = without_condition(kept, {name: null_cond[name] for name in group}, batch)
        kept |= {name: torch.where(per_item(drop, kept[name]), null[name], kept[name]) for name in group}
    return kept


def without_condition(cond: Mapping[str, Any], null_cond: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Return the conditions with their nulls put in, each with the batch dimension first.

    Raises
    ------
    InputError
        A name in ``null_cond`` is not among the conditions.
    """
    missing = sorted(set(null_cond) - set(cond))
    if missing:
        raise InputError(
            f"condition {', '.join(missing)} of null_cond must be given when the denoiser is called; "
            f"got {', '.join(sorted(cond)) or 'no conditions'}"
        )
    return {**cond, **{name: _fill(null, cond[name], batch) for name, null in null_cond.items()}}


class Apart:
    """Marks a pair of conditions that cannot share a batch."""


APART = Apart()


def joined(value: Any, null: Any, batch: int) -> Any:
    """Return a condition and its null as one of twice the batch, or APART where they do not fit together."""
    if isinstance(value, Tensor) and isinstance(null, Tensor):
        if value.shape == null.shape and value.shape[:1] == (batch,):
            return torch.cat([value, null.to(value)])
        return APART
    return value if value is null else APART


def _fill(null: Any, value: Any, batch: int) -> Any:
    if not isinstance(value, Tensor) or null is None:
        return null
    if not isinstance(null, Tensor):
        return torch.full_like(value, null)
    null = null.to(device=value.device)
    try:
        return null.expand_as(value)
    except RuntimeError:  # as a null text of another length: it still gets the batch dimension
        item = null.shape[1:] if null.ndim == value.ndim else null.shape
        return null.expand(batch, *item)


def per_item(value: Tensor, x: Tensor) -> Tensor:
    """Shape one value for each item (B,) so that it broadcasts over x (B, ...)."""
    return value.reshape(-1, *(1,) * (x.ndim - 1))
