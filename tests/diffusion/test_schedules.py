"""Schedules against autograd, against each other, against diffusers' tables and at their ends."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from oracles import all_schedules

from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LaplaceVP,
    Levels,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    Shifted,
    SigmoidVP,
    SubVP,
    VarianceExploding,
    ZeroTerminalSNR,
    betas_of_alpha_bars,
    cosine_betas,
    ddpm_betas,
    diffwave_betas,
    diffwave_fast_betas,
    linear_betas,
    log_snr_betas,
    scaled_linear_betas,
    wavegrad_betas,
)
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

SCHEDULES = all_schedules()
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


def interior(count: int = 501) -> torch.Tensor:
    # Irrational offsets: no point of a table is hit, where the rate of a table jumps.
    return torch.linspace(3e-4 / math.sqrt(2), 1 - 3e-4 / math.sqrt(2), count, dtype=torch.float64)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(((a - b).abs() / b.abs().clamp(min=1e-300)).max())


@every_schedule
def test_derivatives_match_autograd(schedule: Schedule) -> None:
    t = interior().requires_grad_()
    levels = schedule(t)
    for value, slope in ((levels.alpha, levels.d_alpha), (levels.sigma, levels.d_sigma)):
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        else:
            expected = torch.zeros_like(t)  # alpha = 1
        torch.testing.assert_close(slope, expected, rtol=1e-11, atol=1e-12)


@every_schedule
def test_log_snr_is_that_of_the_levels_and_falls(schedule: Schedule) -> None:
    t = interior()
    levels = schedule(t)
    log_snr = schedule.log_snr(t)
    expected = 2 * (levels.alpha.log() - levels.sigma.log())
    torch.testing.assert_close(log_snr, expected, rtol=1e-12, atol=1e-12)
    assert bool((log_snr.diff() < 0).all())
    assert schedule.log_snr_range[0] < float(log_snr[-1])
    assert schedule.log_snr_range[1] > float(log_snr[0])


@every_schedule
def test_inverse_returns_the_time(schedule: Schedule) -> None:
    t = torch.cat([interior(), torch.tensor([1e-5, 1 - 1e-5], dtype=torch.float64)])
    torch.testing.assert_close(schedule.time_of_log_snr(schedule.log_snr(t)), t, rtol=1e-10, atol=1e-14)


@every_schedule
def test_inverse_gives_the_log_snr_back(schedule: Schedule) -> None:
    lowest, highest = (max(-12.0, schedule.log_snr_range[0]), min(12.0, schedule.log_snr_range[1]))
    wanted = torch.linspace(lowest, highest, 99, dtype=torch.float64)[1:-1]
    got = schedule.log_snr(schedule.time_of_log_snr(wanted))
    # At t near 1 the time itself is rounded: d(lambda) = lambda'(t) * 1e-16.
    levels = schedule(schedule.time_of_log_snr(wanted))
    rate = 2 * (levels.d_sigma / levels.sigma - levels.d_alpha / levels.alpha)
    assert bool(((got - wanted).abs() <= 1e-12 + 4e-16 * rate).all())


@every_schedule
def test_inverse_clamps_to_the_nearer_end(schedule: Schedule) -> None:
    for dtype in (torch.float32, torch.float64):
        beyond = torch.tensor([math.inf, 1e4, -1e4, -math.inf], dtype=dtype)
        times = schedule.time_of_log_snr(beyond)
        assert times.dtype == dtype
        assert float(times[0]) == 0
        assert float(times[-1]) == 1
        assert bool((times >= 0).all())
        assert bool((times <= 1).all())


@every_schedule
def test_ends_are_legal(schedule: Schedule) -> None:
    for dtype in (torch.float32, torch.float64):
        levels = schedule(ENDS.to(dtype))
        log_snr = schedule.log_snr(ENDS.to(dtype))
        assert not any(bool(field.isnan().any()) for field in levels)
        assert not bool(log_snr.isnan().any())
        assert bool(levels.alpha.isfinite().all())
        assert bool(levels.sigma.isfinite().all())
        lost = float(levels.sigma[0]) ** 2 if schedule.variance_preserving else 0.0  # some begin with noise
        assert float(levels.alpha[0]) == pytest.approx(1.0, abs=1e-7 + lost)
        assert (float(levels.sigma[0]) == 0) == (float(log_snr[0]) == math.inf)
        assert (float(levels.alpha[1]) == 0) == (float(log_snr[1]) == -math.inf)
        assert schedule.prior_std == pytest.approx(float(levels.sigma[1]), rel=1e-5)


@every_schedule
def test_float32_keeps_its_digits_at_both_ends(schedule: Schedule) -> None:
    near = torch.logspace(-6, -0.5, 40)
    t = torch.cat([near, 1 - near[10:]])
    exact, levels = schedule(t.double()), schedule(t)
    eps = torch.finfo(torch.float32).eps
    # A table rounds times to its points: as if t were off by two units in the last place.
    time_error = 2 * eps if "BetaTable" in str(schedule) else 0.0
    pairs = ((levels.alpha, exact.alpha, exact.d_alpha), (levels.sigma, exact.sigma, exact.d_sigma))
    for got, wanted, slope in pairs:
        allowed = 30 * eps * wanted.abs() + 1.1 * time_error * slope.abs()
        assert bool(((got.double() - wanted).abs() <= allowed).all())


@every_schedule
def test_variance_preserving_says_the_truth(schedule: Schedule) -> None:
    levels = schedule(torch.cat([interior(), ENDS]))
    gap = float((levels.alpha**2 + levels.sigma**2 - 1).abs().max())
    assert schedule.variance_preserving == (gap < 1e-13)


@every_schedule
def test_shape_dtype_and_scalars(schedule: Schedule) -> None:
    reference = schedule(torch.tensor(0.3, dtype=torch.float64))
    for dtype, tolerance in ((torch.float64, 0.0), (torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        levels = schedule(torch.full((2, 3), 0.3, dtype=dtype))
        for field, expected in zip(levels, reference, strict=True):
            assert field.shape == (2, 3)
            assert field.dtype == dtype
            assert expected.shape == ()
            torch.testing.assert_close(
                field[1, 2].double(), expected, rtol=tolerance or 1e-15, atol=tolerance
            )
    assert schedule(0.3).alpha.dtype == torch.float64
    assert float(schedule(0.3).sigma) == float(reference.sigma)
    assert float(schedule.log_snr(0.3)) == float(schedule.log_snr(torch.tensor(0.3, dtype=torch.float64)))


@every_schedule
def test_results_stay_on_the_device_of_the_times(schedule: Schedule) -> None:
    # The meta device refuses to meet tensors of another one, and has no data to copy back.
    t = torch.rand(3, device="meta")
    results = (*schedule(t), schedule.log_snr(t), schedule.time_of_log_snr(t))
    assert {result.device.type for result in results} == {"meta"}


@every_schedule
def test_a_model_folder_can_hold_it(schedule: Schedule) -> None:
    again = from_config(to_config(schedule))
    assert again == schedule
    assert hash(again) == hash(schedule)


# ------------------------------------------------------------------ against the formulas of the papers


def test_formulas_against_plain_mathematics() -> None:
    t = 0.37
    rate = 0.1 * t + 19.9 * t * t / 2
    expected: dict[Schedule, tuple[float, float]] = {
        LinearBetaVP(): (math.exp(-rate / 2), math.sqrt(1 - math.exp(-rate))),
        SubVP(): (math.exp(-rate / 2), 1 - math.exp(-rate)),
        CosineVP(): (math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)),
        EDM(): (1.0, (0.002 ** (1 / 7) + t * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7),
        VarianceExploding(): (1.0, 0.01 * 5000**t),
        LinearFlow(): (1 - t, t),
    }
    for schedule, (alpha, sigma) in expected.items():
        levels = schedule(t)
        assert float(levels.alpha) == pytest.approx(alpha, rel=1e-14)
        assert float(levels.sigma) == pytest.approx(sigma, rel=1e-13)


def test_sigmoid_against_its_definition() -> None:
    def logistic(u: float) -> float:
        return 1 / (1 + math.exp(-u / 0.7))

    for t in (0.1, 0.5, 0.93):
        expected = (logistic(2) - logistic(-3 + 5 * t)) / (logistic(2) - logistic(-3))
        assert float(SigmoidVP(-3.0, 2.0, 0.7)(t).alpha) ** 2 == pytest.approx(expected, rel=1e-13)


def test_laplace_times_have_laplace_distributed_log_snr() -> None:
    # With t uniform, P(lambda > x) = t(x) is the Laplace survival function.
    x = torch.linspace(-6, 6, 25, dtype=torch.float64)
    law = torch.distributions.Laplace(torch.tensor(0.3, dtype=x.dtype), torch.tensor(0.7, dtype=x.dtype))
    torch.testing.assert_close(LaplaceVP(0.3, 0.7).time_of_log_snr(x), 1 - law.cdf(x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("schedule", "t", "field", "slope"),
    [
        (LinearBetaVP(0.0, 18.0), 0.0, "d_sigma", 3.0),
        (LinearBetaVP(0.1, 20.0), 0.0, "d_sigma", math.inf),
        (CosineVP(), 0.0, "d_sigma", math.pi / 2),
        (CosineVP(0.008), 0.0, "d_sigma", math.inf),
        (LaplaceVP(0.4, 2.0), 0.0, "d_sigma", 2 * math.exp(-0.2)),
        (LaplaceVP(0.4, 2.0), 1.0, "d_alpha", -2 * math.exp(0.2)),
        (LaplaceVP(0.4, 1.0), 0.0, "d_alpha", -math.exp(-0.4)),
        (LaplaceVP(0.4, 3.0), 0.0, "d_sigma", 0.0),
        (SigmoidVP(), 1.0, "d_alpha", -math.inf),
        (EDM(0.0, 80.0), 0.0, "d_sigma", 0.0),
        (SubVP(), 0.0, "d_sigma", 0.1),
        (Shifted(LinearFlow(), 3.0), 1.0, "d_alpha", -1 / 3),
    ],
)
def test_slopes_at_the_ends(schedule: Schedule, t: float, field: str, slope: float) -> None:
    assert float(getattr(schedule(t), field)) == pytest.approx(slope, rel=1e-12)


# ------------------------------------------------------------------------------------ tables of beta

TABLES: dict[str, tuple[tuple[float, ...], dict[str, object]]] = {
    "ddpm": (ddpm_betas(), {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    "scaled": (
        scaled_linear_betas(0.00085, 0.012, 1000),
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    ),
    "cosine": (cosine_betas(1000), {"beta_schedule": "squaredcos_cap_v2"}),
    "wavegrad": (wavegrad_betas(), {"beta_start": 1e-6, "beta_end": 0.01, "beta_schedule": "linear"}),
    "diffwave": (
        diffwave_betas(),
        {"beta_start": 1e-4, "beta_end": 0.05, "beta_schedule": "linear", "num_train_timesteps": 50},
    ),
}


@pytest.mark.parametrize(("betas", "options"), TABLES.values(), ids=TABLES.keys())
def test_tables_equal_those_of_diffusers(betas: tuple[float, ...], options: dict[str, object]) -> None:
    peer = diffusers.DDPMScheduler(**options)
    assert len(betas) == len(peer.betas)
    assert relative(torch.tensor(betas, dtype=torch.float64), peer.betas.double()) < 1e-4  # peer: float32
    # Exact given the same betas: both in float64.
    exact = BetaTable(tuple(peer.betas.double().tolist()))
    t = torch.arange(1, len(betas) + 1, dtype=torch.float64) / len(betas)
    alpha_bar = torch.cumprod(1 - peer.betas.double(), 0)
    assert relative(exact(t).alpha ** 2, alpha_bar) < 1e-12
    assert relative(exact(t).sigma ** 2, 1 - alpha_bar) < 1e-9  # 1 - alpha_bar loses digits, ours does not
    # And as accurate as float32 allows against the table the peer really uses.
    assert relative(exact(t).alpha ** 2, peer.alphas_cumprod.double()) < 1e-3


@pytest.mark.parametrize("betas", [ddpm_betas(), scaled_linear_betas(0.00085, 0.012, 1000)])
def test_zero_terminal_snr_equals_diffusers(betas: tuple[float, ...]) -> None:
    rescale = diffusers.schedulers.scheduling_ddim.rescale_zero_terminal_snr
    peer = torch.cumprod(1 - rescale(torch.tensor(betas, dtype=torch.float64)), 0)
    t = torch.arange(1, len(betas) + 1, dtype=torch.float64) / len(betas)
    levels = ZeroTerminalSNR(BetaTable(betas))(t)
    torch.testing.assert_close(levels.alpha**2, peer, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(levels.sigma**2, 1 - peer, rtol=1e-9, atol=1e-15)
    assert float(levels.alpha[-1]) == 0


@pytest.mark.parametrize("name", ["ddpm", "wavegrad", "diffwave", "zero_ddpm", "zero_diffwave"])
def test_float32_times_snap_to_the_table(name: str) -> None:
    schedule = SCHEDULES[name]
    count = (schedule.base if isinstance(schedule, ZeroTerminalSNR) else schedule).steps  # type: ignore[attr-defined]
    n = torch.arange(count + 1)
    exact = schedule(n.double() / count)
    for t in (n.float() / count, n / torch.tensor(float(count)), n * torch.tensor(1 / count)):
        levels = schedule(t)
        for got, wanted in zip(levels[:2], exact[:2], strict=True):
            # The correctly rounded value or one of its neighbours.
            torch.testing.assert_close(got, wanted.float(), rtol=4e-7, atol=0.0)
        # Slopes jump at a point: a time a hair off a point must still take the right-hand one.
        torch.testing.assert_close(levels.d_alpha, exact.d_alpha.float(), rtol=1e-6, atol=0.0)


def test_alpha_at_float32_table_points_is_bit_exact() -> None:
    schedule = BetaTable(wavegrad_betas())
    n = torch.arange(1001)
    product = torch.cumprod(1 - torch.tensor((0.0, *wavegrad_betas()), dtype=torch.float64), 0).sqrt()
    assert bool((schedule(n.float() / 1000).alpha == product.float()).all())


def test_between_table_points_the_rate_is_constant() -> None:
    schedule = BetaTable((0.1, 0.5))
    alpha2 = schedule(torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)).alpha ** 2
    expected = [0.9**0.5, 0.9, 0.9 * 0.5**0.5, 0.45]
    assert alpha2.tolist() == pytest.approx(expected, rel=1e-14)


def test_fine_table_tends_to_the_continuous_schedule() -> None:
    # beta_n of N equal steps of a rate linear in t, to second order in 1/N
    count = 4000
    rate = [(0.1 + 19.9 * (n + 0.5) / count) / count for n in range(count)]
    table = BetaTable(tuple(1 - math.exp(-r) for r in rate))
    t = interior()
    torch.testing.assert_close(table(t).alpha, LinearBetaVP()(t).alpha, rtol=1e-5, atol=0.0)


def test_table_is_rounded_once_per_dtype_and_serves_training_after_inference() -> None:
    schedule = BetaTable((0.1, 0.2, 0.30001))
    with torch.inference_mode():
        schedule(torch.rand(3))
    t = torch.rand(3, requires_grad=True)
    schedule(t).alpha.sum().backward()
    assert t.grad is not None
    assert repr(schedule) == "BetaTable(3 steps, 0.1 .. 0.30001)"


def test_beta_helpers() -> None:
    assert linear_betas(0.1, 0.3, 3) == (0.1, 0.2, 0.3)
    assert linear_betas(0.1, 0.3, 1) == (0.1,)
    assert (wavegrad_betas()[0], wavegrad_betas()[-1], len(wavegrad_betas())) == (1e-6, 0.01, 1000)
    assert (diffwave_betas()[0], diffwave_betas()[-1], len(diffwave_betas())) == (1e-4, 0.05, 50)
    assert (diffwave_betas(200)[0], diffwave_betas(200)[-1], len(diffwave_betas(200))) == (1e-4, 0.02, 200)
    assert (diffwave_fast_betas()[-1], diffwave_fast_betas(200)[-1]) == (0.5, 0.7)
    assert betas_of_alpha_bars((0.9, 0.45, 0.0)) == pytest.approx((0.1, 0.5, 0.999))
    points = BetaTable(log_snr_betas(14.0, -7.0, 50)).log_snr(torch.arange(1, 51, dtype=torch.float64) / 50)
    torch.testing.assert_close(points, torch.linspace(14, -7, 50, dtype=torch.float64), rtol=0, atol=1e-9)


# ---------------------------------------------------------------------------------- transformations


@pytest.mark.parametrize("name", [n for n in SCHEDULES if not n.startswith(("shifted", "zero"))])
def test_shift_lowers_log_snr_and_stays_on_the_curve(name: str) -> None:
    base, shifted, t = SCHEDULES[name], Shifted(SCHEDULES[name], 2.5), interior()
    torch.testing.assert_close(shifted.log_snr(t), base.log_snr(t) - 2 * math.log(2.5), rtol=0, atol=1e-12)
    levels = shifted(t)
    curves = {
        "sub_vp": levels.sigma + levels.alpha**2,
        "flow": levels.sigma + levels.alpha,
        "edm": levels.alpha,
        "edm_from_0": levels.alpha,
        "exploding": levels.alpha,
    }
    one = curves.get(name, levels.sigma**2 + levels.alpha**2)
    torch.testing.assert_close(one, torch.ones_like(t), rtol=1e-13, atol=0.0)
    twice = Shifted(shifted, 1 / 2.5)(t)
    for got, wanted in zip(twice, base(t), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)


def test_shifted_flow_is_the_papers_time_warp() -> None:
    t = interior()
    warped = 3 * t / (1 + 2 * t)
    torch.testing.assert_close(Shifted(LinearFlow(), 3.0)(t).sigma, warped, rtol=1e-14, atol=0.0)


def test_zero_terminal_snr_is_affine_in_alpha() -> None:
    base, schedule, t = LinearBetaVP(), ZeroTerminalSNR(LinearBetaVP()), interior()
    last = float(base(1.0).alpha)
    expected = (base(t).alpha - last) / (1 - last)
    torch.testing.assert_close(schedule(t).alpha, expected, rtol=1e-10, atol=0.0)
    assert float(schedule(1.0).alpha) == 0
    assert float(schedule(0.0).sigma) == 0
    assert ZeroTerminalSNR(CosineVP()).log_snr(t).equal(CosineVP().log_snr(t))


class Plain(Schedule):
    """What a user writes: only the three required methods."""

    def _levels(self, t: torch.Tensor) -> Levels:
        return Levels(1 - t**2, t, -2 * t, torch.ones_like(t))

    def _log_snr(self, t: torch.Tensor) -> torch.Tensor:
        return 2 * (torch.log1p(-(t**2)) - torch.log(t))

    def _time(self, log_snr: torch.Tensor) -> torch.Tensor:
        ratio = torch.exp(-0.5 * log_snr)  # t / (1 - t²)
        return 2 * ratio / (1 + torch.sqrt(1 + 4 * ratio**2))


def test_own_schedule_needs_three_methods() -> None:
    schedule, t = Plain(), interior()
    torch.testing.assert_close(schedule.time_of_log_snr(schedule.log_snr(t)), t, rtol=1e-10, atol=0.0)
    shifted = Shifted(schedule, 2.0)
    torch.testing.assert_close(shifted(t).sigma, 2 * t)
    assert not shifted.variance_preserving
    assert schedule.first_time == 0


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: LinearBetaVP(2.0, 1.0), r"beta_min=2\.0.*beta_min <= beta_max"),
        (lambda: SubVP(0.0, 0.0), "beta_max=0.0"),
        (lambda: LinearBetaVP(0.1, math.nan), "beta_max=nan"),
        (lambda: CosineVP(-0.1), "offset=-0.1"),
        (lambda: SigmoidVP(tau=0.0), "tau=0.0"),
        (lambda: SigmoidVP(tau=0.01), r"\|end\| <= 40 tau"),
        (lambda: LaplaceVP(scale=0.0), "scale=0.0"),
        (lambda: EDM(2.0, 1.0), "sigma_min=2.0"),
        (lambda: EDM(rho=-1.0), "rho=-1.0"),
        (lambda: VarianceExploding(0.0, 1.0), "use EDM"),
        (lambda: BetaTable(()), "ddpm_betas"),
        (lambda: BetaTable((0.1, 1.0)), r"betas\[1\]=1.0.*ZeroTerminalSNR"),
        (lambda: linear_betas(0.1, 0.2, 0), "count=0"),
        (lambda: betas_of_alpha_bars((0.5, 0.6)), r"alpha_bars\[1\]=0.6"),
        (lambda: log_snr_betas(-7.0, 14.0, 50), "highest=-7.0 must be above lowest=14.0"),
        (lambda: Shifted(LinearFlow(), 0.0), "factor=0.0"),
        (lambda: Shifted("flow", 2.0), "must be a Schedule"),  # type: ignore[arg-type]
        (lambda: ZeroTerminalSNR(EDM()), "variance preserving"),
    ],
)
def test_bad_arguments_say_the_value_and_the_rule(build, words: str) -> None:
    with pytest.raises(InputError, match=words):
        build()
