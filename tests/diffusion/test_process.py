"""The process against moments, Bayes' rule and diffusers; conversions as round trips and identities."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import diffusers
import pytest
import torch
from oracles import TWO_PEAKS, all_schedules, gaussian

from mmdiff.diffusion.process import (
    GaussianProcess,
    Prediction,
    Prior,
    expand,
    expand_like,
    from_x0,
    to_x0,
)
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    ZeroTerminalSNR,
    ddpm_betas,
)
from mmdiff.errors import InputError

SCHEDULES = all_schedules()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
KINDS = get_args(Prediction)
TIMES = torch.tensor([0.1, 0.31, 0.77, 0.985], dtype=torch.float64)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ------------------------------------------------------------------------------------- conversions


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_leads_back_to_x0(schedule: Schedule, kind: Prediction) -> None:
    x0, noise = draw(4, 2, 3), draw(4, 2, 3, seed=1)
    levels = schedule(TIMES)
    x_t = GaussianProcess(schedule).diffuse(x0, TIMES, noise)
    back = to_x0(from_x0(x0, kind, x_t, levels), kind, x_t, levels)
    torch.testing.assert_close(back, x0, rtol=1e-9, atol=1e-9)


@every_schedule
def test_kinds_agree_with_their_definitions(schedule: Schedule) -> None:
    x0, noise = draw(4, 2, 3), draw(4, 2, 3, seed=1)
    alpha, sigma, d_alpha, d_sigma = expand(schedule(TIMES), x0)
    x_t = alpha * x0 + sigma * noise
    expected = {
        "eps": noise,
        "x0": x0,
        "v": alpha * noise - sigma * x0,
        "velocity": d_alpha * x0 + d_sigma * noise,
        "score": -noise / sigma,
    }
    for kind in KINDS:
        got = from_x0(x0, kind, x_t, schedule(TIMES))
        scale = float(expected[kind].abs().max())
        torch.testing.assert_close(got, expected[kind], rtol=1e-7, atol=1e-9 * scale)


@every_schedule
@pytest.mark.parametrize("kind", KINDS)
def test_conversions_are_finite_at_both_ends(schedule: Schedule, kind: Prediction) -> None:
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    levels = schedule(t)
    x0 = draw(2, 5).requires_grad_()
    x_t = GaussianProcess(schedule).diffuse(x0, t, draw(2, 5, seed=1))
    prediction = from_x0(x0, kind, x_t, levels)
    back = to_x0(prediction, kind, x_t, levels)
    assert bool(prediction.isfinite().all())
    torch.testing.assert_close(back[0], x0[0], rtol=1e-9, atol=1e-9)  # at t = 0 x_t says it all
    back.sum().backward()
    assert x0.grad is not None
    assert bool(x0.grad.isfinite().all())
    if float(levels.alpha[1]) > 0 or kind in ("v", "x0"):
        torch.testing.assert_close(back[1], x0[1], rtol=1e-9, atol=1e-9)
    elif kind in ("eps", "score"):  # nothing is known: the mean of centred data
        assert bool((back[1] == 0).all())


def test_velocity_of_a_flow_at_pure_noise_still_gives_x0() -> None:
    x0, noise = draw(1, 5), draw(1, 5, seed=1)
    levels = LinearFlow()(torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(to_x0(noise - x0, "velocity", noise, levels), x0)
    # Cosine: at t = 1 sigma' = 0 and alpha' = -pi/2
    levels = CosineVP()(torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(to_x0(-math.pi / 2 * x0, "velocity", noise, levels), x0)


def test_exact_score_and_exact_denoiser_are_one_conversion_apart() -> None:
    x = draw(4, 50)
    for schedule in (LinearBetaVP(), EDM(), LinearFlow()):
        levels = schedule(TIMES)
        score = from_x0(TWO_PEAKS.denoise(schedule, x, TIMES), "score", x, levels)
        torch.testing.assert_close(score, TWO_PEAKS.score(schedule, x, TIMES), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_sample(dtype: torch.dtype) -> None:
    process, t = GaussianProcess(CosineVP()), TIMES  # float64 times
    x = draw(4, 2, 3).to(dtype)
    assert process.diffuse(x, t, x).dtype == dtype
    assert process.posterior(x, x, 0.5 * t, t).mean.dtype == dtype
    assert process.marginal(x, t).mean.dtype == dtype
    assert process.transition(x, 0.5 * t, t).mean.dtype == dtype
    for kind in KINDS:
        assert to_x0(x, kind, x, process.schedule(t)).dtype == dtype
        assert from_x0(x, kind, x, process.schedule(t)).dtype == dtype


def test_expand_shapes() -> None:
    x = torch.zeros(3, 2, 5, dtype=torch.float64)
    levels = CosineVP()(torch.rand(3))
    assert {field.shape for field in expand(levels, x)} == {(3, 1, 1)}
    assert {field.dtype for field in expand(levels, x)} == {torch.float64}
    assert expand(expand(levels, x), x).alpha.shape == (3, 1, 1)
    assert expand(CosineVP()(0.5), x).alpha.shape == (1, 1, 1)
    assert expand_like(torch.rand(1), x).shape == (1, 1, 1)
    for wrong in (torch.rand(4), torch.rand(3, 2, 5, 1)):
        with pytest.raises(InputError, match="one time per item"):
            expand(CosineVP()(wrong), x)


def test_unknown_prediction_is_named() -> None:
    x = torch.zeros(1, 1)
    for convert in (to_x0, from_x0):
        with pytest.raises(InputError, match="prediction='noise' must be one of eps, x0"):
            convert(x, "noise", x, CosineVP()(0.5))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- process


def test_diffused_data_have_the_exact_moments() -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = TWO_PEAKS.sample((4, 100_000), generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
    x_t = GaussianProcess(LinearBetaVP()).diffuse(x0, TIMES, noise)
    for row, t in zip(x_t, TIMES, strict=True):
        mean, std = TWO_PEAKS.marginal(LinearBetaVP(), float(t))
        assert float(row.mean()) == pytest.approx(mean, abs=5 * std / math.sqrt(1e5))
        assert float(row.std()) == pytest.approx(std, rel=5 / math.sqrt(2e5))


@every_schedule
def test_two_transitions_are_one_marginal(schedule: Schedule) -> None:
    process, x0 = GaussianProcess(schedule), draw(3, 4)
    r, s, t = (torch.tensor(v, dtype=torch.float64) for v in (0.0, 0.4, 0.9))
    mean, std = process.marginal(x0, r)
    for early, late in ((r, s), (s, t)):
        scale = process.transition(torch.ones_like(x0), early, late).mean
        mean, step = process.transition(mean, early, late)
        std = torch.sqrt((scale * std) ** 2 + step**2)
    expected = process.marginal(x0, t)
    torch.testing.assert_close(mean, expected.mean, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(std, expected.spread.expand_as(std), rtol=1e-12, atol=0.0)


@every_schedule
def test_posterior_is_bayes_rule(schedule: Schedule) -> None:
    # p(x_s | x_t, x_0) from the product of the two Gaussians q(x_s | x_0) and q(x_t | x_s), by precisions.
    process, x0, x_t = GaussianProcess(schedule), draw(2, 3), draw(2, 3, seed=1)
    for s, t in itertools.combinations((0.1, 0.45, 0.46, 0.97), 2):
        prior = process.marginal(x0, s)
        scale = process.transition(torch.ones_like(x0), s, t).mean
        step = process.transition(x0, s, t).spread
        precision = 1 / prior.spread**2 + (scale / step) ** 2
        mean = (prior.mean / prior.spread**2 + scale * x_t / step**2) / precision
        got = process.posterior(x_t, x0, s, t)
        torch.testing.assert_close(got.mean, mean, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(got.spread.expand_as(mean), 1 / precision, rtol=1e-10, atol=0.0)


@every_schedule
def test_posterior_at_the_ends(schedule: Schedule) -> None:
    process, x0, x_t = GaussianProcess(schedule), draw(2, 3), draw(2, 3, seed=1)
    to_data = process.posterior(x_t, x0, 0.0, 0.5)
    assert bool(to_data.mean.isfinite().all())
    if float(schedule(0.0).sigma) == 0:
        torch.testing.assert_close(to_data.mean, x0)
        assert float(to_data.spread) == 0
    from_noise = process.posterior(x_t, x0, 0.5, 1.0)
    assert bool(from_noise.mean.isfinite().all())
    if float(schedule(1.0).alpha) == 0:  # x_t tells nothing: the marginal at s
        expected = process.marginal(x0, 0.5)
        torch.testing.assert_close(from_noise.mean, expected.mean)
        torch.testing.assert_close(from_noise.spread, expected.spread**2)
    for end in (0.0, 1.0):  # no step, no change
        still = process.posterior(x_t, x0, end, end)
        torch.testing.assert_close(still.mean, x_t)
        assert float(still.spread.max()) == 0


def test_posterior_equals_diffusers_ddpm() -> None:
    peer = diffusers.DDPMScheduler(clip_sample=False, variance_type="fixed_small")
    process = GaussianProcess(BetaTable(ddpm_betas()))
    x_t, eps = draw(1, 8, dtype=torch.float32), draw(1, 8, seed=1, dtype=torch.float32)
    for n in (1, 2, 500, 1000):
        t = torch.tensor(n / 1000, dtype=torch.float64)
        s = torch.tensor((n - 1) / 1000, dtype=torch.float64)
        x0 = to_x0(eps, "eps", x_t, process.schedule(t))
        got = process.posterior(x_t, x0, s, t)
        # The peer adds noise of variance _get_variance to the mean; with n = 1 it adds none.
        generator = torch.Generator().manual_seed(0)
        step = peer.step(eps, n - 1, x_t, generator=generator).prev_sample
        if n > 1:
            noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(0))
            step = step - float(peer._get_variance(n - 1)) ** 0.5 * noise
            assert float(got.spread) == pytest.approx(float(peer._get_variance(n - 1)), rel=1e-3)
        torch.testing.assert_close(got.mean, step, rtol=2e-3, atol=2e-5)


def test_variances_are_those_of_ddpm() -> None:
    betas = torch.tensor(ddpm_betas(), dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    n = torch.arange(1001, dtype=torch.float64)
    process, s, t = GaussianProcess(BetaTable(ddpm_betas())), n[:-1] / 1000, n[1:] / 1000
    small, large = process.posterior_variance(s, t), process.posterior_variance(s, t, "large")
    torch.testing.assert_close(large, betas, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(small, (1 - before) / (1 - alpha_bar) * betas, rtol=1e-9, atol=0.0)
    half = process.posterior_variance(s, t, "learned", torch.full((1000, 1), 0.5, dtype=torch.float64))
    torch.testing.assert_close(half[1:, 0], torch.sqrt(small * large)[1:], rtol=1e-12, atol=0.0)


def test_learned_variance_spans_small_to_large_even_at_the_last_step() -> None:
    process = GaussianProcess(ZeroTerminalSNR(BetaTable(ddpm_betas())))
    s, t = torch.tensor([0.0, 0.5]).double(), torch.tensor([0.001, 1.0]).double()
    small, large = process.posterior_variance(s, t), process.posterior_variance(s, t, "large")
    for value, expected in ((0.0, small), (1.0, large)):
        fraction = torch.full((2, 4), value, dtype=torch.float64, requires_grad=True)
        got = process.posterior_variance(s, t, "learned", fraction)
        torch.testing.assert_close(got, expected[:, None].expand(2, 4))
        got.sum().backward()
        assert fraction.grad is not None
        assert bool(fraction.grad.isfinite().all())


def test_the_two_fixed_variances_are_optimal_for_points_and_for_standard_normal_data() -> None:
    # Var[x_s | x_t] = posterior variance + (weight of x0)² Var[x0 | x_t]
    schedule, s, t = LinearBetaVP(), 0.3, 0.5
    process, x = GaussianProcess(schedule), torch.zeros(1, dtype=torch.float64)
    weight = process.posterior(x, torch.ones_like(x), s, t).mean
    spread = gaussian(0.0, 1.0).posterior_variance(schedule, x, t)
    total = process.posterior_variance(s, t) + weight**2 * spread
    torch.testing.assert_close(total, process.posterior_variance(s, t, "large").expand(1), rtol=1e-12, atol=0)


def test_neighbouring_times_keep_their_digits() -> None:
    # sigma_t² - alpha_ts² sigma_s² would leave nothing of a step of 1e-9; its rate is beta(t) dt.
    process, s = GaussianProcess(LinearBetaVP()), 0.5
    variance = float(process.posterior_variance(s, s + 1e-9, "large"))
    assert variance == pytest.approx((0.1 + 19.9 * 0.5) * 1e-9, rel=1e-5)


@pytest.mark.parametrize("schedule", [LinearFlow(), BetaTable(ddpm_betas())])
def test_results_stay_on_the_device_of_the_sample(schedule: Schedule) -> None:
    process = GaussianProcess(schedule)
    x, s, t = (torch.rand(3, device="meta") for _ in range(3))
    results = [process.diffuse(x, t, x), *process.posterior(x, x, s, t), *process.transition(x, s, t)]
    results += [to_x0(x, kind, x, schedule(t)) for kind in KINDS]
    results += [from_x0(x, kind, x, schedule(t)) for kind in KINDS]
    # times as Python numbers, too
    results += [process.diffuse(x, 0.5, x), *process.marginal(x, 0.5), *process.posterior(x, x, 0.2, 0.5)]
    results += [*process.transition(x, 0.2, 0.5), process.posterior_variance(0.2, 0.5, "learned", x)]
    results += [to_x0(x, "v", x, schedule(0.5)), from_x0(x, "eps", x, schedule(0.5))]
    assert {result.device.type for result in results} == {"meta"}


def test_variance_arguments_are_checked() -> None:
    process = GaussianProcess(LinearBetaVP())
    with pytest.raises(InputError, match="kind='medium'"):
        process.posterior_variance(0.1, 0.2, "medium")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="exactly when"):
        process.posterior_variance(0.1, 0.2, "learned")
    with pytest.raises(InputError, match="exactly when"):
        process.posterior_variance(0.1, 0.2, "small", torch.ones(1))


# ------------------------------------------------------------------------------------------ prior


def test_whitened_chain_is_priorgrads() -> None:
    schedule, t = BetaTable(ddpm_betas()), torch.tensor([0.2, 0.7], dtype=torch.float64)
    x0, eps = draw(2, 3, 8), draw(2, 3, 8, seed=1)
    mean, std = draw(2, 1, 8, seed=2), draw(2, 1, 8, seed=3).exp()
    prior, process = Prior(mean, std), GaussianProcess(schedule)
    alpha, sigma, *_ = expand(schedule(t), x0)
    # Algorithm 1: x_t = alpha (x0 - mean) + sigma eps', eps' ~ N(0, std²)
    x_t = alpha * (x0 - mean) + sigma * (std * eps)
    z_t = process.diffuse(prior.whiten(x0), t, eps)
    torch.testing.assert_close(prior.color(z_t), x_t)
    # Its loss, (eps' - prediction)² / std², is the plain one on the whitened eps.
    prediction = draw(2, 3, 8, seed=4)
    torch.testing.assert_close((std * eps - std * prediction) ** 2 / std**2, (eps - prediction) ** 2)
    # Algorithm 2, one step from t to s, with the same noise.
    s = t - 0.001
    beta = torch.tensor(ddpm_betas(), dtype=torch.float64)[(t * 1000).round().long() - 1][:, None, None]
    expected = (x_t - beta / sigma * (std * prediction)) / torch.sqrt(1 - beta)
    step = process.posterior(z_t, to_x0(prediction, "eps", z_t, schedule(t)), s, t)
    torch.testing.assert_close(prior.color(step.mean), expected, rtol=1e-9, atol=1e-11)


def test_a_denoiser_of_centred_data_is_made_one_of_the_chain() -> None:
    mean, std = draw(2, 1, 8), draw(2, 1, 8, seed=1).exp()
    prior, z = Prior(mean, std), draw(2, 3, 8, seed=2)
    whitened = prior.whitened(lambda x, t, shift: 0.5 * x + shift)
    torch.testing.assert_close(whitened(z, torch.ones(2), shift=2.0), 0.5 * z + 2.0 / std)


class Rotation:
    """A basis that is any orthonormal matrix."""

    def __init__(self, size: int) -> None:
        self.matrix = torch.linalg.qr(draw(size, size, seed=5))[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T

    def inverse(self, coefficients: torch.Tensor) -> torch.Tensor:
        return coefficients @ self.matrix


def test_a_prior_in_a_basis_has_its_covariance_and_whitens_exactly() -> None:
    basis, std, mean = Rotation(6), draw(6, seed=1).exp(), draw(6, seed=2)
    prior = Prior(mean, std, basis)
    factor = prior.color(torch.eye(6, dtype=torch.float64))
    wanted = basis.matrix.T @ torch.diag(std**2) @ basis.matrix
    torch.testing.assert_close(factor.T @ factor, wanted)
    x = draw(3, 6, seed=3)
    torch.testing.assert_close(prior.unwhiten(prior.whiten(x)), x)
    root = torch.linalg.inv(factor)
    torch.testing.assert_close(prior.whiten(x), (x - mean) @ root)
    torch.testing.assert_close(
        prior.whitened(lambda x, t: 2 * x)(x, torch.ones(3)), 2 * x
    )  # networks see it white


def test_prior_round_trip_and_floor() -> None:
    x, mean, std = draw(2, 3), draw(2, 1, seed=1), draw(2, 1, seed=2).exp()
    prior = Prior(mean, std)
    torch.testing.assert_close(prior.unwhiten(prior.whiten(x)), x)
    floored = Prior.floored(mean, torch.zeros_like(std), 0.25)
    assert bool((floored.std == 0.25).all())
    with pytest.raises(InputError, match="floor=0"):
        Prior.floored(mean, std, 0.0)
