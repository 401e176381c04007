"""Bounds on data against normal distributions cut at the bound; conjugate gradients against conditional ones."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import truncnorm
from test_reconstruction import MASK, SCHEDULE, SIZE, Field, Y, chain_covariance
from torch import Tensor

from mmdiff.diffusion.bounds import bounded
from mmdiff.diffusion.measurement import observed
from mmdiff.diffusion.reconstruction import ReconstructionGuidance, Replacement
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import EDM, CosineVP, LinearFlow, Schedule
from mmdiff.errors import InputError

STD = 0.7
LEVELS = torch.tensor([[[0.3, 1.2, -0.8, 0.1, 0.0]]]).double()
KNOWN, ABOVE, BELOW = (torch.tensor([flags == mark for flags in "=>>< "]) for mark in "=><")
CLIPPED = bounded(LEVELS, KNOWN, ABOVE, BELOW)


def cut(mean: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of each element, of which CLIPPED tells something, where before it was normal."""
    means, variances = mean.clone(), torch.full_like(mean, std**2)
    means[..., 0], variances[..., 0] = LEVELS[0, 0, 0], 0.0
    for place, low, high in ((1, 1.2, torch.inf), (2, -0.8, torch.inf), (3, -torch.inf, 0.1)):
        for item in range(len(mean)):
            centre = float(mean[item, 0, place])
            found = truncnorm((low - centre) / std, (high - centre) / std, centre, std)
            means[item, 0, place], variances[item, 0, place] = found.mean(), found.var()
    return means, variances


def test_a_bound_is_believed_like_a_number_that_leaves_its_mean_and_variance() -> None:
    mean = torch.randn(20, 1, 5, generator=torch.Generator().manual_seed(0)).double()
    residual, noise = CLIPPED.believed(mean, 0.3**2)
    gain = 0.3**2 / (0.3**2 + noise)
    expected = cut(mean, 0.3)
    torch.testing.assert_close(mean + gain * residual, expected[0], atol=1e-6, rtol=1e-6)
    variance = (1 - gain[..., :4]) * 0.3**2
    torch.testing.assert_close(variance, expected[1][..., :4], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("schedule", [CosineVP(), EDM(), LinearFlow()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("t", [0.05, 0.5, 0.9])
def test_guidance_by_bounds_is_exact_for_independent_data(schedule: Schedule, t: float) -> None:
    field = Field(STD**2 * torch.eye(5).double(), schedule)
    x = torch.randn(6, 1, 5, generator=torch.Generator().manual_seed(1)).double()
    time = torch.full((6,), t, dtype=torch.float64)
    alpha, sigma = (float(level) for level in schedule(time[:1])[:2])
    spread = STD * sigma / (alpha**2 * STD**2 + sigma**2) ** 0.5
    # element by element: the one length for all of an item is for data that depend on each other
    guided = ReconstructionGuidance(field, CLIPPED, schedule, data_std=STD, limit=None)
    torch.testing.assert_close(guided(x, time), cut(field(x, time), spread)[0], atol=1e-5, rtol=1e-5)
    chosen = ReconstructionGuidance(field, CLIPPED, schedule, data_std=STD)
    torch.testing.assert_close(chosen(x, time), guided(x, time), atol=1e-5, rtol=1e-5)


def test_bounds_far_away_and_levels_without_noise_stay_finite() -> None:
    for size in (1e-12, 1.0, 1e6):
        x0 = torch.tensor([[[0.0, -1.0, 1.0, 1.0, 5.0]]]) * size
        residual, noise = CLIPPED.believed(x0, torch.tensor([1e-14]))
        assert residual.isfinite().all()
        assert noise.isfinite().all()
        moved = x0 + 1e-14 / (1e-14 + noise) * residual
        torch.testing.assert_close(moved, CLIPPED.project(x0), atol=1e-5, rtol=1e-5)


def test_samples_follow_the_cut_distribution_and_keep_to_it() -> None:
    field = Field(STD**2 * torch.eye(5))
    guided = Replacement(ReconstructionGuidance(field, CLIPPED, SCHEDULE, data_std=STD), CLIPPED)
    noise = torch.randn(4000, 1, 5, generator=torch.Generator().manual_seed(2))
    grid = torch.linspace(1, 0, 40)
    made = sample(guided, noise.shape, schedule=SCHEDULE, sampler="ddim", grid=grid, noise=noise)
    assert torch.equal(made, CLIPPED.project(made))
    means, variances = cut(torch.zeros(1, 1, 5), STD)
    torch.testing.assert_close(made.mean(0, keepdim=True), means, atol=0.03, rtol=0)
    torch.testing.assert_close(made.var(0, keepdim=True), variances, atol=0.03, rtol=0.1)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_as_many_steps_as_there_are_numbers_solve_for_dependent_data(t: float) -> None:
    field = Field(chain_covariance(SIZE))
    x = torch.randn(3, 1, SIZE, generator=torch.Generator().manual_seed(3)).double()
    time = torch.full((3,), t, dtype=torch.float64)
    expected = field.guided_mean(MASK, Y[0, 0], x, t)
    errors = []
    for solves in (1, 2):  # two numbers are known
        guided = ReconstructionGuidance(
            field, observed(Y, MASK), SCHEDULE, limit=1e6, jacobian_error=0, solves=solves
        )
        errors.append(float((guided(x, time) - expected).abs().max()))
    assert errors[1] < 1e-7
    assert errors[0] > 1e-4


def test_what_makes_no_sense_is_named() -> None:
    with pytest.raises(InputError, match="one place"):
        bounded(LEVELS, KNOWN, KNOWN, BELOW)
    with pytest.raises(InputError, match="solves=0"):
        ReconstructionGuidance(Field(torch.eye(2)), CLIPPED, SCHEDULE, solves=0)
