from __future__ import annotations

import pytest
import torch

from mmdiff.nn import as_line, conv, keep_as_lines


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize(
    ("inputs", "kernel", "options"),
    [(3, 1, {}), (3, 1, {"stride": 2}), (1, 5, {}), (3, 3, {"dilation": 4}), (3, 3, {"stride": 3})],
)
def test_convolutions_of_lines_are_those_of_signals(
    inputs: int, kernel: int, options: dict[str, int], laid_out: bool, rng: torch.Generator
) -> None:
    layer = conv(1, inputs, 4, kernel, **options).double()
    x = torch.randn(2, inputs, 13, generator=rng, dtype=torch.float64)
    expected = layer(x)
    if laid_out:
        keep_as_lines(layer)
    y = layer(as_line(x))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y[:, :, 0], expected)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2, 7])
@pytest.mark.parametrize("length", [1, 2, 6])
def test_convolutions_of_repeated_values_are_computed_at_their_own_rate(
    factor: int, dilation: int, length: int, rng: torch.Generator
) -> None:
    layer = conv(1, 3, 4, 3, dilation=dilation).double()
    x = torch.randn(2, 3, length, generator=rng, dtype=torch.float64, requires_grad=True)
    y = layer.of_repeated(as_line(x), factor)[:, :, 0]
    expected = layer(x.repeat_interleave(factor, 2))
    torch.testing.assert_close(y, expected)
    weights = torch.randn(y.shape, generator=rng, dtype=torch.float64)
    given = (x, layer.weight, layer.bias)
    for found, exact in zip(
        torch.autograd.grad((y * weights).sum(), given),
        torch.autograd.grad((expected * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(found, exact)


def test_lines_are_computed_in_their_own_dtype(rng: torch.Generator) -> None:
    layer = conv(1, 3, 4, 3)
    x = torch.randn(1, 3, 8, generator=rng)
    half = as_line(x.bfloat16())
    for y in (layer(half), layer.of_repeated(half, 1)):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y[:, :, 0].float(), layer(x), rtol=0, atol=0.05)


def test_the_layout_changes_neither_values_nor_names(rng: torch.Generator) -> None:
    layer = conv(1, 3, 4, 3)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    keep_as_lines(layer)
    assert layer.weight[:, :, None].is_contiguous(memory_format=torch.channels_last)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name])
    layer.load_state_dict(before)
    assert layer.weight[:, :, None].is_contiguous(memory_format=torch.channels_last)
