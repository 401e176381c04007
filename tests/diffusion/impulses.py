"""Moments of stochastic samplers without drawing anything: one impulse for each draw.

For normal data the exact denoiser is affine, so a sampler's result is an affine function of the noises it draws.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor


class Impulses:
    """What the samplers of some modules draw: zeros for item 0, and for item k + 1 a one in draw k alone.

    Item 0 ends at the mean; another item's distance from it is the weight of its draw. Item 1 is for the weight of
    where a sampler begins. The variance is the sum of the squared weights.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self.drawn = 0
        for module in modules:
            monkeypatch.setattr(module, "draw_noise", self.draw)

    def start(self, mean: float, std: float, draws: int) -> Tensor:
        """State (2 + draws, 1, 1) to begin a run of so many draws with, at most."""
        self.drawn = 0
        x = torch.full((2 + draws, 1, 1), mean, dtype=torch.float64)
        x[1] += std
        return x

    def draw(self, shape: tuple[int, ...], like: Tensor, generator: object) -> Tensor:
        self.drawn += 1
        noise = torch.zeros(tuple(shape), dtype=like.dtype)
        noise[1 + self.drawn] = 1.0
        return noise


def mean_and_variance(x: Tensor) -> tuple[float, float]:
    """Of a state that a sampler made of :meth:`Impulses.start`."""
    return float(x[0]), float((x[1:] - x[0]).square().sum())
