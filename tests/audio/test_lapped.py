"""The orthonormal lapped transform, against its textbook formula and SciPy's DCT."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch

from mmdiff.audio.lapped import LappedTransform
from mmdiff.errors import InputError


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("block", [4, 7, 10, 15, 64])
def test_inner_blocks_are_the_modified_discrete_cosine_transform_with_a_sine_window(block):
    wave = draw(2, 3, 6 * block)
    half, k = block // 2, torch.arange(block, dtype=torch.float64) + 0.5
    place = torch.arange(-half, block + half, dtype=torch.float64) + 0.5  # from the block's beginning
    window = torch.sin(math.pi / (2 * block) * (place + block / 2))
    cosines = math.sqrt(2 / block) * torch.cos(math.pi / block * place[:, None] * k)
    found = LappedTransform(block).forward(wave)
    assert found.shape == (2, 3, 6, block)
    for number in range(1, 5):
        heard = wave[..., number * block - half : (number + 1) * block + half]
        torch.testing.assert_close(found[..., number, :], (heard * window) @ cosines)


def test_one_block_is_scipys_dct_of_the_second_kind():
    wave = draw(3, 16)
    expected = scipy.fft.dct(wave.numpy(), type=2, norm="ortho")
    torch.testing.assert_close(LappedTransform(16).forward(wave)[:, 0], torch.tensor(expected))


def test_sound_that_is_cut_is_not_taken_for_a_jump():
    numbers = LappedTransform(64).forward(torch.ones(512, dtype=torch.float64))
    assert numbers[[0, -1], 32:].abs().max() < 0.05


@pytest.mark.parametrize("block", [2, 3, 8, 15])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_it_is_a_rotation_with_its_ends(block, count):
    transform, length = LappedTransform(block), block * count
    matrix = transform.forward(torch.eye(length, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(length, dtype=torch.float64))
    wave = draw(2, length)
    torch.testing.assert_close(transform.inverse(transform.forward(wave)), wave)


def test_training_in_bfloat16_leaves_it_exact():
    wave = draw(1, 512).float()
    with torch.autocast("cpu", torch.bfloat16):
        back = LappedTransform(64).inverse(LappedTransform(64).forward(wave))
    assert back.dtype == torch.float32
    torch.testing.assert_close(back, wave, atol=1e-5, rtol=0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="block=1 must be at least 2"):
        LappedTransform(1)
    with pytest.raises(InputError, match="samples=100 must be a multiple of block=64; pad or cut"):
        LappedTransform(64).forward(torch.zeros(100))
