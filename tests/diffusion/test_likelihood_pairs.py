"""Likelihoods of critically damped Langevin diffusion against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from exact_network import normal, seeded
from exact_vectors import VectorMixture
from oracles import gaussian
from torch import Tensor

from mmdiff.diffusion.decoders import find_data_end
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.likelihood import continuous_bound, discrete_bound, ode_likelihood
from mmdiff.diffusion.likelihood_ode import least_noisy_time
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError

PAPER = CriticallyDamped()
HEAVY = CriticallyDamped(1.7, 0.3, 0.5, 9.0)
LONG = CriticallyDamped(0.6, 0.2, 2.0, 18.0)
MEAN, STD = 0.4, 0.6
PROCESSES = pytest.mark.parametrize("process", [PAPER, HEAVY], ids=["paper", "heavy"])


def of_pairs(exact: Callable[..., Tensor], process: CriticallyDamped) -> Callable[..., Tensor]:
    """The exact denoiser of pairs: what they say of the data their reduced states do."""
    return lambda u, t: exact(process.reduce(u, t.double()), t)


def bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)


def prior_kl(x0: Tensor, process: CriticallyDamped) -> Tensor:
    """Of pairs with data from those without, by torch's normal distributions of two dimensions."""
    mu, sigma = process.marginal(torch.ones(1, 1, dtype=torch.float64), 1.0)
    q, p = (torch.distributions.MultivariateNormal(mu[0, :, 0] * x[..., None], sigma) for x in (x0, 0 * x0))
    return torch.distributions.kl_divergence(q, p)


@PROCESSES
def test_the_continuous_bound_is_the_closed_form(process: CriticallyDamped) -> None:
    x0 = torch.tensor([MEAN, 1.1, -0.5]).double()[:, None, None].expand(3, 1, 500)
    exact = of_pairs(gaussian(MEAN, STD).denoiser(process), process)
    found = continuous_bound(exact, x0, process, draws=24, generator=seeded())
    ends = torch.tensor([1.0, least_noisy_time(process)]).double()
    low, high = process.log_snr(ends).exp()
    square, a, b = (x0 - MEAN) ** 2 / STD**2, 1 + low * STD**2, 1 + high * STD**2
    integral = (square * (1 / a - 1 / b) + torch.log(b / a) + 1 / b - 1 / a) / 2  # of half the error by q
    torch.testing.assert_close(found.prior, bits(prior_kl(x0, process)))
    assert ((found.diffusion - bits(integral)).abs() < 4 * found.std_error).all()
    assert (found.std_error < 0.15).all()
    exactly = -torch.distributions.Normal(MEAN, STD).log_prob(x0)
    assert (found.total > bits(exactly) - 4 * found.std_error).all()


def test_the_prior_term_of_a_process_that_remembers() -> None:
    short = CriticallyDamped(0.7, 0.2, 0.5, 0.8)
    x0 = normal(3, 1, 4)
    found = continuous_bound(of_pairs(gaussian().denoiser(short), short), x0, short, draws=1)
    torch.testing.assert_close(found.prior, bits(prior_kl(x0, short)))
    assert (found.prior > 0.05).all()


def test_the_bound_of_an_exact_denoiser_is_exact_on_average() -> None:
    data = VectorMixture.random(2, 16, seed=5)
    x0 = data.sample(200, (1, 4, 4))
    bound = continuous_bound(of_pairs(data.denoiser(PAPER), PAPER), x0, PAPER, generator=seeded(), draws=16)
    gap = bound.total + data.log_density(x0) / 16 / math.log(2)
    error = float(gap.std()) / math.sqrt(200)
    assert abs(float(gap.mean())) < 3.5 * error
    assert error < 0.06


@pytest.mark.parametrize(("components", "shape"), [(1, (2, 1, 2)), (3, (1, 3)), (2, (1, 8, 8))])
def test_the_ode_has_the_likelihood_of_the_data(components: int, shape: tuple[int, ...]) -> None:
    data = VectorMixture.random(components, math.prod(shape), seed=components)
    x0, size = data.sample(3, shape), math.prod(shape)
    exact = of_pairs(data.denoiser(LONG), LONG)
    found = ode_likelihood(exact, x0, LONG, divergence="exact", steps=32, generator=seeded())
    torch.testing.assert_close(found.log_likelihood / size, data.log_density(x0) / size, rtol=0, atol=5e-4)
    torch.testing.assert_close(found.bits, -found.log_likelihood / size / math.log(2))
    assert found.latent.shape == x0.shape


def test_priors_of_processes_that_remember_the_data_and_an_early_end() -> None:
    process = HEAVY
    x0, end, last = MEAN + STD * normal(4, 1, 5), 0.2, process(1.0)
    alpha, sigma = float(last.alpha), float(last.sigma)
    prior = {"prior_mean": alpha * MEAN, "prior_std": math.hypot(alpha * STD, sigma)}
    exact = of_pairs(gaussian(MEAN, STD).denoiser(process), process)
    found = ode_likelihood(exact, x0, process, steps=32, t_min=end, generator=seeded(), **prior)
    noise = math.exp(-float(process.log_snr(torch.tensor(end).double())) / 2)
    assert noise > 0.05
    # whatever was drawn beside it, the density is that of data with the noise of the reduced state
    expected = torch.distributions.Normal(MEAN, math.hypot(STD, noise)).log_prob(x0).sum((1, 2))
    torch.testing.assert_close(found.log_likelihood, expected, rtol=0, atol=1e-4)


def test_the_error_shrinks_with_the_fourth_power_of_the_step() -> None:
    data, x0 = gaussian(0.0, STD), normal(4, 1, 1)
    exact = of_pairs(data.denoiser(PAPER), PAPER)
    end = 0.05
    std = math.hypot(STD, math.exp(-float(PAPER.log_snr(torch.tensor(end).double())) / 2))
    last = PAPER(1.0)
    prior_std = math.hypot(float(last.alpha) * STD, float(last.sigma))
    expected = torch.distributions.Normal(0, std).log_prob(x0).flatten()
    errors = []
    for steps in (16, 32):
        kind = {"steps": steps, "t_min": end, "prior_std": prior_std, "generator": seeded()}
        found = ode_likelihood(exact, x0, PAPER, **kind).log_likelihood  # type: ignore[arg-type]
        errors.append(float((found - expected).abs().mean()))
    assert math.log2(errors[0] / errors[1]) > 3.6  # of a method of order four


def test_a_denoiser_that_is_wrong_has_less_on_average_than_its_own_marginal() -> None:
    """Of normal data taken for narrower ones, the ODE is linear, and what it makes of the prior known."""
    data, wrong = normal(1, 1, 1).expand(400, 1, 1), of_pairs(gaussian(0.0, 0.3).denoiser(PAPER), PAPER)
    end = torch.tensor(0.03).double()
    calls = []

    def denoise(u: Tensor, t: Tensor) -> Tensor:
        calls.append(u)
        return 1.5 * wrong(u, t)

    found = ode_likelihood(denoise, data, PAPER, steps=12, t_min=float(end), generator=seeded())
    # the map from pairs at the end to those at t = 1 is linear: its matrix, of the pairs it was given
    first, last = calls[0][:, :, 0, 0].detach(), calls[-1][:, :, 0, 0].detach()
    matrix = torch.linalg.lstsq(first, last).solution.T
    inverse = torch.linalg.inv(matrix)
    covariance = inverse @ PAPER.marginal(torch.ones(1, 1).double(), 1.0).spread @ inverse.T
    weights = torch.stack(PAPER.pair_levels(end).readout)
    marginal = torch.distributions.Normal(0.0, float((weights @ covariance @ weights).sqrt()))
    exactly = float(marginal.log_prob(data[0, 0, 0]))
    mean, error = float(found.log_likelihood.mean()), float(found.log_likelihood.std()) / 20
    assert error > 1e-4
    assert mean < exactly - 3 * error


def test_mass_is_a_unit_and_no_more() -> None:
    data, x0 = VectorMixture.random(2, 4, seed=3), normal(2, 1, 4)
    alike = [CriticallyDamped(), CriticallyDamped(mass=1.0, beta_min=8.0, beta_max=8.0)]
    for function, kind in ((ode_likelihood, {"steps": 6}), (continuous_bound, {"draws": 4})):
        first, second = (
            function(of_pairs(data.denoiser(p), p), x0, p, generator=seeded(), **kind) for p in alike
        )
        torch.testing.assert_close(first[0], second[0])


def test_hutchinson_is_unbiased_and_says_how_far_off_it_is() -> None:
    data = VectorMixture.random(2, 16, seed=2)
    x0, exact = data.sample(6, (1, 16)), of_pairs(data.denoiser(PAPER), PAPER)
    known = ode_likelihood(exact, x0, PAPER, divergence="exact", steps=8, generator=seeded())
    found = ode_likelihood(exact, x0, PAPER, probes=16, steps=8, generator=seeded())
    off = (found.log_likelihood - known.log_likelihood) / found.std_error
    assert 0.2 < float(off.square().mean()) < 3
    assert float(off.abs().max()) < 4


def test_whole_numbers_and_the_end_that_fits_them() -> None:
    bins = Quantisation.of_pictures()
    pixels = bins.step * (normal(16, 1, 32) * 20).round() + bins.ends[0] + 128 * bins.step
    data = gaussian(float(pixels.mean()), float(pixels.std()))
    found = []
    for schedule in (PAPER, CosineVP()):
        exact = data.denoiser(schedule)
        denoise = of_pairs(exact, PAPER) if schedule.paired else exact
        end = find_data_end(denoise, pixels, schedule, quantised=bins, generator=seeded())
        told = {"t_min": end.t_min, "decoder": end.decoder, "quantised": bins, "generator": seeded()}
        bound = continuous_bound(denoise, pixels, schedule, draws=32, **told)  # type: ignore[arg-type]
        found.append(bound.total.mean())
        t = float(schedule.time_of_log_snr(torch.tensor(10.5).double()))
        kind = {"t_min": t, "steps": 12, "quantised": bins, "generator": seeded()}
        found.append(ode_likelihood(denoise, pixels, schedule, **kind).bits.mean())  # type: ignore[arg-type]
    entropy = math.log2(20 * math.sqrt(2 * math.pi * math.e))
    torch.testing.assert_close(torch.stack(found), torch.full((4,), entropy).double(), rtol=0, atol=0.1)


def test_wrong_requests_are_explained() -> None:
    exact = of_pairs(gaussian().denoiser(PAPER), PAPER)
    with pytest.raises(InputError, match="continuous time"):
        discrete_bound(exact, normal(1, 1, 4), PAPER, make_grid("uniform", PAPER, 4))
    with pytest.raises(InputError, match="t_min=0"):
        ode_likelihood(exact, normal(1, 1, 4), PAPER, t_min=0.0)
