"""The entry `sample` and the promises that every sampler makes."""

from __future__ import annotations

import pytest
import torch
from oracles import Mixture
from torch import Tensor

from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS, CountEvaluations, sample
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearBetaVP,
    LinearFlow,
    Shifted,
    SubVP,
    VarianceExploding,
    ZeroTerminalSNR,
    wavegrad_betas,
)
from mmdiff.errors import InputError

DATA = Mixture((0.3, 0.7), (-1.0, 0.8), (0.5, 0.4))
SCHEDULES = {
    "linear": LinearBetaVP(),
    "cosine": CosineVP(),
    "edm": EDM(),
    "edm to zero": EDM(sigma_min=0.0),
    "exploding": VarianceExploding(),
    "sub-vp": SubVP(),
    "flow": LinearFlow(),
    "shifted flow": Shifted(LinearFlow(), 3.0),
    "table": BetaTable(wavegrad_betas()),
    "zero snr table": ZeroTerminalSNR(BetaTable(wavegrad_betas())),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_any_sampler_with_any_schedule(name, schedule):
    for steps in (1, 2, 5):
        counted = CountEvaluations(DATA.denoiser(schedule))
        x = sample(counted, (2, 1, 3), schedule=schedule, sampler=name, steps=steps, seeds=[0, 1])
        assert x.dtype == torch.float32
        assert torch.isfinite(x).all()
        if SAMPLERS[name].keeps_grid:
            most = SAMPLERS[name].evaluations_per_step * steps
            assert most - SAMPLERS[name].evaluations_per_step < counted.calls <= most
    fine = sample(
        DATA.denoiser(schedule),
        (2, 1, 3),
        schedule=schedule,
        sampler=name,
        steps=30,
        grid="log_snr",
        seeds=[0, 1],
    )
    assert float(fine.abs().max()) < 4  # data, 3 standard deviations wide


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_item_depends_on_its_seed_alone(name):
    options = {"s_churn": 2.0} if "s_churn" in SAMPLERS[name].options else {}
    ask = {"schedule": CosineVP(), "sampler": name, "steps": 6, "dtype": torch.float64, "options": options}
    four = sample(DATA.denoiser(CosineVP()), (4, 2, 3), seeds=[7, 8, 9, 7], **ask)
    one = sample(DATA.denoiser(CosineVP()), (1, 2, 3), seeds=[9], **ask)
    torch.testing.assert_close(four[2:3], one, rtol=0, atol=1e-13)
    torch.testing.assert_close(four[0], four[3], rtol=0, atol=1e-13)
    assert not torch.allclose(four[0], four[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_state_keeps_its_precision_and_conditioning_arrives(name):
    seen = set()

    def half(x: Tensor, t: Tensor, *, shift: Tensor) -> Tensor:
        seen.add((x.dtype, tuple(t.shape), t.dtype))
        return (DATA.denoise(LinearFlow(), x, t) + shift).bfloat16()

    ask = {"schedule": LinearFlow(), "sampler": name, "steps": 4, "seeds": [0, 1]}
    x = sample(half, (2, 1, 3), shift=torch.zeros(2, 1, 1), **ask)
    assert x.dtype == torch.float32
    assert seen == {(torch.float32, (2,), torch.float32)}
    moved = sample(half, (2, 1, 3), shift=torch.ones(2, 1, 1), **ask)
    assert float((moved - x).mean()) > 0.5
    start = torch.randn(2, 1, 3, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    grid = make_grid("uniform", LinearFlow(), 3)
    assert SAMPLERS[name].fn(half, start, grid, LinearFlow(), shift=0.0).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in SAMPLERS if SAMPLERS[name].keeps_grid])
def test_callback_sees_every_step(name):
    grid = make_grid("karras", CosineVP(), 5)
    seen: list[tuple] = []
    x = sample(
        DATA.denoiser(CosineVP()), (1, 1, 2), schedule=CosineVP(), sampler=name, grid=grid, seeds=[0],
        callback=lambda *a: seen.append(a), progress=True,
    )  # fmt: skip
    assert [a[:3] for a in seen] == [(n + 1, 5, float(grid[n + 1])) for n in range(5)]
    torch.testing.assert_close(seen[-1][3], x)
    torch.testing.assert_close(seen[-1][4], x)  # the last step, into σ = 0, gives the last estimate


def test_into_zero_noise_heun_and_2s_take_one_evaluation_less():
    for name, calls in [("heun", 7), ("dpmpp_2s", 7), ("rk4", 15)]:
        for grid, more in [
            (make_grid("uniform", LinearFlow(), 4), 0),
            (torch.tensor([1, 0.8, 0.6, 0.4, 0.2]), 1),
        ]:
            counted = CountEvaluations(DATA.denoiser(LinearFlow()))
            sample(counted, (1, 1, 1), schedule=LinearFlow(), sampler=name, grid=grid, seeds=[0])
            assert counted.calls == calls + more


def test_initial_noise():
    def keep(x: Tensor, t: Tensor) -> Tensor:
        started.append(x.clone())
        return x

    noise = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(3))
    x_init = torch.ones(2, 1, 4)
    for schedule, std in [(EDM(), 80.0), (CosineVP(), 1.0), (LinearFlow(), 1.0)]:
        started: list[Tensor] = []
        ask = {"schedule": schedule, "sampler": "euler", "steps": 1}
        sample(keep, (2, 1, 4), noise=noise, **ask)
        torch.testing.assert_close(started[0], std * noise)
        sample(keep, (2, 1, 4), noise=noise, temperature=0.5, **ask)
        torch.testing.assert_close(started[1], 0.5 * std * noise)
        sample(keep, (2, 1, 4), noise=noise, x_init=x_init, grid_options={"t_max": 0.4}, **ask)
        levels = schedule(0.4)
        torch.testing.assert_close(started[2], float(levels.alpha) + float(levels.sigma) * noise)
        sample(keep, (2, 1, 4), seeds=[5, 6], **ask)
        drawn = [torch.randn(1, 4, generator=torch.Generator().manual_seed(s)) for s in (5, 6)]
        torch.testing.assert_close(started[3], std * torch.stack(drawn))


def test_from_an_intermediate_time_keeps_what_is_there():
    x_init = torch.tensor([-1.0, 0.8]).reshape(2, 1, 1).repeat(1, 1, 50)
    ask = {"schedule": CosineVP(), "seeds": [0, 1], "x_init": x_init}
    near = sample(DATA.denoiser(CosineVP()), (2, 1, 50), grid_options={"t_max": 0.2}, **ask)
    assert float((near[0] < 0).float().mean()) > 0.9  # the peak it began at
    assert float((near[1] > 0).float().mean()) > 0.9
    far = sample(DATA.denoiser(CosineVP()), (2, 1, 50), **ask)
    assert float((far[0] > 0).float().mean()) > 0.4  # all is forgotten at t = 1


def test_temperature_scales_fresh_noise_too():
    ask = {"schedule": CosineVP(), "sampler": "ddpm", "steps": 50, "dtype": torch.float64}
    cold, warm = (
        sample(DATA.denoiser(CosineVP()), (100, 1, 1), temperature=t, seeds=range(100), **ask)
        for t in (0.0, 1.0)
    )
    assert float(cold.std()) < 1e-12
    assert float(warm.std()) > 0.7


def test_gradients_are_off_but_guidance_may_turn_them_on():
    seen = []

    def guided(x: Tensor, t: Tensor) -> Tensor:
        seen.append(torch.is_grad_enabled())
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(y.square().sum(), y)[0] / 4

    x = sample(guided, (1, 1, 2), schedule=LinearFlow(), steps=3, seeds=[0])
    assert not any(seen)
    assert not x.requires_grad


WRONG = [
    ({"sampler": "dpm"}, r"sampler='dpm' must be one of ddpm, ddim"),
    ({"steps": 0}, r"steps=0 must be"),
    ({"grid": "cubic"}, r"grid='cubic' must be one of uniform"),
    ({"grid": torch.tensor([0.0, 1.0])}, r"must decrease strictly.*flip"),
    ({"grid": torch.tensor([1.0, 0.5, 0.5])}, r"must decrease strictly"),
    ({"grid": torch.tensor([1.0])}, r"grid=\(1,\) must be a tensor of steps \+ 1"),
    ({"grid": torch.tensor([2.0, 1.0])}, r"times in \[0, 1\]"),
    ({"grid": torch.tensor([1.0, torch.nan])}, r"times in \[0, 1\]"),
    ({"seeds": [1]}, r"seeds=1 numbers must be one per item, here 2"),
    ({"generator": [torch.Generator()]}, r"generator=1 generators must be one per item, here 2"),
    ({"seeds": [1, 2], "generator": torch.Generator()}, r"must not both be given"),
    ({"noise": torch.zeros(2, 1)}, r"noise=\(2, 1\) must have the shape asked for, \(2, 1, 3\)"),
    ({"x_init": torch.zeros(1, 1, 3)}, r"x_init=\(1, 1, 3\)"),
    ({"dtype": torch.bfloat16}, r"dtype=torch.bfloat16 must be torch.float32"),
    ({"temperature": -1.0}, r"temperature=-1"),
    (
        {"sampler": "dpmpp_2m", "options": {"eta": 0.5}},
        r"options=eta must be among those of sampler 'dpmpp_2m': it has none",
    ),
    ({"sampler": "ddim", "options": {"eta": 2.0}}, r"eta=2.0 must be in \[0, 1\]"),
    ({"sampler": "heun", "options": {"frame": "x"}}, r"frame='x' must be one of 'line', 'noise'"),
    ({"sampler": "unipc", "options": {"order": 4}}, r"order=4 must be one of 1, 2, 3"),
    (
        {"sampler": "ddpm", "options": {"variance": "learned"}},
        r"must come with a denoiser that learned one, and function gives none",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=[m[:30] for _, m in WRONG])
def test_mistakes_are_named(wrong, message):
    with pytest.raises(InputError, match=message):
        sample(DATA.denoiser(CosineVP()), (2, 1, 3), **{"schedule": CosineVP(), "steps": 3, **wrong})


@pytest.mark.parametrize("limit", [0.5, torch.tensor([[0.1, 0.2, 0.5, 3.0]])], ids=["number", "tensor"])
def test_ddpm_clips_the_state_to_a_limit_after_each_step(limit):
    def states(**options: object) -> list[Tensor]:
        seen: list[Tensor] = []
        sample(
            lambda x, t: torch.full_like(x, 0.8),
            (2, 1, 4),
            schedule=BetaTable(wavegrad_betas()),
            sampler="ddpm",
            steps=5,
            seeds=[0, 1],
            options=options,
            callback=lambda step, steps, t, x, x0: seen.append(x),
        )
        return seen

    free, kept = states(), states(limit=limit)
    bound = torch.as_tensor(limit)
    torch.testing.assert_close(kept[0], free[0].clamp(-bound, bound))
    assert all(bool((state.abs() <= bound).all()) for state in kept)
    assert any(bool((state.abs() > bound).any()) for state in free)
