from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from mmdiff.audio.stft import Stft, hann
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

GRIDS = [Stft(), Stft(16_000, 64, 16), Stft(22_050, 96, 24), Stft(8000, 60, 30), Stft(8000, 50, 10)]


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=GRIDS, ids=lambda grid: f"{grid.n_fft}/{grid.hop_length}")
def grid(request) -> Stft:
    return request.param


@pytest.mark.parametrize("samples", [1025, 2048, 3001, 4999])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_transform_is_that_of_torch(grid, samples, dtype, tolerance):
    wave = noise(2, samples, dtype=dtype)
    window = torch.hann_window(grid.n_fft, dtype=dtype)
    expected = torch.stft(wave, grid.n_fft, grid.hop_length, window=window, return_complex=True).mT
    spectrum = grid(wave)
    assert spectrum.shape == (2, grid.frames(samples), grid.bins)
    assert float((spectrum - expected).abs().max()) <= tolerance * float(expected.abs().max())


@pytest.mark.parametrize("samples", [1025, 2048, 3001, 4999])
def test_inverse_undoes_the_transform(grid, samples):
    wave = noise(2, samples)
    length = min(samples, grid.frames(samples) * grid.hop_length)
    torch.testing.assert_close(grid.inverse(grid(wave), length), wave[:, :length], atol=1e-9, rtol=0)


def test_inverse_of_an_inconsistent_spectrum_is_the_least_squares_one(grid):
    """As torch.istft, which solves Griffin and Lim's equation 6 too, wherever both have frames on each side."""
    frames = 24
    spectrum = torch.complex(noise(2, frames, grid.bins), noise(2, frames, grid.bins, seed=1))
    samples = (frames - 1) * grid.hop_length
    window = torch.hann_window(grid.n_fft, dtype=torch.float64)
    expected = torch.istft(spectrum.mT, grid.n_fft, grid.hop_length, window=window, length=samples)
    torch.testing.assert_close(grid.inverse(spectrum, samples), expected, atol=1e-9, rtol=0)


def test_short_input_is_padded_with_zeros(grid):
    for samples in (1, grid.hop_length - 1, grid.n_fft // 2):
        wave = noise(1, samples)
        half = grid.n_fft // 2
        long = torch.nn.functional.pad(wave, (half, half))
        window = torch.hann_window(grid.n_fft, dtype=torch.float64)
        expected = torch.stft(
            long, grid.n_fft, grid.hop_length, window=window, center=False, return_complex=True
        ).mT
        spectrum = grid(wave)
        assert spectrum.shape[1] == grid.frames(samples)
        torch.testing.assert_close(spectrum, expected)
        length = min(samples, grid.frames(samples) * grid.hop_length)
        torch.testing.assert_close(grid.inverse(spectrum, length), wave[:, :length], atol=1e-7, rtol=0)


def test_gradients_of_both_directions():
    grid = Stft(8000, 16, 4)
    wave = noise(1, 41).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: torch.view_as_real(grid(w)), (wave,))
    parts = noise(1, 8, grid.bins, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: grid.inverse(torch.view_as_complex(p), 28), (parts,))


def test_what_inference_cached_still_trains():
    grid = Stft(8000, 40, 20)
    with torch.inference_mode():
        grid.inverse(grid(noise(1, 200)), 200)
    wave = noise(1, 200).requires_grad_()
    grid.inverse(grid(wave), 200).sum().backward()
    torch.testing.assert_close(wave.grad, torch.ones_like(wave))
    assert not hann(40, torch.device("cpu"), torch.float64).is_inference()


def test_frequencies_and_config():
    grid = Stft(16_000, 64, 16)
    tone = torch.cos(2 * torch.pi * float(grid.frequencies()[5]) * torch.arange(1024) / 16_000)
    assert grid(tone[None])[0, 30].abs().argmax() == 5
    assert float(grid.frequencies()[-1]) == 8000.0
    assert from_config(json.loads(json.dumps(to_config(grid)))) == grid


@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 300), (1024, 0), (1024, 1024), (100, 100)])
def test_hops_that_do_not_divide_the_window_are_refused(n_fft, hop):
    with pytest.raises(InputError, match=rf"hop_length={hop} must divide n_fft={n_fft} at least twice"):
        Stft(16_000, n_fft, hop)
