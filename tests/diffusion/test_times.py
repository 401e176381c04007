"""Oracle: closed-form distribution functions, and WaveGrad's algorithm written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_network import seeded
from scipy import stats

from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    LinearFlow,
    Schedule,
    VarianceExploding,
    ddpm_betas,
    wavegrad_betas,
)
from mmdiff.diffusion.times import (
    ContinuousTable,
    LevelsOf,
    LogitNormal,
    LogNormal,
    Stratified,
    TablePoints,
    Times,
    Uniform,
)
from mmdiff.errors import InputError

COUNT = 20_000


FLOW = LinearFlow()


def draw(times: Times, schedule: Schedule = FLOW, count: int = COUNT) -> torch.Tensor:
    return times.draw(count, schedule, generator=seeded(), dtype=torch.float64)


def assert_distributed(values: torch.Tensor, cdf: object) -> None:
    assert stats.kstest(values.numpy(), cdf).pvalue > 0.01


def test_uniform_never_draws_its_first_time() -> None:
    assert_distributed(draw(Uniform()), stats.uniform().cdf)
    assert_distributed(draw(Uniform(0.2, 0.7)), stats.uniform(0.2, 0.5).cdf)
    assert draw(Uniform()).min() > 0


def test_logit_normal() -> None:
    values = draw(LogitNormal(-0.5, 1.5))
    assert_distributed(torch.logit(values), stats.norm(-0.5, 1.5).cdf)


def test_log_normal_noise_levels_are_truncated_to_the_schedule() -> None:
    for schedule in (CosineVP(), EDM(), VarianceExploding(0.1, 2.0)):
        times = draw(LogNormal(-1.2, 1.2), schedule)
        level = -schedule.log_snr(times) / 2
        ends = (-schedule.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2).numpy()
        low, high = (ends + 1.2) / 1.2
        assert_distributed(level, stats.truncnorm(low, high, loc=-1.2, scale=1.2).cdf)
        assert ((times >= 0) & (times <= 1)).all()


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_noise_levels_of_another_schedule(std: float) -> None:
    pairs = CriticallyDamped()
    values = pairs.log_snr(draw(LevelsOf(CosineVP(), std), pairs))
    end = float(pairs.log_snr(torch.tensor(1.0).double()))
    # ln tan(πt/2) of uniform t is a hyperbolic secant's variable; what is noisier than the last time is at it
    inner = values[values > end + 1e-6].numpy()
    secant = stats.hypsecant(-2 * np.log(std), 2)
    below = secant.cdf(end)
    assert_distributed(torch.from_numpy(inner), lambda x: (secant.cdf(x) - below) / (1 - below))
    assert abs(1 - len(inner) / COUNT - below) < 0.002


def test_table_points_are_equally_likely_and_exact() -> None:
    index = draw(TablePoints(8)) * 8
    assert torch.equal(index, index.round())
    counts = np.bincount(index.long().numpy(), minlength=9)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 0.01


def wavegrad_levels(betas: tuple[float, ...], count: int) -> np.ndarray:
    """Chen et al. 2021, algorithm 1: s ~ U{1..S}, sqrt(alpha_bar) ~ U(l_{s-1}, l_s), l_0 = 1."""
    rng = np.random.default_rng(0)
    levels = np.concatenate([[1.0], np.sqrt(np.cumprod(1 - np.array(betas)))])
    segment = rng.integers(1, len(betas) + 1, size=count)
    return rng.uniform(levels[segment], levels[segment - 1])


@pytest.mark.parametrize("betas", [wavegrad_betas(), (0.1, 0.02, 0.4)])
def test_continuous_table_is_wavegrads_algorithm(betas: tuple[float, ...]) -> None:
    schedule = BetaTable(betas)
    times = draw(ContinuousTable(), schedule)
    theirs = wavegrad_levels(betas, COUNT)
    assert stats.ks_2samp(schedule(times).alpha.numpy(), theirs).pvalue > 0.01
    # inside a segment, alpha and not t is uniform
    levels = np.concatenate([[1.0], np.sqrt(np.cumprod(1 - np.array(betas)))])
    u = torch.tensor([0.5, 1.25, 2.75], dtype=torch.float64) / len(betas)
    alpha = schedule(ContinuousTable().quantile(u, schedule)).alpha.numpy()
    expected = [
        (levels[0] + levels[1]) / 2,
        0.75 * levels[1] + 0.25 * levels[2],
        0.25 * levels[2] + 0.75 * levels[3],
    ]
    np.testing.assert_allclose(alpha, expected, rtol=1e-9)


def test_continuous_table_serves_any_schedule_when_given_the_table() -> None:
    betas = wavegrad_betas()
    times = draw(ContinuousTable(betas), CosineVP())
    assert stats.ks_2samp(CosineVP()(times).alpha.numpy(), wavegrad_levels(betas, COUNT)).pvalue > 0.01
    with pytest.raises(InputError, match=r"betas=None must come with a BetaTable; got schedule=CosineVP"):
        draw(ContinuousTable(), CosineVP())


@pytest.mark.parametrize("base", [Uniform(), LogitNormal(), ContinuousTable()])
def test_stratified_fills_every_stratum_once_and_stays_distributed_as_its_base(base: Times) -> None:
    schedule = BetaTable(ddpm_betas())
    edges = base.quantile(torch.linspace(0, 1, 33, dtype=torch.float64), schedule)
    generator = seeded()
    first = []
    for _ in range(400):
        times = Stratified(base).draw(32, schedule, generator=generator, dtype=torch.float64)
        assert torch.equal(torch.bucketize(times, edges[1:-1]).sort().values, torch.arange(32))
        first.append(times[0])
    plain = base.draw(400, schedule, generator=generator, dtype=torch.float64)
    assert stats.ks_2samp(torch.stack(first).numpy(), plain.numpy()).pvalue > 0.01


def test_draws_follow_their_generator_and_dtype() -> None:
    first, second = (Uniform().draw(5, LinearFlow(), generator=seeded(n)) for n in (1, 1))
    assert torch.equal(first, second)
    assert first.dtype == torch.float32
    assert Uniform().draw(3, LinearFlow()).shape == (3,)


def test_wrong_settings_say_what_to_do() -> None:
    with pytest.raises(InputError, match=r"first=0.5, last=0.2 must satisfy"):
        Uniform(0.5, 0.2)
    with pytest.raises(InputError, match="std=0 must be positive"):
        LogNormal(std=0)
    with pytest.raises(InputError, match="std=0"):
        LevelsOf(data_std=0)
    with pytest.raises(InputError, match="std=-1 must be positive"):
        LogitNormal(std=-1)
    with pytest.raises(InputError, match="count=0 must be at least 1"):
        TablePoints(0)
