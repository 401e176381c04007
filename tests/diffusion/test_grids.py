"""Grids: shape, order and ends for every schedule; spacing against the papers' formulas."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import all_schedules

from mmdiff.diffusion.grids import GRIDS, LAMBDA_MAX, LAMBDA_MIN, make_grid, noise_table_grid, table_grid
from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    Shifted,
    VarianceExploding,
    ddpm_betas,
    diffwave_betas,
    wavegrad_betas,
)
from mmdiff.errors import InputError

SCHEDULES = all_schedules()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
FAST_WAVEGRAD = (7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 3.5e-1, 7e-1)
FAST_DIFFWAVE = (1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5)


@every_schedule
@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_falls_between_exact_ends(schedule: Schedule, name: str) -> None:
    for steps in (1, 2, 3, 50):
        for t_min, t_max in ((0.0, 1.0), (0.01, 0.9)):
            grid = make_grid(name, schedule, steps, t_min=t_min, t_max=t_max)
            assert grid.shape == (steps + 1,)
            assert grid.dtype == torch.float64
            assert bool((grid.diff() < 0).all())
            assert (float(grid[0]), float(grid[-1])) == (t_max, t_min)


def test_uniform_visits_the_points_of_a_table() -> None:
    schedule = BetaTable(ddpm_betas())
    alpha = schedule(make_grid("uniform", schedule, 1000)).alpha
    product = torch.cumprod(1 - torch.tensor((0.0, *ddpm_betas()), dtype=torch.float64), 0).flip(0)
    torch.testing.assert_close(alpha**2, product, rtol=1e-13, atol=0.0)


def test_quadratic_is_uniform_in_the_root() -> None:
    for ends in ((0.0, 1.0), (0.04, 0.81)):
        roots = make_grid("quadratic", LinearFlow(), 7, t_min=ends[0], t_max=ends[1]).sqrt()
        torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(7))


def test_karras_equals_the_paper() -> None:
    n, (low, high) = torch.arange(18, dtype=torch.float64), (0.002, 80.0)
    sigma = (high ** (1 / 7) + n / 17 * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    # 18 sigmas and a last step to 0, for a schedule that reaches it
    for schedule in (EDM(0.0, 80.0), EDM(0.0, 80.0, rho=3.0)):
        grid = make_grid("karras", schedule, 18)
        torch.testing.assert_close(schedule(grid).sigma[:-1], sigma, rtol=1e-12, atol=0.0)
        assert float(schedule(grid).sigma[-1]) == 0
    # and the same sigmas, or sigma/alpha, where both ends are finite
    exploding = VarianceExploding(0.002, 80.0)
    torch.testing.assert_close(exploding(make_grid("karras", exploding, 17)).sigma, sigma)
    torch.testing.assert_close(make_grid("karras", EDM(), 17), make_grid("uniform", EDM(), 17))
    flow = LinearFlow()(make_grid("karras", LinearFlow(), 19))
    torch.testing.assert_close((flow.sigma / flow.alpha)[1:-1], sigma)


def test_log_snr_steps_are_equal() -> None:
    for schedule in (CosineVP(), LinearBetaVP(), EDM(), Shifted(LinearFlow(), 3.0)):
        grid = make_grid("log_snr", schedule, 20)
        steps = schedule.log_snr(grid).diff()
        steps = steps[steps.isfinite()]
        assert len(steps) >= 18
        torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-9, atol=0.0)
    log_snr = CosineVP().log_snr(make_grid("log_snr", CosineVP(), 20))
    assert float(log_snr[1]) == pytest.approx(LAMBDA_MIN)
    assert float(log_snr[-2]) == pytest.approx(LAMBDA_MAX)
    log_snr = CosineVP().log_snr(make_grid("log_snr", CosineVP(), 20, lambda_min=-5.0, lambda_max=6.0))
    assert (float(log_snr[1]), float(log_snr[-2])) == pytest.approx((-5.0, 6.0))


def test_log_snr_of_a_table_stops_at_its_first_point() -> None:
    schedule = BetaTable(ddpm_betas())
    for name in ("karras", "log_snr"):
        assert float(make_grid(name, schedule, 20)[-2]) == pytest.approx(0.001, rel=1e-9)


def test_shifted_grid_equals_a_uniform_grid_of_the_shifted_flow() -> None:
    grid = make_grid("flow_shift", LinearFlow(), 10, shift=3.0)
    shifted = Shifted(LinearFlow(), 3.0)
    torch.testing.assert_close(grid, shifted(make_grid("uniform", shifted, 10)).sigma)
    inside = make_grid("flow_shift", LinearFlow(), 10, shift=3.0, t_min=0.1, t_max=0.8)
    unshifted = inside / (3 - 2 * inside)
    torch.testing.assert_close(unshifted.diff(), unshifted.diff().mean().expand(10))


def test_given_times() -> None:
    assert table_grid(LinearFlow(), [0.1, 0.5, 1.0]).tolist() == [1.0, 0.5, 0.1, 0.0]
    assert table_grid(LinearFlow(), torch.tensor([0.5, 0.0])).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [(BetaTable(wavegrad_betas()), FAST_WAVEGRAD), (BetaTable(diffwave_betas()), FAST_DIFFWAVE)],
)
def test_noise_table_reproduces_its_own_betas(schedule: BetaTable, betas: tuple[float, ...]) -> None:
    grid = noise_table_grid(schedule, betas)
    product = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    torch.testing.assert_close(schedule(grid[:-1]).alpha.flip(0) ** 2, product, rtol=1e-10, atol=0.0)
    variance = GaussianProcess(schedule).posterior_variance(grid[1:], grid[:-1], "large").flip(0)
    torch.testing.assert_close(variance, torch.tensor(betas, dtype=torch.float64), rtol=1e-9, atol=0.0)


def test_noise_table_of_the_training_table_is_its_points() -> None:
    schedule = BetaTable(diffwave_betas())
    grid = noise_table_grid(schedule, diffwave_betas())
    torch.testing.assert_close(grid, make_grid("uniform", schedule, 50), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: make_grid("linear", LinearFlow(), 4), "grid='linear' must be one of uniform"),
        (lambda: make_grid("uniform", LinearFlow(), 0), "steps=0"),
        (lambda: make_grid("uniform", LinearFlow(), 2.5), "steps=2.5"),  # type: ignore[arg-type]
        (lambda: make_grid("uniform", LinearFlow(), 4, t_min=0.5, t_max=0.2), "t_min=0.5, t_max=0.2"),
        (lambda: make_grid("uniform", LinearFlow(), 4, rho=7.0), "rho=7.0 is no option.*none"),
        (lambda: make_grid("karras", LinearFlow(), 4, shift=7.0), "it takes rho, lambda_min, lambda_max"),
        (lambda: make_grid("karras", LinearFlow(), 4, rho=0.0), "rho=0.0"),
        (lambda: make_grid("flow_shift", LinearFlow(), 4, shift=math.nan), "shift=nan"),
        (lambda: make_grid("log_snr", LinearFlow(), 4, lambda_min=8.0, lambda_max=2.0), "lambda_min=8"),
        (lambda: table_grid(LinearFlow(), []), "times="),
        (lambda: table_grid(LinearFlow(), [1, 500]), "divide table steps"),
        (lambda: table_grid(LinearFlow(), [0.5, 0.5]), "repeated"),
        (lambda: table_grid(LinearFlow(), [0.0]), "above 0"),
        (lambda: noise_table_grid(LinearFlow(), []), "at least one step"),
        (lambda: noise_table_grid(LinearFlow(), [0.1, 1.5]), r"betas\[1\]=1.5"),
        (lambda: noise_table_grid(BetaTable(diffwave_betas()), [0.5, 0.6]), "drop the steps outside"),
        (lambda: noise_table_grid(EDM(), [1e-9, 0.1]), "must lie within"),
    ],
)
def test_bad_arguments_say_the_value_and_the_rule(build, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()
