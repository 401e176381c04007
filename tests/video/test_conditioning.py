from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model
from mmdiff.registry import from_config, to_config
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import (
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    KnownFrames,
    SmallClip,
)
from mmdiff.video.model import ClipModel
from mmdiff.video.text import TextFeatures
from mmdiff.video.told import longest
from mmdiff.video.unet import SpaceTimeUNet

CAPTIONS = ["a red seven moving left", "a blue nine"]
FRAMES = 3


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def build(*, planes: bool = True) -> ClipModel:
    """A model that can be told everything, with no layer left at zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conditioners = [
            CaptionEncoder(learn_vocabulary(CAPTIONS, least=1), width=32, length=8),
            TextFeatures("nobody/encoder", 6, 32),
            ClassCondition(4, 32),
            ActionCondition(5, 32),
        ]
        if planes:
            conditioners += [KnownFrames(3), SmallClip(3, 32)]
        network = SpaceTimeUNet(
            3,
            (8, 16),
            blocks=1,
            mixing=("shift+time", "joint+tokens"),
            embedding=16,
            head_width=8,
            vector=32,
            tokens=32,
            planes=7 * planes,
        )
        model = ClipModel(
            ConditionedNetwork(network, tuple(conditioners)), CosineVP(), frames=FRAMES, size=(4, 4)
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def conditions(model: ClipModel, rng: torch.Generator) -> dict[str, Tensor]:
    known = torch.randn(2, 4, FRAMES, 4, 4, generator=rng)
    small = torch.randn(2, 4, 2, 2, 2, generator=rng)
    small[:, 3] = 0.3
    everything = {
        "caption": model.caption_ids(CAPTIONS),
        "text": torch.randn(2, 5, 6, generator=rng),
        "label": torch.tensor([1, 3]),
        "actions": torch.randint(0, 5, (2, FRAMES), generator=rng),
        "known": known,
        "small": small,
    }
    return {name: everything[name] for name in model.conditions}


def noisy(rng: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, FRAMES, 4, 4, generator=rng), torch.tensor([0.3, 0.8])


@torch.no_grad()
def test_each_condition_changes_the_output_of_its_own_clip_only(rng: torch.Generator) -> None:
    model = build()
    (x, t), cond = noisy(rng), conditions(model, rng)
    before = model.denoiser(x, t, **cond)
    for name, value in cond.items():
        changed = value.clone()
        changed[0] = model.network.nulls(cond)[name][0]
        after = model.denoiser(x, t, **cond | {name: changed})
        assert not torch.allclose(after[0], before[0], atol=1e-4), name
        torch.testing.assert_close(after[1], before[1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_order_of_keywords_means_nothing(rng: torch.Generator) -> None:
    model = build()
    (x, t), cond = noisy(rng), conditions(model, rng)
    reverse = dict(reversed(cond.items()))
    torch.testing.assert_close(model.denoiser(x, t, **reverse), model.denoiser(x, t, **cond))


def test_nulls(rng: torch.Generator) -> None:
    model = build()
    cond = conditions(model, rng)
    nulls = model.network.nulls(cond)
    assert not nulls["caption"].any()
    assert not nulls["text"].any()
    assert nulls["label"].tolist() == [4, 4]
    assert nulls["actions"].unique().tolist() == [5]
    assert not nulls["known"].any()
    assert not nulls["small"][:, :3].any()
    assert (nulls["small"][:, 3] == 1).all()
    assert all(null.shape == cond[name].shape for name, null in nulls.items())
    assert list(model.network.nulls(cond, ["label", "unheard of"])) == ["label"]


@torch.no_grad()
def test_conditions_left_out_count_as_absent_each_by_itself(rng: torch.Generator) -> None:
    model = build()
    (x, t), cond = noisy(rng), conditions(model, rng)
    for name, null in model.network.nulls(cond).items():
        without = {other: value for other, value in cond.items() if other != name}
        close = model.denoiser(x, t, **without), model.denoiser(x, t, **cond | {name: null})
        torch.testing.assert_close(*close, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_in_one_call_and_by_hand(scale: float, rng: torch.Generator) -> None:
    model = build()
    (x, t), cond = noisy(rng), conditions(model, rng)
    positions = torch.arange(FRAMES).expand(2, -1) + 4
    told = {**cond, "positions": positions}
    nulls = model.network.nulls(cond, ["caption", "text", "label"])
    with_, without = (model.denoiser(x, t, **told | given) for given in ({}, nulls))
    expected = without + scale * (with_ - without)
    for batched in (True, False):
        guided = ClassifierFree(model.denoiser, scale, nulls, batched=batched)
        torch.testing.assert_close(guided(x, t, **told), expected, atol=1e-5, rtol=1e-4)


def test_conditions_never_trained_with_are_named(rng: torch.Generator) -> None:
    x, t = noisy(rng)
    with pytest.raises(InputError, match=r"condition depth, sound must be one of .*caption, text, label"):
        build().denoiser(x, t, sound=x, depth=x)
    bare = ConditionedNetwork(SpaceTimeUNet(3, (8,), mixing=("",), embedding=16))
    with pytest.raises(InputError, match=r"caption must be one of.*none"):
        bare(x, t, caption=x)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("actions", torch.zeros(2, 7, dtype=torch.int64), "each of the clip's 3 frames"),
        ("known", torch.zeros(2, 3, FRAMES, 4, 4), "frames, then their mask"),
        ("known", torch.zeros(2, 4, FRAMES, 4, 8), "frames, then their mask"),
        ("text", torch.zeros(2, 5, 7), "features of the text encoder"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(
    name: str, value: Tensor, message: str, rng: torch.Generator
) -> None:
    x, t = noisy(rng)
    with pytest.raises(InputError, match=message):
        build().denoiser(x, t, **{name: value})


def test_names_must_differ() -> None:
    with pytest.raises(InputError, match="must have different names"):
        ConditionedNetwork(SpaceTimeUNet(), (ClassCondition(2, 4), ClassCondition(3, 4)))


@torch.no_grad()
def test_stills_are_told_apart_from_the_clip_and_from_each_other(rng: torch.Generator) -> None:
    model = build(planes=False)
    frames, stills = 2, 2
    x = torch.randn(1, 3, frames + stills, 4, 4, generator=rng)
    level = torch.tensor([0.5])
    cond = {
        "caption": model.caption_ids(["a red seven", "a blue nine", None])[None],
        "text": torch.randn(1, 1 + stills, 4, 6, generator=rng),
        "label": torch.tensor([[1, 2, 4]]),
        "actions": torch.tensor([[0, 1, 5, 3]]),
    }
    together = model.network(x, level, stills=stills, **cond)
    clip = {name: value[:, :1] for name, value in cond.items()} | {"actions": cond["actions"][:, :frames]}
    assert torch.allclose(together[:, :, :frames], model.network(x[:, :, :frames], level, **clip), atol=1e-5)
    for n in range(stills):
        one = {name: value[:, [1 + n]] for name, value in cond.items()}
        one["actions"] = cond["actions"][:, [frames + n]]
        alone = model.network(x[:, :, [frames + n]], level, **one)
        assert torch.allclose(together[:, :, [frames + n]], alone, atol=1e-5)


@torch.no_grad()
def test_what_is_said_once_holds_for_the_stills_too(rng: torch.Generator) -> None:
    model = build(planes=False)
    x, level = torch.randn(2, 3, FRAMES, 4, 4, generator=rng), torch.zeros(2)
    cond = {name: value for name, value in conditions(model, rng).items() if name != "actions"}
    repeated = {
        name: value[:, None].expand(-1, 2, *value.shape[1:])
        if value.ndim > 1
        else value[:, None].expand(-1, 2)
        for name, value in cond.items()
    }
    once = model.network(x, level, stills=1, **cond)
    torch.testing.assert_close(once, model.network(x, level, stills=1, **repeated))


@torch.no_grad()
def test_the_small_clip_is_enlarged_and_its_noise_told(rng: torch.Generator) -> None:
    condition, x = SmallClip(3, 8), torch.zeros(1, 3, 4, 6, 8)
    ramp = torch.arange(3.0).expand(1, 3, 2, 2, 3)
    told = condition(torch.cat((ramp, torch.full((1, 1, 2, 2, 3), 0.25)), 1), x)
    assert told.planes.shape == x.shape
    assert (told.planes.diff(dim=-1) >= 0).all()
    assert torch.equal(told.planes[..., :1].squeeze(), torch.zeros(3, 4, 6))
    torch.testing.assert_close(told.vector[:, 0], condition.level(torch.tensor([[0.25]])))


def test_longest_counts_up_to_the_last_that_is_filled() -> None:
    filled = torch.tensor([[True, False, False, False], [False, False, True, False]])
    assert longest(filled) == 3
    assert longest(filled[None, :1]) == 1
    assert longest(torch.zeros(2, 4, dtype=torch.bool)) == 0


# the whole model


def test_every_parameter_gets_a_gradient(rng: torch.Generator) -> None:
    model = build()
    (x, t), cond = noisy(rng), conditions(model, rng)
    cond["text"][1] = 0  # one is told nothing
    model.denoiser.raw(x, t, **cond).square().sum().backward()
    lacking = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert lacking == ["denoiser.network.network.still"]  # a clip has none


@torch.no_grad()
def test_a_model_comes_back_from_its_description_and_from_its_folder(
    rng: torch.Generator, tmp_path: Any
) -> None:
    model = build()
    (x, t), cond = noisy(rng), conditions(model, rng)
    expected = model.denoiser(x, t, **cond)
    again = from_config(to_config(model))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.denoiser(x, t, **cond), expected)
    loaded = load_model(save_model(model, tmp_path / "whole", half=False))
    assert torch.equal(loaded.denoiser(x, t, **cond), expected)
    assert torch.equal(loaded.caption_ids(CAPTIONS), model.caption_ids(CAPTIONS))
    assert (loaded.conditions, loaded.size, loaded.frames) == (model.conditions, (4, 4), FRAMES)
    rounded = load_model(save_model(model, tmp_path / "half")).denoiser(x, t, **cond)
    assert 0 < (rounded - expected).abs().max() < 0.01


def test_pixels_to_the_model_and_back(rng: torch.Generator) -> None:
    model = ClipModel(build().network, CosineVP(), mean=-0.9, std=0.37)
    pixels = torch.randint(0, 256, (1, 3, 2, 4, 4), dtype=torch.uint8, generator=rng)
    state = model.to_model(pixels)
    torch.testing.assert_close(state, (pixels / 127.5 - 1 + 0.9) / 0.37)
    torch.testing.assert_close(model.from_model(state), pixels / 127.5 - 1)
    assert model.from_model(state + 100).max() == 1


def test_steps_lie_between_the_levels_of_noise_the_model_names() -> None:
    schedule = CosineVP()
    model = ClipModel(build().network, schedule, grid="log_snr", log_snr_range=(-8.0, 2.0))
    log_snr = schedule.log_snr(model.times(7))
    assert (float(log_snr[0]), float(log_snr[-1])) == (-math.inf, math.inf)
    torch.testing.assert_close(log_snr[1:-1], torch.linspace(-8, 2, 6, dtype=torch.float64))
    plain = ClipModel(build().network, schedule, grid="log_snr").times(7)
    assert torch.equal(plain, make_grid("log_snr", schedule, 7))
