from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmdiff.devices import set_compute_dtype
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config
from mmdiff.video.unet import SpaceTimeUNet

EVERYTHING = ("shift+time", "space+joint+tokens")


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def perturbed(network: nn.Module) -> nn.Module:
    """Leave no layer at zero, where it starts: every path counts."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return network


def build(mixing: tuple[str, ...] = EVERYTHING, **settings: Any) -> SpaceTimeUNet:
    settings = {"span": 15, "clock": 16, "vector": 6, "tokens": 5, "planes": 2, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            3, (8, 16), blocks=1, mixing=mixing, patch=2, embedding=16, head_width=8, **settings
        )
    return perturbed(network)


def inputs(
    rng: torch.Generator, batch: int, frames: int, stills: int = 0, size: int = 8
) -> dict[str, Tensor]:
    """Everything a network can be given."""
    whole = frames + stills
    seen = torch.rand(batch, 1 + stills, 4, generator=rng) < 0.7
    seen[..., 0] = True
    return {
        "x": torch.randn(batch, 3, whole, size, size, generator=rng),
        "level": torch.randn(batch, generator=rng),
        "vector": torch.randn(batch, whole, 6, generator=rng),
        "tokens": torch.randn(batch, 1 + stills, 4, 5, generator=rng),
        "seen": seen,
        "planes": torch.randn(batch, 2, whole, size, size, generator=rng),
    }


def frames_of(given: dict[str, Tensor], chosen: slice, speaker: int = 0) -> dict[str, Tensor]:
    """The same call with some of the frames, and the tokens of the clip (0) or of a still (1, ...)."""
    return {
        "x": given["x"][:, :, chosen],
        "level": given["level"],
        "vector": given["vector"][:, chosen],
        "tokens": given["tokens"][:, [speaker]],
        "seen": given["seen"][:, [speaker]],
        "planes": given["planes"][:, :, chosen],
    }


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


# stills, neighbours, windows


@torch.no_grad()
@pytest.mark.parametrize("frames", [1, 4])
def test_stills_beside_a_clip_give_what_they_give_alone_and_leave_the_clip_alone(
    frames: int, rng: torch.Generator
) -> None:
    network, given = build(), inputs(rng, 2, frames, stills=2)
    positions = torch.arange(frames) + 3
    together = network(**given, positions=positions, stills=2)
    clip = network(**frames_of(given, slice(0, frames)), positions=positions)
    close(together[:, :, :frames], clip)
    for still in range(2):
        n = frames + still
        alone = network(**frames_of(given, slice(n, n + 1), 1 + still))
        close(together[:, :, n : n + 1], alone)


@torch.no_grad()
@pytest.mark.parametrize("mixing", ["", "space", "time", "joint", "tokens", "shift"])
def test_each_mixing_keeps_stills_apart(mixing: str, rng: torch.Generator) -> None:
    network, given = build((mixing, mixing)), inputs(rng, 1, 3, stills=1)
    together = network(**given, stills=1)
    close(together[:, :, :3], network(**frames_of(given, slice(0, 3))))
    close(together[:, :, 3:], network(**frames_of(given, slice(3, 4), 1)))


@torch.no_grad()
def test_a_clip_does_not_see_its_neighbours_in_the_batch(rng: torch.Generator) -> None:
    network, given = build(span=2), inputs(rng, 3, 6, stills=1)
    positions = torch.arange(6) + torch.tensor([[0], [4], [11]])
    together = network(**given, positions=positions, stills=1)
    for n in range(3):
        alone = {name: value[[n]] for name, value in given.items()}
        close(together[[n]], network(**alone, positions=positions[[n]], stills=1))


@torch.no_grad()
def test_frames_depend_on_those_within_reach_and_on_no_others(rng: torch.Generator) -> None:
    # down, middle and up: (1 + 2) + 2 + 2 + 2 + (1 + 2), of neighbours (1) and windows (2)
    network, reach, middle, frames = build(("shift+time", "joint"), span=2, tokens=0), 12, 15, 31
    given = inputs(rng, 1, frames) | {"tokens": None, "seen": None}
    before = network(**given)
    changed = given["x"].clone()
    changed[:, :, middle] += 1
    differs = (network(**given | {"x": changed}) - before).abs().amax((0, 1, 3, 4)) > 0
    far = (torch.arange(frames) - middle).abs() > reach
    assert not differs[far].any()
    assert differs[middle - 5 : middle + 6].all()

    near = slice(middle - reach, middle + reach + 1)
    crop = {name: given[name][:, :, near] for name in ("x", "planes")}
    crop |= {"vector": given["vector"][:, near], "level": given["level"]}
    close(network(**crop, positions=torch.arange(frames)[near])[:, :, reach], before[:, :, middle])


@torch.no_grad()
def test_a_window_wider_than_the_clip_changes_nothing(rng: torch.Generator) -> None:
    given = inputs(rng, 2, 5)
    close(build(span=4)(**given), build(span=100)(**given))
    assert not torch.allclose(build(span=3)(**given), build(span=100)(**given), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("order", [torch.arange(9), torch.arange(9).flip(0), torch.arange(9) * 2 % 9])
def test_windows_follow_positions_not_the_order_of_frames(order: Tensor, rng: torch.Generator) -> None:
    network, given = build(("time", "joint+tokens"), span=2), inputs(rng, 2, 9)
    in_order = network(**given, positions=torch.arange(9))
    shuffled = {name: given[name][:, :, order] for name in ("x", "planes")} | {
        "vector": given["vector"][:, order]
    }
    close(network(**given | shuffled, positions=order), in_order[:, :, order])


# positions


@torch.no_grad()
def test_positions_for_all_clips_or_for_each(rng: torch.Generator) -> None:
    network, given = build(), inputs(rng, 2, 4)
    expected = network(**given)
    for positions in (torch.arange(4), torch.arange(4)[None], torch.arange(4).expand(2, -1)):
        assert torch.equal(network(**given, positions=positions), expected)


@torch.no_grad()
def test_beyond_the_clock_only_distances_count(rng: torch.Generator) -> None:
    network, given = build(clock=6), inputs(rng, 2, 4)
    late, later = (network(**given, positions=torch.arange(4) + n) for n in (6, 500))
    close(late, later)
    early, next_ = (network(**given, positions=torch.arange(4) + n) for n in (0, 1))
    assert not torch.allclose(early, next_, atol=1e-3)


@torch.no_grad()
def test_steps_between_frames_count(rng: torch.Generator) -> None:
    network, given = build(clock=1), inputs(rng, 2, 4)
    wide, narrow = (network(**given, positions=5 + n * torch.arange(4)) for n in (2, 1))
    assert not torch.allclose(wide, narrow, atol=1e-3)


@torch.no_grad()
def test_a_clip_of_one_frame_is_a_still_wherever_it_stands(rng: torch.Generator) -> None:
    network, given = build(), inputs(rng, 2, 1)
    assert torch.equal(network(**given), network(**given, positions=torch.tensor([9])))


# sizes and what does not fit


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 4), (12, 20)])
def test_any_size_that_the_stride_divides(height: int, width: int, rng: torch.Generator) -> None:
    network, x = build(planes=0), torch.randn(1, 3, 2, height, width, generator=rng)
    assert network.stride == 4
    assert network(x, torch.zeros(1)).shape == x.shape


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((1, 3, 2, 8, 6), {}, "size=8x6 must be divisible by 4"),
        ((1, 3, 2, 0, 8), {}, "size=0x8"),
        ((1, 3, 2, 8, 8), {"stills": 2}, "stills=2 must leave at least one"),
        ((1, 3, 2, 8, 8), {"positions": torch.arange(3)}, r"positions=\(3,\) must be \(2,\) or \(1, 2\)"),
        ((1, 3, 3, 8, 8), {"positions": torch.arange(3), "stills": 1}, r"positions=\(3,\) must be \(2,\)"),
        (
            (3, 3, 3, 8, 8),
            {"positions": torch.tensor([[0, 1, 2], [7, 8, 9], [4, 6, 8]])},
            r"positions must go in the same steps .*, not \[1, 1\] and \[2, 2\]",
        ),
        ((1, 3, 2, 8, 8), {"planes": torch.zeros(1, 1, 2, 8, 8)}, "must have 0 channels"),
    ],
)
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(planes=0)(torch.zeros(shape), torch.zeros(1), **settings)


@pytest.mark.parametrize(
    ("mixing", "message"), [(("time",), "an entry for each"), (("", "temporal"), "mixing='temporal' must be")]
)
def test_mixing_that_makes_no_sense_is_refused(mixing: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SpaceTimeUNet(3, (8, 16), mixing=mixing)


@pytest.mark.parametrize("kind", ["space", "time", "joint", "tokens"])
def test_widths_that_heads_do_not_divide_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match=r"widths=\(8, 24\) must be multiples of head_width=16"):
        SpaceTimeUNet(3, (8, 24), mixing=("shift", kind), tokens=4, head_width=16)
    with pytest.raises(InputError, match="head_width=0"):
        SpaceTimeUNet(3, (8, 24), mixing=("shift", kind), tokens=4, head_width=0)
    SpaceTimeUNet(3, (8, 32), mixing=("shift", kind), tokens=4, head_width=16)


@pytest.mark.parametrize(
    ("widths", "near"),
    [
        ((12, 32), "(16, 32)"),
        ((4,), "(8,)"),
        ((30, 20, 100), "(32, 16, 96)"),
        ((0, 8), "(8, 8)"),
        ((), "(64,)"),
    ],
)
def test_widths_that_groups_do_not_divide_are_refused(widths: tuple[int, ...], near: str) -> None:
    with pytest.raises(InputError) as raised:
        SpaceTimeUNet(3, widths, mixing=("",) * len(widths))
    assert (
        str(raised.value) == f"widths={widths} must be multiples of 8, the groups of group norm; take {near}"
    )


# numbers


def test_checkpointing_gives_the_same_values_and_gradients(rng: torch.Generator) -> None:
    given = inputs(rng, 2, 5, stills=1)
    results = []
    for checkpointing in (False, True):
        network = build(span=2, checkpointing=checkpointing)
        x = given["x"].clone().requires_grad_()
        out = network(**given | {"x": x}, stills=1)
        out.square().sum().backward()
        results.append((out, x.grad, *(parameter.grad for parameter in network.parameters())))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_half_precision_is_close_and_comes_out_in_single(rng: torch.Generator) -> None:
    network, given = build(), inputs(rng, 2, 4)
    exact = network(**given)
    set_compute_dtype(network, torch.bfloat16)
    rounded = network(**given)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


@torch.no_grad()
def test_double_precision_refines_single(rng: torch.Generator) -> None:
    network, given = build(), inputs(rng, 1, 3)
    exact = network(**given)
    double = {name: value.double() if value.is_floating_point() else value for name, value in given.items()}
    refined = network.double()(**double)
    assert refined.dtype == torch.float64
    close(refined.float(), exact)


def test_every_parameter_gets_a_gradient(rng: torch.Generator) -> None:
    network = build()
    network(**inputs(rng, 2, 3, stills=1), stills=1).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_untrained_network_says_nothing(rng: torch.Generator) -> None:
    network = SpaceTimeUNet(3, (8, 16), blocks=1, mixing=EVERYTHING, patch=2, embedding=16, head_width=8)
    assert not network(torch.randn(1, 3, 2, 8, 8, generator=rng), torch.zeros(1)).any()


@torch.no_grad()
def test_a_network_built_from_its_description_computes_the_same(rng: torch.Generator) -> None:
    network, given = build(), inputs(rng, 1, 3)
    again = from_config(to_config(network))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(**given), network(**given))
