from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmdiff.diffusion.schedules import CosineVP
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import (
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    Conditioner,
    KnownFrames,
)
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask, batch_conditions
from mmdiff.video.unet import SpaceTimeUNet

CAPTIONS = ["a red seven", "a blue nine", None]
VOCABULARY = learn_vocabulary(filter(None, CAPTIONS), least=1)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Even(nn.Module):
    """The best network for clips whose pixels are all ``value``: it knows the noise exactly."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (torch.sigmoid(sign * level).sqrt().view(-1, 1, 1, 1, 1) for sign in (1, -1))
        noise = (x - alpha * self.value) / sigma
        return alpha * noise - sigma * self.value


class Nothing(nn.Module):
    """Says zero, and notes what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []

    def forward(self, x: Tensor, level: Tensor, **told: Any) -> Tensor:
        self.calls.append({"x": x, **told})
        return torch.zeros_like(x)


def clips(rng: torch.Generator, batch: int = 3, frames: int = 4) -> Tensor:
    return torch.randint(0, 256, (batch, 3, frames, 4, 4), dtype=torch.uint8, generator=rng)


def listening(*conditioners: Conditioner) -> ClipModel:
    return ClipModel(ConditionedNetwork(Nothing(), conditioners), CosineVP(), mean=-0.5, std=0.5)


def test_the_exact_network_has_no_loss() -> None:
    model = ClipModel(Even((0.2 + 0.5) / 0.5), CosineVP(), mean=-0.5, std=0.5)
    video = torch.full((4, 3, 5, 4, 4), 0.2)
    loss = ClipTask(model)({"video": video}, torch.Generator().manual_seed(0))["loss"]
    assert loss < 1e-6
    wrong = ClipTask(model)({"video": video + 0.1}, torch.Generator().manual_seed(0))["loss"]
    assert wrong > 1e-3


@pytest.mark.parametrize("frames", [1, 4])
def test_the_loss_is_the_mean_squared_error_of_v(frames: int, rng: torch.Generator) -> None:
    model, video = listening(), clips(rng, frames=frames)
    task = ClipTask(model)
    loss = task({"video": video}, torch.Generator().manual_seed(5))["loss"]
    again = torch.Generator().manual_seed(5)
    schedule = model.denoiser.schedule
    t = task.objective(frames).times.draw(3, schedule, generator=again, device=None, dtype=torch.float32)
    noise = torch.randn(video.shape, generator=again)
    alpha, sigma = (each.view(-1, 1, 1, 1, 1) for each in schedule(t)[:2])
    x0 = (video / 127.5 - 1 + 0.5) / 0.5
    torch.testing.assert_close(loss, (alpha * noise - sigma * x0).square().mean())
    (call,) = model.network.network.calls
    torch.testing.assert_close(call["x"], alpha * x0 + sigma * noise)


@pytest.mark.parametrize("frames", [1, 16])
def test_longer_clips_see_more_noise(frames: int) -> None:
    task, schedule = ClipTask(listening(), noise=(0.5, 1.3)), CosineVP()
    t = task.objective(frames).times.draw(
        4000, schedule, generator=torch.Generator().manual_seed(0), device=None, dtype=torch.float64
    )
    ratio = -schedule.log_snr(t) / 2  # ln of noise to signal
    assert math.isclose(ratio.mean(), 0.5 + math.log(frames) / 2, abs_tol=0.03)
    assert math.isclose(ratio.std(), 1.3, abs_tol=0.05)


def test_conditions_reach_the_network_and_what_it_does_not_know_is_left_out(rng: torch.Generator) -> None:
    model = listening(CaptionEncoder(VOCABULARY, 32, length=6), ClassCondition(4, 32), ActionCondition(3, 32))
    batch = {
        "video": clips(rng),
        "caption": CAPTIONS,
        "label": torch.tensor([0, 1, 2]),
        "actions": torch.randint(0, 3, (3, 4), generator=rng),
        "positions": torch.arange(4).expand(3, -1) + torch.tensor([[0], [2], [5]]),
        "group": ["a", "b", "c"],
        "depth": torch.zeros(3),
    }
    cond = batch_conditions(model, batch)
    assert cond.keys() == {"caption", "label", "actions", "positions"}
    assert torch.equal(cond["caption"], model.caption_ids(CAPTIONS))
    ClipTask(model, drop=0)(batch, rng)
    (call,) = model.network.network.calls
    assert torch.equal(call["positions"], batch["positions"])
    conditioners = model.network.conditioners
    expected = sum(
        told.vector.expand(-1, 4, -1)
        for told in (conditioners[name](cond[name], batch["video"]) for name in conditioners)
    )
    torch.testing.assert_close(call["vector"], expected)
    assert call["tokens"].shape[:2] == call["seen"].shape[:2] == (3, 1)


def test_captions_that_nothing_reads_are_left_out(rng: torch.Generator) -> None:
    model = listening(ClassCondition(4, 32))
    assert batch_conditions(model, {"video": clips(rng), "caption": CAPTIONS}) == {}


def told_of(drop: float, count: int, *conditioners: Conditioner) -> dict[str, Tensor]:
    """Which of ``count`` items keep each condition in training, (count,) of bool."""
    model = listening(*conditioners)
    batch = {"video": torch.zeros(count, 3, 1, 1, 1)}
    for place, (name, own) in enumerate(model.network.conditioners.items()):
        if name == "known":
            batch[name] = torch.ones(count, 4, 1, 1, 1)
            continue
        batch[name] = torch.zeros(count, 1).long()
        nn.init.zeros_(own.embed.weight)
        own.embed.weight.data[0, place] = 1  # each fills a place of the sum
    ClipTask(model, drop=drop)(batch, torch.Generator().manual_seed(4))
    (call,) = model.network.network.calls
    kept = {name: call["vector"][:, 0, n] > 0 for n, name in enumerate(model.conditions) if name != "known"}
    return kept | ({"known": call["planes"][:, -1, 0, 0, 0] > 0} if "known" in batch else {})


@pytest.mark.parametrize("drop", [0.0, 0.3, 1.0])
def test_one_condition_is_left_out_of_so_many_items_by_the_first_numbers_drawn(drop: float) -> None:
    kept = told_of(drop, 2000, ClassCondition(4, 8))["label"]
    drawn = torch.rand(2000, generator=torch.Generator().manual_seed(4))
    assert torch.equal(kept, drawn >= drop)


def test_what_is_said_is_left_out_together_and_alone_and_given_frames_by_themselves() -> None:
    p = 0.3
    kept = told_of(p, 8000, ClassCondition(4, 8), ActionCondition(3, 8), KnownFrames(3))
    share = {
        (True, True): (1 - p) ** 3,
        (True, False): (1 - p) ** 2 * p,
        (False, True): (1 - p) ** 2 * p,
        (False, False): p + (1 - p) * p**2,  # what guidance compares with
    }
    for said, expected in share.items():
        for known, other in ((True, 1 - p), (False, p)):
            found = (kept["label"] == said[0]) & (kept["actions"] == said[1]) & (kept["known"] == known)
            assert math.isclose(found.float().mean(), expected * other, abs_tol=0.015), (said, known)


def test_images_are_trained_on_beside_the_clips(rng: torch.Generator) -> None:
    model = listening(CaptionEncoder(VOCABULARY, 32, length=6))
    video, stills = clips(rng), clips(rng, 6, 1)
    captions = ["a seven", None, "nine", "blue", "red", ""]
    batch = {
        "video": video,
        "caption": CAPTIONS,
        "stills": stills[:, :, 0].unflatten(0, (3, 2)),
        "still_captions": [captions[:2], captions[2:4], captions[4:]],
    }
    together = ClipTask(model, still_weight=0.5)(batch, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    apart = ClipTask(model)
    one = apart({"video": video, "caption": CAPTIONS}, generator)["loss"]
    other = apart({"video": stills, "caption": captions}, generator)["loss"]
    torch.testing.assert_close(together["clips"], one)
    torch.testing.assert_close(together["stills"], other)
    torch.testing.assert_close(together["loss"], one + 0.5 * other)
    assert not together["clips"].requires_grad
    shapes = [tuple(call["x"].shape) for call in model.network.network.calls]
    assert shapes == [(3, 3, 4, 4, 4), (6, 3, 1, 4, 4)] * 2


def test_a_few_steps_lower_the_loss_and_the_same_seed_gives_the_same(rng: torch.Generator) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            3, (8,), blocks=1, mixing=("shift+tokens",), embedding=16, head_width=8, vector=32, tokens=32
        )
        model = ClipModel(
            ConditionedNetwork(network, (CaptionEncoder(VOCABULARY, 32, length=6),)), CosineVP()
        )
    task = ClipTask(model, drop=0)
    batch = {"video": clips(rng).float() / 127.5 - 1, "caption": CAPTIONS}
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = task(batch, torch.Generator().manual_seed(0))["loss"]
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    with torch.no_grad():
        one, other = (task(batch, torch.Generator().manual_seed(7))["loss"] for _ in range(2))
    assert torch.equal(one, other)
