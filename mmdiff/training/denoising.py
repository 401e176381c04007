"""The plainest task: data, and nothing else, denoised."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class DenoisingTask(nn.Module):
    """Train a denoiser of batches of data (B, C, *space) by an objective.

    Parameters
    ----------
    denoiser : nn.Module
    objective : callable
        ``objective(denoiser, x0, generator=generator) -> losses`` (B,), such as
        :class:`mmdiff.diffusion.objectives.Objective`.
    """

    def __init__(self, denoiser: nn.Module, objective: Callable[..., Tensor]) -> None:
        super().__init__()
        self.denoiser, self.objective = denoiser, objective

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch."""
        return {"loss": self.objective(self.denoiser, batch, generator=generator).mean()}
