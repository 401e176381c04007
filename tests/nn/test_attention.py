from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn.attention import Attention, Block, attend, rotary_angles, rotary_turns
from mmdiff.nn.positions import rotate


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def trained(attention: Attention, rng: torch.Generator) -> Attention:
    """Nothing is zero or one any more."""
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return attention


def reference(attention: Attention, x: Tensor, context: Tensor, angles: Tensor | None) -> np.ndarray:
    """Attention head by head and token by token, as its formulas say."""
    width = attention.head_width
    weights = {name: value.detach().double().numpy() for name, value in attention.state_dict().items()}
    x, context = x.double().numpy(), context.double().numpy()
    query = x @ weights["query.weight"].T
    key, value = np.split(context @ weights["key_value.weight"].T, 2, -1)
    turns = None if angles is None else np.exp(1j * angles.double().numpy())

    def normalised(v: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return v / np.sqrt((v**2).mean() + 1e-6) * scale

    def turned(v: np.ndarray, turn: np.ndarray) -> np.ndarray:
        pairs = (v[: width // 2] + 1j * v[width // 2 :]) * turn
        return np.concatenate((pairs.real, pairs.imag))

    mixed = np.zeros_like(query)
    for item in range(len(x)):
        for head in range(query.shape[-1] // width):
            part = slice(head * width, (head + 1) * width)
            queries = [normalised(v, weights["scale_query"]) for v in query[item, :, part]]
            keys = [normalised(v, weights["scale_key"]) for v in key[item, :, part]]
            if turns is not None:
                queries = [turned(v, turn) for v, turn in zip(queries, turns, strict=True)]
                keys = [turned(v, turn) for v, turn in zip(keys, turns, strict=True)]
            for n, one in enumerate(queries):
                weight = np.exp([one @ other / math.sqrt(width) for other in keys])
                mixed[item, n, part] = weight / weight.sum() @ value[item, :, part]
    return mixed @ weights["out.weight"].T + weights["out.bias"]


def test_self_attention_with_turns_against_the_formulas(rng: torch.Generator) -> None:
    attention = trained(Attention(16, head_width=8), rng)
    x = torch.randn(2, 6, 16, generator=rng)
    axes = [torch.arange(6), torch.tensor([0, 3, 1, 1, 0, 2])]
    with torch.no_grad():
        mixed = attention(x, turns=rotary_turns(axes, 8))
    np.testing.assert_allclose(mixed, reference(attention, x, x, rotary_angles(axes, 8)), atol=1e-5)


def test_cross_attention_against_the_formulas(rng: torch.Generator) -> None:
    attention = trained(Attention(16, head_width=8, context=5), rng)
    x, context = torch.randn(2, 4, 16, generator=rng), torch.randn(2, 3, 5, generator=rng)
    with torch.no_grad():
        mixed = attention(x, context)
    np.testing.assert_allclose(mixed, reference(attention, x, context, None), atol=1e-5)


def test_masked_tokens_count_as_if_they_were_not_there(rng: torch.Generator) -> None:
    attention = trained(Attention(16, head_width=8, context=5), rng)
    x, context = torch.randn(2, 4, 16, generator=rng), torch.randn(2, 7, 5, generator=rng)
    seen = (torch.arange(7) < 3)[None, None, None]
    torch.testing.assert_close(attention(x, context, mask=seen), attention(x, context[:, :3]))


def test_attention_starts_as_nothing(rng: torch.Generator) -> None:
    assert not Attention(16, head_width=8)(torch.randn(2, 4, 16, generator=rng)).any()


def test_attend_is_multi_head_attention_without_projections(rng: torch.Generator) -> None:
    query, key, value = (torch.randn(2, 5, 12, generator=rng) for _ in range(3))
    module = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    with torch.no_grad():
        module.in_proj_weight.copy_(torch.eye(12).repeat(3, 1))
        module.out_proj.weight.copy_(torch.eye(12))
    hidden = torch.rand(5, 5, generator=rng) < 0.4
    hidden.fill_diagonal_(False)
    expected = module(query, key, value, attn_mask=hidden, need_weights=False)[0]
    heads = (each.unflatten(-1, (3, 4)).transpose(1, 2) for each in (query, key, value))
    torch.testing.assert_close(attend(*heads, ~hidden).transpose(1, 2).flatten(2), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_both_ways_to_attend_give_the_same_values_and_gradients(masked: bool, rng: torch.Generator) -> None:
    parts = [torch.randn(2, 3, 5, 4, generator=rng, dtype=torch.float64) for _ in range(3)]
    mask = torch.rand(2, 1, 5, 5, generator=rng) < 0.7 if masked else None
    if mask is not None:
        mask |= torch.eye(5, dtype=torch.bool)
    leaves = [part.requires_grad_() for part in parts]
    products = attend(*leaves, mask)
    with torch.no_grad():
        torch.testing.assert_close(attend(*leaves, mask), products)
    fused = functional.scaled_dot_product_attention(*leaves, attn_mask=mask)
    up = torch.randn(fused.shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(products, leaves, up), torch.autograd.grad(fused, leaves, up)
    )
    assert torch.autograd.gradcheck(lambda *three: attend(*three, mask), leaves)


def test_long_sequences_are_attended_to_fused(rng: torch.Generator) -> None:
    query, key, value = (torch.randn(1, 1, 600, 8, generator=rng) for _ in range(3))
    expected = (query @ key.mT / 8**0.5).softmax(-1) @ value
    torch.testing.assert_close(attend(query, key, value), expected)


def test_products_of_turned_vectors_depend_on_the_distance_only(rng: torch.Generator) -> None:
    query, key = torch.randn(2, 1, 12, generator=rng)
    places = torch.randint(0, 50, (8, 3), generator=rng).float()

    def products(shift: Tensor) -> Tensor:
        one, other = (rotary_turns(list((places + s).T), 12) for s in (shift, torch.zeros(3)))
        here, there = (rotary_turns(list((places + 5 + s).T), 12) for s in (shift, torch.zeros(3)))
        moved = (rotate(query, one) * rotate(key, here)).sum(-1)
        still = (rotate(query, other) * rotate(key, there)).sum(-1)
        return moved - still

    torch.testing.assert_close(products(torch.tensor([7.0, -3.0, 30.0])), torch.zeros(8), atol=1e-4, rtol=0)
    turned = rotate(query.expand(8, -1), rotary_turns(list(places.T), 12))
    torch.testing.assert_close(turned.norm(dim=-1), query.norm().expand(8))


def test_each_axis_gets_its_share_of_planes_from_one_radian_to_the_slowest() -> None:
    one = torch.ones(1)
    first, second, third = (
        rotary_angles([one * (axis == n) for n in range(3)], 32, period=50.0)[0] for axis in range(3)
    )
    assert [int((axis != 0).sum()) for axis in (first, second, third)] == [6, 5, 5]
    for axis in (first, second, third):
        angles = axis[axis != 0]
        np.testing.assert_allclose(angles, 50.0 ** -np.linspace(0, 1, len(angles)), rtol=1e-5)


def test_blocks_give_what_the_whole_mask_gives(rng: torch.Generator) -> None:
    attention = trained(Attention(16, head_width=8), rng)
    x = torch.randn(2, 10, 16, generator=rng)
    turns = rotary_turns([torch.arange(10)], 8)
    near = (torch.arange(10)[:, None] - torch.arange(10)).abs() <= 2
    blocks = [
        Block(slice(0, 4), slice(0, 6), near[:4, :6]),
        Block(slice(4, 8), slice(2, 10), near[4:8, 2:]),
        Block(slice(8, 10), slice(6, 10), near[8:, 6:]),
    ]
    torch.testing.assert_close(attention(x, turns=turns, blocks=blocks), attention(x, turns=turns, mask=near))


def test_half_precision_stays_close_under_large_inputs(rng: torch.Generator) -> None:
    attention = trained(Attention(16, head_width=8), rng)
    x = 100 * torch.randn(2, 6, 16, generator=rng)
    turns = rotary_turns([torch.arange(6)], 8)
    exact = attention(x, turns=turns)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(x, turns=turns)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).norm() < 0.03 * exact.norm()
