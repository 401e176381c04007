from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from mmdiff.nn import FiLM, LevelEmbedding, condense, conv, decimate, modulate, sinusoidal, stretch


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_size_is_ceil_of_size_over_stride(dims: int, stride: int) -> None:
    space = (7, 6, 5)[:dims]
    y = conv(dims, 2, 3, 3, dilation=2, stride=stride)(torch.zeros(1, 2, *space))
    assert y.shape == (1, 3, *(math.ceil(n / stride) for n in space))


def test_dilated_convolution_equals_a_sum_of_shifted_products(rng: torch.Generator) -> None:
    layer = conv(1, 2, 3, 3, dilation=4).double()
    x = torch.randn(1, 2, 9, generator=rng, dtype=torch.float64)
    padded = functional.pad(x, (4, 4))
    taps = [
        torch.einsum("oi,bin->bon", layer.weight[..., k], padded[..., 4 * k : 4 * k + 9]) for k in range(3)
    ]
    torch.testing.assert_close(layer(x), sum(taps) + layer.bias[:, None])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_decimate_undoes_nearest_interpolation(dims: int, rng: torch.Generator) -> None:
    x = torch.randn(2, 3, *(5, 4, 3)[:dims], generator=rng)
    y = functional.interpolate(x, scale_factor=3.0, mode="nearest-exact")
    assert torch.equal(decimate(y, 3), x)
    assert torch.equal(decimate(y, 2), y[(..., *[slice(None, None, 2)] * dims)])
    assert torch.equal(decimate(y, (1,) * (dims - 1) + (3,)), y[..., ::3])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_stretch_and_condense_interpolate_between_centres(dims: int, factor: int) -> None:
    def ramp(length: int) -> torch.Tensor:
        return torch.arange(length, dtype=torch.float32).expand(1, 2, *[length] * dims)

    old, new = torch.arange(4.0), (torch.arange(4.0 * factor) + 0.5) / factor - 0.5
    torch.testing.assert_close(stretch(ramp(4), factor)[0, 0].flatten()[: 4 * factor], new.clamp(0, old[-1]))
    middle = torch.arange(4.0) * factor + (factor - 1) / 2
    torch.testing.assert_close(condense(ramp(4 * factor), factor)[0, 0].flatten()[:4], middle)
    lasting = (1,) * (dims - 1) + (factor,)
    torch.testing.assert_close(
        stretch(ramp(4), lasting)[..., 0, :].flatten()[: 4 * factor],
        stretch(ramp(4), factor).flatten()[: 4 * factor],
    )


def test_sinusoidal_against_numpy() -> None:
    levels = np.array([0.0, 0.3, 1.0])
    rates = 1e4 ** (-np.arange(4) / 4)
    angles = 5000 * levels[:, None] * rates
    code = sinusoidal(torch.from_numpy(levels), 8, scale=5000)
    np.testing.assert_allclose(code, np.concatenate((np.sin(angles), np.cos(angles)), 1), atol=1e-12)


@pytest.mark.parametrize(
    ("given", "computed"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_sinusoidal_never_computes_in_half_precision(given: torch.dtype, computed: torch.dtype) -> None:
    assert sinusoidal(torch.ones(1, dtype=given), 4).dtype == computed


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_level_embedding_adds_the_same_code_everywhere(dims: int) -> None:
    x = torch.zeros(2, 6, *(4, 3, 2)[:dims], dtype=torch.bfloat16)
    level = torch.tensor([0.1, 0.9])
    y = LevelEmbedding(6, 100.0)(x, level)
    code = sinusoidal(level, 6, scale=100.0).bfloat16()
    assert y.dtype == x.dtype
    assert torch.equal(y, code.reshape(2, 6, *(1,) * dims).expand_as(x))


def test_modulate_is_scale_times_x_plus_shift(rng: torch.Generator) -> None:
    x, shift, scale = torch.randn(3, 2, 4, 5, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(modulate(x, shift, scale), scale * x + shift)
    torch.testing.assert_close(
        modulate(x, shift[..., :1], scale[..., :1]), scale[..., :1] * x + shift[..., :1]
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_film_shapes_and_dependence_on_both_inputs(dims: int, rng: torch.Generator) -> None:
    film = FiLM(dims, 4, 5)
    x = torch.randn(2, 4, *(6, 3, 2)[:dims], generator=rng)
    level = torch.tensor([0.2, 0.2])
    shift, scale = film(x, level)
    assert shift.shape == scale.shape == (2, 5, *x.shape[2:])
    assert not torch.allclose(shift[0], shift[1])  # the features differ
    assert not torch.allclose(film(x, level + 0.5)[1], scale)  # the level differs


def test_film_in_higher_dimensions_is_the_line_filter_on_a_line(rng: torch.Generator) -> None:
    line, plane = FiLM(1, 4, 3), FiLM(2, 4, 3)
    for layer, wide in ((line.conv_in, plane.conv_in), (line.conv_out, plane.conv_out)):
        wide.weight.data.zero_()
        wide.weight.data[:, :, :, 1] = layer.weight.data
        wide.bias.data.copy_(layer.bias.data)
    x = torch.randn(1, 4, 9, generator=rng)
    level = torch.tensor([0.4])
    for a, b in zip(line(x, level), plane(x[..., None], level), strict=True):
        torch.testing.assert_close(a, b[..., 0], rtol=1e-5, atol=1e-6)
