"""Whether a model repeats what it was trained on: how near it generates to that, against unseen real items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, wilson

_ROWS = 256  # samples on each side of a block of distances


class Memorisation(NamedTuple):
    """How near generated items are to training items."""

    ratio: float
    """Median distance of generated items to the nearest training item, over that of held-out items; 1 = alike."""
    closer: float
    """Probability that a generated item is nearer to training than a held-out item is; ½ = alike, 1 = copied."""
    p_value: float
    """Of ``closer``, if generated items were no nearer (Mann-Whitney, one-sided; Meehan et al. 2020)."""
    duplicates: Estimate
    """Share of generated items that are nearer to a training item than nearly all held-out items."""
    threshold: float
    """The distance that counts as nearer."""
    nearest: Tensor
    """(generated,), index of each generated item's nearest training item, to look at them side by side."""
    distances: Tensor
    """(generated,), root-mean-square distance to it."""
    held_out: int
    training: int
    """Numbers of items compared with."""


def memorisation(
    generated: Tensor, training: Tensor, held_out: Tensor, quantile: float = 0.01
) -> Memorisation:
    """Compare distances to the nearest training item, of generated items and of real items that training never saw.

    Give clips for distances in pixels, spectrograms of sounds, or features (:func:`mmdiff.video.metrics.clip_features`,
    :meth:`mmdiff.audio.evaluation.word_judge.WordJudge.features`), which see a copy that was shifted or
    recoloured. Where training items are rendered endlessly, take many of them; the answer then is about these.

    Parameters
    ----------
    generated, training, held_out : Tensor, shape (N, ...)
        Items, all in [-1, 1] or all uint8, or features; alike but for their numbers.
    quantile : float in (0, 1)
        A generated item counts as a near-duplicate when it is nearer to training than all but this share of the
        held-out items, of which there must be 1 / ``quantile`` at least; a model that copies nothing has about this
        share of them.

    Returns
    -------
    Memorisation

    Raises
    ------
    InputError
        Shapes do not fit, values are not finite, or there are too few held-out items.
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile} must lie between 0 and 1")
    _check(generated, training, held_out, least=round(1 / quantile))
    made, nearest = nearest_items(generated, training)
    real, _ = nearest_items(held_out, training)
    threshold = float(real.quantile(quantile))
    ratio = float(made.median() / real.median().clamp_min(torch.finfo(real.dtype).tiny))
    test = stats.mannwhitneyu(made.numpy(), real.numpy(), alternative="less")
    closer = 1 - float(test.statistic) / (len(made) * len(real))
    duplicates = wilson(float((made < threshold).double().mean()), len(made))
    return Memorisation(
        ratio, closer, float(test.pvalue), duplicates, threshold, nearest, made, len(real), len(training)
    )


def nearest_items(items: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Distance to the nearest training item, in blocks so that memory stays small.

    Parameters
    ----------
    items : Tensor, shape (N, ...)
    training : Tensor, shape (M, ...)

    Returns
    -------
    distances : Tensor, shape (N,), float64, on the host
        Root mean square over all values.
    nearest : Tensor of int, shape (N,)
        Index of the nearest.
    """
    found = [_nearest(_rows(block), training) for block in items.split(_ROWS)]
    distances, nearest = (torch.cat(column) for column in zip(*found, strict=True))
    return distances / items[0].numel() ** 0.5, nearest


def _nearest(rows: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    best = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), dtype=torch.long)
    for number, block in enumerate(training.split(_ROWS)):
        distance, place = torch.cdist(rows, _rows(block), compute_mode="use_mm_for_euclid_dist").min(1)
        index = torch.where(distance < best, place + number * _ROWS, index)
        best = torch.minimum(distance, best)
    return best, index


def _rows(values: Tensor) -> Tensor:
    return values.detach().to("cpu").double().flatten(1)


def _check(generated: Tensor, training: Tensor, held_out: Tensor, least: int) -> None:
    sets = {"generated": generated, "training": training, "held_out": held_out}
    for name, values in sets.items():
        if values.ndim < 2 or 0 in values.shape or values.shape[1:] != training.shape[1:]:
            raise InputError(
                f"{name} of shape {tuple(values.shape)} must be (N, ...), with items like training's "
                f"{tuple(training.shape[1:])}"
            )
        if values.dtype != training.dtype:
            raise InputError(f"{name}.dtype={values.dtype} must be training's {training.dtype}: convert one")
        if values.is_floating_point() and not values.isfinite().all():
            raise InputError(f"{name} must be finite: it has nan or inf; find out where they come from")
    if len(held_out) < least:
        raise InputError(
            f"held_out has {len(held_out)} items and must have {least} at least, to tell what is unusually "
            "near; give more, or a greater quantile"
        )
