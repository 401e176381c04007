"""The probability-flow ODE's likelihood against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from exact_network import ExactNetwork, normal, seeded
from exact_vectors import VectorMixture
from oracles import TWO_PEAKS, gaussian
from torch import Tensor

from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.divergence import Probes
from mmdiff.diffusion.likelihood import ode_likelihood
from mmdiff.diffusion.likelihood_ode import least_noisy_time
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    SubVP,
    VarianceExploding,
    ddpm_betas,
)
from mmdiff.errors import InputError

# They end without signal, or with so much noise that the mean of the data does not show.
FORGETTING = [CosineVP(), LinearFlow(), EDM(0.002, 1e5), VarianceExploding(0.001, 1e5)]
NAMED = {"ids": lambda schedule: type(schedule).__name__}


@pytest.mark.parametrize("schedule", FORGETTING, **NAMED)
@pytest.mark.parametrize(("components", "shape"), [(1, (2, 2, 2, 2)), (3, (1, 8))])
def test_it_is_the_closed_form(schedule: Schedule, components: int, shape: tuple[int, ...]) -> None:
    data = VectorMixture.random(components, math.prod(shape), seed=components)
    x0 = data.sample(3, shape)
    found = ode_likelihood(data.denoiser(schedule), x0, schedule, divergence="exact", steps=45)
    expected = data.log_density(x0)
    torch.testing.assert_close(
        found.log_likelihood / x0[0].numel(), expected / x0[0].numel(), rtol=0, atol=1e-4
    )
    assert found.latent.shape == x0.shape
    assert (found.std_error == 0).all()
    torch.testing.assert_close(found.bits, -found.log_likelihood / x0[0].numel() / math.log(2))


def test_64_dimensions_with_full_covariance() -> None:
    schedule, data = LinearFlow(), VectorMixture.random(2, 64, seed=7)
    x0 = data.sample(2, (1, 4, 4, 4))
    found = ode_likelihood(data.denoiser(schedule), x0, schedule, divergence="exact", steps=30)
    torch.testing.assert_close(found.log_likelihood / 64, data.log_density(x0) / 64, rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", [LinearBetaVP(), SubVP(), BetaTable(ddpm_betas()), EDM()], **NAMED)
def test_priors_of_schedules_that_remember_the_data(schedule: Schedule) -> None:
    mean, std = 0.8, 0.6
    last, first = schedule(1.0), schedule(least_noisy_time(schedule))
    alpha, sigma = float(last.alpha), float(last.sigma)
    denoiser, x0 = gaussian(mean, std).denoiser(schedule), mean + std * normal(4, 1, 5)
    prior = {"prior_mean": alpha * mean, "prior_std": math.hypot(alpha * std, sigma)}
    found = ode_likelihood(denoiser, x0, schedule, divergence="exact", **prior)
    noise = float(first.sigma / first.alpha)  # the density is that of data with the least noise
    expected = torch.distributions.Normal(mean, math.hypot(std, noise)).log_prob(x0).sum((1, 2))
    torch.testing.assert_close(found.log_likelihood, expected, rtol=0, atol=5e-5)
    # the default prior is what samplers start from: there the density of the ODE's own Gaussian
    default = ode_likelihood(denoiser, x0, schedule, divergence="exact")
    growth = math.hypot(alpha * std, sigma) / math.hypot(std, noise)
    start = alpha * mean + (x0 - mean) * growth
    pushed = torch.distributions.Normal(0.0, schedule.prior_std).log_prob(start) + math.log(growth)
    torch.testing.assert_close(default.log_likelihood, pushed.sum((1, 2)), rtol=0, atol=5e-5)


def test_the_error_shrinks_with_the_fourth_power_of_the_step() -> None:
    schedule = VarianceExploding(0.01, 1e4)
    x0, t = normal(4, 1, 1), least_noisy_time(schedule)
    noise, end = float(schedule(t).sigma), float(schedule(1.0).sigma)
    prior = {"prior_std": math.hypot(0.5, end)}
    expected = torch.distributions.Normal(0.0, math.hypot(0.5, noise)).log_prob(x0).flatten()
    denoiser = gaussian(0.0, 0.5).denoiser(schedule)
    errors = [
        (ode_likelihood(denoiser, x0, schedule, divergence="exact", steps=n, **prior)[0] - expected)
        .abs()
        .max()
        for n in (40, 80)
    ]
    assert 3.7 < math.log2(errors[0] / errors[1]) < 4.4
    assert errors[1] < 1e-5


def test_hutchinson_is_unbiased_and_says_how_far_off_it_is() -> None:
    schedule, data = CosineVP(), VectorMixture.random(2, 6, seed=3)
    x0 = data.sample(1, (1, 6)).expand(24, 1, 6)
    denoiser = data.denoiser(schedule)
    exact = ode_likelihood(denoiser, x0[:1], schedule, divergence="exact", steps=20).log_likelihood
    for kind in ("rademacher", "gaussian"):
        found = ode_likelihood(
            denoiser,
            x0,
            schedule,
            divergence=kind,
            steps=20,
            probes=8,
            generator=seeded(4),  # type: ignore[arg-type]
        )
        truth = found.log_likelihood.std() / math.sqrt(24)
        assert abs(found.log_likelihood.mean() - exact) < 3 * truth
        assert truth < 0.2
        # 24 items estimate the spread of the mean of 8 probes to about 15 %
        assert float(found.std_error.square().mean().sqrt() / found.log_likelihood.std()) == pytest.approx(
            1, abs=0.5
        )


def test_signs_are_exact_where_elements_do_not_mix() -> None:
    schedule = CosineVP()
    x0 = TWO_PEAKS.sample((2, 1, 3), seeded())
    denoiser = TWO_PEAKS.denoiser(schedule)
    exact = ode_likelihood(denoiser, x0, schedule, divergence="exact")
    signs = ode_likelihood(denoiser, x0, schedule, generator=seeded())
    torch.testing.assert_close(signs.log_likelihood, exact.log_likelihood)
    assert signs.std_error.isnan().all()  # of one probe nothing can be said
    # peaks of deviation 0.1 see the least noise, of 0.002
    t = least_noisy_time(schedule)
    alpha = float(schedule(t).alpha)
    expected = (TWO_PEAKS.log_density(schedule, alpha * x0, t) + math.log(alpha)).sum((1, 2))
    torch.testing.assert_close(exact.log_likelihood, expected, rtol=0, atol=3e-4)


def test_probes_give_traces() -> None:
    matrix = normal(6, 6)
    x = normal(5, 2, 3, seed=2)

    def function(z: Tensor) -> Tensor:
        return (z.flatten(1) @ matrix).view_as(z)

    value, trace = Probes(x, "exact", 1, None).trace(function, x)
    torch.testing.assert_close(value, function(x))
    torch.testing.assert_close(trace, matrix.trace().expand(1, 5))
    many = x[:1].expand(2000, 2, 3)
    _, drawn = Probes(many, "gaussian", 1, seeded()).trace(function, many)
    error = float(drawn.std()) / math.sqrt(2000)
    assert float(drawn.mean()) == pytest.approx(float(matrix.trace()), abs=4 * error)


def test_dequantised_data_have_the_bound_of_their_probability() -> None:
    schedule, std, mean = LinearFlow(), 0.3, 0.1
    bins = Quantisation(2 / 15)
    x0 = torch.full((400, 1, 2), 5 / 15, dtype=torch.float64)
    denoiser = gaussian(mean, std).denoiser(schedule)
    found = ode_likelihood(
        denoiser, x0, schedule, divergence="rademacher", steps=30, quantised=bins, generator=seeded()
    )
    # E log p(x + u) for u uniform in the bin
    square = (5 / 15 - mean) ** 2 + bins.step**2 / 12
    expected = 2 * (math.log(bins.step / std) - math.log(2 * math.pi) / 2 - square / (2 * std**2))
    error = float(found.log_likelihood.std()) / 20
    assert float(found.log_likelihood.mean()) == pytest.approx(expected, abs=3 * error)
    width = torch.distributions.Normal(mean, std)
    edges = torch.tensor([4 / 15, 6 / 15])
    probability = float(width.cdf(edges).diff().log()) * 2
    assert found.log_likelihood.mean() < probability  # a bound, and close to it
    assert probability - expected < 0.05


def test_the_bits_of_whole_numbers_do_not_depend_on_the_units() -> None:
    bins, mean, std = Quantisation.of_pictures(), -0.9, 0.37
    pixels = torch.tensor([[[12.0, 60.0, 90.0]]], dtype=torch.float64) / 127.5 - 1
    bits = []
    for quantised, units, origin in ((bins, 1.0, 0.0), (bins.scaled(mean, std), std, mean)):
        schedule = EDM(0.001 / units, 1e5 / units)  # the same noise in pixels
        data = gaussian((-0.6 - origin) / units, 0.2 / units)
        found = ode_likelihood(
            data.denoiser(schedule),
            (pixels - origin) / units,
            schedule,
            t_min=0.0,
            quantised=quantised,
            generator=seeded(3),
        )
        bits.append(found.bits)
    torch.testing.assert_close(bits[0], bits[1], rtol=0, atol=1e-4)


def test_float32_networks_and_their_conditions() -> None:
    schedule = CosineVP()
    denoiser = Denoiser(ExactNetwork(schedule, "v", mean=0.3, std=0.6), schedule, "v").float()
    x0 = (0.3 + 0.6 * normal(2, 3, 4)).float()
    with torch.inference_mode():  # as pipelines run
        found = ode_likelihood(denoiser, x0, schedule, divergence="exact")
    assert found.log_likelihood.dtype == torch.float32
    expected = torch.distributions.Normal(0.3, 0.6).log_prob(x0).sum((1, 2))
    torch.testing.assert_close(found.log_likelihood, expected, rtol=0, atol=2e-2)

    def told(x: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        return gaussian(0.0, 0.6).denoise(schedule, x - schedule(t).alpha[:, None, None] * mean, t) + mean

    shifted = ode_likelihood(told, x0.double(), schedule, divergence="exact", mean=torch.tensor(0.3).double())
    torch.testing.assert_close(shifted.log_likelihood.float(), expected, rtol=0, atol=1e-3)


def test_wrong_requests_are_explained() -> None:
    schedule, x0 = CosineVP(), torch.zeros(2, 1, 5000)
    with pytest.raises(InputError, match="at most 4096 elements, here 5000"):
        ode_likelihood(lambda x, t: x, x0, schedule, divergence="exact")
    with pytest.raises(InputError, match="differentiable"):
        ode_likelihood(lambda x, t: torch.zeros_like(x), x0, schedule)
    with pytest.raises(InputError, match="probes=0"):
        ode_likelihood(lambda x, t: x, x0, schedule, probes=0)
    with pytest.raises(InputError, match="t_min=0"):
        ode_likelihood(lambda x, t: x, x0, schedule, t_min=0.0)
    with pytest.raises(InputError, match="divergence='trace'"):
        ode_likelihood(lambda x, t: x, x0, schedule, divergence="trace")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="step=0"):
        Quantisation(0.0)
    with pytest.raises(InputError, match="one per item, here 2"):
        Quantisation(0.1).dequantise(x0, [seeded()])
