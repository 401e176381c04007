"""Search of grids: dynamic programming against brute force and closed forms, descent to known minima."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from oracles import TWO_PEAKS, all_schedules, gaussian
from torch import Tensor

from mmdiff.diffusion.grids import make_grid, searched_grid
from mmdiff.diffusion.process import GaussianProcess
from mmdiff.diffusion.routes import cheapest_grid, cheapest_routes, elbo_costs, local_errors
from mmdiff.diffusion.samplers import SAMPLERS, CountEvaluations
from mmdiff.diffusion.schedules import BetaTable, CosineVP, LinearFlow, Schedule, wavegrad_betas
from mmdiff.diffusion.search import Ledger, Spent, coordinate_search, grid_key, search_grid
from mmdiff.diffusion.vlb import gaussian_kl
from mmdiff.errors import InputError

NAMES = ("uniform", "log_snr", "karras", "quadratic")


def noise(schedule: Schedule, count: int = 256, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return schedule.prior_std * torch.randn(count, 1, 4, generator=generator, dtype=torch.float64)


def brute_force(costs: Tensor, steps: int) -> float:
    last = len(costs) - 1
    ways = itertools.combinations(range(1, last), steps - 1)
    return min(sum(float(costs[i, j]) for i, j in itertools.pairwise((0, *inner, last))) for inner in ways)


def test_the_cheapest_route_is_that_of_all_routes():
    costs = torch.rand(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    costs[2, 5], costs[0, 8] = math.nan, math.inf
    allowed = costs.nan_to_num(nan=math.inf, posinf=math.inf)
    routes = cheapest_routes(costs, 8)
    for steps, route in enumerate(routes, 1):
        assert route.cost == pytest.approx(brute_force(allowed, steps))
        assert (route.places[0], route.places[-1], len(route.places)) == (0, 8, steps + 1)
        assert route.cost == pytest.approx(
            sum(float(costs[i, j]) for i, j in itertools.pairwise(route.places))
        )
    with pytest.raises(InputError, match="steps=9 must be from 1 to 8"):
        cheapest_routes(costs, 9)


@pytest.mark.parametrize("name", ["flow", "cosine", "edm", "wavegrad"])
def test_errors_of_steps_on_a_gaussian_are_those_of_the_closed_form(name: str):
    schedule, data = all_schedules()[name], gaussian(0.3, 0.5)
    grid, x = make_grid("uniform", schedule, 24), noise(all_schedules()[name])
    found = local_errors(data.denoiser(schedule), x, grid, schedule, reference="rk4")
    for i, j in ((0, 3), (5, 9), (10, 24)):
        start = data.ode_end(schedule, x, float(grid[0]), float(grid[i]))
        stop = data.ode_end(schedule, x, float(grid[0]), float(grid[j]))
        (a1, s1, *_), (a2, s2, *_) = (tuple(map(float, schedule(grid[n]))) for n in (i, j))
        x0 = data.denoise(schedule, start, float(grid[i]))
        made = a2 * x0 + s2 / s1 * (start - a1 * x0)
        error = float((made - stop).square().mean().sqrt() / stop.std(correction=0))
        assert float(found[i, j]) == pytest.approx(error, rel=2e-3, abs=2e-6)
    best = cheapest_routes(found, 3)[-1]
    assert best.cost == pytest.approx(brute_force(found, 3))


def test_the_sum_of_errors_of_steps_is_the_error_of_the_whole_to_first_order():
    schedule, data = CosineVP(), gaussian(0.0, 0.5)
    grid, x = make_grid("uniform", schedule, 64), noise(CosineVP())
    cost = local_errors(data.denoiser(schedule), x, grid, schedule, reference="rk4")
    made = SAMPLERS["ddim"].fn(data.denoiser(schedule), x, grid, schedule)
    exact = data.ode_end(schedule, x, 1.0, 0.0)
    whole = float((made - exact).square().mean().sqrt() / exact.std(correction=0))
    assert float(cost.diagonal(1).sum()) == pytest.approx(whole, rel=0.05)


def test_steps_that_begin_alike_share_their_first_evaluation():
    schedule, data = LinearFlow(), gaussian(0.3, 0.5)
    grid, x = make_grid("uniform", schedule, 10), noise(schedule, 4)
    for sampler, evaluations in (("ddim", 10), ("heun", 10 + 45)):
        counted = CountEvaluations(data.denoiser(schedule))
        local_errors(counted, x, grid, schedule, sampler=sampler, reference="ddim")
        assert counted.calls == 10 + evaluations  # the reference's own, then the steps'
    with pytest.raises(InputError, match="sampler='ddpm' must be a deterministic one"):
        local_errors(data.denoiser(schedule), x, grid, schedule, sampler="ddpm")


def test_terms_of_the_bound_are_the_divergences_of_the_process():
    schedule, data = CosineVP(), TWO_PEAKS
    grid, denoise = make_grid("uniform", schedule, 8), TWO_PEAKS.denoiser(CosineVP())
    generator = torch.Generator().manual_seed(0)
    x0 = data.sample((2000, 1, 2), generator)
    costs = elbo_costs(denoise, x0, grid, schedule, generator=torch.Generator().manual_seed(1))
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    process = GaussianProcess(schedule)
    for i, j in ((0, 1), (1, 3), (2, 7)):
        t, s = (torch.full((len(x0),), float(grid[n]), dtype=torch.float64) for n in (i, j))
        alpha, sigma, *_ = schedule(grid[i])
        x_t = alpha * x0 + sigma * eps
        true = process.posterior(x_t, x0, s, t)
        mean, _ = process.posterior(x_t, denoise(x_t, t), s, t)
        divergence = gaussian_kl(true[0], true[1], mean, true[1])
        assert float(costs[i, j]) == pytest.approx(float(divergence.mean()), rel=1e-6)


def test_the_bound_of_many_steps_is_the_entropy_of_gaussian_data():
    schedule, data = LinearFlow(), gaussian(0.0, 0.5)
    grid = make_grid("log_snr", schedule, 400, t_max=0.999)
    x0 = data.sample((4000, 1, 2), torch.Generator().manual_seed(0))
    costs = elbo_costs(
        data.denoiser(schedule), x0, grid, schedule, generator=torch.Generator().manual_seed(1)
    )
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert float(costs.diagonal(1).sum()) == pytest.approx(entropy, abs=0.05)
    few = cheapest_grid(costs[::8, ::8], grid[::8], 6)  # 400 steps are 50 of eight
    assert len(few) == 7
    assert cheapest_routes(costs[::8, ::8], 6)[-1].cost < float(
        costs[::8, ::8][[0, 8, 16, 25, 33, 41], [8, 16, 25, 33, 41, 50]].sum()
    )


def quadratic(schedule: Schedule, target: list[float]):
    """A convex function of the levels, which depend on each other, and its known minimum."""
    wanted = torch.tensor(target, dtype=torch.float64)
    mixed = torch.eye(len(target), dtype=torch.float64) + 0.45

    def quality(grid: Tensor) -> float:
        off = mixed @ (schedule.log_snr(grid)[: len(target) + 1][-len(target) :] - wanted)
        return float(off.square().sum())

    return quality


@pytest.mark.parametrize("name", ["flow", "cosine", "wavegrad"])
def test_descent_finds_the_minimum_of_a_convex_function(name: str):
    schedule, target = all_schedules()[name], [-3.0, -2.2, 1.0, 4.5]
    found = coordinate_search(
        quadratic(schedule, target),
        make_grid("uniform", schedule, 5),
        schedule,
        evaluations=2000,
        resolution=1e-3,
    )
    torch.testing.assert_close(
        schedule.log_snr(found.grid)[1:-1], torch.tensor(target).double(), atol=0.02, rtol=0
    )
    assert (float(found.grid[0]), float(found.grid[-1])) == (1.0, 0.0)
    assert found.evaluations < 2000  # it knew when to stop


def test_the_first_time_moves_only_if_told_to():
    schedule = BetaTable(wavegrad_betas())
    start, target = make_grid("log_snr", schedule, 3), [-1.5, 1.0, 6.0]
    free = coordinate_search(
        lambda grid: float((schedule.log_snr(grid)[:3] - torch.tensor(target)).square().sum()),
        start, schedule, evaluations=500, move_start=True, resolution=1e-3,
    )  # fmt: skip
    torch.testing.assert_close(
        schedule.log_snr(free.grid)[:3], torch.tensor(target).double(), atol=0.02, rtol=0
    )
    fixed = coordinate_search(lambda grid: -float(grid[0]), start, schedule, evaluations=50)
    assert float(fixed.grid[0]) == 1.0
    only = coordinate_search(lambda grid: float(grid[0]), make_grid("uniform", LinearFlow(), 1), LinearFlow())
    assert only.evaluations == 1


@pytest.mark.parametrize(("name", "sampler"), [("flow", "ddim"), ("wavegrad", "deis"), ("cosine", "heun")])
def test_a_searched_grid_beats_the_named_ones_on_the_exact_ode_of_a_mixture(name: str, sampler: str):
    schedule = all_schedules()[name]
    denoise, steps = TWO_PEAKS.denoiser(schedule), 6

    def error_from(x: Tensor):
        exact = SAMPLERS["rk4"].fn(denoise, x, make_grid("uniform", schedule, 300), schedule)
        return lambda grid: float(
            (SAMPLERS[sampler].fn(denoise, x, grid, schedule) - exact).square().mean().sqrt()
        )

    x = noise(schedule, 48)
    candidates = make_grid("quadratic", schedule, 48)
    costs = local_errors(denoise, x, candidates, schedule, sampler=sampler)
    starts = {key: make_grid(key, schedule, steps) for key in NAMES}
    starts["dp"] = cheapest_grid(costs, candidates, steps)
    found = search_grid(error_from(x), starts, schedule, evaluations=60)
    scores = [best.score for best in found.history]
    assert scores == sorted(scores, reverse=True)
    assert found.score == scores[-1] == error_from(x)(found.grid)
    assert found.evaluations <= 60
    unseen = error_from(noise(schedule, 256, seed=1))  # noise that nothing was chosen by
    others = {key: unseen(starts[key]) for key in NAMES}
    assert unseen(found.grid) < 0.97 * min(others.values())
    if sampler != "deis":  # whose steps the cost knows without their memory
        assert unseen(starts["dp"]) < min(others.values())


def test_an_interrupted_search_ends_as_one_that_was_not():
    schedule, asked = CosineVP(), []
    measure = quadratic(schedule, [-2.0, 0.5, 3.0])
    starts = {key: make_grid(key, schedule, 4) for key in NAMES}

    def stopping(after: int):
        def quality(grid: Tensor) -> float:
            if len(asked) == after:
                raise KeyboardInterrupt
            asked.append(grid_key(grid))
            return measure(grid)

        return quality

    scores: dict[str, float] = {}
    for after in (2, 11, 30):
        with pytest.raises(KeyboardInterrupt):
            search_grid(stopping(after), starts, schedule, evaluations=40, scores=scores)
    resumed = search_grid(stopping(-1), starts, schedule, evaluations=40, scores=scores)
    whole = search_grid(measure, starts, schedule, evaluations=40)
    assert torch.equal(resumed.grid, whole.grid)
    assert (resumed.score, resumed.history, resumed.evaluations) == (whole.score, whole.history, 40)
    assert len(asked) == len(set(asked)) == 40  # nothing was measured twice


def test_what_cannot_be_measured_is_never_chosen():
    schedule = LinearFlow()
    start, other = make_grid("uniform", schedule, 3), make_grid("karras", schedule, 3)

    def quality(grid: Tensor) -> float:
        return 1.0 if grid_key(grid) == grid_key(start) else math.nan

    found = search_grid(quality, {"karras": other, "uniform": start}, schedule, evaluations=20)
    assert torch.equal(found.grid, start)
    assert found.starts == {"karras": math.inf, "uniform": 1.0}
    with pytest.raises(InputError, match="it never is"):
        search_grid(lambda grid: math.nan, {"uniform": start}, schedule)
    with pytest.raises(InputError, match="all of as many steps"):
        search_grid(quality, {"a": start, "b": make_grid("uniform", schedule, 4)}, schedule)


def test_a_ledger_allows_so_many_grids_and_asks_for_each_once():
    grids = [make_grid("uniform", LinearFlow(), n) for n in (2, 3, 4)]
    calls, ticks = [], []
    ledger = Ledger(lambda g: calls.append(len(g)) or -len(g), 2, tick=lambda seen: ticks.append(seen.asked))
    assert [ledger(grids[0]), ledger(grids[1]), ledger(grids[0])] == [-3, -4, -3]
    assert (calls, ticks, ledger.score) == ([3, 4], [1, 2], -4)
    with pytest.raises(Spent):
        ledger(grids[2])
    assert ledger(grids[1]) == -4


@pytest.mark.parametrize("name", ["flow", "cosine", "edm", "wavegrad", "shifted_flow"])
def test_log_snrs_are_the_same_levels_on_every_schedule(name: str):
    schedule = all_schedules()[name]
    levels = [-math.inf, -2.0, 0.5, 3.0, math.inf]
    grid = searched_grid(schedule, levels)
    torch.testing.assert_close(schedule.log_snr(grid)[1:-1], torch.tensor(levels[1:-1]).double())
    assert (float(grid[0]), float(grid[-1])) == (1.0, 0.0)
    with pytest.raises(InputError, match="that rise"):
        searched_grid(schedule, [1.0, 0.0])
    if name == "wavegrad":
        with pytest.raises(InputError, match="must fall strictly"):
            searched_grid(schedule, [-9.0, -8.0, 0.0])
