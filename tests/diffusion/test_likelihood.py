"""The variational bounds against closed forms: normal data, and the entropy of data of few values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact_network import ExactNetwork, normal, seeded
from exact_vectors import VectorMixture
from oracles import Mixture, gaussian
from torch import Tensor, nn

from mmdiff.diffusion.decoders import ResidualDecoder, find_data_end
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.likelihood import Bound, continuous_bound, discrete_bound, ode_likelihood
from mmdiff.diffusion.likelihood_ode import least_noisy_time
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    VarianceExploding,
    ddpm_betas,
    linear_betas,
)
from mmdiff.errors import InputError

MEAN, STD = 0.4, 0.6
SCHEDULES = [LinearBetaVP(), CosineVP(), LinearFlow(), EDM(), VarianceExploding(), BetaTable(ddpm_betas())]
NAMED = {"ids": lambda schedule: type(schedule).__name__}


def expected_error(x0: Tensor, snr: Tensor) -> Tensor:
    """E |x0 - x0_hat|² over the noise, for the exact denoiser of N(MEAN, STD²)."""
    return ((x0 - MEAN) ** 2 + snr * STD**4) / (1 + snr * STD**2) ** 2


def nll(x0: Tensor) -> Tensor:
    """Bits per dimension that the data themselves have."""
    return -torch.distributions.Normal(MEAN, STD).log_prob(x0).flatten(1).mean(1) / math.log(2)


def prior_kl(x0: Tensor, schedule: Schedule) -> Tensor:
    levels = schedule(1.0)
    q = torch.distributions.Normal(levels.alpha * x0, levels.sigma)
    p = torch.distributions.Normal(torch.zeros(()).double(), levels.sigma)
    return torch.distributions.kl_divergence(q, p)


def decoder_cost(x0: Tensor, snr: Tensor, variance: float) -> Tensor:
    return (expected_error(x0, snr) / variance + math.log(2 * math.pi * variance)) / 2


def bits(nats: Tensor) -> Tensor:
    return nats.flatten(1).mean(1) / math.log(2)


def many(values: list[float], draws: int) -> Tensor:
    """Each value as an item of many equal elements: the average over them is that over the noise."""
    return torch.tensor(values, dtype=torch.float64)[:, None, None].expand(len(values), 1, draws)


@pytest.mark.parametrize("schedule", SCHEDULES, **NAMED)
def test_the_continuous_bound_is_the_closed_form(schedule: Schedule) -> None:
    x0 = many([MEAN, 1.1, -0.5], 4000)
    found = continuous_bound(
        gaussian(MEAN, STD).denoiser(schedule), x0, schedule, draws=48, generator=seeded()
    )
    t = least_noisy_time(schedule)
    low, high = (schedule.log_snr(torch.tensor(v).double()).exp() for v in (1.0, t))
    square, a, b = (x0 - MEAN) ** 2 / STD**2, 1 + low * STD**2, 1 + high * STD**2
    integral = (square * (1 / a - 1 / b) + torch.log(b / a) + 1 / b - 1 / a) / 2  # of SNR error dλ / 2
    decoder = decoder_cost(x0, high, float(1 / (high + 1)))
    torch.testing.assert_close(found.prior, bits(prior_kl(x0, schedule)))
    torch.testing.assert_close(found.total, found.prior + found.diffusion + found.decoder)
    for part, expected in ((found.diffusion, integral), (found.decoder, decoder)):
        assert ((part - bits(expected)).abs() < 4 * found.std_error).all()
    assert (found.total > nll(x0) - 4 * found.std_error).all()
    assert (found.std_error < 0.05).all()


@pytest.mark.parametrize("schedule", [LinearBetaVP(), CosineVP(), EDM()], **NAMED)
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_discrete_bound_is_the_closed_form(schedule: Schedule, variance: Any) -> None:
    x0, steps = many([MEAN, 1.3], 3000), 12
    grid = make_grid("uniform", schedule, steps)
    found = discrete_bound(
        gaussian(MEAN, STD).denoiser(schedule), x0, schedule, grid, variance=variance, generator=seeded()
    )
    snr = schedule.log_snr(grid).exp()
    sigma = schedule(grid).sigma
    terms = []
    for n in range(steps - 1):
        lost = 1 - snr[n] / snr[n + 1]  # sigma_ts² / sigma_t²
        true = sigma[n + 1] ** 2 * lost
        chosen = true if variance == "small" else sigma[n] ** 2 * lost
        moved = (snr[n + 1] - snr[n]) * true * expected_error(x0, snr[n])
        ratio = true / chosen
        terms.append((ratio - 1 - ratio.log() + moved / chosen) / 2)
    torch.testing.assert_close(
        found.terms / (steps - 1), torch.stack([bits(t) for t in terms]), rtol=0.06, atol=2e-4
    )
    torch.testing.assert_close(found.diffusion, bits(torch.stack(terms).sum(0)), rtol=0.03, atol=0)
    assert (found.total > nll(x0)).all()


@pytest.mark.parametrize("size", [3, 64])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_discrete_bound_is_the_closed_form_where_elements_depend_on_each_other(
    size: int, variance: Any
) -> None:
    """Along each axis of the data's covariance as for numbers of that variance."""
    data, schedule, steps = VectorMixture.random(1, size, seed=size), CosineVP(), 6
    x0, grid = data.sample(2, (1, size)), make_grid("uniform", schedule, steps)
    items = x0.repeat_interleave(20_000 // size, 0)
    found = discrete_bound(
        data.denoiser(schedule), items, schedule, grid, variance=variance, generator=seeded()
    )
    snr, sigma = schedule.log_snr(grid).exp(), schedule(grid).sigma
    lost = 1 - snr[:-2] / snr[1:-1]
    true = sigma[1:-1] ** 2 * lost
    ratio = (sigma[1:-1] / sigma[:-2]) ** 2 if variance == "large" else torch.ones_like(true)
    s2, place = data.variances[0], ((x0[:, 0] - data.means) @ data.axes[0]) ** 2  # (D,), (2, D)
    error = (place[..., None] + snr[:-2] * s2[:, None] ** 2) / (1 + snr[:-2] * s2[:, None]) ** 2
    moved = (snr[1:-1] - snr[:-2]) * ratio * error.mean(1)  # over dimensions, (2, steps - 1)
    wanted = (ratio - 1 - ratio.log() + moved).sum(1) / 2 / math.log(2)
    mean, spread = (f(found.diffusion.view(2, -1), 1) for f in (torch.mean, torch.std))
    assert ((mean - wanted).abs() < 4 * spread / math.sqrt(len(items) / 2)).all()
    assert (spread / math.sqrt(len(items) / 2) < 0.02 * wanted).all()  # so that the comparison says something


def test_the_step_into_the_data() -> None:
    schedule, x0 = CosineVP(), many([MEAN, 1.3], 20000)
    grid = make_grid("uniform", schedule, 8)
    snr = schedule.log_snr(grid[-2]).exp()
    sigma, before = schedule(grid[-2]).sigma, schedule(grid[-3]).sigma
    second = float(sigma**2 * (1 - schedule.log_snr(grid[-3]).exp() / snr))
    for given, variance in ((None, second), (0.01, 0.01)):
        found = discrete_bound(
            gaussian(MEAN, STD).denoiser(schedule),
            x0,
            schedule,
            grid,
            decoder=given and ResidualDecoder((given,)),
            generator=seeded(1),
        )
        error = expected_error(x0, snr).max() / variance / math.sqrt(2 * 20000) / math.log(2)
        assert ((found.decoder - bits(decoder_cost(x0, snr, variance))).abs() < 4 * error).all()
    assert before > sigma


def test_more_steps_tend_to_the_continuous_bound() -> None:
    schedule, x0 = LinearFlow(), many([0.9], 10000)
    denoiser, t = gaussian(MEAN, STD).denoiser(schedule), 0.02
    settings: dict[str, Any] = {"decoder": ResidualDecoder((4e-4,))}
    limit = continuous_bound(denoiser, x0, schedule, t_min=t, draws=48, generator=seeded(), **settings).total
    gaps = []
    for steps in (16, 32, 2000):
        grid = torch.cat([make_grid("log_snr", schedule, steps, t_min=t), torch.zeros(1).double()])
        drawn = None if steps < 40 else 40
        found = discrete_bound(denoiser, x0, schedule, grid, draws=drawn, generator=seeded(1), **settings)
        gaps.append(float(found.total - limit))
    assert gaps[0] > 1.8 * gaps[1] > 1  # fewer steps cost bits
    assert gaps[2] == pytest.approx(gaps[1] * 32 / 2000, abs=0.1)


@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow(), EDM(0.002, 1e4)], **NAMED)
def test_the_bound_lies_above_the_exact_likelihood(schedule: Schedule) -> None:
    data = VectorMixture.random(2, 16, seed=5)
    x0 = data.sample(200, (1, 4, 4))
    bound = continuous_bound(data.denoiser(schedule), x0, schedule, draws=16, generator=seeded())
    exact = -data.log_density(x0) / 16 / math.log(2)
    gap = bound.total - exact
    # on average over the data the bound of an exact denoiser is exact too (I-MMSE)
    error = float(gap.std()) / math.sqrt(200)
    assert abs(float(gap.mean())) < 3.5 * error
    assert error < 0.06
    few = make_grid("log_snr", schedule, 8)
    coarse = discrete_bound(data.denoiser(schedule), x0, schedule, few, generator=seeded())
    assert float(coarse.total.mean()) > float(exact.mean()) + 0.1


def test_data_of_few_values_cost_their_entropy() -> None:
    weights, values = (0.5, 0.25, 0.125, 0.125), (-1.0, -1 / 3, 1 / 3, 1.0)
    data, bins, schedule = Mixture(weights, values, (0.0,) * 4), Quantisation(2 / 3), CosineVP()
    x0 = torch.tensor(values).double().repeat_interleave(torch.tensor([4, 2, 1, 1]))
    x0 = x0.repeat(500)[None, None]
    found = continuous_bound(
        data.denoiser(schedule), x0, schedule, t_min=0.05, quantised=bins, draws=64, generator=seeded()
    )
    assert float(found.total[0]) == pytest.approx(1.75, abs=0.02)  # their entropy in bits
    assert float(found.decoder[0]) < 1e-3


@pytest.mark.parametrize("discrete", [False, True])
def test_probabilities_of_all_values_sum_to_less_than_one(discrete: bool) -> None:
    schedule, bins = CosineVP(), Quantisation(2 / 7)
    values = torch.linspace(-1, 1, 8, dtype=torch.float64)
    x0 = values[:, None, None].expand(8, 1, 1500)
    denoiser = gaussian(0.2, 0.5).denoiser(schedule)  # of no such data, but a bound it is
    if discrete:
        grid = make_grid("uniform", schedule, 20)
        found = discrete_bound(denoiser, x0, schedule, grid, quantised=bins, generator=seeded())
    else:
        found = continuous_bound(
            denoiser, x0, schedule, quantised=bins, t_min=0.05, draws=64, decoder_draws=4, generator=seeded()
        )
    total = float((2**-found.total).sum())
    assert 0.2 < total < 1


class Places(nn.Module):
    """The exact eps, and where the variance lies between its bounds."""

    def __init__(self, schedule: Schedule, place: float) -> None:
        super().__init__()
        self.exact, self.place = ExactNetwork(schedule, "eps", MEAN, STD), place

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.cat([self.exact(x, level), torch.full_like(x, 2 * self.place - 1)], dim=1)


def test_learned_variances() -> None:
    schedule = BetaTable(linear_betas(2e-3, 0.2, 50))
    x0, grid = MEAN + STD * normal(3, 1, 50), make_grid("uniform", schedule, 50)

    def bound(variance: Any, place: float) -> Bound:
        denoiser = Denoiser(Places(schedule, place), schedule, "eps", learned_variance=True)
        return discrete_bound(denoiser, x0, schedule, grid, variance=variance, generator=seeded(2))

    # the ends are the fixed variances, but that the step into the data has the second step's small one there
    torch.testing.assert_close(bound("learned", 0.0).diffusion, bound("small", 0.3).diffusion)
    torch.testing.assert_close(bound("learned", 1.0).diffusion, bound("large", 0.3).diffusion)
    torch.testing.assert_close(bound("learned", 0.0).total, bound("small", 0.7).total)
    between = bound("learned", 0.5).total.mean()
    assert between < bound("small", 0).total.mean()
    assert between > nll(x0).mean()


def test_drawn_steps_and_times_are_unbiased_and_tell_their_error() -> None:
    schedule = CosineVP()
    denoiser = gaussian(MEAN, STD).denoiser(schedule)
    x0 = normal(1, 1, 40).expand(300, 1, 40)
    grid = make_grid("log_snr", schedule, 60)
    whole = discrete_bound(denoiser, x0, schedule, grid, generator=seeded())
    drawn = discrete_bound(denoiser, x0, schedule, grid, draws=12, decoder_draws=2, generator=seeded(1))
    error = math.hypot(float(drawn.total.std()), float(whole.total.std())) / math.sqrt(300)
    assert float(drawn.total.mean()) == pytest.approx(float(whole.total.mean()), abs=4 * error)
    for found in (drawn, continuous_bound(denoiser, x0, schedule, draws=12, generator=seeded(2))):
        spread = float(found.total.std())
        assert float(found.std_error.square().mean().sqrt()) == pytest.approx(spread, rel=0.35)
    for few in ({"draws": 2}, {"decoder_draws": 1}):
        assert continuous_bound(denoiser, x0[:2], schedule, **few, generator=seeded()).std_error.isnan().all()
        assert (
            discrete_bound(denoiser, x0[:2], schedule, grid, **few, generator=seeded())
            .std_error.isnan()
            .all()
        )


@pytest.mark.parametrize("draws", [6, 16])
def test_the_error_is_told_where_nearly_all_of_it_is_the_last_steps(draws: int) -> None:
    """The table of DDPM in equal steps of time: its last steps into the data vary as much as all others together."""
    schedule, x0 = BetaTable(linear_betas(1e-4, 0.02, 1000)), torch.full((3000, 1, 1), 0.9).double()
    grid, denoiser = make_grid("uniform", schedule, 1000), gaussian(0.0, 1.0).denoiser(schedule)
    found = discrete_bound(denoiser, x0, schedule, grid, draws=draws, generator=seeded())
    assert float(found.std_error.square().mean().sqrt()) == pytest.approx(float(found.total.std()), rel=0.15)


def test_an_item_does_not_depend_on_its_neighbours() -> None:
    schedule, x0 = LinearFlow(), normal(3, 1, 7)
    denoiser, grid = gaussian(MEAN, STD).denoiser(schedule), make_grid("uniform", schedule, 6)
    bins = Quantisation(0.1, -4, 4)
    for function, options in (
        (continuous_bound, {"draws": 4}),
        (discrete_bound, {"grid": grid, "draws": 3}),
        (ode_likelihood, {"steps": 5, "quantised": bins}),
    ):
        together = function(denoiser, x0, schedule, generator=[seeded(n) for n in range(3)], **options)  # type: ignore[operator]
        alone = function(denoiser, x0[1:2], schedule, generator=[seeded(1)], **options)  # type: ignore[operator]
        torch.testing.assert_close(together[0][1:2], alone[0])


def test_a_decoder_finds_the_mixture_that_errors_were_drawn_from() -> None:
    truth = ResidualDecoder((1e-4, 0.09), (0.8, 0.2))
    wide = torch.rand(40000, generator=seeded(3)) < 0.2
    errors = torch.where(wide, 0.3, 0.01).double() * normal(40000)
    found = ResidualDecoder.fit(errors, torch.zeros_like(errors))
    assert sum(found.weights) == pytest.approx(1)
    best = float(truth.nll(errors, torch.zeros_like(errors)).mean())
    assert float(found.nll(errors, torch.zeros_like(errors)).mean()) == pytest.approx(best, abs=0.04)
    # of quantised data it is a distribution over all values
    bins = Quantisation(0.1)
    values = torch.linspace(-1, 1, 21, dtype=torch.float64)
    rounded = (errors / 0.1).round() * 0.1
    quantised = ResidualDecoder.fit(rounded, torch.zeros_like(errors), bins)
    total = quantised.nll(values, torch.full_like(values, 0.93), bins).neg().exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-9)


def test_the_chain_ends_where_a_network_ceases_to_see() -> None:
    schedule, data = CosineVP(), Mixture((0.5, 0.5), (-1.0, 1.0), (0.05, 0.05))

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        """Exact, but for an error that does not vanish with the noise."""
        return data.denoise(schedule, x, t) + 0.05 * torch.sin(40 * x)

    x0 = data.sample((8, 1, 1000), seeded(5))
    end = find_data_end(denoiser, x0, schedule, generator=seeded())
    noise = float(schedule(end.t_min).sigma / schedule(end.t_min).alpha)
    assert 0.03 < noise < 0.7
    usual = continuous_bound(denoiser, x0, schedule, generator=seeded(1)).total.mean()
    found = continuous_bound(
        denoiser, x0, schedule, t_min=end.t_min, decoder=end.decoder, generator=seeded(1)
    )
    entropy = 1 + math.log2(0.05 * math.sqrt(2 * math.pi * math.e))
    assert entropy < found.total.mean() < entropy + 0.5 < usual - 10


def test_wrong_requests_are_explained() -> None:
    schedule, x0 = CosineVP(), torch.zeros(2, 1, 4)
    denoiser = gaussian().denoiser(schedule)
    with pytest.raises(InputError, match="must fall from 1 to 0"):
        discrete_bound(denoiser, x0, schedule, make_grid("uniform", schedule, 4, t_min=0.1))
    with pytest.raises(InputError, match="variance='learned' must come"):
        discrete_bound(denoiser, x0, schedule, make_grid("uniform", schedule, 4), variance="learned")
    with pytest.raises(InputError, match="data_std=0"):
        continuous_bound(denoiser, x0, schedule, data_std=0)
    with pytest.raises(InputError, match="weights 1 in all"):
        ResidualDecoder((0.1, 0.2), (0.5, 0.6))
    with pytest.raises(InputError, match="must have noise left"):
        continuous_bound(denoiser, x0, schedule, t_min=0.0)
