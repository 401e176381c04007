"""Distributions of training times by importance: against integrals, and by what they do to estimates."""

from __future__ import annotations

import math

import pytest
import torch

from mmdiff.diffusion.importance import Importance, loss_weight, time_of_noise
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    GeometricVP,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    VarianceExploding,
    ddpm_betas,
)
from mmdiff.diffusion.times import LogNormal, Stratified
from mmdiff.errors import InputError

SCHEDULES = {
    "geometric": GeometricVP(),
    "linear": LinearBetaVP(),
    "constant": LinearBetaVP(8.0, 8.0),
    "cosine": CosineVP(),
    "flow": LinearFlow(),
    "exploding": VarianceExploding(),
    "edm": EDM(),
    "table": BetaTable(ddpm_betas()),
}
WEIGHTS = ("likelihood", "unweighted", "reweighted")
every_pair = pytest.mark.parametrize(
    ("schedule", "weight"),
    [(schedule, weight) for schedule in SCHEDULES.values() for weight in WEIGHTS],
    ids=[f"{name}-{weight}" for name in SCHEDULES for weight in WEIGHTS],
)


def counts(schedule: Schedule, weight: str, t: torch.Tensor, data_std: float) -> torch.Tensor:
    """What the module's text says that a time counts, by differences of λ in place of its derivative."""
    step = (1e-6 * torch.ones_like(t)).minimum(t / 100).minimum((1 - t) / 100)
    rate = (schedule.log_snr(t - step) - schedule.log_snr(t + step)) / (2 * step)
    share = 1 / (1 + (-schedule.log_snr(t)).exp() / data_std**2)
    factor = {"likelihood": rate, "unweighted": 1.0, "reweighted": schedule(t).sigma ** 2 * rate}
    return factor[weight] * share


@every_pair
@pytest.mark.parametrize("data_std", [1.0, 0.4])
def test_density_is_what_counts_and_the_derivative_of_the_share(schedule, weight, data_std) -> None:
    times = Importance(weight, data_std)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    t = times.quantile(u, schedule)
    assert bool((t.diff() > 0).all())
    lapse = times.quantile(u + 1e-7, schedule) - times.quantile(u - 1e-7, schedule)
    inner = (u > 0.01) & (u < 0.99) & (t > 1e-4)
    density = times.density(t, schedule)
    off_edges = (
        density * lapse / 2e-7 - 1
    ).abs() < 2e-3  # but where a cell of a table, or a step of one, ends
    assert float(off_edges[inner].double().mean()) > 0.98
    inner &= t < 1 - 1e-4
    if not isinstance(schedule, BetaTable):  # whose rate jumps
        ratio = density[inner] / counts(schedule, weight, t[inner], data_std)
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=2e-2, atol=0)


@every_pair
def test_estimates_are_the_integral(schedule, weight) -> None:
    """½ ∫ w e dt of an error of normal data of another deviation, by quadrature in λ."""
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    times = Importance(weight)
    t = times.quantile(u, schedule)
    error = torch.sigmoid(schedule.log_snr(t) + math.log(1.7))
    found = (loss_weight(weight, schedule, t) / times.density(t, schedule) * error).mean() / 2

    edges = torch.linspace(0, 1, 50_001, dtype=torch.float64) ** 3
    edges = times.start(schedule) + (1 - times.start(schedule)) * edges
    lapse, at = edges.diff(), (edges[1:] + edges[:-1]) / 2
    per_time = counts(schedule, weight, at, 1.0) / torch.sigmoid(schedule.log_snr(at))
    wanted = (per_time * torch.sigmoid(schedule.log_snr(at) + math.log(1.7)) * lapse)[1:-1].sum() / 2
    torch.testing.assert_close(found, wanted, rtol=6e-3, atol=0)


def test_likelihood_has_the_integral_of_its_formula() -> None:
    for schedule in SCHEDULES.values():
        times = Importance()
        t = times.quantile((torch.arange(4000, dtype=torch.float64) + 0.5) / 4000, schedule)
        error = torch.sigmoid(schedule.log_snr(t))
        values = loss_weight("likelihood", schedule, t) / times.density(t, schedule) * error
        ends = schedule.log_snr(torch.tensor([times.start(schedule), 1.0]).double()).exp().log1p()
        torch.testing.assert_close(values, (ends[0] - ends[1]).expand_as(values), rtol=1e-6, atol=0)


def test_geometric_noise_makes_uniform_times_the_best() -> None:
    u = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(Importance().quantile(u, GeometricVP()), u)


def test_table_and_formula_agree() -> None:
    u = torch.linspace(0.001, 1, 200, dtype=torch.float64)
    for weight, schedule in (("unweighted", LinearBetaVP()), ("reweighted", LinearBetaVP())):
        by_formula = Importance(weight).quantile(u, schedule)
        by_table = Importance(weight, 1 + 1e-9).quantile(u, schedule)
        torch.testing.assert_close(by_table, by_formula, rtol=0, atol=2e-4)


def test_draws_stay_within_and_may_be_stratified() -> None:
    schedule, source = CosineVP(), torch.Generator().manual_seed(0)
    for weight in WEIGHTS:
        times = Stratified(Importance(weight, first=0.01))
        t = times.draw(4096, schedule, generator=source)
        assert t.dtype == torch.float32
        assert 0.01 <= float(t.min()) < float(t.max()) <= 1
        found = float((1 / times.density(t, schedule)).mean())
        assert found == pytest.approx(0.99, rel=0.1)  # the length of the interval


@pytest.mark.parametrize("rates", [(10.0, 11.0), (17.0, 20.0), (19.9, 20.0), (5.0, 15.0)])
def test_rates_that_hardly_rise_are_drawn_by_their_tail(rates) -> None:
    """The normal distribution of t is cut off far from its mean; its shares against an integral in small steps."""
    schedule, times = LinearBetaVP(*rates), Importance("unweighted", first=1e-3)
    t = torch.linspace(1e-3, 1, 200_001).double()
    density = schedule(t).alpha ** 2
    share = torch.cumulative_trapezoid(density, t)
    u = torch.tensor([0.1, 0.5, 0.9]).double()
    exact = t[1:][torch.searchsorted(share, u * share[-1])]
    torch.testing.assert_close(times.quantile(u, schedule), exact, rtol=2e-3, atol=1e-5)
    found = times.density(t[::1000], schedule)
    torch.testing.assert_close(found, density[::1000] / share[-1], rtol=2e-2, atol=1e-6)


def test_what_cannot_be_asked_for_is_told() -> None:
    with pytest.raises(InputError, match="noise=0 must be positive"):
        time_of_noise(CosineVP(), 0)
    with pytest.raises(InputError, match="weight='all' must be one of"):
        Importance("all")
    with pytest.raises(InputError, match=r"data_std=0 must be positive"):
        Importance(data_std=0)
    with pytest.raises(InputError, match=r"first=0.0 must be a time with noise"):
        Importance(first=0.0).quantile(torch.tensor([0.5]).double(), CosineVP())
    with pytest.raises(InputError, match="times=LogNormal must have a known density"):
        LogNormal().density(torch.tensor([0.5]), CosineVP())
