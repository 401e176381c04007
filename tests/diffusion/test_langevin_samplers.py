"""Samplers of pairs by the exact moments of what they draw, their orders, and a network trained to the modes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from exact_network import normal, seeded
from impulses import Impulses, mean_and_variance
from oracles import Mixture, gaussian
from scipy.integrate import solve_ivp
from torch import Tensor, nn

from mmdiff.diffusion import solvers_langevin
from mmdiff.diffusion.building import usual_grid
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.hybrid_score import HybridScoreMatching
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser
from mmdiff.diffusion.langevin_walk import PairWalk
from mmdiff.diffusion.samplers import SAMPLERS, CountEvaluations, sample
from mmdiff.diffusion.schedules import CosineVP, Schedule
from mmdiff.diffusion.solvers_langevin import ode_attempt
from mmdiff.errors import InputError

PAPER = CriticallyDamped()
HEAVY = CriticallyDamped(1.7, 0.3, 0.5, 9.0)
DATA = gaussian(0.7, 0.6)


def of_pairs(process: CriticallyDamped, data: Mixture) -> Callable[..., Tensor]:
    """The exact denoiser of pairs u (B, 2, ...) of normal data: regression of x_0 on (x, v)."""
    mean, std = data.means[0], data.stds[0]

    def denoise(u: Tensor, t: Tensor) -> Tensor:
        mu, noise = process.marginal(torch.ones(len(u), 1, dtype=u.dtype), t)
        sigma = noise + std**2 * mu * mu.mT
        gain = std**2 * torch.linalg.solve(sigma, mu)
        gain, mu = (part.view(len(u), 2, *[1] * (u.ndim - 2)) for part in (gain, mu))
        return mean + (gain * (u - mean * mu)).sum(1)

    return denoise


def moments_at(process: CriticallyDamped, data: Mixture, t: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean (2,) and covariance (2, 2) of (x, v) at time t."""
    mu, sigma = process.marginal(torch.ones(1, 1, dtype=torch.float64), torch.tensor([t]).double())
    mu, sigma = mu.flatten().numpy(), sigma[0].numpy()
    return data.means[0] * mu, sigma + data.stds[0] ** 2 * np.outer(mu, mu)


@pytest.fixture
def run(monkeypatch):
    """Function that runs a sampler from the exact marginal and gives mean and variance after each step."""
    impulses = Impulses(monkeypatch, solvers_langevin)

    def go(name: str, denoiser, schedule: Schedule, grid: Tensor, data: Mixture = DATA, **options):
        draws = 1 if name == "langevin_ode" else 4 * len(grid) - 1
        x = impulses.start(*data.marginal(schedule, float(grid[0])), draws)
        states: list[Tensor] = []
        SAMPLERS[name].fn(denoiser, x, grid, schedule, callback=lambda *a: states.append(a[3]), **options)
        return [mean_and_variance(state) for state in states]

    return go


def distance(found: tuple[float, float], exact: tuple[float, float]) -> float:
    """Between normal distributions given by mean and variance, and mean and deviation (Wasserstein's, of order 2)."""
    return math.hypot(found[0] - exact[0], math.sqrt(found[1]) - exact[1])


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("langevin_em", {}, 1),
        ("sscs", {"sigma_data": None}, 1),
        ("sscs", {}, 1),
        ("sscs", {"sigma_data": 0.6}, 2),
    ],
    ids=["em", "paper", "default", "deviation known"],
)
@pytest.mark.parametrize("kind", ["pairs", "heavy pairs", "plain"])
def test_weak_order(run, name, options, order, kind) -> None:
    schedule = {"pairs": PAPER, "heavy pairs": HEAVY, "plain": CosineVP()}[kind]
    denoiser = DATA.denoiser(schedule) if kind == "plain" else of_pairs(schedule, DATA)
    exact, errors, steps = DATA.marginal(schedule, 0.05), [], (80, 160)
    for n in steps:
        grid = make_grid("uniform", schedule, n, t_min=0.05, t_max=0.95)
        mean, variance = run(name, denoiser, schedule, grid, **options)[-1]
        errors.append([abs(mean - exact[0]), abs(variance - exact[1] ** 2)])
    slopes = np.log2(np.array(errors[0]) / np.array(errors[1]))
    assert slopes == pytest.approx([order, order], abs=0.25)
    assert SAMPLERS[name].order == 1


def test_moments_along_the_whole_trajectory(run) -> None:
    grid = make_grid("uniform", PAPER, 400, t_min=0.02)
    for name, most in (("langevin_em", 0.02), ("sscs", 0.005)):
        for found, t in zip(run(name, of_pairs(PAPER, DATA), PAPER, grid), grid[1:], strict=True):
            assert distance(found, DATA.marginal(PAPER, float(t))) < most
    # Euler and Maruyama's method asks about pairs at the grid's times: both of their parts, and what ties them.
    seen: list[Tensor] = []
    exact = of_pairs(PAPER, DATA)
    run("langevin_em", lambda u, t: (seen.append(u.flatten(1)), exact(u, t))[1], PAPER, grid)
    for u, t in zip(seen, grid, strict=False):
        mean, sigma = moments_at(PAPER, DATA, float(t))
        np.testing.assert_allclose(u[0], mean, atol=0.02)
        np.testing.assert_allclose((u[1:] - u[0]).T @ (u[1:] - u[0]), sigma, atol=0.03)


@pytest.mark.parametrize("steps", [20, 50, 100])
@pytest.mark.parametrize("std", [0.6, 1.0, 1.5])
def test_splitting_is_better_than_euler_and_maruyama_at_equal_steps(run, std, steps) -> None:
    data = gaussian(0.3, std)
    grid = make_grid("uniform", PAPER, steps, t_min=0.01)
    denoiser, exact = of_pairs(PAPER, data), data.marginal(PAPER, 0.01)
    plain, paper, known = (
        distance(run(name, denoiser, PAPER, grid, data, **options)[-1], exact)
        for name, options in (
            ("langevin_em", {}),
            ("sscs", {"sigma_data": None}),
            ("sscs", {"sigma_data": std, "overshoot": math.inf}),
        )
    )
    print(f"std {std}, {steps} steps: {plain:.1e} EM, {paper:.1e} SSCS, {known:.1e} with the deviation known")
    assert paper < plain
    assert known < plain / 4


@pytest.mark.parametrize("std", [0.3, 0.6])
def test_steps_that_grow_with_time_are_better_than_equal_ones(run, std) -> None:
    data, grids = gaussian(0.0, std), (make_grid(n, PAPER, 20) for n in ("uniform", usual_grid(PAPER, "")))
    equal, usual = (
        distance(run("sscs", of_pairs(PAPER, data), PAPER, grid, data)[-1], (0.0, std)) for grid in grids
    )
    print(f"std {std}, 20 steps: {equal:.1e} of equal length, {usual:.1e} as usual")
    assert usual < 0.6 * equal


def test_long_kicks_do_not_throw_what_is_known_away(run) -> None:
    data, grid = gaussian(0.0, 0.02), make_grid("quadratic", PAPER, 10)
    bound, free = (
        run("sscs", of_pairs(PAPER, data), PAPER, grid, data, overshoot=overshoot)[-1][1] ** 0.5 / 0.02
        for overshoot in (1.5, math.inf)
    )
    print(f"{bound:.2f} of the deviation in 10 steps, {free:.2f} without the bound")
    assert bound < free / 5


def pair_ode(process: CriticallyDamped, data: Mixture, u: np.ndarray, t1: float, t2: float) -> np.ndarray:
    """Solve du/dt = A u - G score/2 with the definition's matrices, by scipy; u (2, N)."""
    friction = 2 * math.sqrt(process.mass)

    def rhs(t: float, y: np.ndarray) -> np.ndarray:
        beta = process.beta_min + (process.beta_max - process.beta_min) * t
        x, v = y.reshape(2, -1)
        mean, sigma = moments_at(process, data, t)
        score = -np.linalg.solve(sigma, y.reshape(2, -1) - mean[:, None])[1]
        return beta * np.concatenate([v / process.mass, -x - friction / process.mass * v - friction * score])

    return solve_ivp(rhs, (t1, t2), u.ravel(), "DOP853", rtol=1e-10, atol=1e-12).y[:, -1].reshape(2, -1)


@pytest.mark.parametrize("process", [PAPER, HEAVY], ids=["paper", "heavy"])
def test_the_steps_of_the_ode_have_order_three(process) -> None:
    u = normal(2, 5)
    exact = pair_ode(process, DATA, u.numpy(), 0.9, 0.1)
    errors = []
    for steps in (20, 40):
        grid = process.time_of_clock(
            torch.logspace(*(float(process.clock(t).log10()) for t in (0.9, 0.1)), steps + 1).double()
        )
        grid[0], grid[-1] = 0.9, 0.1
        walk = PairWalk(of_pairs(process, DATA), grid, process, None, {}, None)
        pair, x0 = u[None], None
        for start, stop in itertools.pairwise(grid):
            trial = ode_attempt(walk, pair, start[None], stop[None], x0, (1e-3, 1e-3))
            pair, x0 = trial.x, trial.x0_next
        errors.append(np.abs(pair[0].numpy() - exact).max())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize("schedule", [HEAVY, CosineVP()], ids=["heavy", "cosine"])
def test_the_ode_keeps_its_tolerance_and_the_marginals(run, schedule) -> None:
    denoiser = of_pairs(schedule, DATA) if schedule.paired else DATA.denoiser(schedule)
    for t_min in (0.05, 0.0):
        exact, errors, calls = DATA.marginal(schedule, t_min), [], []
        for tolerance in (1e-3, 1e-5):
            counted = CountEvaluations(denoiser)
            grid = make_grid("uniform", schedule, 20, t_min=t_min, t_max=0.9)
            found = run("langevin_ode", counted, schedule, grid, rtol=tolerance, atol=tolerance)
            errors.append(distance(found[-1], exact))
            calls.append(counted.calls)
        assert errors[0] < 0.02
        print(f"to t = {t_min}: errors {errors[0]:.1e}, {errors[1]:.1e} in {calls} evaluations")
        assert errors[0] < 2e-3
        assert errors[1] < 3e-5
        assert calls[0] < calls[1] < 400


@pytest.mark.parametrize("name", ["sscs", "langevin_em", "langevin_ode"])
def test_mass_is_a_unit_of_the_velocity_and_no_more(name) -> None:
    data, schedule = Mixture((0.3, 0.7), (-1.0, 0.8), (0.5, 0.4)), CosineVP()
    ask = {"schedule": schedule, "sampler": name, "steps": 12, "seeds": [3, 4], "dtype": torch.float64}
    light, heavy = (
        sample(
            data.denoiser(schedule), (2, 1, 5),
            options={"process": CriticallyDamped(mass, 0.04, 8 * mass**0.5, 8 * mass**0.5)}, **ask,
        )
        for mass in (0.01, 9.0)
    )  # fmt: skip
    torch.testing.assert_close(light, heavy, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["sscs", "langevin_em", "langevin_ode"])
def test_pairs_and_plain_states_give_the_same_samples(name) -> None:
    """A denoiser of pairs, and the same knowledge of x_0 told as a plain state of any schedule."""
    # From data at 0, for the schedules differ a little in what is left of data in their prior.
    ask = {"sampler": name, "seeds": [1, 2], "dtype": torch.float64, "x_init": torch.zeros(2, 3, 4)}
    grid = make_grid("uniform", PAPER, 25, t_max=0.8)
    pairs = sample(of_pairs(PAPER, DATA), (2, 3, 4), schedule=PAPER, grid=grid, **ask)
    cosine = CosineVP()
    same = cosine.time_of_log_snr(PAPER.log_snr(grid))
    plain = sample(DATA.denoiser(cosine), (2, 3, 4), schedule=cosine, grid=same, **ask)
    torch.testing.assert_close(pairs, plain, rtol=0, atol=2e-3 if name == "langevin_ode" else 1e-9)
    alone = sample(
        of_pairs(PAPER, DATA),
        (1, 3, 4),
        schedule=PAPER,
        grid=grid,
        **{**ask, "seeds": [2], "x_init": torch.zeros(1, 3, 4)},
    )
    torch.testing.assert_close(pairs[1:], alone, rtol=0, atol=1e-12)


def test_temperature_zero_draws_nothing_and_mistakes_are_named() -> None:
    denoiser, ask = of_pairs(PAPER, DATA), {"schedule": PAPER, "steps": 30, "dtype": torch.float64}
    for name in ("sscs", "langevin_em", "langevin_ode"):
        cold = sample(denoiser, (3, 1, 2), sampler=name, temperature=0.0, seeds=[1, 2, 3], **ask)
        assert float(cold.std()) < 1e-12
    with pytest.raises(InputError, match="must be one of pairs for schedule=CriticallyDamped: sscs"):
        sample(denoiser, (1, 1, 2), **ask)
    with pytest.raises(InputError, match="must be left out, or equal the denoiser's"):
        sample(denoiser, (1, 1, 2), sampler="sscs", options={"process": HEAVY}, **ask)
    short = CriticallyDamped(beta_min=0.2, beta_max=0.2)
    with pytest.raises(
        InputError, match=r"must end with as little signal .* log-SNR falls to .* raise beta_max"
    ):
        sample(lambda x, t: x, (1, 1, 2), schedule=CosineVP(), sampler="sscs", options={"process": short})
    with pytest.raises(InputError, match="sigma_data=0 must be above 0"):
        sample(denoiser, (1, 1, 2), sampler="sscs", options={"sigma_data": 0}, **ask)
    with pytest.raises(InputError, match=r"overshoot=0\.5 must be at least 1"):
        sample(denoiser, (1, 1, 2), sampler="sscs", options={"overshoot": 0.5}, **ask)


# ---------------------------------------------------------------------- trained

CENTRES = torch.tensor([[-1.2, -0.4], [1.1, -0.9], [0.2, 1.2]])
SHARES = torch.tensor([0.2, 0.3, 0.5])
SPREAD = 0.15


class Mlp(nn.Module):
    """Small network of pairs in the plane: (B, 4) and a log-SNR to (B, 2)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (4 + 7, 96, 96, 2)
        layers = [[nn.Linear(a, b), nn.SiLU()] for a, b in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*[part for layer in layers for part in layer][:-1])

    def forward(self, seen: Tensor, log_snr: Tensor) -> Tensor:
        level = log_snr[:, None] / 10
        waves = [f(k * level) for k in (1.0, 2.0, 4.0) for f in (torch.sin, torch.cos)]
        return self.layers(torch.cat([seen, level, *waves], 1))


def test_a_trained_network_and_the_splitting_sampler_find_the_modes() -> None:
    generator = seeded(5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = LangevinDenoiser(Mlp(), PAPER, noise_input="log_snr")
    objective = HybridScoreMatching(PAPER)
    updates = 700
    optimizer = torch.optim.Adam(denoiser.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.016, updates)
    for _ in range(updates):
        which = torch.multinomial(SHARES, 512, True, generator=generator)
        x0 = CENTRES[which] + SPREAD * torch.randn(512, 2, generator=generator)
        optimizer.zero_grad()
        objective(denoiser, x0, generator=generator).mean().backward()
        optimizer.step()
        rate.step()
    made = sample(denoiser, (2000, 2), schedule=PAPER, sampler="sscs", steps=60, generator=generator)
    distances = torch.cdist(made, CENTRES)
    shares = torch.bincount(distances.argmin(1), minlength=3) / len(made)
    near = float((distances.amin(1) < 4 * SPREAD).float().mean())
    print(f"shares {shares.tolist()}, {near:.3f} within four deviations of a mode")
    assert float((shares - SHARES).abs().max()) < 0.08
    assert near > 0.9
