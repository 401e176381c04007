"""A prior whose denoiser and density are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmdiff.diffusion.conversions import expand
from mmdiff.diffusion.schedules import Schedule


class Rotated(torch.nn.Module):
    """Denoiser of N(0, R diag(s²) Rᵀ), of states (B, C, L) with C L dimensions."""

    def __init__(self, schedule: Schedule, dims: int) -> None:
        super().__init__()
        self.schedule = schedule
        matrix = torch.randn(dims, dims, generator=torch.Generator().manual_seed(dims), dtype=torch.float64)
        self.rotation = torch.linalg.qr(matrix)[0]
        self.log_std = torch.nn.Parameter(torch.linspace(-0.7, 0.4, dims, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        levels, variance = expand(self.schedule(t), x.flatten(1)), torch.exp(2 * self.log_std)
        share = levels.alpha * variance / (levels.alpha**2 * variance + levels.sigma**2)
        return ((x.flatten(1) @ self.rotation * share) @ self.rotation.T).view_as(x)

    def nll(self, z: Tensor) -> Tensor:
        """-log of the density, differentiable by all."""
        place = z.flatten(1) @ self.rotation / self.log_std.exp()
        return (place**2 / 2 + self.log_std + math.log(2 * math.pi) / 2).sum(1)
