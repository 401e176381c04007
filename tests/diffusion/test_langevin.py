"""Langevin diffusion against matrix exponentials, 60 digits, autograd, and closed forms of normal data."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from exact_network import normal, seeded
from oracles import Mixture, gaussian
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor, nn

from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.hybrid_score import HybridScoreMatching
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser
from mmdiff.diffusion.langevin_levels import PairLevels, unit_levels
from mmdiff.diffusion.objectives import Objective
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.diffusion.times import LogNormal
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

PAPER = CriticallyDamped()
PROCESSES = [PAPER, CriticallyDamped(1.7, 0.3, 0.5, 9.0), CriticallyDamped(0.05, 0.0, 0.0, 3.0)]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=["paper", "heavy", "cold"])
DATA = gaussian(0.7, 0.6)


def covariance(at: PairLevels) -> np.ndarray:
    """Σ (2, 2) of levels at a single time."""
    factor = np.array([[float(at.l_xx), 0.0], [float(at.l_vx), float(at.l_vv)]])
    return factor @ factor.T


def matrices(process: CriticallyDamped, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Drift matrix and covariance rate of du = A u dt + noise, from the definition with M, Γ and β."""
    beta = process.beta_min + (process.beta_max - process.beta_min) * t
    friction = 2 * math.sqrt(process.mass)
    drift = beta * np.array([[0.0, 1 / process.mass], [-1.0, -friction / process.mass]])
    return drift, np.diag([0.0, 2 * friction * beta])


@every_process
def test_moments_along_the_trajectory_solve_their_equation(process: CriticallyDamped) -> None:
    """d mean/dt = A mean, dΣ/dt = AΣ + ΣAᵀ + G, integrated to 1e-12 by scipy."""

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        (drift, noise), mean, sigma = matrices(process, t), y[:2], y[2:].reshape(2, 2)
        return np.concatenate([drift @ mean, (drift @ sigma + sigma @ drift.T + noise).ravel()])

    times = np.linspace(0, 1, 21)
    start = np.array([1.0, 0.0, 0.0, 0.0, 0.0, process.gamma * process.mass])
    exact = solve_ivp(rhs, (0, 1), start, "DOP853", times, rtol=1e-12, atol=1e-14).y.T
    for t, row in zip(times[1:], exact[1:], strict=True):
        mean, sigma = process.marginal(torch.ones(1, 1, dtype=torch.float64), torch.tensor([t]))
        np.testing.assert_allclose(mean.flatten(), row[:2], rtol=0, atol=1e-10)
        np.testing.assert_allclose(sigma[0], row[2:].reshape(2, 2), rtol=0, atol=1e-10)


@every_process
def test_transition_is_the_matrix_exponential_and_composes(process: CriticallyDamped) -> None:
    u, s, t = normal(1, 2, 3), torch.tensor([0.31]).double(), torch.tensor([0.77]).double()
    lapse = float(process.clock(t) - process.clock(s)) * math.sqrt(process.mass)
    unit_drift = matrices(CriticallyDamped(process.mass, 0.0, 1.0, 1.0), 0.0)[0]
    flow = expm(unit_drift * lapse)
    mean, spread = process.transition(u, s, t)
    np.testing.assert_allclose(mean[0], flow @ u[0].numpy(), rtol=1e-12)
    stationary = np.diag([1.0, process.mass])
    np.testing.assert_allclose(spread[0], stationary - flow @ stationary @ flow.T, atol=1e-12)
    before, after = (covariance(process.pair_levels(when[0])) for when in (s, t))
    np.testing.assert_allclose(flow @ before @ flow.T + spread[0].numpy(), after, rtol=1e-11)


def exact_levels(tau: float, gamma: float) -> list[mpmath.mpf]:
    with mpmath.workdps(60):
        tau, gamma = mpmath.mpf(tau), mpmath.mpf(gamma)
        decay, fade = mpmath.exp(-tau), mpmath.exp(-2 * tau)
        xx = 1 - fade * ((1 + tau) ** 2 + tau**2) + gamma * fade * tau**2
        xp = 2 * tau**2 * fade + gamma * fade * tau * (1 - tau)
        pp = 1 - fade * (tau**2 + (1 - tau) ** 2) + gamma * fade * (1 - tau) ** 2
        of_x = mpmath.sqrt(xx)
        return [
            decay * (1 + tau),
            -decay * tau,
            of_x,
            xp / of_x,
            mpmath.sqrt(pp - xp**2 / xx),
        ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("gamma", [0.0, 0.04, 1.0])
def test_cholesky_entries_keep_their_digits_at_all_times(gamma: float, dtype: torch.dtype) -> None:
    # 8e-5 is the paper's t = 1e-5; at 2 the way of computing changes, at 1 a sign.
    tau = torch.tensor([1e-11, 1e-7, 8e-5, 1e-3, 0.03, 0.5, 0.999, 1.0, 1.001, 2.0, 5.0, 20.0], dtype=dtype)
    got = torch.stack(list(unit_levels(tau, gamma)))
    for column, place in zip(got.T, tau, strict=True):
        for value, exact in zip(column, exact_levels(float(place), gamma), strict=True):
            error = abs(mpmath.mpf(float(value)) - exact)
            assert error <= 5 * torch.finfo(dtype).eps * max(abs(exact), 1e-30), (float(place), value, exact)


def test_float32_diffuses_and_inverts_at_the_smallest_training_time() -> None:
    x0, noise, t = normal(4, 3, 50), normal(4, 2, 3, 50, seed=1), torch.full((4,), 1e-5)
    u = PAPER.diffuse(x0.float(), t, noise.float())
    exact = PAPER.diffuse(x0, t.double(), noise)
    torch.testing.assert_close(u.double(), exact, rtol=1e-6, atol=1e-6)
    # What is recovered of x_0 from ε_v is exact; ε_v of x_0 is what rounding x leaves, 6e-8 over 1e-6.
    x0_again = PAPER.x0(u, noise[:, 1].float(), t)
    torch.testing.assert_close(x0_again.double(), x0, rtol=0, atol=2e-6)
    assert bool(PAPER.reduce(u, t).isfinite().all())
    loss = HybridScoreMatching(PAPER)(
        LangevinDenoiser(Normal(PAPER, "edm", 1.0), PAPER, "edm", sees="reduced"),
        x0.float(), generator=None, t=t, noise=noise.float(),
    )  # fmt: skip
    exactly = HybridScoreMatching(PAPER)(
        LangevinDenoiser(Normal(PAPER, "edm", 1.0), PAPER, "edm", sees="reduced"),
        x0, generator=None, t=t.double(), noise=noise,
    )  # fmt: skip
    torch.testing.assert_close(loss.double(), exactly, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", [(3, 2), (2, 1, 7), (2, 3, 2, 3, 2)], ids=["flat", "sound", "video"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_any_dimension_and_dtype_and_the_device_of_the_inputs(shape, dtype) -> None:
    x0, t = normal(*shape).to(dtype), torch.linspace(0.1, 0.9, shape[0], dtype=dtype)
    u = PAPER.diffuse(x0, t, normal(shape[0], 2, *shape[1:], seed=1).to(dtype))
    eps = PAPER.eps(u, x0, t)
    for result, parts in ((u, 2), (eps, 0), (PAPER.score(u, x0, t), 2), (PAPER.reduce(u, t), 0)):
        assert result.shape == ((shape[0], parts, *shape[1:]) if parts else shape)
        assert result.dtype == dtype
    torch.testing.assert_close(
        PAPER.x0(u, eps, t), x0, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12
    )
    far, when = torch.empty(shape, device="meta", dtype=dtype), torch.rand(shape[0], device="meta")
    pair = PAPER.diffuse(far, when, torch.empty(shape[0], 2, *shape[1:], device="meta", dtype=dtype))
    for result in (pair, PAPER.eps(pair, far, when), PAPER.reduce(pair, when), PAPER.lift(far, when, far)):
        assert result.device.type == "meta"


@every_process
def test_score_of_normal_data_is_the_gradient_of_the_marginal_density(process: CriticallyDamped) -> None:
    mean, std = DATA.means[0], DATA.stds[0]
    for t in (0.02, 0.3, 0.8):
        at = process.pair_levels(t)
        centre = torch.stack([at.mean_x, at.mean_v])
        sigma = torch.from_numpy(covariance(at)) + std**2 * centre[:, None] * centre
        density = torch.distributions.MultivariateNormal(mean * centre, sigma)
        u = (torch.linalg.cholesky(sigma) @ normal(2, 5) + mean * centre[:, None]).requires_grad_()
        (exact,) = torch.autograd.grad(density.log_prob(u.T).sum(), u)
        pair = u.detach().T[..., None]
        best = best_estimate(process, pair, t)
        torch.testing.assert_close(process.score(pair, best, t)[..., 0].T, exact, rtol=1e-8, atol=1e-8)


def best_estimate(process: CriticallyDamped, u: Tensor, t: Tensor | float, data: Mixture = DATA) -> Tensor:
    """E[x_0 | u] by Bayes' rule in two dimensions, with inverse matrices; u (B, 2, ...)."""
    at = process.pair_levels(t)
    mu = torch.stack([at.mean_x, at.mean_v], -1).expand(len(u), 2)
    rows = [torch.stack([at.l_xx, torch.zeros_like(at.l_xx)], -1), torch.stack([at.l_vx, at.l_vv], -1)]
    factor = torch.stack(rows, -2).expand(len(u), 2, 2)
    flat, results, logs = u.flatten(2), [], []
    for weight, mean, std in zip(data.weights, data.means, data.stds, strict=True):
        sigma = factor @ factor.mT + std**2 * mu[:, :, None] * mu[:, None]
        offset = flat - mean * mu[:, :, None]
        solved = torch.linalg.solve(sigma, offset)
        results.append(mean + std**2 * (mu[:, :, None] * solved).sum(1))
        logs.append(math.log(weight) - (offset * solved).sum(1) / 2 - torch.logdet(sigma)[:, None] / 2)
    chance = torch.softmax(torch.stack(logs), 0)
    return (chance * torch.stack(results)).sum(0).view_as(u[:, 0])


def test_a_denoiser_of_plain_states_is_exact_for_pairs() -> None:
    """What a pair says of x_0 is one number: checked on a mixture, whose denoiser is far from linear."""
    data, t = Mixture((0.3, 0.7), (-1.0, 0.5), (0.1, 0.3)), torch.tensor([0.05, 0.2, 0.4, 0.7]).double()
    u = PAPER.diffuse(data.sample((4, 1, 20), seeded()), t, normal(4, 2, 1, 20))
    plain = data.denoise(PAPER, PAPER.reduce(u, t), t)
    torch.testing.assert_close(plain, best_estimate(PAPER, u, t, data), rtol=1e-9, atol=1e-9)


@every_process
def test_lifting_a_state_gives_the_pair_its_law_and_is_undone(process: CriticallyDamped) -> None:
    t = torch.tensor([0.02, 0.3, 0.9]).double()
    state = normal(3, 1, 4)
    torch.testing.assert_close(process.reduce(process.lift(state, t, normal(3, 1, 4, seed=1)), t), state)
    # The lift is linear in the state's own noise and in the fresh one: their products give the law.
    one, none = torch.ones(3, 1), torch.zeros(3, 1)
    levels = process(t)
    data = process.lift(levels.alpha[:, None], t, none)[..., 0]
    parts = [process.lift(levels.sigma[:, None], t, none), process.lift(none, t, one.double())]
    spread = sum(part * part.mT for part in parts)
    mean, exact = process.marginal(one.double(), t)
    torch.testing.assert_close(data, mean[..., 0])
    torch.testing.assert_close(spread, exact)


# ---------------------------------------------------------------------- the denoiser and its loss


class Normal(nn.Module):
    """The best network for data N(mean, std²) in each parameterisation, shown reduced states or pairs."""

    def __init__(self, process: CriticallyDamped, kind: str, std: float, mean: float = 0.0) -> None:
        super().__init__()
        self.process, self.kind, self.data = process, kind, gaussian(mean, std)

    def forward(self, seen: Tensor, t: Tensor) -> Tensor:
        if self.kind == "edm":  # centred normal data: the linear estimate is right
            return torch.zeros_like(seen)
        x, p = seen.chunk(2, 1)
        v = math.sqrt(self.process.mass) * p
        u = torch.stack([x, v], 1)
        eps = self.process.eps(u, best_estimate(self.process, u, t, self.data), t)
        if self.kind == "eps":
            return eps
        at = self.process.levels_like(t, x)
        std = self.data.stds[0]
        return eps - at.l_vv * v / (at.l_vx**2 + at.l_vv**2 + std**2 * at.mean_v**2)


def least_loss(process: CriticallyDamped, t: Tensor, std: float) -> Tensor:
    """Variance of ε_v given u for normal data, from the joint covariance of (ε_v, x, v)."""
    at = process.pair_levels(t)
    mu = torch.stack([at.mean_x, at.mean_v], -1)
    noise = process.marginal(torch.ones(len(t), 1, dtype=t.dtype), t).spread
    cross = torch.stack([torch.zeros_like(at.l_vv), at.l_vv], -1)
    sigma = noise + std**2 * mu[..., None] * mu[..., None, :]
    return 1 - (cross * torch.linalg.solve(sigma, cross)).sum(-1)


@every_process
@pytest.mark.parametrize("kind", ["eps", "mixed", "edm"])
def test_the_loss_is_least_at_the_true_score_where_it_has_the_known_value(process, kind) -> None:
    std, mean = 0.6, 0.0 if kind == "edm" else 0.7
    t = torch.tensor([0.05, 0.2, 0.5, 0.9]).double()
    network = Normal(process, kind, std, mean)
    denoiser = LangevinDenoiser(
        network, process, kind, sigma_data=std, sees="reduced" if kind == "edm" else "pair"
    )
    # Opposite and exchanged noises make the sample's second moments exact.
    base = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]).double() * math.sqrt(3)
    draws = torch.cat([base, -base]).T
    x0 = (mean + std * draws[0]).expand(4, 1, 6)
    noise = draws[1:].view(1, 2, 1, 6).expand(4, 2, 1, 6)
    exact = least_loss(process, t, std)
    objective = HybridScoreMatching(process)
    losses = objective(denoiser, x0, generator=None, t=t, noise=noise)
    torch.testing.assert_close(losses, exact, rtol=1e-8, atol=1e-10)
    # any callable that says x_0 counts the same
    said = objective(lambda u, t: denoiser(u, t), x0, generator=None, t=t, noise=noise)
    torch.testing.assert_close(said, exact, rtol=1e-6, atol=1e-8)
    likelihood = HybridScoreMatching(process, weighting="likelihood")(
        denoiser, x0, generator=None, t=t, noise=noise
    )
    beta = process.beta_min + (process.beta_max - process.beta_min) * t
    factor = 2 * math.sqrt(process.mass) * beta / process.pair_levels(t).l_vv ** 2
    torch.testing.assert_close(likelihood, factor * exact, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", ["eps", "mixed"])
def test_every_other_prediction_costs_its_squared_distance_from_the_best(kind) -> None:
    class Off(Normal):
        def forward(self, seen: Tensor, t: Tensor) -> Tensor:
            return super().forward(seen, t) + 0.25

    t, std = torch.tensor([0.1, 0.6]).double(), 0.6
    base = torch.eye(3).double() * math.sqrt(3)
    draws = torch.cat([base, -base]).T
    denoiser = LangevinDenoiser(Off(PAPER, kind, std), PAPER, kind, sigma_data=std)
    x0, noise = (std * draws[0]).expand(2, 1, 6), draws[1:].view(1, 2, 1, 6).expand(2, 2, 1, 6)
    losses = HybridScoreMatching(PAPER)(denoiser, x0, generator=None, t=t, noise=noise)
    torch.testing.assert_close(losses, least_loss(PAPER, t, std) + 0.25**2, rtol=1e-8, atol=1e-10)


def test_the_likelihood_weighting_bounds_the_divergence_of_normal_distributions() -> None:
    """∫ Γβ E|s_v - ŝ_v|² dt + the divergence at t = 1 is that at t = 0 where ŝ is a score of the process itself."""
    truth, model = (
        (0.3, 0.7),
        (-0.2, 1.1),
    )  # mean and standard deviation of data and of what the model believes
    count = 4_000
    t = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    at = PAPER.pair_levels(t)
    mu = torch.stack([at.mean_x, at.mean_v], -1)
    noise = PAPER.marginal(torch.ones(count, 1, dtype=torch.float64), t).spread
    laws = [(mean * mu, noise + std**2 * mu[..., None] * mu[..., None, :]) for mean, std in (truth, model)]
    (true_mean, true_cov), (mean, cov) = laws
    inverse, true_inverse = torch.linalg.inv(cov), torch.linalg.inv(true_cov)
    # score difference (true - model) in v is an affine function of u
    slope = (inverse - true_inverse)[:, 1]
    offset = (true_inverse @ true_mean[..., None] - inverse @ mean[..., None])[:, 1, 0]
    centre = (slope * true_mean).sum(-1) + offset
    square = centre**2 + (slope[:, None] @ true_cov @ slope[..., None])[:, 0, 0]
    rate = 2 * math.sqrt(PAPER.mass) * 4.0 * square
    laws = [torch.distributions.MultivariateNormal(m[-1], c[-1]) for m, c in laws]
    at_end = float(torch.distributions.kl_divergence(*laws))
    at_start = (
        math.log(model[1] / truth[1])
        + (truth[1] ** 2 + (truth[0] - model[0]) ** 2) / (2 * model[1] ** 2)
        - 0.5
    )
    assert float(rate.mean()) + at_end == pytest.approx(at_start, rel=2e-3)


def test_denoisers_of_pairs_fit_model_folders_guidance_and_times() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, seen: Tensor, level: Tensor) -> Tensor:
            return self.layer(seen.movedim(1, -1)).movedim(-1, 1)

    denoiser = LangevinDenoiser(Linear(), PAPER, noise_input="log_snr", clamp=(-1.0, 1.0))
    x0 = denoiser(3 * normal(3, 2, 2, 5).float(), 0.5)
    assert x0.shape == (3, 2, 5)
    assert float(x0.detach().abs().max()) <= 1
    losses = HybridScoreMatching(PAPER, times=LogNormal())(denoiser, x0.detach(), generator=seeded())
    losses.mean().backward()
    assert losses.shape == (3,)
    assert denoiser.network.layer.weight.grad is not None
    again = from_config(to_config(PAPER))
    assert again == PAPER


def test_the_longest_process_is_finite_in_single_precision() -> None:
    schedule = CriticallyDamped(0.04, 0.04, 8.0, 8.0)  # τ(1) = 40
    t = torch.linspace(0, 1, 101)
    for found, exact in zip(schedule(t), schedule(t.double()), strict=True):
        assert bool(found.isfinite().all())
        torch.testing.assert_close(found[1:].double(), exact[1:], rtol=2e-3, atol=1e-6)
    torch.testing.assert_close(schedule.time_of_log_snr(schedule.log_snr(t[1:])), t[1:], rtol=1e-3, atol=1e-5)
    u = schedule.diffuse(torch.ones(101, 1, 2), t, torch.randn(101, 2, 1, 2))
    assert bool(schedule.reduce(u[1:], t[1:]).isfinite().all())


def test_mistakes_are_named() -> None:
    network = nn.Identity()
    for make, message in [
        (lambda: CriticallyDamped(mass=0.0), "mass=0.0 must be positive"),
        (lambda: CriticallyDamped(gamma=1.5), r"gamma=1.5 must be in \[0, 1\]"),
        (
            lambda: CriticallyDamped(0.04, 0.04, 0.1, 20.0),
            "make the clock run to 50.25; it must be at most 40",
        ),
        (lambda: Denoiser(network, PAPER), "LangevinDenoiser"),
        (lambda: Objective(PAPER), "HybridScoreMatching"),
        (lambda: LangevinDenoiser(network, CosineVP()), "CosineVP must be CriticallyDamped"),
        (
            lambda: LangevinDenoiser(network, PAPER, "v"),
            "prediction='v' must be one of 'eps', 'mixed', 'edm', 'x0'",
        ),
        (lambda: LangevinDenoiser(network, PAPER)(torch.zeros(2, 3, 8), 0.5), "sample with 'sscs'"),
        (lambda: HybridScoreMatching(CosineVP()), "CosineVP must be CriticallyDamped"),
        (
            lambda: HybridScoreMatching(PAPER, weighting="v"),
            "weighting='v' must be one of 'uniform', 'likelihood'",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            make()
    objective = HybridScoreMatching(PAPER)
    with pytest.raises(InputError, match=r"schedule=denoiser\.schedule"):
        objective(LangevinDenoiser(network, CriticallyDamped(1.0)), torch.zeros(2, 1, 8), generator=None)
    with pytest.raises(InputError, match=r"noise.shape=\(2, 1, 8\) must be that of pairs"):
        objective(lambda u, t: u[:, 0], torch.zeros(2, 1, 8), generator=None, noise=torch.zeros(2, 1, 8))
