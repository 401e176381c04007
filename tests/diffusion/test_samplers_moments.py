"""Stochastic samplers by the exact mean and variance of what they draw, without drawing anything: see ``impulses``."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from impulses import Impulses, mean_and_variance
from oracles import gaussian
from torch import Tensor

from mmdiff.diffusion import solvers_ancestral, solvers_multistep, solvers_single
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS, sample
from mmdiff.diffusion.schedules import EDM, CosineVP, LinearBetaVP, LinearFlow, Schedule, SubVP

DATA = gaussian(0.7, 0.6)
SCHEDULES = {"cosine": (CosineVP(), 0.05, 0.95), "edm": (EDM(), 0.1, 1.0), "flow": (LinearFlow(), 0.05, 0.95)}


@pytest.fixture
def moments(monkeypatch):
    """Function that runs a sampler from the exact marginal and gives mean and variance after each step."""
    impulses = Impulses(monkeypatch, solvers_ancestral, solvers_multistep, solvers_single)

    def run(name: str, schedule: Schedule, grid: Tensor, data=DATA, **options) -> list[tuple[float, float]]:
        x = impulses.start(*data.marginal(schedule, float(grid[0])), len(grid) - 1)
        states: list[Tensor] = []
        SAMPLERS[name].fn(
            data.denoiser(schedule), x, grid, schedule, callback=lambda *a: states.append(a[3]), **options
        )
        return [mean_and_variance(state) for state in states]

    return run


CASES = [
    ("ddpm", {}, 1),
    ("ddpm", {"variance": "large"}, 1),
    ("ddim", {"eta": 0.5}, 1),
    ("euler_ancestral", {}, 1),
    ("dpmpp_2m_sde", {}, 2),
    ("dpmpp_2m_sde", {"eta": 0.5}, 2),
]


@pytest.mark.parametrize("where", SCHEDULES)
@pytest.mark.parametrize(("name", "options", "order"), CASES)
def test_weak_order(moments, name, options, order, where):
    schedule, t_min, t_max = SCHEDULES[where]
    mean, std = DATA.marginal(schedule, t_min)
    errors = []
    steps = (50, 100, 200)
    for n in steps:
        grid = make_grid("uniform", schedule, n, t_min=t_min, t_max=t_max)
        got_mean, got_variance = moments(name, schedule, grid, **options)[-1]
        assert got_mean == pytest.approx(mean, abs=1e-12)  # exact at any number of steps
        errors.append(abs(got_variance - std**2))
    slope = -np.polyfit(np.log2(steps), np.log2(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.2)


def test_declared_orders_are_the_measured_ones():
    for name, options, order in CASES:
        assert SAMPLERS[name].stochastic or "eta" in options
        if SAMPLERS[name].stochastic:
            assert SAMPLERS[name].order == order


@pytest.mark.parametrize("schedule", [CosineVP(), EDM(), LinearFlow(), SubVP()], ids=str)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddpm", {}),
        ("ddim", {"eta": 0.3}),
        ("euler_ancestral", {}),
        ("dpmpp_2m_sde", {}),
        ("dpmpp_2m_sde", {"eta": 0.7}),
        ("euler", {"s_churn": 1.0}),
        ("heun", {"s_churn": 1.0}),
    ],
)
def test_point_data_give_the_exact_marginals_in_any_steps(moments, name, options, schedule):
    # From pure noise, α = 0 included, into σ = 0 where there is such: the estimate of x0 never changes.
    point = gaussian(0.7, 0.0)
    grid = make_grid("uniform", schedule, 4)
    for (mean, variance), t in zip(moments(name, schedule, grid, point, **options), grid[1:], strict=True):
        exact_mean, exact_std = point.marginal(schedule, float(t))
        assert mean == pytest.approx(exact_mean, abs=1e-12)
        assert variance == pytest.approx(exact_std**2, abs=1e-12)


@pytest.mark.parametrize("schedule", [CosineVP(), LinearBetaVP()], ids=str)
def test_large_variance_is_exact_for_standard_normal_data(moments, schedule):
    unit = gaussian(0.0, 1.0)
    grid = make_grid("uniform", schedule, 5, t_min=0.01)
    for mean, variance in moments("ddpm", schedule, grid, unit, variance="large"):
        assert (mean, variance) == pytest.approx((0.0, 1.0), abs=1e-12)


def test_all_ancestral_samplers_are_one(moments):
    grid = make_grid("uniform", CosineVP(), 7)
    expected = moments("ddpm", CosineVP(), grid)
    for name, options in [("ddim", {"eta": 1.0}), ("euler_ancestral", {})]:
        got = moments(name, CosineVP(), grid, **options)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_churn_keeps_the_distribution(moments, name):
    # Adding noise and removing it: only the error of the steps remains, which more steps make small.
    errors = []
    for n in (100, 200):
        grid = make_grid("karras", CosineVP(), n, t_min=0.05, t_max=0.95)
        quiet = moments(name, CosineVP(), grid)[-1]
        loud = moments(name, CosineVP(), grid, s_churn=20.0, s_tmin=0.1, s_tmax=10.0)[-1]
        assert loud != quiet
        errors.append(abs(loud[1] - DATA.marginal(CosineVP(), 0.05)[1] ** 2))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.03


class WithVariance:
    """Exact denoiser that also gives a constant fraction of the learned variance."""

    def __init__(self, schedule: Schedule, fraction: float) -> None:
        self.denoise, self.fraction = DATA.denoiser(schedule), fraction

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("one evaluation gives both")

    def x0_and_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.denoise(x, t), torch.full_like(x, self.fraction)


def test_learned_variance_lies_between_small_and_large():
    schedule, x = CosineVP(), torch.zeros(1, 1, 1, dtype=torch.float64)
    grid = torch.tensor([0.6, 0.4], dtype=torch.float64)

    def added(denoiser: object, variance: str) -> float:
        """Noise added by one step, over the standard normal draw."""
        ddpm = SAMPLERS["ddpm"].fn
        moved = ddpm(
            denoiser, x, grid, schedule, variance=variance, generator=torch.Generator().manual_seed(0)
        )
        still = ddpm(denoiser, x, grid, schedule, variance=variance, noise_scale=0.0)
        return float(moved - still)

    small, large = (added(DATA.denoiser(schedule), kind) for kind in ("small", "large"))
    assert added(WithVariance(schedule, 0.0), "learned") == pytest.approx(small)
    assert added(WithVariance(schedule, 1.0), "learned") == pytest.approx(large)
    assert added(WithVariance(schedule, 0.5), "learned") == pytest.approx(math.sqrt(small * large))


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde", "ddim"])
def test_drawn_samples_have_the_moments_of_the_data(name):
    x = sample(
        DATA.denoiser(CosineVP()), (20_000, 1, 1), schedule=CosineVP(), sampler=name, steps=200,
        generator=torch.Generator().manual_seed(1), dtype=torch.float64,
    )  # fmt: skip
    assert float(x.mean()) == pytest.approx(DATA.mean(), abs=0.02)  # 4 standard errors of 0.6 / √20000
    assert float(x.std()) == pytest.approx(math.sqrt(DATA.variance()), rel=0.03)
