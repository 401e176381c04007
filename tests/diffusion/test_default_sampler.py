"""Why the default is "deis" on a uniform grid: distances from the exact solution, in a table (``pytest -s``)."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from exact_network import normal
from torch import Tensor

from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS, CountEvaluations, sample
from mmdiff.diffusion.schedules import CosineVP, LinearFlow, Schedule

# Five round peaks in the plane, of several widths, with mean zero.
WEIGHTS = torch.tensor([0.2, 0.25, 0.15, 0.2, 0.2], dtype=torch.float64)
CENTRES = torch.tensor(
    [[-1.295, -0.685], [0.805, -1.085], [0.105, 0.215], [-0.795, 1.015], [1.205, 0.815]], dtype=torch.float64
)
WIDTHS = torch.tensor([0.1, 0.25, 0.15, 0.3, 0.08], dtype=torch.float64)
ITEMS = 200
ASK: dict[str, Any] = {"noise": normal(ITEMS, 1, 2), "dtype": torch.float64}


class Peaks:
    """The exact denoiser of points (B, 1, 2) drawn from the peaks, guided to every other peak where scale > 0."""

    def __init__(self, schedule: Schedule, scale: float = 0.0) -> None:
        self.schedule, self.scale = schedule, scale

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None] for level in self.schedule(t.to(x))[:2])
        variance = (alpha * WIDTHS[:, None]) ** 2 + sigma**2
        rest = x - alpha * CENTRES
        log_weight = WEIGHTS.log() - rest.square().sum(-1) / 2 / variance[..., 0] - variance[..., 0].log()
        near = CENTRES + alpha * WIDTHS[:, None] ** 2 / variance * rest

        def mean(log_weight: Tensor) -> Tensor:
            return (log_weight.softmax(1)[..., None] * near).sum(1, keepdim=True)

        wanted = mean(log_weight.masked_fill(torch.arange(5) % 2 == 1, -torch.inf))
        return mean(log_weight) + self.scale * (wanted - mean(log_weight))


@functools.cache
def exact(schedule: Schedule, scale: float) -> Tensor:
    grid = make_grid("karras", schedule, 100)
    return sample(Peaks(schedule, scale), (ITEMS, 1, 2), schedule=schedule, sampler="rk4", grid=grid, **ASK)


def distance(sampler: str, grid: str, evaluations: int, schedule: Schedule, scale: float = 0.0) -> float:
    """Mean distance from where the probability-flow ODE ends."""
    counted = CountEvaluations(Peaks(schedule, scale))
    steps = evaluations // SAMPLERS[sampler].evaluations_per_step
    x = sample(counted, (ITEMS, 1, 2), schedule=schedule, sampler=sampler, grid=grid, steps=steps, **ASK)
    assert counted.calls <= evaluations
    return float((x - exact(schedule, scale)).square().sum(-1).sqrt().mean())


def test_table() -> None:
    # The reference is as near to its own refinement as the table needs.
    finer = sample(
        Peaks(CosineVP()), (ITEMS, 1, 2), schedule=CosineVP(), sampler="rk4", grid="uniform", steps=150, **ASK
    )
    assert float((finer - exact(CosineVP(), 0.0)).abs().max()) < 1e-3
    budgets, errors = (10, 15, 20, 30), {}
    print(f"\nCosineVP, mean distance from the exact solution at {budgets} evaluations")
    for grid in ("uniform", "log_snr", "karras"):
        for sampler in ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc", "plms", "deis", "heun"):
            row = errors[sampler, grid] = [distance(sampler, grid, n, CosineVP()) for n in budgets]
            print(f"{grid:8} {sampler:9}", "  ".join(f"{error:.4f}" for error in row))
    for n, nearer in enumerate((0.9, 0.8, 0.75, 0.4)):
        default = errors["deis", "uniform"][n]
        assert default < nearer * errors["dpmpp_2m", "uniform"][n]
        others = [row[n] for (sampler, _), row in errors.items() if sampler not in ("deis", "plms", "unipc")]
        assert default == pytest.approx(min(others), rel=0.1) or default < min(others)


@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow()], ids=str)
@pytest.mark.parametrize(("evaluations", "scale"), [(10, 7.5), (20, 3.0), (20, 7.5)])
def test_the_default_holds_under_guidance(schedule: Schedule, evaluations: int, scale: float) -> None:
    default, lam, bold = (
        distance(name, "uniform", evaluations, schedule, scale) for name in ("deis", "dpmpp_2m", "plms")
    )
    assert default < (1.0 if evaluations == 10 else 0.8) * lam
    if evaluations == 10:
        assert default < 0.5 * bold  # four estimates reach too far


def test_the_default_is_what_the_table_says() -> None:
    usual = sample(Peaks(CosineVP()), (ITEMS, 1, 2), schedule=CosineVP(), steps=20, **ASK)
    chosen = sample(
        Peaks(CosineVP()), (ITEMS, 1, 2), schedule=CosineVP(), sampler="deis", grid="uniform", steps=20,
        options={"order": 2}, **ASK,
    )  # fmt: skip
    torch.testing.assert_close(usual, chosen, rtol=0, atol=0)
