"""Oracle: for normal data the posterior variance, and with it every expected loss, has a closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from exact_network import ExactNetwork, normal, seeded
from torch import Tensor, nn

from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.objectives import Objective, weighted_mean
from mmdiff.diffusion.process import from_x0
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LaplaceVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    SigmoidVP,
    ddpm_betas,
)
from mmdiff.diffusion.times import (
    ContinuousTable,
    LogitNormal,
    LogNormal,
    Stratified,
    TablePoints,
    Uniform,
)
from mmdiff.diffusion.vlb import HybridVLB, gaussian_kl, gaussian_nll
from mmdiff.diffusion.weightings import ELBO, P2, EDMWeighting, MinSNR, SigmoidWeighting
from mmdiff.errors import InputError

STD = 0.6
TARGETS = ["eps", "x0", "v", "velocity"]


def posterior_variance(schedule: Schedule, t: Tensor, target: str) -> Tensor:
    """Variance of the target given x_t: the smallest possible squared error."""
    a, s, da, ds = schedule(t)
    total = a**2 * STD**2 + s**2
    factor = {"eps": a, "x0": s, "v": a**2 + s**2, "velocity": da * s - ds * a}[target]
    return factor**2 * STD**2 / total


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "velocity", "score", "edm"])
@pytest.mark.parametrize(
    "schedule", [LinearBetaVP(), CosineVP(), LinearFlow(), EDM()], ids=lambda s: type(s).__name__
)
def test_exact_denoisers_reach_the_posterior_variance(schedule: Schedule, kind: str) -> None:
    if kind in ("eps", "score") and schedule in (CosineVP(), LinearFlow()):
        with pytest.raises(InputError):
            Denoiser(ExactNetwork(schedule, kind, std=STD), schedule, kind)
        return
    denoiser = Denoiser(ExactNetwork(schedule, kind, std=STD), schedule, kind, sigma_data=STD)
    t = torch.tensor([0.1, 0.4, 0.7, 0.95], dtype=torch.float64)
    x0 = STD * normal(4, 1, 30_000)
    for target in TARGETS:
        expected = posterior_variance(schedule, t, target)
        loss = Objective(schedule, target=target)(denoiser, x0, generator=seeded(1), t=t)
        torch.testing.assert_close(loss, expected, rtol=0.04, atol=0)
        absolute = Objective(schedule, target=target, norm="l1")(denoiser, x0, generator=seeded(1), t=t)
        torch.testing.assert_close(absolute, (2 * expected / math.pi).sqrt(), rtol=0.02, atol=0)


@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["v", "velocity", "edm"])
def test_losses_are_right_at_pure_data_and_pure_noise(schedule: Schedule, kind: str) -> None:
    denoiser = Denoiser(ExactNetwork(schedule, kind, std=STD), schedule, kind, sigma_data=STD)
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x0 = STD * normal(2, 1, 50_000)
    for target in TARGETS:
        loss = Objective(schedule, target=target)(denoiser, x0, generator=seeded(1), t=t)
        torch.testing.assert_close(loss, posterior_variance(schedule, t, target), rtol=0.03, atol=1e-9)
        for name in ("min_snr", "p2", "edm", "sigmoid"):
            for norm in ("l1", "l2"):
                objective = Objective(schedule, target=target, norm=norm, weighting=name)
                assert objective(denoiser, x0, generator=seeded(1), t=t).isfinite().all()


@pytest.mark.parametrize("kind", ["x0", "v", "velocity", "edm"])
@pytest.mark.parametrize("schedule", [LinearFlow(), EDM()], ids=lambda s: type(s).__name__)
def test_the_loss_is_the_targets_error_computed_from_x0(schedule: Schedule, kind: str) -> None:
    torch.manual_seed(0)  # only for the layer's weights
    conv = nn.Conv1d(2, 2, 3, padding=1).double()

    class Net(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return conv(x)

    denoiser = Denoiser(Net(), schedule, kind)
    x0, noise = normal(3, 2, 16), normal(3, 2, 16, seed=1)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    levels = schedule(t)
    x_t = levels.alpha[:, None, None] * x0 + levels.sigma[:, None, None] * noise
    with torch.no_grad():
        guess = denoiser(x_t, t)
        for target in TARGETS:
            truth, said = (from_x0(x, target, x_t, levels) for x in (x0, guess))
            objective = Objective(schedule, target=target)
            for trained in (denoiser, lambda x, t: denoiser(x, t)):
                loss = objective(trained, x0, generator=None, t=t, noise=noise)
                torch.testing.assert_close(loss, ((said - truth) ** 2).mean((1, 2)))


def test_named_weightings_are_those_of_the_papers_whatever_the_target() -> None:
    schedule, t = CosineVP(), torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=torch.float64)
    denoiser = Denoiser(
        ExactNetwork(EDM(), "v", std=STD), schedule, "v"
    )  # wrong for this schedule: errors of all kinds
    x0, noise = normal(4, 1, 8), normal(4, 1, 8, seed=1)
    alpha, sigma, *_ = schedule(t)
    snr = alpha**2 / sigma**2

    def loss(target: str, weighting: Any) -> Tensor:
        return Objective(schedule, target=target, weighting=weighting)(
            denoiser, x0, generator=None, t=t, noise=noise
        )

    plain = {target: loss(target, "uniform") for target in TARGETS}
    torch.testing.assert_close(plain["eps"], snr * plain["x0"])
    torch.testing.assert_close(plain["v"], (snr + 1) * plain["x0"])
    relative = sigma / alpha
    slope = torch.autograd.functional.jacobian(lambda t: schedule.log_snr(t).sum(), t)
    oracles = {
        "min_snr": [snr.clamp_max(5) / snr * plain["eps"], snr.clamp_max(5) / (snr + 1) * plain["v"]],
        "p2": [plain["eps"] / (1 + snr)],
        "edm": [(relative**2 + 1) / relative**2 * plain["x0"]],
        "sigmoid": [torch.sigmoid(2 - snr.log()) * -slope / 2 * plain["eps"]],
        "elbo": [-slope / 2 * plain["eps"]],
    }
    for name, expected in oracles.items():
        for target in TARGETS:
            for value in expected:
                torch.testing.assert_close(loss(target, name), value)
    torch.testing.assert_close(loss("x0", MinSNR(2.0)), snr.clamp_max(2) * plain["x0"])
    torch.testing.assert_close(loss("eps", P2(0.5, 2.0)), plain["eps"] / (0.5 + snr) ** 2)
    torch.testing.assert_close(
        loss("v", SigmoidWeighting(-1.0)), torch.sigmoid(-1 - snr.log()) * -slope / 2 * plain["eps"]
    )
    torch.testing.assert_close(loss("x0", lambda levels: levels.alpha), alpha * plain["x0"])


def test_edm_weighting_makes_the_preconditioned_networks_error_count_once() -> None:
    schedule = EDM()
    denoiser = Denoiser(ExactNetwork(schedule, "edm", std=STD), schedule, "edm", sigma_data=STD)
    objective = Objective(schedule, target="x0", weighting=EDMWeighting(STD), times=LogNormal())
    x0 = STD * normal(16, 1, 20_000)
    # the exact network is 0, and its target has unit variance at every level
    loss = objective(denoiser, x0, generator=seeded(2))
    torch.testing.assert_close(loss, torch.ones_like(loss), rtol=0.06, atol=0)


def test_elbo_weighting_integrates_to_the_mutual_information() -> None:
    # The excess of the bound is the integral of mmse / 2 over the SNR: I(x0; x_t=0) - I(x0; x_t=1).
    schedule = EDM(sigma_min=0.05, sigma_max=20)
    denoiser = Denoiser(ExactNetwork(schedule, "edm", std=STD), schedule, "edm", sigma_data=STD)
    objective = Objective(schedule, weighting=ELBO(), times=Stratified())
    loss = objective(denoiser, STD * normal(500, 1, 400), generator=seeded(3)).mean()
    information = [math.log(1 + STD**2 / sigma**2) / 2 for sigma in (0.05, 20)]
    assert loss.item() == pytest.approx(information[0] - information[1], rel=0.01)


@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow(), SigmoidVP()], ids=lambda s: type(s).__name__)
def test_sigmoid_weighting_gives_one_loss_on_every_schedule(schedule: Schedule) -> None:
    # Kingma and Gao: the integral of sigmoid(b - lambda) times the error of eps / 2, over lambda.
    log_snr = torch.linspace(-40, 40, 20_001, dtype=torch.float64)
    signal = STD**2 * log_snr.exp()
    integrand = torch.sigmoid(2 - log_snr) * signal / (1 + signal) / 2
    denoiser = Denoiser(ExactNetwork(schedule, "v", std=STD), schedule, "v")
    objective = Objective(schedule, weighting="sigmoid", times=Stratified())
    loss = objective(denoiser, STD * normal(2000, 1, 200), generator=seeded(4)).mean()
    assert loss.item() == pytest.approx(torch.trapezoid(integrand, log_snr).item(), rel=0.01)


@pytest.mark.parametrize("name", ["sigmoid", "elbo"])
@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow(), SigmoidVP(), LaplaceVP()])
def test_weights_with_a_rate_stay_finite_at_pure_noise(schedule: Schedule, name: str) -> None:
    # float32 times round up to 1 now and then
    objective = Objective(schedule, weighting=name)
    loss = objective(lambda x, t: 0.5 * x, normal(1, 1, 8), generator=seeded(), t=1.0)
    assert loss.isfinite().all()


def test_a_mask_gives_the_loss_of_what_it_keeps() -> None:
    schedule = LinearFlow()
    objective = Objective(schedule)
    x0, noise = normal(3, 2, 10), normal(3, 2, 10, seed=1)
    mask = (torch.arange(10) < torch.tensor([4, 10, 0])[:, None])[:, None]

    def loss(x0: Tensor, noise: Tensor, **kwargs: Any) -> Tensor:
        return Objective(schedule, **kwargs.pop("options", {}))(
            lambda x, t: 0.5 * x, x0, generator=None, t=0.5, noise=noise, **kwargs
        )

    masked = loss(x0, noise, weight=mask)
    torch.testing.assert_close(masked[:1], loss(x0[:1, :, :4], noise[:1, :, :4]))
    torch.testing.assert_close(
        masked[1:2], objective(lambda x, t: 0.5 * x, x0, generator=None, t=0.5, noise=noise)[1:2]
    )
    assert masked[2] == 0
    torch.testing.assert_close(loss(x0, noise, weight=7.0 * mask), masked)
    share = torch.tensor([0.4, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        loss(x0, noise, weight=mask, options={"normalize_weight": False}), share * masked
    )
    with pytest.raises(InputError, match=r"weight.shape=\(3, 4\) must broadcast"):
        weighted_mean(x0, torch.ones(3, 4))


def test_loss_depends_on_the_generator_and_passes_conditions_on() -> None:
    schedule, seen = LinearFlow(), []

    def denoiser(x: Tensor, t: Tensor, mel: Tensor) -> Tensor:
        seen.append((mel, t))
        return x

    x0, mel = normal(4, 1, 6).float(), torch.ones(4, 3)
    first, second, third = (
        Objective(schedule)(denoiser, x0, generator=seeded(n), mel=mel) for n in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.shape == (4,)
    assert first.dtype == torch.float32
    assert seen[0][0] is mel
    assert seen[0][1].shape == (4,)


def test_clamping_does_not_hide_errors_from_training() -> None:
    schedule = LinearFlow()
    network = nn.Conv1d(1, 1, 1, bias=False).double()
    nn.init.constant_(network.weight, 50.0)

    class Net(nn.Module):
        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return network(x)

    clamped = Denoiser(Net(), schedule, "x0", clamp=(-1.0, 1.0), dynamic_threshold=0.9)
    free = Denoiser(Net(), schedule, "x0")
    x0 = normal(2, 1, 9)
    losses = [Objective(schedule, target="x0")(d, x0, generator=seeded(), t=0.5) for d in (clamped, free)]
    assert torch.equal(*losses)
    losses[0].sum().backward()
    assert network.weight.grad is not None
    assert network.weight.grad.abs() > 0


def test_wrong_settings_say_what_to_do() -> None:
    flow = LinearFlow()
    with pytest.raises(InputError, match="target='noise' must be one of eps, x0, v, velocity"):
        Objective(flow, target="noise")
    with pytest.raises(InputError, match="norm='huber' must be l1 or l2"):
        Objective(flow, norm="huber")
    with pytest.raises(InputError, match="weighting='snr' must be one of uniform, min_snr"):
        Objective(flow, weighting="snr")
    denoiser = Denoiser(ExactNetwork(flow, "v", std=STD), flow, "v")
    with pytest.raises(InputError, match=r"schedule \(LinearFlow\) must equal the objective's \(CosineVP\)"):
        Objective(CosineVP())(denoiser, normal(1, 1, 4), generator=None)
    with pytest.raises(InputError, match=r"noise.shape"):
        Objective(flow)(denoiser, normal(1, 1, 4), generator=None, noise=normal(1, 1, 5))
    with pytest.raises(InputError, match="learned_variance=True, got Denoiser"):
        HybridVLB(Objective(flow), 10)(denoiser, normal(1, 1, 4), generator=None)
    with pytest.raises(InputError, match="steps=1 must be at least 2"):
        HybridVLB(Objective(flow), 1)


def test_kl_and_likelihood_agree_with_torch_distributions() -> None:
    mean, other = normal(6), normal(6, seed=1)
    variance, other_variance = normal(6, seed=2).exp(), normal(6, seed=3).exp()
    first = torch.distributions.Normal(mean, variance.sqrt())
    second = torch.distributions.Normal(other, other_variance.sqrt())
    expected = torch.distributions.kl_divergence(first, second)
    torch.testing.assert_close(gaussian_kl(mean, variance, other, other_variance), expected)
    torch.testing.assert_close(gaussian_nll(other, mean, variance), -first.log_prob(other))


def test_quantised_likelihood_sums_to_one_and_survives_the_tails() -> None:
    width = 2 / 255
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    for mean, variance in ((0.3, 0.01), (-0.99, 1e-4), (0.0, 4.0)):
        nll = gaussian_nll(values, torch.tensor(mean), torch.tensor(variance, dtype=torch.float64), width)
        assert nll.neg().exp().sum().item() == pytest.approx(1, abs=1e-9)
    far = gaussian_nll(torch.tensor([-0.9, 0.9]), torch.zeros(2), torch.full((2,), 1e-3), width)
    # density times width, with the mass concentrated at the inner edge
    assert far.isfinite().all()
    assert far[0] == far[1]
    assert far[0].item() == pytest.approx(0.9**2 / 2e-3, rel=0.02)


class VarianceNetwork(nn.Module):
    """The exact eps, and one learnable place of the variance between its bounds."""

    def __init__(self, schedule: Schedule, fraction: float) -> None:
        super().__init__()
        self.exact = ExactNetwork(schedule, "eps", std=STD)
        self.gain = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.place = nn.Parameter(torch.tensor(2 * fraction - 1, dtype=torch.float64))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.cat([self.gain * self.exact(x, level), self.place.expand_as(x)], dim=1)


def hybrid(fraction: float, steps: int = 1000, **options: Any) -> tuple[VarianceNetwork, Denoiser, HybridVLB]:
    schedule = BetaTable(ddpm_betas())
    network = VarianceNetwork(schedule, fraction)
    denoiser = Denoiser(network, schedule, "eps", learned_variance=True)
    simple = Objective(schedule, target="eps", times=TablePoints(steps))
    return network, denoiser, HybridVLB(simple, steps, **options)


def test_the_bound_is_the_kl_of_ddpms_posterior() -> None:
    _, denoiser, objective = hybrid(0.3, weight=1.0)
    betas = torch.tensor(ddpm_betas(), dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    step = torch.tensor([1, 2, 50, 999])  # 0-based rows n - 1
    t = (step + 1).double() / 1000
    x0, noise = STD * normal(4, 1, 6), normal(4, 1, 6, seed=1)
    trial = objective.simple.attempt(denoiser, x0, generator=None, t=t, noise=noise)
    # eqs. 10-15 of Nichol & Dhariwal, from the table
    beta, bar, before = (v[:, None, None] for v in (betas[step], bars[step], bars[step - 1]))
    x_t = bar.sqrt() * x0 + (1 - bar).sqrt() * noise
    small = (1 - before) / (1 - bar) * beta

    def mean(x: Tensor) -> Tensor:
        return (before.sqrt() * beta * x + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - bar)

    guess = bar.sqrt() * STD**2 * x_t / (bar * STD**2 + 1 - bar)
    chosen = (0.3 * beta.log() + 0.7 * small.log()).exp()
    q = torch.distributions.Normal(mean(x0), small.sqrt())
    p = torch.distributions.Normal(mean(guess), chosen.sqrt())
    expected = torch.distributions.kl_divergence(q, p).mean((1, 2)) * 1000 / math.log(2)
    torch.testing.assert_close(objective.bound(denoiser, trial), expected, rtol=1e-6, atol=1e-9)
    total = objective(denoiser, x0, generator=None, t=t, noise=noise)
    simple = objective.simple(denoiser, x0, generator=None, t=t, noise=noise)
    torch.testing.assert_close(total, simple + expected, rtol=1e-6, atol=1e-9)


def test_the_bound_trains_the_variance_only_and_finds_its_best_value() -> None:
    # The best variance of the reverse step is the posterior's plus what is unsure about its mean.
    steps = 1000
    schedule = BetaTable(ddpm_betas())
    n = 30
    alpha, sigma, *_ = schedule(torch.tensor([(n - 1) / steps, n / steps], dtype=torch.float64))
    kept = (alpha[1] / alpha[0]) ** 2
    noise = sigma[1] ** 2 - kept * sigma[0] ** 2
    small, large = noise * sigma[0] ** 2 / sigma[1] ** 2, noise
    unsure = STD**2 * sigma[1] ** 2 / (alpha[1] ** 2 * STD**2 + sigma[1] ** 2)
    best = small + (alpha[0] * noise / sigma[1] ** 2) ** 2 * unsure
    fraction = (best.log() - small.log()) / (large.log() - small.log())
    network, denoiser, objective = hybrid(float(fraction))
    x0 = STD * normal(1, 1, 200_000)

    def slope(shift: float) -> float:
        network.zero_grad()
        with torch.no_grad():
            network.place.add_(shift)
        trial = objective.simple.attempt(denoiser, x0, generator=seeded(5), t=n / steps)
        objective.bound(denoiser, trial).sum().backward()
        with torch.no_grad():
            network.place.sub_(shift)
        assert network.gain.grad is not None
        assert network.place.grad is not None
        assert network.gain.grad == 0  # it sets the mean
        return network.place.grad.item()

    assert slope(-0.2) < 0 < slope(0.2)
    assert abs(slope(0.0)) < 0.05 * slope(0.2)


def test_the_first_step_is_a_likelihood_with_finite_gradients() -> None:
    network, denoiser, objective = hybrid(0.5, weight=1.0, bin_width=2 / 255)
    x0 = (normal(2, 1, 8).clamp(-1, 1) * 127.5).round() / 127.5
    for t in (torch.tensor([1 / 1000, 1.0]), torch.tensor([0.0005, 0.002])):
        loss = objective(denoiser, x0, generator=seeded(), t=t)
        assert loss.isfinite().all()
        loss.sum().backward()
        assert network.place.grad is not None
        assert network.place.grad.isfinite()
    trial = objective.simple.attempt(denoiser, x0, generator=seeded(), t=1 / 1000)
    guess = denoiser.convert(trial.output, trial.x_t, trial.t)
    second = torch.tensor(ddpm_betas(), dtype=torch.float64)[:2]
    small = second[0] / (1 - (1 - second).prod()) * second[1]
    variance = (small * second[1]).sqrt()
    expected = gaussian_nll(x0, guess, variance, 2 / 255).mean((1, 2)) * 1000 / math.log(2)
    torch.testing.assert_close(objective.bound(denoiser, trial), expected, rtol=1e-4, atol=0)


def test_uniform_times_are_the_default() -> None:
    assert Objective(LinearFlow()).times == Uniform()


@pytest.mark.parametrize(
    "schedule", [CosineVP(), BetaTable(ddpm_betas()), LinearFlow()], ids=lambda s: type(s).__name__
)
def test_everything_stays_on_the_inputs_device(schedule: Schedule) -> None:
    # "meta" refuses to mix with tensors of another device, as CUDA does
    x0 = torch.zeros(2, 1, 8, device="meta")
    for times in (
        Uniform(),
        LogNormal(),
        LogitNormal(),
        Stratified(TablePoints(10)),
        ContinuousTable((0.1, 0.2)),
    ):
        objective = Objective(schedule, weighting="min_snr", times=times)
        denoiser = Denoiser(ExactNetwork(schedule, "edm"), schedule, "edm", "log_snr")
        loss = objective(denoiser, x0, generator=None, weight=torch.ones(2, 1, 8, device="meta"))
        assert loss.device.type == "meta"
        assert loss.dtype == torch.float32
    learned = Denoiser(TwoOutputs(), schedule, "v", "t", learned_variance=True)
    assert HybridVLB(objective, 10, bin_width=0.1)(learned, x0, generator=None).device.type == "meta"


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.cat([x, x * level[:, None, None]], dim=1)
