from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from mmdiff.audio.graphs import make_graph
from mmdiff.audio.phase import single_pass_phase
from mmdiff.audio.planes import Planes, RealArithmetic
from mmdiff.audio.stft import Stft
from mmdiff.hub import load_model

GRIDS = [Stft(16_000, 256, 64), Stft(16_000, 60, 30), Stft(16_000, 50, 10)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=GRIDS, ids=lambda grid: f"{grid.n_fft}/{grid.hop_length}")
def grid(request) -> Stft:
    return request.param


def test_transform_is_that_of_torch(grid):
    wave, window = noise(2, 1000), torch.hann_window(grid.n_fft)
    with RealArithmetic():
        found = grid(wave)
    expected = torch.stft(wave, grid.n_fft, grid.hop_length, window=window, return_complex=True).mT
    assert isinstance(found, Planes)
    assert_close(torch.complex(found.real, found.imag), expected, atol=2e-5, rtol=0)


def test_inverse_of_any_spectrum_is_that_of_torch(grid):
    spectrum = torch.complex(noise(2, 30, grid.bins), noise(2, 30, grid.bins, seed=1))
    samples, window = 29 * grid.hop_length, torch.hann_window(grid.n_fft)
    with RealArithmetic():
        found = grid.inverse(Planes(spectrum.real, spectrum.imag), samples)
    expected = torch.istft(spectrum.mT, grid.n_fft, grid.hop_length, window=window, length=samples)
    assert_close(found, expected, atol=1e-5, rtol=0)


def test_operators_are_those_of_complex_numbers():
    one, other, real = (torch.complex(noise(3, 4, seed=n), noise(3, 4, seed=n + 9)) for n in range(3))
    real = real.real

    def formula(one, other):
        total = real * one - one.conj() * other * 2.0 + other / (one.abs() + 1)
        turned = torch.lerp(torch.sgn(torch.cat([total[:, 1:], one[:, :1]], 1)), one.clone(), 1.3)
        return torch.nn.functional.pad(turned * torch.polar(real.abs(), real), (1, 2))

    with RealArithmetic():
        found = formula(*(Planes(x.real, x.imag) for x in (one, other)))
    assert_close(torch.complex(found.real, found.imag), formula(one, other))
    assert found.shape == (3, 7)


def test_running_extrema_are_those_of_torch():
    x = noise(3, 37)
    with RealArithmetic():
        largest, smallest = x.cummax(-1).values, x.cummin(-1).values
    assert torch.equal(largest, x.cummax(-1).values)
    assert torch.equal(smallest, x.cummin(-1).values)


@pytest.mark.parametrize("given", [False, True])
def test_phases_that_are_followed_in_doubling_steps_are_those_of_frame_after_frame(monkeypatch, given):
    stft, magnitude = Stft(16_000, 256, 64), noise(2, 77, 129).double().square() + 0.01
    start = noise(2, 129).double() % 1.0 if given else None
    expected, turns = single_pass_phase(magnitude, stft, start)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found, found_turns = single_pass_phase(magnitude, stft, start)
    assert_close(found, expected, atol=1e-9, rtol=0)
    assert found_turns.shape == turns.shape


def test_vocoder_computes_the_same_in_both_arithmetics(tiny_model):
    model = load_model(tiny_model, "cpu")
    plain, real = (make_graph(model, 2, real=real) for real in (False, True))
    inputs = plain.example(batch=2, frames=30)
    with torch.no_grad():
        expected, found = plain(*inputs), real(*inputs)
    assert expected.abs().mean() > 0.01
    assert (found - expected).square().sum() < 1e-5 * expected.square().sum()
