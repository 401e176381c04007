"""Step-for-step agreement with diffusers: same noise, grid and toy network, every state compared.

diffusers computes its noise levels in float32. Where it then keeps to the dtype of the state, its levels are
replaced by the same ones in float64, so that a wrong coefficient cannot hide behind rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from mmdiff.diffusion.conversions import expand, to_x0
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.schedules import EDM, BetaTable, LinearFlow, Schedule, ZeroTerminalSNR

N = 100  # steps of the training table
BETAS = torch.linspace(1e-3, 0.12, N, dtype=torch.float32).double()
TABLE = BetaTable(tuple(BETAS.tolist()))
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SHAPE = (2, 3, 5)


def network(x: Tensor, t: Tensor | float) -> Tensor:
    """Toy network: smooth, bounded, and different at every time."""
    t = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1, 1)
    return 0.4 * torch.sin(1.7 * x + 3 * t) + 0.2 * x * torch.cos(t)


def ours(name: str, kind: str, schedule: Schedule, grid: Tensor, x: Tensor, **options) -> list[Tensor]:
    """States after each step of our sampler."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return to_x0(network(x, t), kind, x, expand(schedule(t), x))

    states: list[Tensor] = []
    callback = lambda *a: states.append(a[3])  # noqa: E731
    SAMPLERS[name].fn(denoise, x, grid, schedule, callback=callback, **options)
    return states


def start() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scheduler_of(cls: type, kind: str, **config):
    """Build one on the table, in float64."""
    scheduler = cls(num_train_timesteps=N, trained_betas=BETAS.numpy(), prediction_type=KINDS[kind], **config)
    scheduler.betas = BETAS.clone()
    scheduler.alphas = 1 - BETAS
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
    return scheduler


def indices_to_grid(indices: Tensor) -> Tensor:
    """Step n of diffusers, counted from 0, is our t = (n + 1)/N; t = 0 ends the grid."""
    return torch.cat([(indices.double() + 1) / N, torch.zeros(1, dtype=torch.float64)])


def noise_over_signal(scheduler, grid: Tensor) -> Tensor:
    n = (grid * N).round().long()[:-1] - 1
    a = scheduler.alphas_cumprod[n]
    return torch.cat([((1 - a) / a).sqrt(), torch.zeros(1, dtype=torch.float64)])


def assert_states(got: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b.double(), rtol=tolerance, atol=tolerance)


def theirs(scheduler, predict: Callable[[Tensor, Tensor], Tensor], x: Tensor, **options) -> list[Tensor]:
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t), t, x, **options).prev_sample
        states.append(x)
    return states


def at_index(x: Tensor, n: Tensor) -> Tensor:
    return network(x, (float(n) + 1) / N)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("steps", [10, N])
def test_ddpm(kind, variance, steps):
    # "leading" ends at their step 0: only there do they leave out the noise of the last step.
    scheduler = scheduler_of(
        diffusers.DDPMScheduler,
        kind,
        variance_type=f"fixed_{variance}",
        clip_sample=False,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(steps)
    expected = theirs(scheduler, at_index, start(), generator=torch.Generator().manual_seed(1))
    got = ours(
        "ddpm", kind, TABLE, indices_to_grid(scheduler.timesteps), start(),
        variance=variance, generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    assert_states(got, expected, 1e-11)


def test_ddpm_learned_variance():
    scheduler = scheduler_of(
        diffusers.DDPMScheduler,
        "eps",
        variance_type="learned_range",
        clip_sample=False,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(10)

    def two(x: Tensor, n: Tensor) -> Tensor:
        return torch.cat([at_index(x, n), torch.tanh(at_index(2 * x, n))], 1)

    class WithVariance:
        def x0_and_variance(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
            x0 = to_x0(network(x, t), "eps", x, expand(TABLE(t), x))
            return x0, (torch.tanh(network(2 * x, t)) + 1) / 2

    expected = theirs(scheduler, two, start(), generator=torch.Generator().manual_seed(1))
    states: list[Tensor] = []
    SAMPLERS["ddpm"].fn(
        WithVariance(), start(), indices_to_grid(scheduler.timesteps), TABLE, variance="learned",
        generator=torch.Generator().manual_seed(1), callback=lambda *a: states.append(a[3]),
    )  # fmt: skip
    assert_states(states, expected, 1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(kind, eta):
    scheduler = scheduler_of(diffusers.DDIMScheduler, kind, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    expected = theirs(scheduler, at_index, start(), eta=eta, generator=torch.Generator().manual_seed(1))
    grid = indices_to_grid(scheduler.timesteps)
    got = ours("ddim", kind, TABLE, grid, start(), eta=eta, generator=torch.Generator().manual_seed(1))
    assert_states(got, expected, 1e-11)


@pytest.mark.parametrize("kind", ["x0", "v"])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_ddim_from_zero_terminal_snr(kind, name):
    scheduler = diffusers.DDIMScheduler(
        N, trained_betas=BETAS.numpy(), prediction_type=KINDS[kind], clip_sample=False,
        timestep_spacing="trailing", rescale_betas_zero_snr=True,
    )  # fmt: skip
    scheduler.set_timesteps(20)
    expected = theirs(scheduler, at_index, start())
    got = ours(name, kind, ZeroTerminalSNR(TABLE), indices_to_grid(scheduler.timesteps), start())
    assert_states(got, expected, 2e-5)  # float32 levels


def in_vp(states: list[Tensor], grid: Tensor) -> list[Tensor]:
    """From diffusers' x/α to x."""
    alpha = TABLE(grid[1:]).alpha
    return [x * a for x, a in zip(states, alpha, strict=True)]


def scaled(grid: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Toy network for schedulers whose state is x/α."""
    return lambda x, n: at_index(x * TABLE((float(n) + 1) / N).alpha, n)


@pytest.mark.parametrize("kind", KINDS)
def test_euler(kind):
    # Without churn: theirs adds the noise after the network has seen the state.
    scheduler = scheduler_of(diffusers.EulerDiscreteScheduler, kind, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    grid = indices_to_grid(scheduler.timesteps)
    scheduler.is_scale_input_called = True  # done in `scaled`
    expected = theirs(scheduler, scaled(grid), start() / TABLE(grid[0]).alpha)
    got = ours("euler", kind, TABLE, grid, start())
    assert_states(got, in_vp(expected, grid), 1e-5)  # their state is float32


@pytest.mark.parametrize("kind", ["eps", "v"])  # theirs has no x0
def test_euler_ancestral(kind):
    scheduler = scheduler_of(diffusers.EulerAncestralDiscreteScheduler, kind, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    grid = indices_to_grid(scheduler.timesteps)
    scheduler.is_scale_input_called = True
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    expected = theirs(scheduler, scaled(grid), start() / TABLE(grid[0]).alpha, generator=generators[0])
    got = ours("euler_ancestral", kind, TABLE, grid, start(), generator=generators[1])
    assert_states(got, in_vp(expected, grid), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_heun(kind):
    scheduler = scheduler_of(diffusers.HeunDiscreteScheduler, kind, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    grid = indices_to_grid(scheduler.timesteps.unique().flip(0))
    w = noise_over_signal(scheduler, grid)
    scheduler.sigmas = torch.cat([w[:1], w[1:-1].repeat_interleave(2), w[-1:]])
    expected = theirs(scheduler, scaled(grid), start() / TABLE(grid[0]).alpha)
    corrected = [*expected[1:-1:2], expected[-1]]
    got = ours("heun", kind, TABLE, grid, start(), frame="noise")
    assert_states(got, in_vp(corrected, grid), 1e-11)


# steps: the last steps lose an order below 15, and keep it above
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [8, 25])
@pytest.mark.parametrize(
    ("name", "order", "options"),
    [("dpmpp_2m", 2, {}), ("dpmpp_3m", 3, {"halved": True}), ("dpmpp_2m_sde", 2, {})],
)
def test_dpmpp(kind, steps, name, order, options):
    sde = name.endswith("sde")
    scheduler = scheduler_of(
        diffusers.DPMSolverMultistepScheduler, kind, solver_order=order, timestep_spacing="trailing",
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    grid = indices_to_grid(scheduler.timesteps)
    scheduler.sigmas = noise_over_signal(scheduler, grid)
    source = torch.Generator().manual_seed(1)
    x, expected = start(), []
    for n in scheduler.timesteps:
        noise = torch.randn(SHAPE, generator=source, dtype=torch.float64) if sde else None
        x = scheduler.step(at_index(x, n), n, x, variance_noise=noise).prev_sample
        expected.append(x)
    if sde:
        options = {**options, "generator": torch.Generator().manual_seed(1)}
    assert_states(ours(name, kind, TABLE, grid, start(), **options), expected, 3e-6)  # float32 state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [8, 25])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(kind, steps, variant, order):
    scheduler = scheduler_of(
        diffusers.UniPCMultistepScheduler,
        kind,
        solver_order=order,
        solver_type=variant,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    grid = indices_to_grid(scheduler.timesteps)
    scheduler.sigmas = noise_over_signal(scheduler, grid)
    x, expected = start(), []
    for i, n in enumerate(scheduler.timesteps):
        x = scheduler.step(at_index(x, n), n, x).prev_sample
        if i > 0:
            expected.append(scheduler.last_sample)  # the state after its correction, which comes a step later
    got = ours("unipc", kind, TABLE, grid, start(), order=order, variant=variant)
    assert_states(got[:-1], expected, 1e-10)
    if variant == "bh2":  # with bh1 theirs divides inf by inf in a step into σ = 0
        assert_states(got[-1:], [x], 1e-10)
    assert torch.isfinite(got[-1]).all()


def velocity(x: Tensor, t: Tensor) -> Tensor:
    return network(x, float(t) / 1000)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_match_euler(shift):
    grid = make_grid("flow_shift", LinearFlow(), 10, shift=shift)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10))
    expected = theirs(scheduler, velocity, start())
    assert_states(ours("euler", "velocity", LinearFlow(), grid, start()), expected, 2e-6)  # float32 state


def test_flow_match_heun():
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(10)
    grid = torch.cat(
        [scheduler.timesteps.unique().flip(0).double() / 1000, torch.zeros(1, dtype=torch.float64)]
    )
    expected = theirs(scheduler, velocity, start())
    got = ours("heun", "velocity", LinearFlow(), grid, start())
    assert_states(got, [*expected[1:-1:2], expected[-1]], 2e-6)  # float32 state


@pytest.mark.parametrize(("name", "order"), [("dpmpp_2m", 2), ("unipc", 2)])
def test_multistep_on_flow(name, order):
    cls = {"dpmpp_2m": diffusers.DPMSolverMultistepScheduler, "unipc": diffusers.UniPCMultistepScheduler}[
        name
    ]
    scheduler = cls(use_flow_sigmas=True, prediction_type="flow_prediction", solver_order=order)
    scheduler.set_timesteps(10)
    grid = make_grid("uniform", LinearFlow(), 10, t_max=0.98)
    scheduler.sigmas, scheduler.timesteps = grid, grid[:-1] * 1000
    x, expected = start(), []
    for n in scheduler.timesteps:
        x = scheduler.step(velocity(x, n), n, x).prev_sample
        expected.append(x)
    got = ours(name, "velocity", LinearFlow(), grid, start())
    if name == "unipc":
        got, expected = got[-1:], expected[-1:]  # in between theirs are not corrected yet
    assert_states(got, expected, 1e-6 if name == "dpmpp_2m" else 1e-11)  # 2M: float32 state


@pytest.mark.parametrize(
    ("cls", "name"),
    [(diffusers.EDMEulerScheduler, "euler"), (diffusers.EDMDPMSolverMultistepScheduler, "dpmpp_2m")],
)
def test_edm(cls, name):
    schedule = EDM()
    scheduler = cls(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(12)
    scheduler.is_scale_input_called = True
    grid = torch.cat([make_grid("uniform", schedule, 11), torch.tensor([-1.0], dtype=torch.float64)])
    sigmas = schedule(grid[:-1]).sigma
    assert torch.allclose(scheduler.sigmas[:-1].double(), sigmas, rtol=1e-5)  # EDM's grid is uniform in its t

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        sigma = schedule(t).sigma[:, None, None]
        return (0.25 * x + sigma * 0.5 * (sigma**2 + 0.25).sqrt() * network(x, t)) / (sigma**2 + 0.25)

    x = 80 * start()
    expected = []
    scheduler.sigmas, scheduler.timesteps = sigmas, scheduler.timesteps[:-1]
    for i, c_noise in enumerate(scheduler.timesteps):
        x = scheduler.step(network(x, grid[i].expand(2)), c_noise, x).prev_sample
        expected.append(x)
    got: list[Tensor] = []
    SAMPLERS[name].fn(denoise, 80 * start(), grid[:-1], schedule, callback=lambda *a: got.append(a[3]))
    assert_states(got, expected, 2e-5 if name == "euler" else 1e-9)
