from __future__ import annotations

from typing import Any

import pytest
import torch
from lmnt import OTHER_DILATIONS, OTHER_FACTORS, randomise, wavegrad_default, wavegrad_other_sizes
from torch import nn

from mmdiff.audio.checkpoints.lmnt_wavegrad import wavegrad_state
from mmdiff.audio.networks.waveform import upsampling_factors
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.networks.wavegrad_presets import (
    wavegrad_base,
    wavegrad_large,
    wavegrad_lmnt,
    wavegrad_small,
)
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

TINY: dict[str, Any] = {
    "n_mels": 3,
    "factors": (3, 2),
    "up_channels": (6, 4),
    "down_channels": (4,),
    "dilations": ((1, 2, 4, 8), (1, 2, 1, 2)),
    "mel_channels": 5,
    "wave_channels": 2,
}


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def inputs(net: WaveGrad, rng: torch.Generator, batch: int = 2, frames: int = 5) -> tuple[torch.Tensor, ...]:
    dtype = next(net.parameters()).dtype
    x = torch.randn(batch, 1, frames * net.hop_length, generator=rng, dtype=dtype)
    mel = torch.randn(batch, net.n_mels, frames, generator=rng, dtype=dtype)
    return x, torch.rand(batch, generator=rng, dtype=dtype), mel


def ours_other_sizes() -> WaveGrad:
    return WaveGrad(
        n_mels=9,
        factors=OTHER_FACTORS,
        up_channels=(14, 12, 10),
        down_channels=(8, 6),
        dilations=OTHER_DILATIONS,
        mel_channels=20,
        wave_channels=4,
        strided=False,
        level_scale=1.0,
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "frames"),
    [(wavegrad_default, wavegrad_lmnt, 3), (wavegrad_other_sizes, ours_other_sizes, 11)],
    ids=["default", "other sizes"],
)
@torch.no_grad()
def test_forward_equals_lmnt(theirs: Any, ours: Any, frames: int, rng: torch.Generator) -> None:
    reference, net = theirs(), ours()
    randomise(reference, rng)
    net.load_state_dict(wavegrad_state(reference.state_dict()))  # strict: every key has its place
    x, level, mel = inputs(net, rng, frames=frames)
    expected = reference(x[:, 0], mel, level)
    torch.testing.assert_close(net(x, level, mel), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (wavegrad_lmnt, 15_920_993),
        (wavegrad_base, 15_920_993),
        (wavegrad_large, 23_398_241),
        (wavegrad_small, 1_222_577),
    ],
)
def test_parameter_counts(build: Any, count: int) -> None:
    with torch.device("meta"):
        assert parameters(build()) == count


@pytest.mark.parametrize("build", [wavegrad_base, wavegrad_large])
def test_paper_presets_have_the_papers_hop_and_level_scale(build: Any) -> None:
    with torch.device("meta"):
        net = build()
    assert net.hop_length == 300
    assert net.film[0].level.scale == 5000


def test_strided_and_dropping_downsampling_agree_when_only_the_centre_tap_counts(
    rng: torch.Generator,
) -> None:
    strided, dropping = WaveGrad(**TINY), WaveGrad(**TINY, strided=False)
    randomise(strided, rng)
    strided.down[0].convs[0].weight.data[..., [0, 2]] = 0.0
    dropping.load_state_dict(strided.state_dict())
    args = inputs(strided, rng)
    torch.testing.assert_close(strided(*args), dropping(*args))
    strided.down[0].convs[0].weight.data[..., 0] = 0.5
    dropping.load_state_dict(strided.state_dict())
    assert not torch.allclose(strided(*args), dropping(*args))


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
@pytest.mark.parametrize("options", [{}, {"up_repeats": 2, "down_repeats": 3}, {"strided": False}])
def test_any_number_of_frames(frames: int, options: dict[str, Any], rng: torch.Generator) -> None:
    net = WaveGrad(**TINY, **options)
    x, level, mel = inputs(net, rng, frames=frames)
    assert net(x, level, mel).shape == x.shape


@torch.no_grad()
def test_an_item_does_not_depend_on_its_batch(rng: torch.Generator) -> None:
    net = wavegrad_small(hop_length=24)
    x, level, mel = inputs(net, rng, batch=4)
    whole = net(x, level, mel)
    for n in range(4):
        alone = net(x[n : n + 1], level[n : n + 1], mel[n : n + 1])
        torch.testing.assert_close(whole[n : n + 1], alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_shifting_by_whole_frames_shifts_the_output(rng: torch.Generator) -> None:
    net = WaveGrad(**TINY)
    randomise(net, rng)
    hop, level = net.hop_length, torch.tensor([0.5])
    x, mel = torch.randn(1, 1, 40 * hop, generator=rng), torch.randn(1, 3, 40, generator=rng)
    moved = net(x.roll(2 * hop, -1), level, mel.roll(2, -1))
    inner = slice(15 * hop, 25 * hop)  # beyond the reach of the zero padding
    expected = net(x, level, mel).roll(2 * hop, -1)
    torch.testing.assert_close(moved[..., inner], expected[..., inner], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"strided": True}, {"strided": False}, {"strided": False, "linear": True}]
)
def test_the_output_depends_on_no_more_than_the_reach(options: dict[str, Any], rng: torch.Generator) -> None:
    net = WaveGrad(**TINY, **options).double()
    randomise(net, rng)
    frames, hop, centre = 2 * net.reach + 9, net.hop_length, net.reach + 4
    x, level, mel = inputs(net, rng, batch=1, frames=frames)
    x.requires_grad_()
    mel.requires_grad_()
    net(x, level, mel)[..., centre * hop : (centre + 1) * hop].sum().backward()
    for gradient in (x.grad.view(frames, hop).abs().sum(1), mel.grad[0].abs().sum(0)):
        assert 1 <= (gradient.nonzero() - centre).abs().max() <= net.reach


def test_every_input_matters(rng: torch.Generator) -> None:
    net = WaveGrad(**TINY)
    randomise(net, rng)
    x, level, mel = inputs(net, rng)
    y = net(x, level, mel)
    assert not torch.allclose(y, net(x * 0.9, level, mel))
    assert not torch.allclose(y, net(x, level * 0.9, mel))
    assert not torch.allclose(y, net(x, level, mel * 0.9))


def test_gradients_against_finite_differences(rng: torch.Generator) -> None:
    net = WaveGrad(**TINY, level_scale=2.0, up_repeats=2, down_repeats=2).double()
    randomise(net, rng)
    args = inputs(net, rng, batch=1, frames=2)
    weights = (net.film[0].conv_in.weight, net.up[1].convs[0].bias, net.down[0].convs[0].weight)

    def run(x: torch.Tensor, level: torch.Tensor, mel: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return net(x, level, mel)

    assert torch.autograd.gradcheck(run, (*(a.requires_grad_() for a in args), *weights))


def test_initial_weights_are_orthogonal_and_constants_zero() -> None:
    net = WaveGrad(**TINY)
    for name, p in net.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "film" not in name:
            rows = p.detach().flatten(1)
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)


def test_config_round_trip(rng: torch.Generator) -> None:
    net = WaveGrad(**TINY, up_repeats=2)
    twin = from_config(to_config(net))
    twin.load_state_dict(net.state_dict())
    args = inputs(net, rng)
    assert torch.equal(twin(*args), net(*args))


@torch.no_grad()
def test_half_precision_follows_the_weights(rng: torch.Generator) -> None:
    net = WaveGrad(**TINY)
    randomise(net, rng)
    x, level, mel = inputs(net, rng)
    exact = net(x, level, mel)
    half = net.bfloat16()(x.bfloat16(), level, mel.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.1 * exact.abs().max().item())


@torch.no_grad()
def test_half_precision_products_are_near(rng: torch.Generator) -> None:
    net = WaveGrad(**TINY)
    randomise(net, rng)
    args = inputs(net, rng)
    exact = net(*args)
    net.compute_dtype = torch.bfloat16
    half = net(*args)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05 * exact.abs().max().item())
    with torch.enable_grad():
        torch.testing.assert_close(net(*args).detach(), exact)


@pytest.mark.parametrize(
    ("hop", "factors"),
    [
        (256, (4, 4, 4, 2, 2)),
        (300, (5, 5, 3, 2, 2)),
        (200, (5, 5, 2, 2, 2)),
        (7, (7,)),
        (512, (4, 4, 4, 4, 2)),
    ],
)
def test_upsampling_factors_multiply_to_the_hop(
    hop: int, factors: tuple[int, ...], rng: torch.Generator
) -> None:
    assert upsampling_factors(hop) == factors
    net = wavegrad_small(n_mels=4, hop_length=hop)
    assert net.hop_length == hop
    x, level, mel = inputs(net, rng, batch=1, frames=1)
    assert net(x, level, mel).shape == x.shape


@pytest.mark.parametrize(
    ("x", "level", "mel", "message"),
    [
        ((2, 1, 31), (2,), (2, 3, 5), "samples=30"),
        ((2, 30), (2,), (2, 3, 5), "samples=30"),
        ((1, 1, 30), (2,), (2, 3, 5), "batch=2"),
        ((2, 1, 30), (2,), (2, 4, 5), "n_mels=3"),
        ((2, 1, 30), (2,), (3, 5), "n_mels=3"),
        ((2, 1, 30), (1,), (2, 3, 5), "level"),
        ((2, 1, 0), (2,), (2, 3, 0), "samples=0"),
    ],
)
def test_wrong_shapes_are_named(x: Any, level: Any, mel: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        WaveGrad(**TINY)(torch.zeros(x), torch.zeros(level), torch.zeros(mel))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"up_channels": (6,)}, "down_channels one fewer"),
        ({"down_channels": (4, 4)}, "down_channels one fewer"),
        ({"dilations": ((1, 2), (1, 2))}, "four positive"),
        ({"wave_channels": 3}, "even"),
        ({"factors": (3, 0)}, "must be positive"),
        ({"up_repeats": 0}, "must be positive"),
        ({"linear": True}, "must not go together"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WaveGrad(**{**TINY, **change})


def test_a_hop_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="hop_length=1"):
        wavegrad_small(hop_length=1)
