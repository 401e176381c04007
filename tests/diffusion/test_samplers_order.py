"""Convergence of every deterministic sampler, on data whose probability-flow ODE is known."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from oracles import Mixture, gaussian
from torch import Tensor

from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS, CountEvaluations
from mmdiff.diffusion.schedules import EDM, BetaTable, CosineVP, LinearFlow, Schedule, SubVP, ddpm_betas
from mmdiff.errors import InputError, MmdiffError

GAUSSIAN = gaussian(0.7, 0.6)
MIXTURE = Mixture((0.3, 0.7), (-1.0, 0.8), (0.5, 0.4))
RK4_START = {"start": "rk4"}

# name, options, order on (cosine, EDM, flow)
CASES = [
    ("ddim", {}, (1, 1, 1)),
    ("euler", {}, (1, 1, 1)),
    ("heun", {}, (2, 2, 2)),
    ("heun", {"frame": "noise"}, (2, 2, 2)),
    ("dpmpp_2s", {}, (2, 2, 2)),
    ("dpmpp_2m", {}, (2, 2, 2)),
    ("dpmpp_2m_sde", {"eta": 0.0}, (2, 2, 2)),
    ("dpmpp_3m", RK4_START, (3, 3, 3)),
    ("unipc", {"order": 1}, (2, 2, 2)),
    ("unipc", {}, (3, 3, 3)),
    ("unipc", {"variant": "bh1"}, (3, 3, 3)),
    ("unipc", {"order": 3, **RK4_START}, (4, 4, 4)),
    ("plms", {"frame": "noise", **RK4_START}, (2, 2, 2)),
    ("plms", RK4_START, (4, 2, 4)),  # four where the levels are straight in t, or turn uniformly
    ("deis", {"order": 2}, (2, 2, 2)),
    ("deis", RK4_START, (3, 3, 3)),
    ("deis", {"frame": "noise", **RK4_START}, (3, 3, 3)),
    ("deis", {"order": 4, **RK4_START}, (4, 4, 4)),
    ("rk4", {}, (4, 4, 4)),
]
SCHEDULES = {"cosine": (CosineVP(), 0.05, 0.95), "edm": (EDM(), 0.1, 1.0), "flow": (LinearFlow(), 0.05, 0.95)}


def both(schedule: Schedule):
    """Denoiser of items with two channels: Gaussian data, and a mixture."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        channels = (data.denoise(schedule, x[:, n], t) for n, data in enumerate((GAUSSIAN, MIXTURE)))
        return torch.stack(list(channels), 1)

    return denoise


def beginnings(schedule: Schedule, t: float) -> Tensor:
    """A spread of states (1, 2, 5) at time t."""
    levels = schedule(t)
    spread = torch.linspace(-1.5, 2.0, 5, dtype=torch.float64).expand(1, 2, 5)
    return spread * torch.hypot(levels.alpha, levels.sigma)


def quarters(name: str, schedule: Schedule, grid: Tensor, **options: object) -> Tensor:
    """States at a quarter, half, three quarters and the whole of the steps: (4, 2, 5)."""
    states: list[Tensor] = []
    start = beginnings(schedule, float(grid[0]))
    SAMPLERS[name].fn(
        both(schedule), start, grid, schedule, callback=lambda *a: states.append(a[3]), **options
    )
    n = len(states) // 4
    return torch.cat(states[n - 1 :: n])


@functools.cache
def reference(schedule: Schedule, t_min: float, t_max: float) -> Tensor:
    """Closed form for the Gaussian, a fine solve (error below 1e-8) for the mixture."""
    grid = make_grid("uniform", schedule, 512, t_min=t_min, t_max=t_max)
    states = quarters("rk4", schedule, grid)
    start = beginnings(schedule, t_max)[:, 0]
    for n in range(4):
        states[n, 0] = GAUSSIAN.ode_end(schedule, start, t_max, float(grid[128 * (n + 1)]))[0]
    return states


def measured_order(name, schedule, t_min, t_max, steps, **options) -> list[float]:
    """Slope of log2 error against log2 steps, for Gaussian and mixture; error: largest over the quarters."""
    exact = reference(schedule, t_min, t_max)
    errors = []
    for n in steps:
        grid = make_grid("uniform", schedule, n, t_min=t_min, t_max=t_max)
        errors.append((quarters(name, schedule, grid, **options) - exact).abs().amax((0, 2)))
    slopes = np.polyfit(np.log2(steps), torch.stack(errors).log2().numpy(), 1)[0]
    return [-float(s) for s in slopes]


@pytest.mark.parametrize("where", SCHEDULES)
@pytest.mark.parametrize(("name", "options", "orders"), CASES)
def test_order_on_smooth_grids(name, options, orders, where):
    order = dict(zip(SCHEDULES, orders, strict=True))[where]
    # High orders reach their slope late where λ changes fast, and rounding early; low ones need no more.
    steps = (32, 64, 128) if name == "rk4" else (96, 144, 216)
    for slope in measured_order(name, *SCHEDULES[where], steps, **options):
        assert slope == pytest.approx(order, abs=0.25)


def test_declared_orders_are_the_measured_ones():
    measured: dict[str, int] = {}
    for name, options, orders in CASES:
        if set(options) <= {"start", "eta"}:
            measured[name] = min(orders)
    declared = {name: info.order for name, info in SAMPLERS.items() if name in measured}
    assert declared == measured
    unmeasured = set(SAMPLERS) - set(measured)
    assert unmeasured == {
        "ddpm",
        "euler_ancestral",
        "predictor_corrector",
        "adaptive",
        "sscs",
        "langevin_em",
        "langevin_ode",
    }  # by moments, tolerance


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("dpmpp_3m", {"halved": True, **RK4_START}, 2),  # half a quadratic term is a second-order error
        ("deis", {"frame": "noise"}, 2),  # so is a first step of first order
        ("plms", {}, 2),
    ],
)
def test_order_lost_by_choice(name, options, order):
    slopes = measured_order(name, *SCHEDULES["cosine"], (256, 512), **options)
    assert slopes == pytest.approx([order, order], abs=0.3)


# From pure noise (α = 0 but for EDM) to clean data (σ = 0) in equal steps of t. Samplers in λ come down to
# two there, 2M and 2S with a logarithm, for λ moves by log 2 in the last steps however many there are; the
# others keep their order.
@pytest.mark.parametrize(
    "schedule", [CosineVP(), EDM(sigma_min=0.0), LinearFlow()], ids=["cosine", "edm", "flow"]
)
@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("ddim", {}, 0.9),
        ("heun", {}, 1.9),
        ("heun", {"frame": "noise"}, 1.75),
        ("dpmpp_2s", {}, 1.75),
        ("dpmpp_2m", {}, 1.5),
        ("dpmpp_3m", {}, 1.75),
        ("unipc", {}, 1.75),
        ("unipc", {"order": 3, "variant": "bh1"}, 1.75),
        ("plms", {}, 1.75),
        ("deis", RK4_START, 2.75),
        ("rk4", {}, 3.75),
    ],
)
def test_order_from_pure_noise_to_clean_data(name, options, least, schedule):
    slopes = measured_order(name, schedule, 0.0, 1.0, (64, 128) if name == "rk4" else (192, 384), **options)
    assert min(slopes) > least


@pytest.mark.parametrize("schedule", [SubVP(), BetaTable(ddpm_betas())], ids=["sub-vp", "table"])
@pytest.mark.parametrize(("name", "order"), [("heun", 2), ("dpmpp_2m", 2), ("unipc", 3), ("rk4", 4)])
def test_order_on_other_schedules(name, order, schedule):
    # These grids keep to the points of a table of 1000; rk4 also asks half way.
    slopes = measured_order(name, schedule, 0.2, 0.8, (20, 40, 60) if order == 4 else (200, 300))
    assert slopes == pytest.approx([order, order], abs=0.35)


@pytest.mark.parametrize("where", ["cosine", "flow", "edm"])
@pytest.mark.parametrize("clean_end", [False, True])
def test_adaptive_keeps_its_tolerance(where, clean_end):
    schedule, t_min, t_max = SCHEDULES[where]
    if clean_end:
        schedule, t_min, t_max = (EDM(sigma_min=0.0) if where == "edm" else schedule), 0.0, 1.0
    exact = reference(schedule, t_min, t_max)[-1:]
    grid = torch.tensor([t_max, t_max - 0.1, t_min], dtype=torch.float64)
    calls, errors = [], []
    for tolerance in (1e-4, 1e-7):
        counted = CountEvaluations(both(schedule))
        x = SAMPLERS["adaptive"].fn(
            counted, beginnings(schedule, t_max), grid, schedule, rtol=tolerance, atol=tolerance
        )
        errors.append(float((x - exact).abs().max()))
        calls.append(counted.calls)
    # Errors of steps add up, and EDM's state is 80 times the data: they shrink with the tolerance.
    growth = 100 if where == "edm" else 30
    assert errors[0] < 1e-4 * growth
    assert errors[1] < 1e-7 * growth
    # An error per step of h³ makes ten times the steps for a thousandth of the tolerance.
    assert 3 < calls[1] / calls[0] < 12


@pytest.mark.parametrize("first", [1, 3, 10, 40])
def test_adaptive_does_not_jump_from_large_noise_over_the_data(first):
    # An estimate of the error from inside the step alone goes from sigma 12 to 0.01 without seeing the data.
    schedule = EDM(sigma_min=0.0)
    x = beginnings(schedule, 1.0)
    exact = reference(schedule, 0.0, 1.0)[-1:]
    grid = make_grid("uniform", schedule, first)
    got = SAMPLERS["adaptive"].fn(both(schedule), x, grid, schedule)
    assert float((got - exact).abs().max()) < 0.05


def test_adaptive_asks_a_table_for_no_time_below_its_first():
    schedule, seen = BetaTable(ddpm_betas()), []

    def denoiser(x, t):
        seen.append(float(t.min()))
        return MIXTURE.denoiser(schedule)(x, t)

    x = torch.linspace(-2, 2, 3, dtype=torch.float64).reshape(3, 1, 1)
    SAMPLERS["adaptive"].fn(denoiser, x, make_grid("uniform", schedule, 10), schedule)
    assert min(seen) == pytest.approx(1 / 1000)


def test_adaptive_steps_are_each_items_own():
    schedule = LinearFlow()
    x = torch.linspace(-2, 2, 4, dtype=torch.float64).reshape(4, 1, 1)
    denoiser, grid = MIXTURE.denoiser(schedule), make_grid("uniform", schedule, 10)
    together = SAMPLERS["adaptive"].fn(denoiser, x, grid, schedule)
    alone = [SAMPLERS["adaptive"].fn(denoiser, item[None], grid, schedule) for item in x]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-14)


def test_adaptive_reports_and_gives_up():
    schedule = CosineVP()
    x, grid = torch.ones(2, 1, 3, dtype=torch.float64), make_grid("uniform", schedule, 10)
    seen: list[tuple[int, int, float]] = []
    SAMPLERS["adaptive"].fn(
        MIXTURE.denoiser(schedule), x, grid, schedule, callback=lambda *a: seen.append(a[:3])
    )
    assert [s[0] for s in seen] == list(range(1, len(seen) + 1))
    assert {s[1] for s in seen} == {0}
    assert seen[-1][2] == 0.0
    with pytest.raises(MmdiffError, match="within max_steps=3 attempts"):
        SAMPLERS["adaptive"].fn(MIXTURE.denoiser(schedule), x, grid, schedule, max_steps=3)
    with pytest.raises(MmdiffError, match="must be finite and smooth"):
        SAMPLERS["adaptive"].fn(lambda x, t: x * math.nan, x, grid, schedule)
    with pytest.raises(InputError, match="rtol=0"):
        SAMPLERS["adaptive"].fn(MIXTURE.denoiser(schedule), x, grid, schedule, rtol=0)
