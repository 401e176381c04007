"""Editing sound: what is known stays, exact models give conditional means, baselines their closed forms."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from mmdiff.audio.editing.baselines import (
    autoregressive,
    extrapolate,
    interpolate,
    linear_prediction,
    sparsity,
)
from mmdiff.audio.editing.edits import bandwidth_extension, continuation, declipping, gap_filling
from mmdiff.audio.editing.sound import edit_sound
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.sound_model import SoundModel
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas
from mmdiff.errors import InputError

RATE, SAMPLES = 1000, 96
RESONANCE = np.array([1.0, -1.6, 0.9])
"""A process of one resonance: x_n = 1.6 x_{n-1} - 0.9 x_{n-2} + e_n."""


def covariance(coefficients: np.ndarray = RESONANCE, samples: int = SAMPLES, std: float = 0.2) -> Tensor:
    """Of a stationary autoregressive process, by its impulse response."""
    answer = lfilter([1.0], coefficients, np.eye(1, 4096)[0])
    lags = np.correlate(answer, answer, "full")[4095 : 4095 + samples]
    places = torch.arange(samples)
    return torch.from_numpy(lags / lags[0] * std**2)[(places[:, None] - places).abs()]


def draw(count: int = 1, seed: int = 0, samples: int = SAMPLES) -> Tensor:
    """Sounds (count, samples) of the process."""
    root = torch.linalg.cholesky(covariance(samples=samples))
    noise = torch.randn(count, samples, generator=torch.Generator().manual_seed(seed)).double()
    return (noise @ root.T).float()


def conditional_mean(wave: Tensor, known: Tensor) -> Tensor:
    """The Wiener interpolation of the process."""
    sigma = covariance(samples=wave.shape[-1])
    result = wave.double().clone()
    gain = torch.linalg.solve(sigma[known][:, known], sigma[known][:, ~known]).T
    result[~known] = gain @ result[known]
    return result


class ExactNetwork(WaveformNetwork):
    """Finds the noise in sounds of the process exactly."""

    noise_input, n_mels, hop_length, reach = "sqrt_alpha_bar", 0, 1, SAMPLES

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        values, vectors = components(x.shape[-1])
        alpha = level.reshape(-1, 1, 1)
        sigma = (1 - alpha**2).clamp_min(1e-12).sqrt()
        return x @ vectors * (sigma / (alpha**2 * values + sigma**2)) @ vectors.T * self.scale


@functools.cache
def components(samples: int) -> tuple[Tensor, Tensor]:
    """Variances and directions in which sounds of the process are independent."""
    values, vectors = torch.linalg.eigh(covariance(samples=samples))
    return values.float(), vectors.float()


@pytest.fixture(scope="module")
def gen() -> SoundGenerator:
    schedule = BetaTable(diffwave_betas(200))
    return SoundGenerator(
        SoundModel(ExactNetwork(), schedule, RATE, SAMPLES / RATE, steps=20), "cpu", "float32"
    )


def test_guided_gaps_of_an_exact_model_are_spread_about_the_conditional_mean(gen):
    wave = draw(seed=3)
    edit = gap_filling(wave.expand(100, -1), RATE, [(0.04, 0.05)])
    expected = conditional_mean(wave[0], edit.known[0]).float()
    gap, (deviations, errors) = ~edit.known[0], ({}, {})
    for solves in (1, 4):
        made = edit_sound(gen, edit, solves=solves)
        assert torch.equal(made[edit.known], edit.wave[edit.known])
        errors[solves] = float((made.mean(0) - expected)[gap].abs().max())
        deviations[solves] = made.std(0)[gap]
    sigma = covariance()
    inside = sigma[gap][:, gap] - sigma[gap][:, ~gap] @ torch.linalg.solve(
        sigma[~gap][:, ~gap], sigma[~gap][:, gap]
    )
    exact = inside.diagonal().sqrt().float()
    assert errors[4] < 0.03 < errors[1]  # 0.03: three deviations of the mean of 100
    torch.testing.assert_close(deviations[4], exact, atol=0, rtol=0.25)
    assert (deviations[1] / exact).mean() > (deviations[4] / exact).mean()


def test_a_model_continues_declips_and_extends_with_what_is_known_kept(gen):
    wave = draw(2, seed=1)
    longer = edit_sound(gen, continuation(wave[:, :80], RATE, 0.016))
    assert torch.equal(longer[:, :80], wave[:, :80])
    assert longer.shape == (2, SAMPLES)
    assert longer[:, 80:].std() > 0.05

    level = 0.2
    cut = wave.clamp(-level, level)
    edit = declipping(cut, RATE, level)
    each = torch.stack([edit_sound(gen, edit, seed=seed) for seed in range(0, 24, 2)])
    clipped, made = cut.abs() >= level * 0.9999, each.mean(0)
    assert torch.equal(each[:, ~clipped], wave[~clipped].expand(len(each), -1))
    assert (made * cut.sign() >= level * 0.999)[clipped].all()
    assert (made - wave)[clipped].square().mean() < 0.3 * (cut - wave)[clipped].square().mean()

    half = wave[:, ::2]
    edit = bandwidth_extension(half, RATE // 2, RATE)
    made = edit_sound(gen, edit)
    known = edit.measurement()
    torch.testing.assert_close(known.forward(made[:, None])[:, 0], known.y[:, 0], atol=1e-5, rtol=0)
    assert torch.equal(edit_sound(gen, edit), made)


def test_an_item_depends_on_its_seed_alone_and_windows_on_what_surrounds_them(gen):
    wave = draw(2, seed=5)
    both = edit_sound(gen, gap_filling(wave, RATE, [(0.02, 0.03)]), seed=7)
    second = edit_sound(gen, gap_filling(wave[1], RATE, [(0.02, 0.03)]), seed=8)
    torch.testing.assert_close(both[1:], second, atol=2e-4, rtol=0)
    edit = gap_filling(torch.ones(1000), 100, [(1.0, 1.2), (1.5, 1.6), (8, 8.1)])
    assert edit.windows(50) == [(50, 210), (750, 860)]
    assert edit.windows(50, 400) == [(0, 400), (600, 1000)]


def test_seeds_wrap_around_and_larger_ones_are_refused(gen):
    edit = gap_filling(draw(1, seed=5), RATE, [(0.02, 0.03)])
    assert edit_sound(gen, edit, seed=2**63 - 1).isfinite().all()
    with pytest.raises(InputError, match=r"seed=.* must be a whole number of 64 bits"):
        edit_sound(gen, edit, seed=2**63)


def test_gaps_at_another_rate_are_filled_at_the_models(gen):
    wave = draw(1, seed=6).repeat_interleave(2, 1)[:, :191]
    edit = gap_filling(wave, 2 * RATE, [(0.03, 0.035)])
    made = edit_sound(gen, edit)
    assert torch.equal(made[edit.known], wave[edit.known])
    assert made[~edit.known].std() > 0.01
    with pytest.raises(InputError, match="sample_rate=2000"):
        edit_sound(gen, bandwidth_extension(wave, RATE, 2 * RATE))


def test_a_step_at_a_gap_is_faded_out_inside_it():
    wave = torch.ones(1, 100)
    edit = gap_filling(wave, 1000, [(0.04, 0.06)])
    done = edit.finish(torch.full((1, 100), 0.5))
    assert torch.equal(done[edit.known], wave[edit.known])
    assert done[0, 45:55].unique().tolist() == [0.5]
    torch.testing.assert_close(done[0, 40:42], torch.tensor([5 / 6, 2 / 3]))
    torch.testing.assert_close(done, done.flip(1))


def test_interpolation_by_the_process_itself_is_the_conditional_mean():
    wave = draw(seed=2)[0]
    known = torch.ones(SAMPLES, dtype=torch.bool)
    known[30:37] = known[60] = False
    filled = interpolate(wave.double().numpy(), known.numpy(), RESONANCE)
    torch.testing.assert_close(torch.from_numpy(filled), conditional_mean(wave, known), atol=1e-5, rtol=0)


def test_linear_prediction_continues_resonances_from_both_sides():
    ringing = lfilter([1.0], [1.0, -1.98, 0.999], np.eye(1, 3000)[0])
    after = extrapolate(ringing[:2000], 200, order=4)
    np.testing.assert_allclose(after, ringing[2000:2200], atol=0.05 * np.abs(ringing[2000:2200]).max())
    sine = torch.sin(torch.arange(4000) * 0.3)
    gap = gap_filling(sine, 16_000, [(0.1, 0.11)])
    for baseline in (linear_prediction, autoregressive):
        filled = baseline(gap)[0]
        assert torch.equal(filled[gap.known[0]], sine[gap.known[0]])
        assert (filled - sine).abs().max() < 0.05
    assert not linear_prediction(gap_filling(torch.full((400,), 1e-3), 1000, [(0.1, 0.2)])).isnan().any()


def test_declipping_by_few_frequencies_keeps_to_the_bounds_and_comes_near():
    wave = draw(seed=4, samples=800)
    cut = wave.clamp(-0.25, 0.25)
    edit = declipping(cut, RATE)
    filled = sparsity(edit)
    clipped = edit.side != 0
    assert torch.equal(filled[~clipped], wave[~clipped])
    assert (filled * edit.side >= 0.25 * clipped - 1e-6).all()
    assert (filled - wave).square().sum() < 0.5 * (cut - wave).square().sum()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: gap_filling(torch.ones(100), 100, [(0.5, 1.2)]), "gap=0.5:1.2"),
        (lambda: gap_filling(torch.ones(100), 100, [(0.0, 1.0)]), "something known"),
        (lambda: gap_filling(torch.ones(100), 100, []), "at least one"),
        (lambda: continuation(torch.ones(100), 100, 0), "seconds=0"),
        (lambda: bandwidth_extension(torch.ones(100), 100, 100), "to_rate=100"),
        (lambda: declipping(draw(), RATE), "not clipped"),
        (lambda: gap_filling(torch.full((100,), torch.nan), 100, [(0.1, 0.2)]), "NaN"),
    ],
)
def test_wrong_requests_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()
