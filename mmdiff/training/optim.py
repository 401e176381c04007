"""The default optimizer."""

from __future__ import annotations

import torch
from torch import nn


def make_adamw(
    module: nn.Module, *, learning_rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over a module's trained parameters; biases, gains and other vectors are not decayed.

    Parameters
    ----------
    module : nn.Module
        Parameters without ``requires_grad`` are left out.
    learning_rate : float > 0
    betas : tuple of float
        Decay of the first and second moment.
    weight_decay : float >= 0
        Decoupled decay of tensors of two and more dimensions.

    Returns
    -------
    torch.optim.AdamW
        Fused where PyTorch has a fused kernel.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=fused)
