"""Inception score: whether each sound or clip is clearly something, and all of them are many things."""

from __future__ import annotations

import math

import torch
from scipy import stats
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate
from mmdiff.media.rows import sample_rows


def inception_score(probabilities: Tensor, splits: int = 10, seed: int = 0) -> Estimate:
    """Inception score (Salimans et al. 2016): ``exp(mean KL(p(class | item) ‖ p(class)))``.

    The mean over random splits of the samples, with Student's interval of that mean. Each split estimates p(class)
    from its own samples, which makes the score too small where they are few: at least ten times as many samples in a
    split as classes, and compare equal numbers only. A model that makes one item of each class has the best score.

    Parameters
    ----------
    probabilities : Tensor, shape (N, classes)
        Of each item, by any classifier; rows sum to 1.
    splits : int > 1
    seed : int
        Of the splits.

    Returns
    -------
    Estimate
        From 1 to the number of classes; higher is better.

    Raises
    ------
    InputError
        The rows are no probabilities, or there are fewer than two samples in a split.
    """
    if splits < 2:
        raise InputError(f"splits={splits} must be 2 at least: the interval is of the spread between them")
    rows = sample_rows(probabilities, "probabilities", 2 * splits, f"two in each of {splits} splits")
    if bool((rows < 0).any()) or not torch.allclose(rows.sum(1), torch.ones_like(rows[:, 0]), atol=1e-3):
        raise InputError(
            "probabilities must be 0 or more and sum to 1 in each row: take the softmax of logits"
        )
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    scores = torch.tensor([_score(part) for part in rows[order].tensor_split(splits)], dtype=torch.float64)
    mean = float(scores.mean())
    error = float(stats.t.ppf(0.975, splits - 1) * scores.std()) / math.sqrt(splits)
    return Estimate(mean, max(1.0, mean - error), min(float(rows.shape[1]), mean + error), len(rows))


def _score(rows: Tensor) -> float:
    divergence = torch.xlogy(rows, rows) - torch.xlogy(rows, rows.mean(0))
    return float(divergence.sum(1).mean().exp())
