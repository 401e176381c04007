from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn import pieces
from mmdiff.nn.axis_attention import AxisAttention
from mmdiff.nn.linear_attention import LinearAttention
from mmdiff.nn.norm import ChannelNorm, RMSNorm, rms_silu
from mmdiff.nn.pieces import in_pieces
from mmdiff.nn.positions import RelativeBias, relative_buckets, rotary_frequencies, rotary_turns, rotate


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_norms_set_mean_and_root_mean_square_of_each_place():
    x = 3 + 2 * numbers(2, 6, 3, 4)
    channel, rms = ChannelNorm(6, eps=0.0).double()(x), RMSNorm(6).double()(x)
    torch.testing.assert_close(channel.mean(1), torch.zeros(2, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(channel.var(1, correction=0), torch.ones(2, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(rms.square().mean(1), torch.ones(2, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(rms / rms[:, :1], x / x[:, :1])
    assert not RMSNorm(6)(torch.zeros(1, 6, 2)).any()


def test_rms_silu_is_the_three_steps_and_has_their_gradient():
    x, gain, shift = (
        numbers(*shape, seed=n).requires_grad_() for n, shape in enumerate([(2, 5, 6), (2, 1, 6), (1, 1, 6)])
    )
    steps = functional.silu(RMSNorm(6).double().rows(x) * gain + shift)
    torch.testing.assert_close(rms_silu(x, gain, shift), steps)
    assert torch.autograd.gradcheck(rms_silu, (x, gain, shift))


def test_rotated_products_depend_on_differences_only():
    positions = torch.tensor([0.0, 3.0, 11.0], dtype=torch.float64)
    frequencies = rotary_frequencies(6).double()
    q, k = numbers(2, 3, 8), numbers(2, 3, 8, seed=1)  # two of the channels are not rotated
    near, far = (rotary_turns(positions + shift, frequencies) for shift in (0, 40))
    torch.testing.assert_close(
        rotate(q, near) @ rotate(k, near).mT, rotate(q, far) @ rotate(k, far).mT, rtol=1e-9, atol=1e-9
    )
    assert torch.equal(rotate(q, near)[..., 6:], q[..., 6:])
    torch.testing.assert_close(rotate(rotate(q, near), near.conj().resolve_conj()), q)
    assert torch.equal(rotate(q, near, out=torch.empty_like(q)), rotate(q, near))
    half = rotate(q.bfloat16(), near)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(rotate(q.bfloat16(), near, out=torch.empty_like(half)), half)


@pytest.mark.parametrize(("buckets", "longest"), [(32, 128), (32, 32), (16, 100), (8, 9)])
def test_buckets_follow_the_papers_formula(buckets, longest):
    distance = torch.arange(-2 * longest, 2 * longest + 1)
    for d, found in zip(
        distance.tolist(), relative_buckets(distance, buckets, longest).tolist(), strict=True
    ):
        exact, size = buckets // 4, abs(d)
        if size >= exact:
            wide = math.log(size / exact) / math.log(longest / exact) * exact
            size = min(exact + math.floor(wide + 1e-9), buckets // 2 - 1)
        assert found == size + (buckets // 2 if d > 0 else 0)


def test_bias_is_that_of_the_distance_from_query_to_key():
    bias = RelativeBias(3)
    positions = torch.tensor([5, 6, 200])
    assert bias(positions).shape == (3, 3, 3)
    assert torch.equal(bias(positions)[:, 0, 1], bias.weight[17])  # the key is one after the query
    assert torch.equal(bias(positions)[:, 1, 0], bias.weight[1])
    assert torch.equal(bias(positions)[:, 2, 0], bias.weight[15])


@pytest.mark.parametrize("length", [3, 17])
@pytest.mark.parametrize("elements", [1, 2**20])
def test_axis_attention_equals_torchs(length, elements, monkeypatch):
    monkeypatch.setitem(pieces._ELEMENTS, "cpu", elements)
    layer = AxisAttention(6, heads=2, head_width=4).double()
    x, bias = numbers(2, length, 5, 6), numbers(2, 2, length, length, seed=1)
    qkv, out = layer.query_key_value.weight, layer.out.weight
    sequences = layer.norm.rows(x).transpose(1, 2)
    q, k, v = functional.linear(sequences, qkv).unflatten(-1, (3, 2, 4)).permute(3, 0, 1, 4, 2, 5)
    for given in (None, bias, bias[0]):
        mask = None if given is None else given[:, None] if given.ndim == 4 else given
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        expected = x + functional.linear(mixed.transpose(2, 3).flatten(3), out).transpose(1, 2)
        torch.testing.assert_close(layer(x, bias=given), expected)


@pytest.mark.parametrize("positions", [3, 11], ids=["fewer than channels", "more"])
def test_linear_attention_equals_its_formula(positions, monkeypatch):
    monkeypatch.setitem(pieces._ELEMENTS, "cpu", 1)
    layer = LinearAttention(6, heads=2, head_width=4).double()
    x = numbers(3, positions, 6)
    q, k, v = layer.query_key_value(layer.norm.rows(x)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    mixed = q.softmax(-1) / 2 @ (k.softmax(-2).mT @ v)  # 2 is the root of the head width
    torch.testing.assert_close(layer(x), x + layer.out(mixed.transpose(1, 2).flatten(2)))


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.space = LinearAttention(4, heads=2, head_width=2)
        self.time = AxisAttention(4, heads=2, head_width=4)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        turns = rotary_turns(torch.arange(x.shape[1]).double(), rotary_frequencies(2).double())
        return self.time(self.space(x.flatten(0, 1)).view_as(x), turns, bias)


def test_attentions_have_the_gradient_of_finite_differences(monkeypatch):
    monkeypatch.setitem(pieces._ELEMENTS, "cpu", 100)
    torch.manual_seed(0)
    net = Both().double()
    x, bias = numbers(1, 3, 2, 4).requires_grad_(), numbers(2, 3, 3, seed=1).requires_grad_()
    weights = (net.space.query_key_value.weight, net.space.out.bias, net.time.out.weight)
    assert torch.autograd.gradcheck(lambda x, bias, *_: net(x, bias), (x, bias, *weights))


def test_pieces_take_the_gradient_of_what_needs_it():
    cuts = [(slice(0, 3),), (slice(3, 4),)]
    x, w = numbers(4, 2), numbers(2, seed=1).requires_grad_()
    y = in_pieces(lambda part, piece, w: part * w.exp(), x, cuts, w)
    torch.testing.assert_close(y, x * w.exp())
    (grad,) = torch.autograd.grad(y.sum(), w, retain_graph=True)
    torch.testing.assert_close(grad, x.sum(0) * w.exp())
    assert torch.equal(torch.autograd.grad(y.sum(), w)[0], grad)  # once more through the same graph
