"""What small classifiers share that also measure media for distances between many of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Measuring(nn.Module):
    """A network whose features are standardised by their mean and deviation on real training data.

    Parameters
    ----------
    count : int
        Number of features.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("feature_mean", torch.zeros(count))
        self.register_buffer("feature_std", torch.ones(count))

    def standardised(self, raw: Tensor) -> Tensor:
        """Features (B, count) in deviations from their mean."""
        return (raw - self.feature_mean) / self.feature_std

    @torch.no_grad()
    def standardise_by(self, raw: Tensor) -> None:
        """Take mean and deviation from features (B, count), B > 1; what hardly varies is not blown up."""
        self.feature_mean.copy_(raw.mean(0))
        self.feature_std.copy_(raw.std(0).clamp_min(1e-3))
