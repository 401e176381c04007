from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn import group_norm
from mmdiff.nn.group_norm import group_norm_silu


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def example(
    rng: torch.Generator, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, nn.GroupNorm, Tensor, Tensor]:
    norm = nn.GroupNorm(2, 6).to(dtype)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(6, generator=rng))
    x, modulation = torch.randn(5, 6, 3, 4, generator=rng), torch.randn(2, 5, 6, generator=rng)
    return x.to(dtype), norm, *modulation.to(dtype)


def plain(x: Tensor, norm: nn.GroupNorm, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    y = norm(x)
    if scale is not None and shift is not None:
        y = scale[:, :, None, None] * y + shift[:, :, None, None]
    return functional.silu(y)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("pieces", [1, 5])
def test_equals_the_four_steps_and_their_gradients(
    modulated: bool, pieces: int, rng: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_norm, "piece_size", lambda elements, device: 5 // pieces)
    x, norm, scale, shift = example(rng)
    given = (scale.requires_grad_(), shift.requires_grad_()) if modulated else ()
    leaves = [x.requires_grad_(), *norm.parameters(), *given]
    ours, theirs = group_norm_silu(x, norm, *given), plain(x, norm, *given)
    torch.testing.assert_close(ours, theirs)
    up = torch.randn(x.shape, generator=rng, dtype=x.dtype)
    torch.testing.assert_close(torch.autograd.grad(ours, leaves, up), torch.autograd.grad(theirs, leaves, up))


def test_gradient_against_finite_differences(rng: torch.Generator) -> None:
    x, norm, scale, shift = example(rng)
    leaves = [each.requires_grad_() for each in (x, scale, shift)]
    assert torch.autograd.gradcheck(lambda a, b, c: group_norm_silu(a, norm, b, c), leaves)


def test_half_precision_is_as_close_to_the_truth_as_the_four_steps(rng: torch.Generator) -> None:
    x, norm, scale, shift = example(rng)
    x = 3 + 10 * x
    truth = plain(x, norm, scale, shift)
    low, single = (each.bfloat16() for each in (x, scale, shift)), norm.float()
    x, scale, shift = low
    errors = [
        (function(x, single, scale, shift).double() - truth).norm() for function in (group_norm_silu, plain)
    ]
    assert errors[0] < 1.2 * errors[1]


def test_layout_in_memory_and_dtype_stay(rng: torch.Generator) -> None:
    x, norm, scale, shift = example(rng, torch.float32)
    x = x.bfloat16().contiguous(memory_format=torch.channels_last)
    y = group_norm_silu(x, norm, scale, shift)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_frozen_weights_get_no_gradient_and_the_input_does(rng: torch.Generator) -> None:
    x, norm, *_ = example(rng)
    norm.requires_grad_(False)
    x.requires_grad_()
    group_norm_silu(x, norm).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None


def test_an_even_input_gives_the_bias(rng: torch.Generator) -> None:
    _, norm, *_ = example(rng)
    y = group_norm_silu(torch.full((1, 6, 4, 4), 7.0, dtype=torch.float64), norm)
    torch.testing.assert_close(
        y, functional.silu(norm.bias)[None, :, None, None].expand_as(y), atol=1e-5, rtol=0
    )
