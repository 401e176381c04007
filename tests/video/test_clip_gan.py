"""Clips by generators of reverse steps: random vectors, seeds, grids, model folders, training and its recipe."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mmdiff
from mmdiff.diffusion.schedules import BetaTable, CosineVP, vp_betas
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import load_model, save_model
from mmdiff.nn.critic import StepCritic
from mmdiff.recipes import run_recipe
from mmdiff.training import Part, Trainer
from mmdiff.training.checkpoint import latest_checkpoint
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.clip_gan import CaptionCritic, ClipGAN
from mmdiff.video.collate import collate_clips
from mmdiff.video.conditioning import ConditionedNetwork, LatentCondition
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.video.validation import clip_validation, generate

SEVEN = "a blue seven moving left"
WORDS = learn_vocabulary([SEVEN] * 2)


def model(latents: int = 5, schedule=None, **options) -> ClipModel:
    torch.manual_seed(0)
    network = SpaceTimeUNet(widths=(8,), blocks=1, mixing=("shift",), patch=2, embedding=16, vector=16)
    told = (CaptionEncoder(WORDS, 16, depth=0), *([LatentCondition(latents, 16)] if latents else []))
    settings = {"frames": 3, "size": (8, 8), "steps": 4, "sampler": "ddpm", "clamp": False, **options}
    toy = ClipModel(ConditionedNetwork(network, told), schedule or BetaTable(vp_betas(4)), "x0", **settings)
    for parameter in toy.parameters():  # a fresh one says zero to everything
        nn.init.normal_(parameter, std=0.1)
    return toy


def pipeline(**options) -> ClipGenerator:
    return ClipGenerator(model(**options), device="cpu", dtype="float32")


def watch_latents(gen: ClipGenerator, seen: list[Tensor]) -> None:
    gen.model.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["z"]), with_kwargs=True
    )


def test_each_step_has_a_random_vector_of_the_clips_own_generator():
    gen, seen = pipeline(), []
    assert gen.model.conditions == ("caption",)
    watch_latents(gen, seen)
    gen(SEVEN, seed=[3, 8], num=2)
    for item, seed in enumerate((3, 8)):
        source = torch.Generator().manual_seed(seed)
        for z in seen:
            torch.randn(3, 3, 8, 8, generator=source)  # the start, or what the step before drew
            assert torch.equal(z[item], torch.randn(5, generator=source))
    assert len(seen) == 4


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_clip_depends_on_its_seed_alone(guidance):
    gen = pipeline(guidance=guidance)
    together = gen(SEVEN, seed=[1, 2, 3], num=3)
    torch.testing.assert_close(gen(SEVEN, seed=3), together[2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(gen(SEVEN, seed=[1, 2, 3], num=3, batch=2), together, atol=1e-5, rtol=0)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_longer_videos_and_edits_are_drawn_by_generators_too():
    gen = pipeline()
    clip = gen(SEVEN, frames=5, seed=1)
    assert clip.shape == (1, 3, 5, 8, 8)
    more = gen.continue_from(clip[:, :, :2], 2, method="replacement")
    assert torch.equal(more[:, :, :2], clip[:, :, :2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10}, "steps=10 must be 4 or 2 or 1"),
        ({"grid": "log_snr"}, "trained at the times 1, 0.75, 0.5, 0.25 alone"),
        ({"sampler": "deis"}, "sampler='deis' must be 'ddpm'"),
        ({"z": torch.zeros(1, 5)}, "no condition of this model"),
    ],
)
def test_runs_that_the_generator_was_not_trained_for_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        pipeline()(SEVEN, **options)
    assert pipeline()(SEVEN, steps=2).shape == (1, 3, 3, 8, 8)


def test_a_generator_of_no_table_has_no_steps():
    with pytest.raises(InputError, match="CosineVP must be a BetaTable"):
        pipeline(schedule=CosineVP())(SEVEN)


def test_a_model_folder_makes_the_same_clips(tmp_path):
    folder = save_model(model(), tmp_path / "gan", half=False)
    gen = mmdiff.load(folder, device="cpu", dtype="float32")
    assert gen.model.latents == 5
    assert torch.equal(gen(SEVEN, seed=3), pipeline()(SEVEN, seed=3))


class Clips:
    """Item n: a square of some brightness and its caption."""

    def __getitem__(self, n: int) -> dict[str, object]:
        video = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
        video[:, :, 2:6, 2:6] = 50 * (n % 5)
        return {"video": video, "caption": SEVEN if n % 2 else ""}


def game(**options) -> ClipGAN:
    players = model()
    critic = CaptionCritic(StepCritic(3, 3, (4, 8), vector=16), CaptionEncoder(WORDS, 16, depth=0))
    return ClipGAN(players, critic, every=2, **options)


def make_trainer(folder, steps: int) -> Trainer:
    return Trainer(
        folder, game(), Clips(), steps=steps, batch_size=2, learning_rate=1e-3, lr_schedule="constant",
        parts={"critic": Part(1e-3, (0.5, 0.9))}, ema=(0.9,), collate=collate_clips, device="cpu",
        validate=clip_validation(Clips(), show=2), tensorboard=False,
    )  # fmt: skip


def test_training_with_a_critic_resumes_exactly(tmp_path):
    make_trainer(tmp_path / "whole", 5).fit()
    make_trainer(tmp_path / "parted", 3).fit()
    make_trainer(tmp_path / "parted", 5).fit(resume=True)
    whole, parted = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parted"))
    for one, other in ((whole.weights(), parted.weights()), (whole.average(0), parted.average(0))):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert list((tmp_path / "whole" / "media").rglob("clips.png"))


def test_validation_makes_what_the_pipeline_makes():
    gen = pipeline()
    batch = {"video": torch.zeros(2, 3, 3, 8, 8, dtype=torch.uint8), "caption": [SEVEN, None]}
    made = generate(gen.model, batch, seeds=range(5, 7))
    torch.testing.assert_close(made[:1], gen(SEVEN, seed=5), atol=1e-5, rtol=0)


def test_the_squared_error_counts_where_the_clip_shows_and_reaches_the_generator_alone():
    batch = collate_clips([Clips()[n] for n in range(3)])

    def run(weight: float) -> tuple[ClipGAN, dict[str, Tensor]]:
        players = game(distance=weight)
        losses = players(batch, torch.Generator().manual_seed(0))
        losses["loss"].backward()
        return players, losses

    (without, plain), (with_it, more) = run(0.0), run(3.0)
    torch.testing.assert_close(more["loss"], plain["loss"] + 3 * more["distance"])
    pairs = zip(without.critic.parameters(), with_it.critic.parameters(), strict=True)
    assert all(one.grad is None or torch.allclose(one.grad, other.grad, atol=1e-6) for one, other in pairs)
    ours, theirs = (players.model.network.network.write.weight.grad for players in (without, with_it))
    assert not torch.allclose(ours, theirs, rtol=1e-2)
    blind = game(distance=3.0)
    blind.grid = torch.tensor([1.0, 0.0])  # the one step begins where next to nothing is left of the clip
    found = blind(batch, torch.Generator().manual_seed(0))["distance"]
    assert found < 1e-3 * more["distance"]


def test_a_guide_is_told_the_caption_and_stays_as_it_is():
    guide, told = model(latents=0), []
    critic = CaptionCritic(StepCritic(3, 3, (4, 8), planes=3, vector=16), CaptionEncoder(WORDS, 16, depth=0))
    players = ClipGAN(model(), critic, drop=0.0, guide=guide)
    guide.denoiser.register_forward_pre_hook(lambda _, args, kwargs: told.append(kwargs), with_kwargs=True)
    batch = collate_clips([Clips()[n] for n in range(3)])
    players(batch, torch.Generator().manual_seed(0))["loss"].backward()
    assert all(torch.equal(call["caption"], players.model.caption_ids(batch["caption"])) for call in told)
    assert len(told) == 2  # of data, and of what was made
    assert all(parameter.grad is None for parameter in guide.parameters())
    assert float(players.model.network.network.write.weight.grad.abs().max()) > 0
    for other, message in (
        (model(), "latents=5 must be a denoiser"),
        (model(latents=0, schedule=BetaTable(vp_betas(2))), "guide with schedule={.*} must have"),
        (model(latents=0, mean=0.5), "guide with mean=0.5 must have 0.0, the model's"),
    ):
        with pytest.raises(InputError, match=message):
            ClipGAN(model(), critic, guide=other)


def test_the_critic_reads_the_caption_and_some_items_have_none():
    players = game()
    x, ids = torch.zeros(2, 3, 3, 8, 8), players.model.caption_ids([SEVEN, None])
    nn.init.normal_(players.critic.critic.tell.weight)
    scores = players.critic(x, x, torch.ones(2), caption=ids)
    assert scores.shape == (2,)
    assert scores[0] != scores[1]
    told: list[Tensor] = []
    players.critic.register_forward_pre_hook(
        lambda _, args, kwargs: told.append(kwargs["caption"]), with_kwargs=True
    )
    players.drop = 1.0
    players(collate_clips([Clips()[n] for n in range(2)]), torch.Generator().manual_seed(0))
    assert not any(ids.any() for ids in told)
    with pytest.raises(InputError, match="latents=0"):
        ClipGAN(model(latents=0), players.critic)
    with pytest.raises(InputError, match="clamp=False"):
        ClipGAN(model(clamp=True), players.critic)


@pytest.mark.parametrize("plain", [False, True])
def test_tiny_recipe_trains_and_its_model_loads(plain, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_recipe("clips_gan.tiny", ["--run_dir", "run", "--plain", str(plain).lower()])
    made = load_model(tmp_path / "run" / "model")
    assert isinstance(made, ClipModel)
    assert (made.conditions, made.latents, made.steps) == (("caption",), 0 if plain else 8, 4)
    assert "saved run/model" in capsys.readouterr().out


def test_a_generator_goes_on_from_a_plain_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_recipe("clips_gan.tiny", ["--run_dir", "plain", "--plain", "true"])
    run_recipe("clips_gan.tiny", ["--run_dir", "game", "--init", "plain/model", "--learning_rate", "1e-9"])
    known, made = (load_model(tmp_path / name / "model").state_dict() for name in ("plain", "game"))
    assert all(torch.equal(made[name], tensor) for name, tensor in known.items())
    assert {name.split(".")[3] for name in made.keys() - known.keys()} == {"z"}
    run_recipe("clips_gan.tiny", ["--run_dir", "guided", "--init", "plain/model", "--guide", "plain/model"])
    assert load_model(tmp_path / "guided" / "model").state_dict().keys() == made.keys()
    with pytest.raises(CheckpointError, match="plain/model does not fit ClipModel"):
        run_recipe("clips_gan.tiny", ["--run_dir", "other", "--init", "plain/model", "--words", "64"])
