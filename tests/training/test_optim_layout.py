from __future__ import annotations

import copy

import torch
from torch import nn

from mmdiff.nn import conv, keep_as_lines
from mmdiff.training.optim import load_moments, make_adamw


def _steps(layer: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()


def test_moments_follow_weights_whose_layout_changed_since_they_were_saved() -> None:
    rng = torch.Generator().manual_seed(0)
    before, x = conv(1, 5, 4, 3), torch.randn(2, 5, 9, generator=rng)
    first = make_adamw(before, learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    _steps(before, first, x)
    after = copy.deepcopy(before)
    keep_as_lines(after)
    second = make_adamw(after, learning_rate=0.1, betas=(0.9, 0.99), weight_decay=0.01)
    load_moments(second, copy.deepcopy(first.state_dict()))
    _steps(before, first, x)
    _steps(after, second, x)
    torch.testing.assert_close(after.weight, before.weight)
