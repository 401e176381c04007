"""The network that training would find, for data of one Gaussian, in every parameterisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdiff.diffusion.schedules import Schedule


class ExactNetwork(nn.Module):
    """The best prediction of its kind for N(mean, std²) data; finite also where alpha or sigma is 0.

    It is told t, and sees x as the denoiser scales it. "edm" needs ``sigma_data=std``.
    """

    def __init__(self, schedule: Schedule, kind: str, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.schedule, self.kind, self.mean, self.std = schedule, kind, mean, std

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        a, s, da, ds = (field[:, None, None].to(x.dtype) for field in self.schedule(t))
        total = a**2 * self.std**2 + s**2
        if self.kind == "edm":
            x = x * total.sqrt()
        surprise = (x - a * self.mean) / total
        eps, x0 = s * surprise, self.mean + a * self.std**2 * surprise
        if self.kind == "edm":
            return (s * x0 - a * self.std**2 * eps) / (self.std * total.sqrt())
        return {
            "eps": eps,
            "x0": x0,
            "v": a * eps - s * x0,
            "velocity": da * x0 + ds * eps,
            "score": -surprise,
        }[self.kind]


def seeded(seed: int = 0) -> torch.Generator:
    """A generator of its own for each use."""
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64, the same for the same seed."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)
