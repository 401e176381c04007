from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import mmdiff
from mmdiff.diffusion.mixed_denoiser import MixedDenoiser
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import load_model, read_config
from mmdiff.recipes import run_recipe
from mmdiff.registry import to_config
from mmdiff.training.checkpoint import read_checkpoint
from mmdiff.video import io
from mmdiff.video.captions import CaptionEncoder
from mmdiff.video.conditioning import (
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    KnownFrames,
    SmallClip,
)
from mmdiff.video.data import VideoClips, find_train_valid, find_videos, leave_out_broken
from mmdiff.video.digit_files import write_digits
from mmdiff.video.digit_stages import Stage, train_stages
from mmdiff.video.digits import MovingDigits
from mmdiff.video.items import VideoItem
from mmdiff.video.model import ClipModel
from mmdiff.video.small import enlarge, noised, shrink
from mmdiff.video.stages import (
    WithKnown,
    WithSmall,
    draw_known,
    given_frames,
    make_conditioners,
    network_for,
    pixel_statistics,
)
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.video.validation import clip_validation, copy_nearest, upscaling_quality

ROOT = Path(__file__).parent.parent.parent
TINY = {"widths": (8, 16), "mixing": ("shift", ""), "blocks": 1, "embedding": 16}


def _network(*conditioners, planes: int, seed: int = 0) -> ConditionedNetwork:
    torch.manual_seed(seed)
    network = ConditionedNetwork(SpaceTimeUNet(**TINY, vector=16, planes=planes), conditioners)
    for parameter in network.parameters():  # a fresh one says zero to everything
        torch.nn.init.normal_(parameter, std=0.1)
    return network


# recipes


@pytest.mark.parametrize(
    ("name", "conditions"),
    [
        ("clips.tiny", ("caption",)),
        ("clips.langevin_tiny", ("caption",)),
        ("latent_clips.tiny", ("caption",)),
        ("latent_clips.joint_tiny", ("caption",)),
        ("folder.tiny", ("caption", "label", "known")),
        ("upscale.tiny", ("small",)),
    ],
)
def test_tiny_recipe_trains_and_its_model_loads(name, conditions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["--cache", "cache"] if name == "folder.tiny" else []
    run_recipe(name, ["--run_dir", "run", *settings])
    model = load_model(tmp_path / "run" / "model")
    assert isinstance(model, ClipModel)
    assert model.conditions == conditions
    assert "saved run/model" in capsys.readouterr().out
    if name == "latent_clips.tiny":
        weights = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
        for part in ("model", "stills", "clips"):  # as if it had been stopped after the autoencoder
            shutil.rmtree(tmp_path / "run" / part)
        run_recipe(name, ["--run_dir", "run", "--resume", "true"])
        assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == weights
    if name == "latent_clips.joint_tiny":
        assert isinstance(model.denoiser, MixedDenoiser)
        assert not any(p.requires_grad for p in model.autoencoder.parameters())
        folders = (tmp_path / "run" / part / "checkpoints" for part in ("autoencoder", "joint"))
        before, after = (read_checkpoint(max(folder.iterdir())).average() for folder in folders)
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert {name.split(".")[1] for name in moved} >= {"read", "code", "decode_in", "write"}
        assert mmdiff.load(tmp_path / "run" / "model", "cpu", "float32")(steps=2).shape == (1, 3, 4, 64, 64)
    if name == "upscale.tiny":
        config = read_config(tmp_path / "run" / "model")
        assert config["given"] == {"shrink": 2, "thin": 2, "augmentation": 0.5}
        # digits are mostly black, which interpolation gets right
        assert config["held_out"]["linear"]["psnr"] > 18
    if name == "folder.tiny":
        assert list((tmp_path / "run" / "clips" / "media").rglob("clips.png"))
        log = (tmp_path / "run" / "clips" / "log.jsonl").read_text()
        assert {"stills", "clips"} <= set(json.loads(log.splitlines()[1]))


def test_folder_recipe_learns_actions_of_a_manifest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in range(3):
        io.write(tmp_path / f"{n}.npz", torch.zeros(3, 6, 32, 32), 8)
    lines = [{"file": f"{n}.npz", "actions": [0, 1, 2, 0, 1, 2]} for n in range(3)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    short = [
        "--conditions",
        "[actions]",
        "--stills_steps",
        "0",
        "--stills",
        "0",
        "--steps",
        "1",
    ]
    run_recipe("folder.tiny", ["--data", ".", "--run_dir", "run", "--cache", "cache", *short])
    model = load_model(tmp_path / "run" / "model")
    assert model.network.conditioners["actions"].actions == 3


@pytest.mark.parametrize("name", ["folder.tiny", "folder"])
def test_folder_recipe_trains_on_given_videos_and_leaves_their_folder_alone(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for n in range(2):
        io.write(tmp_path / "mine" / f"digits-{n:04d}.npz", torch.zeros(3, 6, 32, 32), 8)
        (tmp_path / "mine" / f"digits-{n:04d}.txt").write_text("a zebra asleep")
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in Path("mine").iterdir()}
    settings = {"run_dir": "run", "cache": "cache", "conditions": "[caption]", "stills_steps": 0, "steps": 1,
                "batch_size": 1, "frames": 3, "sampler_steps": 2, "widths": "[16, 32]", "mixing": "[shift, tokens]",
                "embedding": 32, "words": 32, "fps": 8, "stride": 2}  # fmt: skip
    given = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    run_recipe(name, ["--data", "mine", *given])
    assert {
        file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in Path("mine").iterdir()
    } == before
    assert not Path("run/digits").exists()
    model = load_model(tmp_path / "run" / "model")
    assert model.fps == 4  # every other frame of eight a second
    captions = model.network.conditioners["caption"]
    assert captions.unknown_words("a zebra seven") == ["seven"]
    with pytest.raises(InputError, match="source='nothere' does not exist"):
        run_recipe(name, ["--data", "nothere", *given])
    assert not Path("nothere").exists()


def test_folder_recipe_names_all_broken_videos_at_once(tmp_path):
    (tmp_path / "mine").mkdir()
    for n in range(12):
        io.write(tmp_path / "mine" / f"{n:02d}.npz", torch.zeros(3, 6, 32, 32), 8)
    train, valid = find_train_valid(tmp_path / "mine")
    how = {"size": 32, "cache": tmp_path / "cache"}
    train[0].path.write_bytes(b"not a film")
    with pytest.warns(UserWarning, match=rf"1 of 12 clips cannot be used: .*{train[0].path.name}.*left out"):
        left = leave_out_broken(train, valid, **how)
    assert left == (train[1:], valid)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(VideoClips(left[0], 2, **how, seed=0).items) == 10
    valid[0].path.write_bytes(b"")
    with pytest.raises(InputError, match=rf"2 of 12 .*{train[0].path.name}.*{valid[0].path.name}.*Repair or"):
        run_recipe("folder", ["--data", str(tmp_path / "mine"), "--run_dir", str(tmp_path / "run"), "--cache",
                              str(tmp_path / "cache")])  # fmt: skip
    train[0].path.unlink()
    with (
        pytest.warns(UserWarning, match="1 of 11"),
        pytest.raises(InputError, match="all 1 videos of the split valid cannot be read"),
    ):
        leave_out_broken(train[1:], valid, **how)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "cosinus"}, "lr_schedule='cosinus'"),
        ({"batch": 0}, "batch=0"),
        ({"rate": -1.0}, "rate=-1"),
    ],
)
def test_a_slip_in_a_later_stage_is_told_before_the_first(wrong, message):
    with pytest.raises(InputError, match=message):
        Stage("late", **{"steps": 2, "batch": 2, "frames": 1, **wrong})


def test_stages_have_a_folder_each(tmp_path):
    stages = [Stage("clips", 1, 1, 1), Stage("clips", 1, 1, 2)]
    with pytest.raises(InputError, match="must have names that differ"):
        train_stages(torch.nn.Identity(), stages, tmp_path, digits={}, seed=0, ema=0.9, resume=False)
    assert not list(tmp_path.iterdir())


def test_folder_recipe_needs_data(tmp_path):
    with pytest.raises(InputError, match="data=None must be a folder"):
        run_recipe("folder", ["--run_dir", str(tmp_path)])


# what models are given


def test_shrinking_and_linear_enlarging_give_a_linear_clip_back():
    frame, row, column = torch.meshgrid(
        torch.arange(9.0), torch.arange(8.0), torch.arange(12.0), indexing="ij"
    )
    video = (0.1 * frame - 0.02 * row + 0.03 * column)[None, None]
    small = shrink(video, 2, 2)
    assert small.shape == (1, 1, 5, 4, 6)
    torch.testing.assert_close(enlarge(small, 9, (8, 12))[..., 1:-1, 1:-1], video[..., 1:-1, 1:-1])
    held = enlarge(small, 11, (8, 12), 2)
    torch.testing.assert_close(held[:, :, 9:], held[:, :, 8:9].expand(-1, -1, 2, -1, -1))


def test_shrinking_needs_a_divisor():
    with pytest.raises(InputError, match="space=3 must divide 32"):
        shrink(torch.zeros(3, 4, 32, 32), 3, 1)


def test_noise_augmentation_keeps_the_variance_and_tells_its_level():
    generator = torch.Generator().manual_seed(0)
    small, noise = torch.randn(2, 4, 3, 8, 32, 32, generator=generator)
    mixed = noised(small, torch.tensor([0.0, 0.3, 0.6, 1.0]), noise)
    torch.testing.assert_close(mixed[0, :3], small[0])
    torch.testing.assert_close(mixed[3, :3], noise[3])
    assert torch.allclose(mixed[:, :3].flatten(1).std(1), torch.ones(4), atol=0.02)
    assert mixed[:, 3].flatten(1).mean(1).tolist() == pytest.approx([0, 0.3, 0.6, 1])


def test_drawn_frames_are_some_but_not_all_and_first_ones_half_the_time():
    random = np.random.default_rng(0)
    masks = torch.stack([draw_known(6, 3, random) for _ in range(400)])
    counts = masks.sum(1)
    assert sorted(set(counts.tolist())) == [1, 2, 3]
    first = sum(bool(mask[:count].all()) for mask, count in zip(masks, counts, strict=True)) / 400
    by_chance = np.mean([1 / 6, 1 / 15, 1 / 20])
    assert first == pytest.approx(0.5 + 0.5 * by_chance, abs=0.07)
    assert not draw_known(1, 3, random).any()


def test_given_frames_and_small_clips_are_those_of_the_clip_and_repeatable():
    clips = MovingDigits(frames=6)
    mean, std = pixel_statistics(clips, 8)
    pixels = torch.stack([clips[n]["video"] for n in range(8)]) / 127.5 - 1
    assert (mean, std) == pytest.approx((float(pixels.mean()), float(pixels.std())), rel=1e-3)
    model = ClipModel(torch.nn.Identity(), CosineVP(), mean=mean, std=std)
    x0 = model.to_model(clips[5]["video"])
    known = WithKnown(clips, 3, mean=mean, std=std, seed=1)[5]["known"]
    assert torch.equal(known, WithKnown(clips, 3, mean=mean, std=std, seed=1)[5]["known"])
    mask = known[-1, :, 0, 0] > 0
    assert 1 <= mask.sum() <= 3
    torch.testing.assert_close(known, given_frames(x0, mask))
    assert not known[:, ~mask].any()
    assert not WithKnown(clips, 3, 0.0)[5]["known"].any()
    small = WithSmall(clips, 4, 3, 0.0, mean=mean, std=std)[5]["small"]
    assert small.shape == (4, 2, 8, 8)
    torch.testing.assert_close(small[:3, 1, 2, 3], x0[:, 3, 8:12, 12:16].mean((1, 2)))


def test_left_out_planes_count_as_absent_and_their_order_does_not_matter():
    network = _network(KnownFrames(), SmallClip(width=16), planes=7)
    x, level = torch.randn(2, 3, 4, 8, 8), torch.zeros(2)
    known = given_frames(torch.randn_like(x), torch.tensor([True, False, False, True]))
    small = noised(torch.randn(2, 3, 2, 4, 4), 0.2, torch.randn(2, 3, 2, 4, 4))
    both = network(x, level, known=known, small=small)
    torch.testing.assert_close(network(x, level, small=small, known=known), both)
    for given in ({"known": known}, {"small": small}, {}):
        told = {**network.nulls({"known": known, "small": small}), **given}
        torch.testing.assert_close(network(x, level, **given), network(x, level, **told))
        assert not torch.allclose(network(x, level, **given), both, atol=1e-3)


def test_conditioners_follow_the_data():
    items = [VideoItem(Path(f"{n}.mp4"), "a red cat", n, actions=(0, 4)) for n in range(3)]
    caption, label, actions, known = make_conditioners(["caption", "label", "actions", "known"], items, 32)
    assert caption.unknown_words("a red dog") == ["dog"]
    assert (label.classes, actions.actions, known.channels) == (3, 5, 3)
    with pytest.raises(InputError, match="must be some of caption, label, actions, known"):
        make_conditioners(["sound"], items, 16)
    for name in ("caption", "label", "actions"):
        with pytest.raises(InputError, match=f"the data must say the {name}"):
            make_conditioners([name], [VideoItem(Path("a.mp4"))], 16)


@torch.no_grad()
@pytest.mark.parametrize(
    ("conditioners", "widths"),
    [
        ((), (0, 0, 0)),
        ((KnownFrames(),), (0, 0, 4)),
        ((ClassCondition(3, 6), SmallClip(width=6)), (6, 0, 3)),
        ((CaptionEncoder(("", "?", "a"), 32), ActionCondition(3, 32), KnownFrames()), (32, 32, 4)),
    ],
)
def test_a_network_has_room_for_what_it_is_told(conditioners, widths):
    given = {"mixing": ("shift+tokens", "tokens"), "blocks": 1, "embedding": 16, "head_width": 8}
    network = network_for(conditioners, widths=(8, 16), **given)
    own = to_config(network.network)
    assert (own["vector"], own["tokens"], own["planes"]) == widths
    assert own["mixing"] == (["shift+tokens", "tokens"] if widths[1] else ["shift", ""])
    x = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert network(x, torch.zeros(2)).shape == x.shape


@pytest.mark.parametrize("fps", [None, 5.0])
def test_actions_are_those_of_the_frames_shown(tmp_path, fps):
    for n in range(2):
        frames = torch.arange(20, dtype=torch.uint8)[None, :, None, None].expand(3, -1, 8, 8)
        io.write(tmp_path / f"{n}.npz", (frames + 100 * n).contiguous(), 10)
    lines = [{"file": f"{n}.npz", "actions": [v + 100 * n for v in range(20)]} for n in range(2)]
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    clips = VideoClips(find_videos(tmp_path), 4, 8, fps=fps, seed=0, cache=tmp_path / "cache")
    for n in range(10):
        assert clips[n]["actions"].tolist() == clips[n]["video"][0, :, 0, 0].tolist()


def test_actions_that_are_no_numbers_are_refused(tmp_path):
    io.write(tmp_path / "a.npz", torch.zeros(3, 2, 8, 8), 10)
    (tmp_path / "metadata.jsonl").write_text('{"file": "a.npz", "actions": ["left", "right"]}\n')
    with pytest.raises(InputError, match="actions must be whole numbers"):
        find_videos(tmp_path)


def test_digit_files_are_a_data_set_with_captions_classes_and_splits(tmp_path):
    index = write_digits(tmp_path / "digits", 9, frames=3)
    train, valid = find_train_valid(tmp_path / "digits")
    assert (len(train), len(valid)) == (7, 2)
    clip = MovingDigits(frames=3)[0]
    assert valid[0].caption == clip["caption"]
    assert valid[0].label == clip["label"][0]
    read = io.read(valid[0].path, dtype=torch.uint8).video
    assert (read.float() - clip["video"].float()).abs().mean() < 6
    before = index.stat().st_mtime_ns
    assert write_digits(tmp_path / "digits", 20) == index
    assert index.stat().st_mtime_ns == before


def test_digit_files_take_no_folder_with_something_in_it(tmp_path):
    (tmp_path / "digits-0000.mp4").write_bytes(b"holiday")
    with pytest.raises(InputError, match="holds other files"):
        write_digits(tmp_path, 2)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"holiday"]
    with pytest.raises(InputError, match="holds other files"):
        write_digits(tmp_path / "digits-0000.mp4", 2)


# validation


def test_loss_of_a_network_that_says_nothing_is_what_theory_says():
    clips = MovingDigits("test", frames=4)
    model = ClipModel(SpaceTimeUNet(**TINY), CosineVP(), frames=4, mean=-0.9, std=0.37)
    task = ClipTask(model)
    validate = clip_validation(clips, count=6, batch=4, noise=(-1.0, 1.0), show=0)
    found = validate(task, 0).metrics
    assert found == validate(task, 7).metrics
    x0 = torch.stack([model.to_model(clips[n]["video"]) for n in range(6)])
    for level in (-1.0, 1.0):
        # v = α ε - σ x0, so its mean square is α² + σ² x0²
        alpha2 = 1 / (1 + np.exp(2 * level))
        expected = alpha2 + (1 - alpha2) * float(x0.square().mean())
        assert found[f"loss_at_{level:g}"] == pytest.approx(expected, rel=0.03)
    assert found["loss"] == pytest.approx(np.mean([found["loss_at_-1"], found["loss_at_1"]]))


def test_prediction_is_compared_with_copying_the_nearest_frame():
    assert copy_nearest(torch.arange(5.0).view(1, 5, 1, 1), torch.tensor([1, 0, 0, 1, 0]) > 0).flatten().tolist() == [
        0, 0, 3, 3, 3,
    ]  # fmt: skip
    still = [{"video": torch.full((3, 4, 8, 8), 50, dtype=torch.uint8)}] * 4
    model = ClipModel(_network(KnownFrames(), planes=4), CosineVP(), frames=4, size=(8, 8))
    result = clip_validation(WithKnown(still, 2), count=2, show=2, steps=1)(ClipTask(model), 0)
    assert result.metrics["psnr_copy"] == np.inf
    assert 0 < result.metrics["psnr"] < 40
    assert result.images["clips"].dtype == np.uint8


def test_upscaling_is_compared_with_interpolation():
    clips = WithSmall([{"video": torch.full((3, 4, 16, 16), 50, dtype=torch.uint8)}] * 4, most=0.0)
    model = ClipModel(_network(SmallClip(width=16), planes=3), CosineVP(), frames=4, size=(16, 16))
    quality = upscaling_quality(model, clips, 3, batch=2, steps=1)
    assert quality["linear"]["psnr"] > 100  # a clip of one colour
    assert quality["linear"]["ssim"] == pytest.approx(1)
    assert quality["model"]["psnr"] < 40


# games


@pytest.fixture(scope="module")
def recorder():
    specification = importlib.util.spec_from_file_location(
        "record_game", ROOT / "examples" / "record_game.py"
    )
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_recorded_game_has_frames_sound_and_an_action_for_each_frame(recorder, tmp_path):
    for _ in range(2):  # the second time adds nothing
        recorder.main(folder=tmp_path, game="pong", clips=2, seconds=0.8, fps=10, size=32)
    items = find_videos(tmp_path)
    assert [item.caption for item in items] == ["pong"] * 2
    clip = io.read(items[1].path, sound=True)
    assert (clip.video.shape, clip.fps) == ((3, 8, 32, 32), 10)
    assert clip.sound.shape[1] == pytest.approx(0.8 * clip.sample_rate, abs=1)
    line = json.loads((tmp_path / "metadata.jsonl").read_text().splitlines()[1])
    assert len(line["actions"]) == 8
    assert {str(action) for action in line["actions"]} <= set(line["action_names"])
    assert (line["seed"], line["fps"]) == (1, 10)
    got = VideoClips(items, 8, 32, seed=0, cache=False)[0]
    assert got["actions"].tolist() in [list(item.actions) for item in items]


def test_game_obeys_its_actions_and_repeats_exactly(recorder):
    def sound_of(random_seed: int) -> recorder.Play:
        return recorder.play(
            recorder.load_game("space_invaders", 5), np.random.default_rng(random_seed), 30, 4, 0.8
        )

    one, again, other = sound_of(1), sound_of(1), sound_of(2)
    assert torch.equal(one.video, again.video)
    assert torch.equal(one.sound, again.sound)
    assert one.actions == again.actions != other.actions
    assert one.sound.shape == (1, 30 * 4 * 512)
    assert one.sound.abs().max() <= 1
    assert one.sound.std() > 0.005  # the invaders' steps


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"game": "pongg"}, "such as pong"),
        ({"fps": 7}, "fps=7 must divide 60"),
        ({"seconds": 0.0}, "be positive"),
    ],
)
def test_impossible_recordings_are_refused(recorder, tmp_path, settings, complaint):
    with pytest.raises(InputError, match=complaint):
        recorder.main(folder=tmp_path, **settings)
