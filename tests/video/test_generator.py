"""Oracles: invariances of generation, and editing of normal data whose conditional mean is known."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mmdiff
from mmdiff.diffusion.schedules import BetaTable, CosineVP, ddpm_betas
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import (
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    Conditioner,
    KnownFrames,
    SmallClip,
)
from mmdiff.video.edits import enlargement
from mmdiff.video.factorised import FactorisedUNet
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet

CAPTIONS = ["a red seven moving left", "a blue two moving right"] * 2


def make_model(*more: Conditioner, planes: int = 0, **settings: Any) -> ClipModel:
    """An untrained model of 16x16 clips of 8 frames, all of whose weights do something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            widths=(16, 32), blocks=1, mixing=("shift", "joint+tokens"), patch=2, embedding=32, vector=32,
            tokens=32, planes=planes, span=7, head_width=16,
        )  # fmt: skip
        conditions = (CaptionEncoder(learn_vocabulary(CAPTIONS), 32), *more)
        for p in network.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.05)
        defaults = {"frames": 8, "size": (16, 16), "mean": -0.5, "std": 0.4, "steps": 3}
        return ClipModel(ConditionedNetwork(network, conditions), CosineVP(), **{**defaults, **settings})


def make(*more: Conditioner, **settings: Any) -> ClipGenerator:
    return ClipGenerator(make_model(*more, **settings), "cpu", "float32")


@pytest.fixture(scope="module")
def gen() -> ClipGenerator:
    return make()


@pytest.fixture(scope="module")
def clip(gen: ClipGenerator) -> Tensor:
    return gen(CAPTIONS[0])[0]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_clip_depends_on_its_own_seed_and_prompt_only(gen: ClipGenerator, guidance: float) -> None:
    settings: dict[str, Any] = {"guidance": guidance, "frames": 12, "sampler": "ddpm", "steps": 2}
    together = gen(CAPTIONS, seed=5, **settings)
    alone = torch.cat([gen(text, seed=5 + n, **settings) for n, text in enumerate(CAPTIONS)])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=0)
    in_pairs = gen(CAPTIONS, seed=[5, 6, 7, 8], batch=2, **settings)
    torch.testing.assert_close(together, in_pairs, atol=2e-5, rtol=0)
    assert (together[0] - together[2]).abs().max() > 0.01


def test_num_gives_several_clips_of_each_prompt(gen: ClipGenerator) -> None:
    clips = gen(CAPTIONS[:2], num=2, seed=1)
    again = gen([CAPTIONS[0], CAPTIONS[0], CAPTIONS[1], CAPTIONS[1]], seed=1)
    torch.testing.assert_close(clips, again, atol=2e-5, rtol=0)


@pytest.mark.parametrize("frames", [1, 5, 17, 40])
def test_any_number_of_frames(gen: ClipGenerator, frames: int) -> None:
    video = gen(CAPTIONS[0], frames=frames, steps=1)
    assert video.shape == (1, 3, frames, 16, 16)
    assert video.isfinite().all()
    assert video.abs().max() <= 1


def test_any_size_that_the_network_divides(gen: ClipGenerator) -> None:
    assert gen(size=(8, 20), steps=1).shape == (1, 3, 8, 8, 20)
    with pytest.raises(InputError, match=r"size=18x16 must be divisible by 4.*nearest is 16x16"):
        gen(size=(18, 16))


def test_blocks_are_streamed_and_each_is_told_its_place(gen: ClipGenerator) -> None:
    seen: list[Tensor] = []
    spy = copy.deepcopy(gen)
    spy.model.network.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["positions"]), with_kwargs=True
    )
    request = spy.request(CAPTIONS[0], frames=22, steps=1)
    sizes = [block.shape[2] for block in spy.stream(request)]
    assert sum(sizes) == 22
    assert max(sizes) <= 8
    for positions, span in zip(seen, spy.plan(request).forward, strict=True):
        assert torch.equal(positions, torch.arange(span.begin, span.end))


def test_the_first_block_of_a_long_video_is_the_short_one(gen: ClipGenerator) -> None:
    assert torch.equal(gen(CAPTIONS[0], frames=30)[:, :, :8], gen(CAPTIONS[0], frames=8))


def test_evaluations_are_counted_with_guidance_only_where_it_acts(gen: ClipGenerator) -> None:
    gen(CAPTIONS[:2], steps=10)
    assert gen.evaluations == 10
    gen(CAPTIONS[:2], steps=10, guidance=2.0)
    assert gen.evaluations == 20
    gen(CAPTIONS[:2], steps=10, guidance=2.0, grid="uniform", guidance_interval=(0.55, 1.0))
    assert gen.evaluations == 15  # times 1, 0.9, ..., 0.6
    gen(None, steps=10, guidance=2.0)  # there is nothing to follow
    assert gen.evaluations == 10


def test_unknown_words_are_named(gen: ClipGenerator) -> None:
    with pytest.warns(UserWarning, match="never learned the word 'turquoise'"):
        gen("a turquoise seven", steps=1)
    assert "turquoise" in gen.notes[0]
    gen(CAPTIONS[0], steps=1)
    assert gen.notes == []


METHODS = ["reconstruction", "replacement"]


@pytest.mark.parametrize("method", METHODS)
def test_known_pixels_come_back_exactly(gen: ClipGenerator, clip: Tensor, method: str) -> None:
    given = {"method": method, "steps": 2}
    longer = gen.continue_from(clip, 7, CAPTIONS[0], **given)
    assert longer.shape == (1, 3, 15, 16, 16)
    assert torch.equal(longer[0, :, :8], clip)
    between = gen.interpolate(clip[:, [0, 5]], 14, places=[2, 13], **given)
    assert torch.equal(between[0][:, [2, 13]], clip[:, [0, 5]])
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4:9] = True
    painted = gen.inpaint(clip, mask, num=2, **given)
    assert torch.equal(painted[..., ~mask], clip[..., ~mask].expand(2, -1, -1, -1))
    assert not torch.equal(painted[0], painted[1])
    wider = gen.outpaint(clip, left=4, bottom=8, before=5, after=1, **given)
    assert wider.shape == (1, 3, 14, 24, 20)
    assert torch.equal(wider[0, :, 5:13, :16, 4:], clip)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_come_back_exactly(gen: ClipGenerator, method: str) -> None:
    given = torch.randint(
        0, 256, (3, 4, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    made = gen.continue_from(given, 2, method=method)
    assert torch.equal(((made[0, :, :4] + 1) * 127.5).round().byte(), given)


@pytest.mark.parametrize("method", METHODS)
def test_editing_is_independent_of_the_batch(gen: ClipGenerator, method: str) -> None:
    given = gen(CAPTIONS[:2])
    settings = {"method": method, "steps": 2, "seed": 3}
    together = gen.continue_from(given, 6, CAPTIONS[:2], **settings)
    alone = gen.continue_from(given[1], 6, CAPTIONS[1], **{**settings, "seed": 4})
    torch.testing.assert_close(together[1:], alone, atol=5e-5, rtol=0)


@pytest.mark.parametrize(("factor", "time_factor"), [(2, 1), (1, 3), (2, 2)])
def test_enlarged_clips_shrink_to_what_was_given(
    gen: ClipGenerator, clip: Tensor, factor: int, time_factor: int
) -> None:
    small = 0.5 * clip[:, :, :8, :8]  # away from the ends of the range of pixels
    large = gen.upscale(small, factor, time_factor, CAPTIONS[0])
    assert large.shape == (1, 3, 8 * time_factor, 8 * factor, 8 * factor)
    means = nn.functional.avg_pool3d(large[:, :, ::time_factor], (1, factor, factor))
    torch.testing.assert_close(means[0], small, atol=2e-3, rtol=0)


def test_a_loop_ends_where_it_began(gen: ClipGenerator) -> None:
    for frames in (1, 2, 7, 24):
        assert gen.loop(CAPTIONS[0], frames=frames, steps=1).shape[2] == frames
    chain = ClipGenerator(chain_model(0.99, steps=10), "cpu", "float32")
    video = chain.loop(None, frames=24, num=64, batch=64)[:, 0, :, 0, 0]
    free = chain(None, frames=24, num=64, batch=64)[:, 0, :, 0, 0]
    step = free.diff(dim=1).abs().mean()
    assert (video[:, 0] - video[:, -1]).abs().mean() < 2 * step
    assert (free[:, 0] - free[:, -1]).abs().mean() > 4 * step


class Chain(nn.Module):
    """Exact network for pixels that are independent chains over time of correlation ``rho``: v from log-SNR."""

    def __init__(self, rho: float) -> None:
        super().__init__()
        self.rho = rho

    def covariance(self, frames: int) -> Tensor:
        place = torch.arange(frames, dtype=torch.float64)
        return self.rho ** (place[:, None] - place).abs()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        values, vectors = (part.to(x) for part in torch.linalg.eigh(self.covariance(x.shape[2])))
        alpha, sigma = (side.sigmoid().sqrt().reshape(-1, 1, 1, 1, 1) for side in (level, -level))
        z = x.transpose(2, -1) @ vectors / (alpha**2 * values + sigma**2)
        return ((alpha * sigma - sigma * alpha * values) * z @ vectors.T).transpose(2, -1)


def chain_model(rho: float = 0.9, steps: int = 30) -> ClipModel:
    small = {"channels": 1, "frames": 8, "size": (2, 2), "clamp": False, "std": 0.25}
    return ClipModel(Chain(rho), CosineVP(), steps=steps, sampler="dpmpp_2m", grid="log_snr", **small)


def conditional(rho: float, frames: int, known: list[int], values: list[float]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each frame given some, in pixels."""
    covariance = Chain(rho).covariance(frames)
    gain = covariance[:, known] @ torch.linalg.inv(covariance[known][:, known])
    left = (covariance - gain @ covariance[known]).diagonal().clamp_min(0)
    return gain @ torch.tensor(values).double(), 0.25 * left.sqrt()


def test_guided_continuation_is_the_conditional_distribution_and_replacement_is_not() -> None:
    chain = ClipGenerator(chain_model(), "cpu", "float32")
    given = torch.full((1, 2, 2, 2), 0.4)
    mean, std = conditional(0.9, 8, [0, 1], [0.4, 0.4])
    drawn = chain.continue_from(given, 6, num=200, batch=200).double()
    torch.testing.assert_close(drawn.mean((0, 1, 3, 4))[2:], mean[2:], atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std((0, 1, 3, 4))[2:], std[2:], atol=0.0, rtol=0.12)
    replaced = chain.continue_from(given, 6, temperature=0.0, method="replacement")[0, 0, :, 0, 0]
    assert replaced[2] < 0.7 * mean[2]


def test_blocks_carry_on_what_came_before() -> None:
    chain = ClipGenerator(chain_model(steps=15), "cpu", "float32")
    drawn = chain(None, frames=40, num=200, batch=200)[:, 0, :, 0, 0].double()
    found = torch.corrcoef(drawn.T)
    neighbours = found.diagonal(1)
    assert neighbours.min() > 0.8
    assert found.diagonal(30).abs().max() < 0.35


def test_interpolation_meets_the_conditional_mean() -> None:
    chain = ClipGenerator(chain_model(), "cpu", "float32")
    keys = [torch.full((1, 2, 2), 0.5), torch.full((1, 2, 2), -0.3)]
    made = chain.interpolate(keys, 6, temperature=0.0)[0, 0, :, 0, 0].double()
    torch.testing.assert_close(made, conditional(0.9, 6, [0, 5], [0.5, -0.3])[0], atol=0.06, rtol=0)


def test_inpainting_and_upscaling_meet_the_conditional_mean() -> None:
    chain = ClipGenerator(chain_model(), "cpu", "float32")
    given = torch.full((1, 8, 2, 2), 0.4)
    mask = torch.zeros(8, 2, 2, dtype=torch.bool)
    mask[4:, 0] = True
    made = chain.inpaint(given, mask, temperature=0.0)[0, 0].double()
    expected = conditional(0.9, 8, [0, 1, 2, 3], [0.4] * 4)[0]
    torch.testing.assert_close(made[4:, 0, 0], expected[4:], atol=0.06, rtol=0)
    # Twice the frames of a chain: those between are known by both neighbours.
    twice = chain.upscale(given[:, :4], 1, time_factor=2, temperature=0.0)[0, 0, :, 0, 0].double()
    expected = conditional(0.9, 8, [0, 2, 4, 6], [0.4] * 4)[0]
    torch.testing.assert_close(twice, expected, atol=0.05, rtol=0)


def test_labels_and_actions_are_told_frame_by_frame() -> None:
    gen = make(ClassCondition(4, 32), ActionCondition(3, 32))
    plain = gen(None, frames=20)
    labelled = gen(None, frames=20, label=[1, 2], seed=[0, 0])
    assert (plain - labelled[:1]).abs().max() > 1e-3
    assert (labelled[0] - labelled[1]).abs().max() > 1e-3
    told: list[Tensor] = []
    gen.model.network.conditioners["actions"].register_forward_pre_hook(
        lambda module, args: told.append(args[0])
    )
    actions = torch.arange(20) % 3
    request = gen.request(None, frames=20, actions=actions, steps=1)
    list(gen.stream(request))
    assert [t[0].tolist() for t in told] == [
        actions[s.begin : s.end].tolist() for s in gen.plan(request).forward
    ]
    with pytest.raises(InputError, match="one for each of the 20 frames"):
        gen(None, frames=20, actions=actions[:5])
    with pytest.raises(InputError, match="whole numbers from 0 to 4"):
        gen(None, label=9)


def test_a_network_that_knows_no_conditions_by_name() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FactorisedUNet(base=8, widths=(8, 16), heads=2, head_width=8, condition=6)
    table = BetaTable(ddpm_betas())
    settings: dict[str, Any] = {"prediction": "eps", "noise_input": "index", "frames": 4, "size": (8, 8)}
    gen = ClipGenerator(ClipModel(network, table, steps=2, sampler="ddim", grid="uniform", **settings), "cpu")
    assert gen(frames=9).shape == (1, 3, 9, 8, 8)
    vector = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    clips = gen(vector=vector, seed=[0, 0], guidance=2.0)
    assert gen.evaluations == 4
    assert not torch.equal(clips[0], clips[1])
    longer = gen.continue_from(clips[0], 6)
    assert torch.equal(longer[0, :, :4], clips[0])
    with pytest.raises(InputError, match="prompt='a seven' must be left out"):
        gen("a seven")


def test_a_model_trained_to_be_given_frames_is_given_them() -> None:
    gen = make(KnownFrames(), planes=4)
    given = gen(None)[0]
    told: list[Tensor] = []
    gen.model.network.conditioners["known"].register_forward_pre_hook(
        lambda module, args: told.append(args[0])
    )
    longer = gen.continue_from(given[:, :3], 3, steps=1)
    assert torch.equal(longer[0, :, :3], given[:, :3])
    value = told[-1]
    torch.testing.assert_close(value[0, :3, :3], gen.model.to_model(given[:, :3]))
    assert value[0, 3].flatten(1).mean(1).tolist() == [1, 1, 1, 0, 0, 0]
    assert (value[0, :3, 3:] == 0).all()


def test_a_model_trained_to_sharpen_is_given_the_small_clip() -> None:
    gen = make(SmallClip(width=32), planes=3)
    small = gen(None, size=8)[0]
    told: list[Tensor] = []
    gen.model.network.conditioners["small"].register_forward_pre_hook(
        lambda module, args: told.append(args[0])
    )
    large = gen.upscale(small, 2, time_factor=2, steps=1, noise=0.0)
    assert large.shape == (1, 3, 16, 16, 16)
    spans = gen.plan(gen.request(None, edit=enlargement(small, 2, 2))).forward
    for span, value in zip(spans, told, strict=True):
        expected = gen.model.to_model(small[:, span.begin // 2 : span.end // 2])
        torch.testing.assert_close(value[0, :3], expected)
    with pytest.raises(InputError, match="method='trained' must be"):
        gen.continue_from(small, 2, method="trained")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"steps": 0}, "steps=0"),
        ({"sampler": "magic"}, "sampler='magic' must be one of"),
        ({"grid": "magic"}, "grid='magic' must be one of"),
        ({"method": "magic"}, "method='magic' must be one of"),
        ({"method": "trained"}, "method='trained'"),
        ({"frames": 0}, "frames=0"),
        ({"num": 0}, "num=0"),
        ({"batch": 0}, "batch=0"),
        ({"overlap": 8}, "overlap=8 must be from 1 to 7"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"seed": [1, 2]}, "seed has 2 entries for 1"),
        ({"label": 3}, "label=3 is no condition"),
        ({"guidance_interval": (0.5, 2.0), "guidance": 2.0}, "interval"),
    ],
)
def test_senseless_requests_are_refused(gen: ClipGenerator, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        gen(CAPTIONS[0], **settings)


def test_numbers_of_prompts_and_clips_must_fit(gen: ClipGenerator) -> None:
    given = gen(CAPTIONS[:2], steps=1)
    with pytest.raises(InputError, match="4 prompts, 2 clips do not fit"):
        gen.continue_from(given, 2, CAPTIONS)


def test_load_gives_a_generator_where_the_folder_holds_a_clip_model(tmp_path, gen: ClipGenerator) -> None:
    folder = save_model(gen.model, tmp_path / "tiny", half=False)
    loaded = mmdiff.load(folder, "cpu", "float32")
    assert isinstance(loaded, ClipGenerator)
    assert torch.equal(loaded(CAPTIONS[0]), gen(CAPTIONS[0]))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"seed": 2**70}, "seed=.* from -9223372036854775808 to 18446744073709551615"),
        ({"seed": [0, -(2**64)], "num": 2}, "seed="),
        ({"seed": 2**64 - 1, "num": 2}, "seed="),  # the second clip's is too large
        ({"seed": "x"}, "seed='x' must be a whole number"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"guidance": float("nan")}, "guidance=nan must be a finite number of at least 0"),
        ({"guidance": -1.0}, "guidance=-1"),
        ({"guidance": "x"}, "guidance='x'"),
        ({"guidance_interval": 3}, "guidance_interval=3 must be two numbers"),
        ({"guidance_interval": ("x", "y")}, r"guidance_interval\[0\]='x'"),
        ({"guidance_interval": (0.5, 0.2)}, r"guidance_interval\[1\]=0.2"),
        ({"temperature": "x"}, "temperature='x'"),
        ({"prompt": 5}, "prompt=5 must be a string"),
        ({"prompt": [["a"]]}, "prompt="),
        ({"prompt": []}, "at least one"),
        ({"size": "abc"}, "size='abc' must be a whole number of pixels"),
        ({"size": (16, 16, 16)}, "size="),
        ({"num": "x"}, "num='x'"),
        ({"frames": "x"}, "frames='x'"),
        ({"batch": "x"}, "batch='x'"),
    ],
)
def test_what_is_of_the_wrong_kind_is_named(
    gen: ClipGenerator, settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        gen(**settings)


@pytest.mark.parametrize("seed", [-(2**63), 2**64 - 1])
def test_every_seed_of_pytorch_is_taken(gen: ClipGenerator, seed: int) -> None:
    assert gen(seed=seed, steps=1, frames=10).isfinite().all()


def test_without_guidance_the_prompt_is_left_aside(gen: ClipGenerator) -> None:
    torch.testing.assert_close(gen(CAPTIONS[0], guidance=0.0), gen(guidance=0.0), atol=2e-5, rtol=0)
    assert (gen(CAPTIONS[0]) - gen()).abs().max() > 1e-3


def test_where_whole_frames_are_given_a_prompt_is_not_exaggerated_unless_asked(clip: Tensor):
    """The result of guidance=1, for half the price."""
    gen = make(guidance=3.0)
    plain = gen.continue_from(clip, 2, CAPTIONS[0], guidance=1.0)
    torch.testing.assert_close(gen.continue_from(clip, 2, CAPTIONS[0]), plain, rtol=0, atol=0)
    cheap = gen.evaluations
    assert not torch.equal(gen.continue_from(clip, 2, CAPTIONS[0], guidance=3.0), plain)
    assert gen.evaluations == 2 * cheap
    gen(CAPTIONS[0])
    assert gen.evaluations == 6  # nothing is given here
