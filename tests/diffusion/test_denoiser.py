"""Oracle: for normal data each parameterisation's exact network is known; it must give the exact denoiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_network import ExactNetwork, normal
from oracles import gaussian
from torch import Tensor, nn

from mmdiff.diffusion.denoiser import Denoiser, per_item_time
from mmdiff.diffusion.scalings import dynamic_threshold, edm_scalings
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    VarianceExploding,
    ZeroTerminalSNR,
    ddpm_betas,
    diffwave_betas,
    wavegrad_betas,
)
from mmdiff.errors import InputError
from mmdiff.registry import from_config, register, to_config

MEAN, STD = 0.7, 0.6
SCHEDULES = [LinearBetaVP(), CosineVP(), EDM(), VarianceExploding(), LinearFlow(), BetaTable(ddpm_betas())]
KINDS = ["eps", "x0", "v", "velocity", "score", "edm"]


def ends_without_signal(schedule: Schedule) -> bool:
    return float(schedule(1.0).alpha) < 1e-6


def exact_denoiser(schedule: Schedule, kind: str) -> Denoiser:
    return Denoiser(ExactNetwork(schedule, kind, MEAN, STD), schedule, kind, sigma_data=STD)


def batch(count: int, seed: int = 0) -> Tensor:
    return normal(count, 2, 5, seed=seed)


class Constant(nn.Module):
    """Predicts zero in as many channels as asked, and remembers what it was given."""

    def __init__(self, factor: int = 1) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        self.seen, self.level = x, level
        return torch.zeros_like(x).repeat(1, self.factor, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_every_parameterisation_gives_the_exact_denoiser(schedule: Schedule, kind: str) -> None:
    if kind in ("eps", "score") and ends_without_signal(schedule):
        with pytest.raises(InputError, match=r"must have signal left at t=1.*v, x0, velocity or edm"):
            exact_denoiser(schedule, kind)
        return
    denoiser = exact_denoiser(schedule, kind)
    t = torch.tensor([0.05, 0.3, 0.5, 0.9], dtype=torch.float64)
    x = batch(4) * (schedule(t).alpha ** 2 + schedule(t).sigma ** 2).sqrt()[:, None, None]
    torch.testing.assert_close(
        denoiser(x, t), gaussian(MEAN, STD).denoise(schedule, x, t), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow()], ids=lambda s: type(s).__name__)
def test_pure_data_and_pure_noise_are_legal(schedule: Schedule, kind: str) -> None:
    denoiser = exact_denoiser(schedule, kind)
    x, t = batch(2), torch.tensor([0.0, 1.0], dtype=torch.float64)
    x0 = denoiser(x, t)
    torch.testing.assert_close(x0[0], x[0])
    torch.testing.assert_close(x0[1], torch.full_like(x0[1], MEAN))


def test_edm_scalings_are_karras_for_unit_signal_and_give_unit_variances() -> None:
    schedule, s = EDM(), 0.5
    levels = schedule(torch.linspace(0, 1, 7, dtype=torch.float64))
    sigma = levels.sigma
    c_skip, c_out, c_in = edm_scalings(levels, s)
    torch.testing.assert_close(c_skip, s**2 / (sigma**2 + s**2))
    torch.testing.assert_close(c_out, sigma * s / (sigma**2 + s**2).sqrt())
    torch.testing.assert_close(c_in, 1 / (sigma**2 + s**2).sqrt())
    alpha, sigma, *_ = levels = CosineVP()(torch.linspace(0, 1, 7, dtype=torch.float64))
    c_skip, c_out, c_in = edm_scalings(levels, s)
    torch.testing.assert_close(c_in**2 * (alpha**2 * s**2 + sigma**2), torch.ones_like(alpha))
    # variance of the target: c_out F = x0 - c_skip (alpha x0 + sigma eps)
    variance = (1 - c_skip * alpha) ** 2 * s**2 + c_skip**2 * sigma**2
    torch.testing.assert_close(c_out**2, variance)


def test_edm_network_serves_variance_preserving_and_exploding_alike() -> None:
    # x_t / alpha has unit signal and noise sigma / alpha: the same network must denoise both the same way.
    network = nn.Conv1d(2, 2, 3, padding=1).double()

    class Net(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return network(x) + level[:, None, None]

    vp, ve = CosineVP(), EDM()
    t = torch.tensor([0.2, 0.6], dtype=torch.float64)
    other = ve.time_of_log_snr(vp.log_snr(t))
    first = Denoiser(Net(), vp, "edm", "c_noise", sigma_data=STD)
    second = Denoiser(Net(), ve, "edm", "c_noise", sigma_data=STD)
    x = batch(2)
    # The network's input and output are scaled to unit variance in both, so alpha cancels.
    torch.testing.assert_close(
        first(x, t), second(x / vp(t).alpha[:, None, None], other), rtol=1e-5, atol=1e-6
    )


def test_index_is_the_tables_row_exactly_also_in_float32() -> None:
    schedule = BetaTable(ddpm_betas())
    denoiser = Denoiser(Constant(), schedule, "eps", "index")
    t = torch.arange(1, 1001, dtype=torch.float32) / 1000
    assert torch.equal(denoiser.level(t), torch.arange(1000, dtype=torch.float32))
    assert denoiser.level(torch.zeros(1)).item() == 0
    half_way = denoiser.level(torch.tensor([0.5005]))
    torch.testing.assert_close(half_way, torch.tensor([499.5]), rtol=0, atol=1e-3)
    zero_terminal = Denoiser(Constant(), ZeroTerminalSNR(schedule), "v", "index")
    assert zero_terminal.level(torch.ones(1)).item() == 999


def test_an_aligned_index_is_linear_in_alpha_between_the_tables_rows() -> None:
    schedule = BetaTable(diffwave_betas())
    denoiser = Denoiser(Constant(), schedule, "eps", "aligned_index")
    rows = torch.arange(1, 51, dtype=torch.float32)
    assert torch.equal(denoiser.level(rows / 50), rows - 1)
    assert denoiser.level(torch.tensor([0.0, 0.01])).tolist() == [0, 0]
    t = torch.linspace(0.02, 1, 333, dtype=torch.float64)
    alphas = np.sqrt(np.cumprod(1 - np.array(schedule.betas)))
    expected = np.interp(-schedule(t).alpha.numpy(), -alphas, np.arange(50))
    np.testing.assert_allclose(denoiser.level(t).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(denoiser.level(t.float()).numpy(), expected, atol=1e-4)
    with pytest.raises(InputError, match="noise_input='aligned_index' must come with a BetaTable"):
        Denoiser(Constant(), ZeroTerminalSNR(schedule), "v", "aligned_index")


def test_noise_inputs_by_their_definitions() -> None:
    betas = wavegrad_betas()
    t = torch.arange(1, len(betas) + 1, dtype=torch.float64) / len(betas)
    denoiser = Denoiser(Constant(), BetaTable(betas), "eps", "sqrt_alpha_bar")
    expected = np.sqrt(np.cumprod(1 - np.array(betas)))
    np.testing.assert_allclose(denoiser.level(t).numpy(), expected, rtol=1e-10)
    edm = EDM()
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    sigma = edm(t).sigma
    torch.testing.assert_close(Denoiser(Constant(), edm, "edm", "c_noise").level(t), sigma.log() / 4)
    torch.testing.assert_close(Denoiser(Constant(), edm, "edm", "sigma").level(t), sigma)
    torch.testing.assert_close(Denoiser(Constant(), edm, "edm", "log_snr").level(t), -2 * sigma.log())
    torch.testing.assert_close(Denoiser(Constant(), edm, "edm", "t").level(t), t)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    level = Denoiser(Constant(), CosineVP(), "v", "log_snr").level(ends)
    torch.testing.assert_close(level, torch.tensor([20.0, -20.0], dtype=torch.float64))


def test_a_network_can_be_told_the_level_of_another_time() -> None:
    network = Constant()
    denoiser = Denoiser(network, LinearBetaVP(), "eps", "sqrt_alpha_bar")
    t, told = torch.tensor([0.4, 0.6]), torch.tensor([0.1, 0.2], dtype=torch.float64)
    x0 = denoiser(batch(2), t, told=told)
    torch.testing.assert_close(network.level, LinearBetaVP()(told).alpha, check_dtype=False)
    torch.testing.assert_close(x0, denoiser(batch(2), t))  # the levels of x itself are those of t


def test_eps_prediction_agrees_with_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    schedule = BetaTable(ddpm_betas())
    x, eps = batch(3).float(), batch(3, seed=1).float()

    class Given(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return eps[: len(x)]

    denoiser = Denoiser(Given(), schedule, "eps", "index")
    for index in (0, 10, 500, 900):
        expected = theirs.step(eps, index, x).pred_original_sample
        torch.testing.assert_close(denoiser(x, (index + 1) / 1000), expected, rtol=1e-4, atol=1e-4)


def test_clamp_and_dynamic_threshold() -> None:
    x0 = batch(4) * torch.tensor([0.1, 1.0, 3.0, 10.0], dtype=torch.float64)[:, None, None]
    expected = []
    for item in x0.numpy():
        peak = max(np.quantile(np.abs(item), 0.8), 1.0)
        expected.append(np.clip(item, -peak, peak) / peak)
    np.testing.assert_allclose(dynamic_threshold(x0, 0.8).numpy(), np.stack(expected))
    torch.testing.assert_close(dynamic_threshold(x0, 0.8)[2:3], dynamic_threshold(x0[2:3], 0.8))
    torch.testing.assert_close(dynamic_threshold(4 * x0, 0.8, limit=4.0), 4 * dynamic_threshold(x0, 0.8))

    class Loud(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return 3 * x

    flow = LinearFlow()
    assert Denoiser(Loud(), flow, "x0", clamp=(-0.5, 0.7))(x0, 0.5).aminmax() == (-0.5, 0.7)
    both = Denoiser(Loud(), flow, "x0", clamp=(-2.0, 2.0), dynamic_threshold=0.8)
    torch.testing.assert_close(both(x0, 0.5), dynamic_threshold(3 * x0, 0.8, 2.0))


def test_learned_variance_is_split_off_and_mapped() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.cat([x, torch.linspace(-2, 2, 5).to(x).expand_as(x)], dim=1)

    denoiser = Denoiser(Net(), LinearFlow(), "x0", learned_variance=True)
    x = batch(2)
    x0, fraction = denoiser.x0_and_variance(x, 0.5)
    torch.testing.assert_close(x0, x)
    assert fraction is not None
    torch.testing.assert_close(fraction[0, 0], torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(denoiser(x, 0.5), x)
    assert Denoiser(Constant(), LinearFlow(), "x0").x0_and_variance(x, 0.5)[1] is None


def test_conversions_keep_their_precision_around_a_low_precision_network() -> None:
    schedule = CosineVP()
    network = nn.Conv1d(2, 2, 3, padding=1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = network

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            self.dtypes = x.dtype, level.dtype
            self.output = self.conv(x)
            return self.output

    x = batch(2).float()
    net = Net()
    denoiser = Denoiser(net, schedule, "v")
    with torch.autocast("cpu", torch.bfloat16):
        x0 = denoiser(x, 0.3)
    assert net.output.dtype == torch.bfloat16
    assert x0.dtype == torch.float32
    alpha, sigma, *_ = schedule(torch.tensor(0.3))
    torch.testing.assert_close(x0, alpha * x - sigma * net.output.float())
    assert denoiser(x.double(), 0.3).dtype == torch.float64
    assert net.dtypes == (torch.float32, torch.float32)
    assert denoiser.to(torch.bfloat16)(x, 0.3).dtype == torch.float32
    assert net.dtypes == (torch.bfloat16, torch.float32)
    assert Denoiser(Net().double(), schedule, "v")(x.bfloat16(), 0.3).dtype == torch.float32


def test_one_time_for_all_equals_a_time_each_and_batch_does_not_matter() -> None:
    schedule = CosineVP()
    denoiser = exact_denoiser(schedule, "v")
    x = batch(4)
    each = denoiser(x, torch.full((4,), 0.25, dtype=torch.float64))
    torch.testing.assert_close(denoiser(x, torch.tensor(0.25, dtype=torch.float64)), each)
    torch.testing.assert_close(denoiser(x, 0.25), each, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(denoiser(x[2:3], torch.tensor([0.25], dtype=torch.float64)), each[2:3])
    with pytest.raises(InputError, match=r"t.shape=\(3,\) must be .* B=4"):
        per_item_time(torch.zeros(3), x)


@register
class TinyNetworkOfTheDenoiserTest(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return self.conv(x)


def test_a_number_as_time_keeps_the_digits_of_the_sample() -> None:
    denoiser, x = exact_denoiser(CosineVP(), "v"), normal(2, 1, 5)
    assert torch.equal(denoiser(x, 0.3), denoiser(x, torch.tensor(0.3, dtype=torch.float64)))
    assert per_item_time(1, x.half()).dtype == torch.float32
    assert per_item_time(0.3, x.to("meta")).device.type == "meta"


def test_a_denoiser_is_rebuilt_from_its_config() -> None:
    first = Denoiser(TinyNetworkOfTheDenoiserTest(2), CosineVP(), "v", "log_snr", clamp=(-1.0, 1.0))
    second = from_config(to_config(first))
    second.load_state_dict(first.state_dict())
    x = batch(2).float()
    torch.testing.assert_close(second(x, 0.4), first(x, 0.4))
    assert second.schedule == first.schedule
    assert "log_snr" in repr(second)


def test_wrong_arguments_say_what_to_do() -> None:
    net, flow = Constant(), LinearFlow()
    with pytest.raises(InputError, match="prediction='noise' must be one of eps, x0"):
        Denoiser(net, flow, "noise")
    with pytest.raises(InputError, match="noise_input='step' must be one of"):
        Denoiser(net, flow, "v", "step")
    with pytest.raises(
        InputError, match="noise_input='index' must come with a BetaTable; got schedule=LinearFlow"
    ):
        Denoiser(net, flow, "v", "index")
    with pytest.raises(InputError, match="sigma_data=0 must be above 0"):
        Denoiser(net, flow, "edm", sigma_data=0)
    with pytest.raises(InputError, match=r"clamp=\(1, -1\)"):
        Denoiser(net, flow, clamp=(1, -1))
    with pytest.raises(InputError, match=r"dynamic_threshold=99.5 must be a quantile in \(0, 1\]"):
        Denoiser(net, flow, dynamic_threshold=99.5)
    with pytest.raises(InputError, match="must be symmetric"):
        Denoiser(net, flow, clamp=(0.0, 1.0), dynamic_threshold=0.9)
    with pytest.raises(InputError, match=r"network returned shape \(2, 2, 5\); it must be \(2, 4, 5\)"):
        Denoiser(net, flow, learned_variance=True)(batch(2), 0.5)
