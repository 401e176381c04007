"""Steps of denoising diffusion GANs against the chain they belong to, and their losses against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from exact_network import normal, seeded
from oracles import Mixture, all_schedules, levels_like
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import (
    Step,
    check_trained,
    draw_step,
    gradient_penalty,
    logistic_critic,
    logistic_generator,
    reverse_step,
    with_latents,
)
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import BetaTable, LinearBetaVP, Schedule, vp_betas
from mmdiff.errors import InputError

PEAKS = Mixture((0.2, 0.5, 0.3), (-1.5, 0.2, 1.4), (0.1, 0.15, 0.05))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_table_has_the_levels_of_the_equation_at_its_points(count: int) -> None:
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    for ends in ((0.1, 20.0), (0.0, 7.0)):
        table, equation = BetaTable(vp_betas(count, *ends)), LinearBetaVP(*ends)
        torch.testing.assert_close(table.log_snr(t), equation.log_snr(t), rtol=1e-10, atol=1e-10)
    with pytest.raises(InputError, match="beta_max"):
        vp_betas(count, 1.0, 0.5)


def chain(steps: int) -> tuple[Schedule, Tensor]:
    schedule = BetaTable(vp_betas(steps))
    return schedule, make_grid("uniform", schedule, steps)


def second_moments(a: Tensor, b: Tensor) -> Tensor:
    """Means of a², ab and b² for each of the items' groups, (groups, 3)."""
    return torch.stack((a * a, a * b, b * b), -1).flatten(1, -2).mean(1)


@pytest.mark.parametrize("name", ["vp", "edm", "flow", "zero_ddpm"])
def test_both_ends_of_a_step_have_the_moments_of_the_chain(name: str) -> None:
    schedule = BetaTable(vp_betas(4)) if name == "vp" else all_schedules()[name]
    grid = torch.tensor([1.0, 0.7, 0.3, 0.0], dtype=torch.float64)
    step = draw_step(schedule, grid, torch.full((30, 5_000), 0.6, dtype=torch.float64), seeded(3))
    assert {(float(s), float(t)) for s, t in zip(step.s, step.t, strict=True)} == {
        (0.7, 1),
        (0.3, 0.7),
        (0, 0.3),
    }
    made = reverse_step(schedule, step, torch.full_like(step.x_s, 0.6), seeded(4))
    (a_s, s_s, *_), (a_t, s_t, *_) = schedule(step.s), schedule(step.t)
    # x_t = a_t/a_s x_s + independent noise: the covariance is a_t/a_s σ_s²; all in units of the spreads
    together = a_t / a_s * s_s**2
    known = torch.stack((s_s**2, together, s_t**2), -1)
    scale = torch.stack((s_s, (s_s * s_t).sqrt(), s_t), -1) ** 2
    # To draw x_s from the posterior of the right x0 is to draw it from the chain.
    for x_s in (step.x_s, made):
        offset = x_s - (a_s * 0.6)[:, None], step.x_t - (a_t * 0.6)[:, None]
        error = (second_moments(*offset) - known) / scale.clamp_min(1e-12)
        assert float(error[scale > 0].abs().max()) < 5 * math.sqrt(2 / 5_000)
    assert bool((step.x_s == 0.6).all(1)[s_s == 0].all())


def test_all_steps_are_drawn_alike_and_the_last_must_make_data() -> None:
    schedule, grid = chain(5)
    step = draw_step(schedule, grid, torch.zeros(20_000, 1), seeded())
    shares = torch.bincount((step.t * 5).round().long(), minlength=6)[1:] / 20_000
    assert float((shares - 0.2).abs().max()) < 4 * math.sqrt(0.2 * 0.8 / 20_000)
    with pytest.raises(InputError, match="end at 0"):
        draw_step(schedule, grid[:-1], torch.zeros(2, 1), seeded())


def exact_generator(data: Mixture, schedule: Schedule):
    """Draw x0 from p(x0 | x_t): which peak by the first number of z, where in it by the second."""

    def generate(x: Tensor, t: Tensor, *, z: Tensor) -> Tensor:
        shape = (-1,) + (1,) * (x.ndim - 1)
        _, chances, means, variances = data._responsibilities(x, levels_like(schedule, x, t))
        uniform = torch.special.ndtr(z[:, 0]).reshape(shape)
        which = (uniform > chances.cumsum(0)).sum(0, keepdim=True).clamp_max(len(chances) - 1)
        mean, variance = means.gather(0, which)[0], variances.gather(0, which)[0]
        return mean + variance.sqrt() * z[:, 1].reshape(shape)

    return generate


def distance(x: Tensor, data: Mixture) -> float:
    """Kolmogorov and Smirnov's: the greatest difference of the distribution functions."""
    x = x.flatten().sort().values
    weights, means, stds = (torch.tensor(v, dtype=x.dtype) for v in (data.weights, data.means, data.stds))
    exact = (weights * torch.special.ndtr((x[:, None] - means) / stds)).sum(1)
    rank = torch.arange(1, len(x) + 1, dtype=x.dtype) / len(x)
    return float(torch.maximum((rank - exact).abs(), (rank - exact - 1 / len(x)).abs()).max())


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_few_steps_of_the_exact_generator_make_the_data_and_those_of_the_mean_do_not(steps: int) -> None:
    schedule, grid = chain(steps)
    count, generator = 40_000, seeded(steps)
    settings = {"schedule": schedule, "sampler": "ddpm", "grid": grid, "generator": generator}
    generate = with_latents(exact_generator(PEAKS, schedule), 2, generator)
    made = sample(generate, (count, 1), dtype=torch.float64, **settings)
    smooth = sample(PEAKS.denoiser(schedule), (count, 1), dtype=torch.float64, **settings)
    print(f"{steps} steps: {distance(made, PEAKS):.4f} exact, {distance(smooth, PEAKS):.4f} of the mean")
    assert distance(made, PEAKS) < 1.95 / math.sqrt(
        count
    )  # of a thousand such samples of the data, 999 are nearer
    assert distance(smooth, PEAKS) > 10 / math.sqrt(count)
    assert float(made.mean()) == pytest.approx(PEAKS.mean(), abs=5 * math.sqrt(PEAKS.variance() / count))
    assert float(made.var()) == pytest.approx(PEAKS.variance(), rel=0.02)


def test_an_item_depends_on_its_seed_alone_and_z_is_fresh_at_each_step() -> None:
    schedule, grid = chain(4)
    seen = []

    def generate(x: Tensor, t: Tensor, *, z: Tensor) -> Tensor:
        seen.append(z)
        return x + z.mean(1, keepdim=True)[..., None]

    def make(seeds: list[int]) -> Tensor:
        generators = [seeded(seed) for seed in seeds]
        denoiser = with_latents(generate, 3, generators)
        return sample(
            denoiser, (len(seeds), 2, 5), schedule=schedule, sampler="ddpm", grid=grid, generator=generators
        )

    together = make([5, 6, 7])
    assert torch.equal(together[1], make([6])[0])
    assert torch.equal(seen[0][1], seen[4][0])
    assert len({float(z[0, 0]) for z in seen[:4]}) == 4


class Quadratic(nn.Module):
    """score = x_s A x_s / 2 + b x_s + (what does not depend on x_s)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        half = normal(size, size, seed=1)
        self.matrix, self.vector = nn.Parameter(half + half.T), nn.Parameter(normal(size, seed=2))

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_s.flatten(1)
        return (x @ self.matrix * x).sum(1) / 2 + x @ self.vector + x_t.flatten(1).sum(1) * t


def test_the_penalty_of_a_quadratic_critic_and_its_gradient() -> None:
    critic, x = Quadratic(6), normal(4, 2, 3)
    slope = x.flatten(1) @ critic.matrix.detach() + critic.vector.detach()
    penalty = gradient_penalty(critic, x, normal(4, 2, 3, seed=9), torch.rand(4, dtype=torch.float64))
    torch.testing.assert_close(penalty, slope.square().sum(1))
    penalty.sum().backward()
    # Of the function of A and b that is |A x + b|², A taken as symmetric in the score
    outer = slope.T @ x.flatten(1)
    torch.testing.assert_close(critic.vector.grad, 2 * slope.sum(0))
    torch.testing.assert_close(critic.matrix.grad, outer + outer.T)
    with torch.no_grad():
        torch.testing.assert_close(gradient_penalty(critic, x, x, torch.ones(4)), penalty)


def test_losses_and_their_gradients() -> None:
    real, made = (torch.linspace(-30, 30, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    logistic_critic(real, made).backward()
    torch.testing.assert_close(real.grad, -torch.sigmoid(-real.detach()) / 7)
    torch.testing.assert_close(made.grad, torch.sigmoid(made.detach()) / 7)
    made.grad = None
    logistic_generator(made).backward()
    torch.testing.assert_close(made.grad, -torch.sigmoid(-made.detach()) / 7)
    assert float(made.grad[0]) == pytest.approx(-1 / 7)  # where the critic is sure, the generator learns most


def test_the_best_critic_measures_the_divergence() -> None:
    # Coins with the chances p and q: the best score is log p/q, the loss 2 log 2 - 2 JSD
    p, q = torch.tensor([0.9, 0.1]).double(), torch.tensor([0.4, 0.6]).double()
    score = (p / q).log()
    real, made = (score.repeat_interleave(torch.tensor(n)) for n in ([9, 1], [4, 6]))
    middle = (p + q) / 2
    divergence = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    assert float(logistic_critic(real, made)) == pytest.approx(float(2 * math.log(2) - 2 * divergence))
    for change in (0.1 * normal(2, seed=n) for n in range(5)):
        real, made = ((score + change).repeat_interleave(torch.tensor(n)) for n in ([9, 1], [4, 6]))
        assert float(logistic_critic(real, made)) > float(2 * math.log(2) - 2 * divergence)


def test_gradients_reach_the_generator_through_the_step() -> None:
    schedule, grid = chain(3)
    step = draw_step(schedule, grid, normal(6, 1, 4), seeded())
    x0 = normal(6, 1, 4, seed=1).requires_grad_()
    reverse_step(schedule, step, x0, seeded(2)).sum().backward()
    (unit, _), (none, _) = (
        GaussianProcess(schedule).posterior(torch.zeros_like(x0), c * torch.ones_like(x0), step.s, step.t)
        for c in (1, 0)
    )
    torch.testing.assert_close(x0.grad, (unit - none).detach())
    blind = Step(torch.full_like(step.x_s, math.nan), step.x_t, step.s, step.t)
    assert torch.equal(
        reverse_step(schedule, blind, x0, seeded(2)), reverse_step(schedule, step, x0, seeded(2))
    )


def test_a_denoiser_needs_no_random_vectors() -> None:
    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return x

    assert with_latents(denoise, 0, None) is denoise


@pytest.mark.parametrize("count", [3, 4, 6])
def test_a_generator_steps_where_it_was_trained(count: int) -> None:
    table = BetaTable(vp_betas(count))
    for steps in range(1, count + 3):
        if count % steps == 0:
            check_trained(table, make_grid("uniform", table, steps), "ddpm")
        else:
            with pytest.raises(InputError, match=f"steps={steps} must be {count} or "):
                check_trained(table, make_grid("uniform", table, steps), "ddpm")
    check_trained(table, torch.tensor([1.0, 1 / count, 0.0]).double(), "ddpm")
    for grid, sampler, schedule, message in (
        ([1.0, 1 / count], "ddpm", table, "end at 0"),
        ([1.0, 0.0], "heun", table, "sampler='heun'"),
        ([1.0, 0.0], "ddpm", LinearBetaVP(), "LinearBetaVP must be a BetaTable"),
    ):
        with pytest.raises(InputError, match=message):
            check_trained(schedule, torch.tensor(grid).double(), sampler)
