"""The default optimizer, with settings of their own for parts of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmdiff.errors import InputError


@dataclass(frozen=True)
class Part:
    """How a submodule of a task is trained where that differs from the rest: a critic, a pretrained encoder.

    Parameters
    ----------
    learning_rate : float > 0
        Peak; it rises and falls as the rest's does.
    betas : (float, float)
        Of AdamW.
    grad_clip : float > 0 or None
        Greatest norm of the part's own gradient.

    Raises
    ------
    InputError
        One breaks its rule.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float | None = 1.0

    def __post_init__(self) -> None:
        clipped = self.grad_clip is None or self.grad_clip > 0
        if not self.learning_rate > 0 or not clipped or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(
                f"learning_rate={self.learning_rate} of a part must be positive, its betas={self.betas} in [0, 1) and "
                f"its grad_clip={self.grad_clip} positive or None"
            )


def split_parameters(module: nn.Module, parts: Mapping[str, Part]) -> dict[str, list[nn.Parameter]]:
    """Trained parameters of each part, and under ``""`` of the rest.

    Parameters
    ----------
    module : nn.Module
        Parameters without ``requires_grad`` are left out.
    parts : mapping of str to Part
        By the names of submodules.

    Returns
    -------
    dict of str to list of Parameter

    Raises
    ------
    InputError
        A part has no trained parameters.
    """
    split: dict[str, list[nn.Parameter]] = {name: [] for name in ("", *parts)}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            split[next((part for part in parts if name.startswith(f"{part}.")), "")].append(parameter)
    if empty := [name for name in parts if not split[name]]:
        raise InputError(
            f"parts={empty} must be submodules of the task with trained parameters; it has "
            f"{', '.join(name for name, _ in module.named_children())}"
        )
    return split


def make_adamw(
    module: nn.Module,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    parts: Mapping[str, Part] | None = None,
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
    parts : mapping of str to Part, optional
        Submodules with another rate and betas. A group's ``rate`` is its learning rate over the rest's.

    Returns
    -------
    torch.optim.AdamW
        Fused where PyTorch has a fused kernel.
    """
    parts = parts or {}
    trained, groups = [], []
    for name, own in split_parameters(module, parts).items():
        part = parts.get(name, Part(learning_rate, betas))
        same = {"lr": part.learning_rate, "betas": part.betas, "rate": part.learning_rate / learning_rate}
        trained += own
        groups += [
            {"params": [p for p in own if p.ndim >= 2], "weight_decay": weight_decay, **same},
            {"params": [p for p in own if p.ndim < 2], "weight_decay": 0.0, **same},
        ]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in trained)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=betas, fused=fused)


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, laid out in memory as its parameters are.

    PyTorch's fused kernels pair the numbers of weights, gradients and moments in the order in which they lie in
    memory, and do not notice another order, such as that of a run made before the weights were channels-last.
    """
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, torch.Tensor) and moment.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment).detach()
