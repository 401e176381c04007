"""Predictor and corrector: moments in closed form, and an independent Langevin chain."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from impulses import Impulses, mean_and_variance
from oracles import Mixture, gaussian, levels_like
from torch import Tensor

from mmdiff.diffusion import solvers_ancestral, solvers_corrector
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS, CountEvaluations, sample
from mmdiff.diffusion.schedules import EDM, CosineVP, LinearFlow, Schedule
from mmdiff.errors import InputError

DATA = gaussian(0.7, 0.6)
MIXTURE = Mixture((0.3, 0.7), (-1.0, 0.8), (0.3, 0.2))
SCHEDULES = {"cosine": (CosineVP(), 0.05, 0.95), "edm": (EDM(), 0.1, 1.0), "flow": (LinearFlow(), 0.05, 0.95)}
LADDER = torch.tensor([0.55, 0.5], dtype=torch.float64)
corrected = SAMPLERS["predictor_corrector"].fn


@pytest.fixture
def moments(monkeypatch):
    """Function that gives mean and variance of the result for normal data, from the weight of each draw."""
    impulses = Impulses(monkeypatch, solvers_ancestral, solvers_corrector)

    def run(
        schedule: Schedule, grid: Tensor, data=DATA, start: tuple[float, float] | None = None, **options
    ) -> tuple[float, float]:
        most = (len(grid) - 1) * (1 + 2 * options.get("corrections", 1))
        begin = data.marginal(schedule, float(grid[0])) if start is None else start
        x = impulses.start(*begin, most)
        return mean_and_variance(corrected(data.denoiser(schedule), x, grid, schedule, **options))

    return run


@pytest.mark.parametrize("schedule", [CosineVP(), EDM(), EDM(sigma_min=0.0), LinearFlow()], ids=str)
@pytest.mark.parametrize(
    ("predictor", "own"), [("ddim", {}), ("ddim", {"eta": 0.5}), ("ddpm", {"variance": "large"})]
)
def test_without_corrections_it_is_the_predictor(predictor, own, schedule):
    ask = {"schedule": schedule, "steps": 7, "seeds": [1, 2], "dtype": torch.float64, "temperature": 0.9}
    denoiser = MIXTURE.denoiser(schedule)
    expected = sample(denoiser, (2, 1, 5), sampler=predictor, options=own, **ask)
    options = {"predictor": predictor, "corrections": 0, **own}
    found = sample(denoiser, (2, 1, 5), sampler="predictor_corrector", options=options, **ask)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("where", SCHEDULES)
@pytest.mark.parametrize("step_size", [0.1, 1.0])
@pytest.mark.parametrize("start", [None, (-4.0, 0.0)], ids=["right", "wrong"])
def test_many_corrections_lead_anywhere_to_the_marginal(moments, start, step_size, where):
    schedule, grid = SCHEDULES[where][0], LADDER
    mean, std = DATA.marginal(schedule, float(grid[-1]))
    sigma = float(schedule(grid[-1]).sigma)
    corrections = int(40 * (std / sigma) ** 2 / step_size)
    got = moments(schedule, grid, start=start, corrections=corrections, step_size=step_size)
    # the stationary variance of Langevin's moves of this size, v / (1 - step / 2v) with a step of δσ²/2
    wide = std**2 / (1 - step_size * sigma**2 / (4 * std**2))
    assert got == pytest.approx((mean, wide), rel=1e-6)


def test_resampling_leads_anywhere_to_the_marginal(moments):
    schedule = CosineVP()
    mean, std = DATA.marginal(schedule, 0.5)
    far = moments(schedule, LADDER, start=(-4.0, 0.0), corrector="resample", corrections=150)
    near = moments(schedule, LADDER, corrector="resample", corrections=1)
    for got in (far, near):
        assert got[0] == pytest.approx(mean, abs=1e-6)
        assert got[1] == pytest.approx(std**2, rel=0.05)  # DDIM's own error in a step of 0.05


@pytest.mark.parametrize("schedule", [CosineVP(), EDM(), LinearFlow()], ids=str)
@pytest.mark.parametrize("predictor", ["ddim", "ddpm"])
def test_resampled_point_data_have_the_exact_marginal_in_any_steps(moments, predictor, schedule):
    point, grid = gaussian(0.7, 0.0), make_grid("uniform", schedule, 4)[:4]
    got = moments(schedule, grid, point, predictor=predictor, corrector="resample", corrections=2)
    mean, std = point.marginal(schedule, float(grid[-1]))
    assert got == pytest.approx((mean, std**2), abs=1e-12)


@pytest.mark.parametrize("where", SCHEDULES)
@pytest.mark.parametrize("predictor", ["ddim", "ddpm"])
def test_order_is_one_where_the_moves_shrink_with_the_steps(moments, predictor, where):
    schedule, t_min, t_max = SCHEDULES[where]
    variance, errors, steps = DATA.marginal(schedule, t_min)[1] ** 2, [], (50, 100, 200)
    for n in steps:
        grid = make_grid("uniform", schedule, n, t_min=t_min, t_max=t_max)
        got = moments(schedule, grid, predictor=predictor, step_size=2 / n)
        assert got[0] == pytest.approx(DATA.marginal(schedule, t_min)[0], abs=1e-12)
        errors.append(abs(got[1] - variance))
    slope = -np.polyfit(np.log2(steps), np.log2(errors), 1)[0]
    assert slope == pytest.approx(1, abs=0.2)


def test_corrections_repair_the_errors_of_few_steps(moments):
    # DDIM in four long steps leaves too little variance; Langevin's moves bring it back.
    grid, errors = make_grid("uniform", CosineVP(), 4, t_min=0.2), []
    for corrections in (0, 1, 4, 16):
        _, variance = moments(CosineVP(), grid, corrections=corrections)
        errors.append(abs(variance / DATA.marginal(CosineVP(), 0.2)[1] ** 2 - 1))
    assert all(later < earlier for earlier, later in pairwise(errors))
    assert errors[-1] < 0.4 * errors[0]


def distribution_error(x: Tensor, schedule: Schedule, t: float) -> float:
    """Largest distance between the distribution function of x and that of the mixture's marginal."""
    alpha, sigma = (float(level) for level in schedule(t)[:2])
    x = x.flatten().sort().values
    exact = sum(
        w * torch.special.ndtr((x - alpha * m) / math.hypot(alpha * s, sigma))
        for w, m, s in zip(MIXTURE.weights, MIXTURE.means, MIXTURE.stds, strict=True)
    )
    return float((exact - torch.linspace(0, 1, len(x), dtype=x.dtype)).abs().max())


@pytest.mark.parametrize("corrector", ["langevin", "resample"])
def test_a_mixture_is_found_from_a_wrong_start_as_by_a_fine_langevin_chain(corrector):
    schedule, n = CosineVP(), 4000
    wrong = torch.full((n, 1, 1), 1.5, dtype=torch.float64)
    grid = torch.tensor([0.65, 0.6], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)

    def after(corrections: int) -> Tensor:
        return corrected(
            MIXTURE.denoiser(schedule), wrong, grid, schedule, corrector=corrector, generator=generator,
            corrections=corrections, step_size=0.2,
        )  # fmt: skip

    # the same length of the chain's own time: moves of δσ²/2 = 0.1 σ², each as ten of a tenth
    x, sigma = after(0), float(schedule(0.6).sigma)
    for _ in range(10 * 20):
        x = x + 0.01 * sigma**2 * MIXTURE.score(schedule, x, 0.6)
        x = x + math.sqrt(0.02) * sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    chain = distribution_error(x, schedule, 0.6)
    few, many = (distribution_error(after(k), schedule, 0.6) for k in (20, 100))
    assert distribution_error(after(0), schedule, 0.6) > 0.5
    if corrector == "langevin":
        assert few == pytest.approx(chain, abs=0.05)
    assert many < 0.04  # 1.36 / sqrt(4000) is 0.02


def test_drawn_samples_follow_the_data():
    x = sample(
        MIXTURE.denoiser(CosineVP()), (4000, 1, 1), schedule=CosineVP(), sampler="predictor_corrector", steps=60,
        generator=torch.Generator().manual_seed(1), dtype=torch.float64,
    )  # fmt: skip
    assert distribution_error(x, CosineVP(), 0.0) < 0.04


def test_the_signal_to_noise_rule_is_each_items_own():
    schedule, t = CosineVP(), 0.5
    levels = levels_like(schedule, torch.zeros(1), t)
    x0 = torch.zeros(3, 2, 500, dtype=torch.float64)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eps = eps * torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1)
    ask = {"snr": 0.16, "noise_scale": 0.0, "corrections": 1}
    # a step back to where the state is, so that the correction is all that moves
    from_ = torch.tensor([t + 1e-9, t], dtype=torch.float64)
    x = levels.sigma * eps
    moved = corrected(lambda x, t: torch.zeros_like(x), x, from_, schedule, **ask) - x
    power = eps.flatten(1).square().mean(1)
    delta = 4 * 0.16**2 / power
    expected = -(delta / 2).reshape(3, 1, 1) * levels.sigma * eps
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-8)
    calm = corrected(lambda x, t: x / levels.alpha, x, from_, schedule, **ask)  # no noise in sight
    assert torch.isfinite(calm).all()


@pytest.mark.parametrize(
    "own", [{"snr": 0.16}, {"predictor": "ddpm"}, {"corrector": "resample"}, {"corrections": 3}]
)
def test_an_item_depends_on_its_seed_alone(own):
    ask = {"schedule": EDM(sigma_min=0.0), "sampler": "predictor_corrector", "steps": 4, "options": own}
    denoiser = MIXTURE.denoiser(EDM(sigma_min=0.0))
    three = sample(denoiser, (3, 2, 3), seeds=[7, 8, 9], dtype=torch.float64, **ask)
    one = sample(denoiser, (1, 2, 3), seeds=[9], dtype=torch.float64, **ask)
    torch.testing.assert_close(three[2:], one, rtol=0, atol=1e-13)
    assert torch.isfinite(three).all()


@pytest.mark.parametrize("corrector", ["langevin", "resample"])
@pytest.mark.parametrize(("clean", "calls"), [(True, 9), (False, 12)])
def test_evaluations_are_as_many_as_said(corrector, clean, calls):
    counted = CountEvaluations(MIXTURE.denoiser(CosineVP()))
    options = {"corrections": 3, "corrector": corrector}
    grid = make_grid("uniform", CosineVP(), 3, t_min=0.0 if clean else 0.1)
    sample(
        counted, (1, 1, 1), schedule=CosineVP(), sampler="predictor_corrector", grid=grid, seeds=[0],
        options=options,
    )  # fmt: skip
    assert counted.calls == calls


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"predictor": "heun"}, "predictor='heun' must be one of 'ddim', 'ddpm'"),
        ({"corrector": "metropolis"}, "corrector='metropolis' must be one of"),
        ({"corrections": -1}, "corrections=-1 must be an integer of at least 0"),
        ({"step_size": 0.0}, r"step_size=0.0 must be in \(0, 2\]; 0.1 is usual"),
        ({"snr": 2.0}, r"snr=2.0 must be in \(0, 0.7\]"),
    ],
)
def test_mistakes_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        corrected(MIXTURE.denoiser(CosineVP()), torch.zeros(1, 1, 1), LADDER, CosineVP(), **wrong)
