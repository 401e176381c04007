from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import mmdiff
from mmdiff.commands.clip_files import SHOWN, Strips, plan_outputs
from mmdiff.commands.clip_options import read_size
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.video import io
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import ConditionedNetwork
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet

SEVEN = "a blue seven moving left"


@pytest.fixture(scope="module")
def tiny_clips(tmp_path_factory) -> Path:
    """Folder of an untrained model of 16x16 clips of 6 frames, 8 a second."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            widths=(8, 16), blocks=1, mixing=("shift", "tokens"), patch=2, embedding=16, vector=32, tokens=32,
            span=5, head_width=16,
        )  # fmt: skip
        told = ConditionedNetwork(network, (CaptionEncoder(learn_vocabulary([SEVEN] * 2), 32),))
        model = ClipModel(told, CosineVP(), frames=6, size=(16, 16), mean=-0.5, std=0.4, steps=2)
        with torch.no_grad():  # no layer stays at zero, where it starts: frames see each other
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape))
    return save_model(model, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to work in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def film(here) -> Path:
    """Five frames of 16x16 noise at 8 a second, as they are."""
    return io.write(here / "film.npz", noise(5), 8)


@pytest.fixture
def clip(mmdiff_command, tiny_clips):
    def run(*argv: object):
        return mmdiff_command("clip", *argv, "--model", tiny_clips, "--device", "cpu", "--dtype", "float32")

    return run


def noise(frames: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.randint(0, 256, (3, frames, size, size), dtype=torch.uint8, generator=generator)


def video(path: Path | str) -> Tensor:
    return io.read(path, dtype=torch.uint8).video


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_sentence_gives_a_video_named_after_it(clip, here):
    outcome = clip(SEVEN)
    assert outcome.status == 0, outcome.err
    assert files(here) == ["a-blue-seven-moving-left.mp4"]
    about = io.info("a-blue-seven-moving-left.mp4")
    assert (about.frames, about.height, about.width, about.fps) == (6, 16, 16, 8)
    assert outcome.out.startswith("a-blue-seven-moving-left.mp4  6 frames of 16x16")


def test_command_line_gives_what_python_gives(clip, here, tiny_clips):
    options = ("--frames", 15, "--size", "12x20", "--steps", 3, "--guidance", 1.5, "--seed", 7)
    assert clip(SEVEN, *options, "--sampler", "ddim", "-o", "x.npz").status == 0
    gen = mmdiff.load(tiny_clips, "cpu", "float32")
    made = gen(SEVEN, frames=15, size=(12, 20), steps=3, guidance=1.5, seed=7, sampler="ddim")[0]
    assert (video("x.npz").float() / 127.5 - 1 - made).abs().max() <= 1 / 127.5


def test_json_has_one_object_per_clip(clip, here):
    outcome = clip(SEVEN, "--num", 2, "--seed", 4, "--guidance", 2, "-o", "out", "--json")
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert [r["seed"] for r in records] == [4, 5]
    assert [r["output"] for r in records] == [f"out/a-blue-seven-moving-left-{i}.mp4" for i in range(2)]
    assert records[0] == {**records[0], "prompt": SEVEN, "frames": 6, "size": [16, 16], "fps": 8, "steps": 2}
    assert records[0]["evaluations"] == 4
    assert files(here) == [r["output"] for r in records]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("x.gif", ["x.gif"]),
        ("x.webm", ["x.webm"]),
        ("deep/er/x.mp4", ["deep/er/x.mp4"]),
        ("x.png", ["x.png"]),
        ("shots/%02d.png", ["shots/00.png", "shots/01.png"]),
    ],
)
def test_the_name_decides_what_is_written(clip, here, out, expected):
    outcome = clip(SEVEN, "--frames", 2, "-o", out)
    assert outcome.status == 0, outcome.err
    assert files(here) == expected


def test_a_contact_sheet_shows_all_clips(clip, here):
    assert clip(SEVEN, "--num", 3, "-o", "sheet.png", "--plot", "again.png").status == 0
    assert Image.open("sheet.png").size == Image.open("again.png").size
    one = clip(SEVEN, "-o", "one.png")
    assert one.out == "one.png  contact sheet\n"
    assert Image.open("sheet.png").height > 2.5 * Image.open("one.png").height


def test_prompts_come_from_a_file_too(clip, here):
    Path("list.txt").write_text(f"{SEVEN}\n\na blue seven\na blue seven\n")
    outcome = clip("--prompts", "list.txt", "-o", "out")
    assert outcome.status == 0, outcome.err
    assert files(here / "out") == ["a-blue-seven-0.mp4", "a-blue-seven-1.mp4", "a-blue-seven-moving-left.mp4"]


def test_unknown_words_are_named_in_a_warning(clip, here):
    assert "never learned the word 'turquoise'" in clip("a turquoise seven").err


def test_a_film_is_continued_beside_it(clip, film, here):
    outcome = clip(SEVEN, "--continue-from", film, "--frames", 9)
    assert outcome.status == 0, outcome.err
    assert io.info("film.continued.mp4").frames == 14
    clip(SEVEN, "--continue-from", film, "--frames", 2, "--loop", "-o", "x.npz")
    assert torch.equal(video("x.npz")[:, :5], noise(5))


def test_pictures_are_passed_through(clip, here):
    pictures = [noise(1), noise(2)[:, :1]]
    for name, picture in zip("ab", pictures, strict=True):
        io.write(f"{name}.png", picture, 8)
    outcome = clip("--keyframes", "a.png", "b.png", "--places", 1, 8, "-o", "x.npz")
    assert outcome.status == 0, outcome.err
    assert video("x.npz").shape[1] == 9
    assert torch.equal(video("x.npz")[:, [1, 8]], torch.cat(pictures, 1))


@pytest.mark.parametrize("kind", ["picture", "video"])
def test_only_what_is_white_is_painted(clip, film, here, kind):
    mask = torch.zeros(3, 1 if kind == "picture" else 5, 16, 16, dtype=torch.uint8)
    mask[:, :, 4:9] = 255
    name = "mask.png" if kind == "picture" else "mask.npz"
    io.write(name, mask, 8)
    outcome = clip("--inpaint", film, "--mask", name, "-o", "x.npz")
    assert outcome.status == 0, outcome.err
    changed = video("x.npz") != noise(5)
    assert not changed[:, :, :4].any()
    assert not changed[:, :, 9:].any()
    assert changed[:, :, 4:9].float().mean() > 0.8


def test_a_film_is_seen_more_of(clip, film, here):
    outcome = clip("--outpaint", film, "--margins", 4, 0, 0, 8, 2, 3, "-o", "x.npz")
    assert outcome.status == 0, outcome.err
    made = video("x.npz")
    assert made.shape == (3, 10, 24, 20)
    assert torch.equal(made[:, 2:7, :16, 4:], noise(5))


def test_a_film_is_made_larger_at_its_own_size_and_rate(clip, here):
    io.write("small.npz", noise(4, 8), 5)
    outcome = clip("--upscale", "small.npz", "--factor", 2, 2, "-o", "x.npz")
    assert outcome.status == 0, outcome.err
    about = io.info("x.npz")
    assert (about.frames, about.height, about.width, about.fps) == (8, 16, 16, 10)


def test_a_film_of_another_shape_is_read_at_the_models(clip, here):
    io.write("large.mp4", noise(20, 64), 16)
    outcome = clip("--continue-from", "large.mp4", "--frames", 1, "-o", "x.npz")
    assert outcome.status == 0, outcome.err
    assert "large.mp4 is 64x64: read at 16x16" in outcome.err
    assert "16 frames a second: read at 8" in outcome.err
    assert video("x.npz").shape == (3, 11, 16, 16)


def test_the_sound_of_a_film_stays_with_its_pictures(clip, here):
    wave = 0.5 * torch.sin(torch.arange(8000) / 5)[None]
    io.write("loud.npz", noise(8), 8, sound=wave, sample_rate=8000)
    clip("--outpaint", "loud.npz", "--margins", 0, 0, 0, 0, 2, 1, "-o", "x.npz")
    heard = np.load("x.npz")["sound"]
    assert not heard[:, :2000].any()
    np.testing.assert_allclose(heard[:, 2000:10_000], wave.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "0"], "steps=0"),
        (["--sampler", "magic"], "sampler='magic' must be one of"),
        (["--frames", "0"], "frames=0"),
        (["--num", "0"], "num=0"),
        (["--size", "big"], "size='big'"),
        (["--size", "18"], "size=18x18 must be divisible by 4"),
        (["--method", "trained"], "method='trained'"),
        (["--method", "magic"], "method"),
        (["-o", "x.xyz"], "out='x.xyz' must be a folder or end in"),
        (["-o", "film.npz", "--continue-from", "film.npz"], "is an input and would be replaced"),
        (["-o", "x.mp4", "--plot", "x.mp4"], "plot='x.mp4' must end in .png"),
        (["-o", "x.png", "--plot", "x.png"], "would be written twice"),
        (["-o", "%d.png", "--num", "2"], "name a folder"),
        (["--continue-from", "film.npz", "--upscale", "film.npz"], "must not be given together"),
        (["--continue-from", "gone.mp4"], "gone.mp4"),
        (["--mask", "film.npz"], "--mask must come with --inpaint"),
        (["--inpaint", "film.npz"], "--inpaint must come with --mask"),
        (["--outpaint", "film.npz"], "margins=[] must be 1 number"),
        (["--outpaint", "film.npz", "--margins", "0"], "one of them more"),
        (["--outpaint", "film.npz", "--margins", "4", "--frames", "3"], "frames=3 must be left out"),
        (["--upscale", "film.npz", "--factor", "1"], "factor=1"),
        (["--keyframes", "film.npz", "--places", "1", "2"], "places=[1, 2] must be 1 rising"),
        (["--prompts", "film.npz"], "must not both be given"),
        (["--colour", "blue"], "--colour"),
        (["--factor", "2"], "--factor must come with --upscale"),
        (["--seed", "99999999999999999999999"], "to 18446744073709551615"),
        (["--guidance", "nan"], "nan"),
        (["--guidance", ".nan"], "guidance=nan"),
        (["--guidance", "-1"], "guidance=-1"),
        (["--outpaint", "film.npz", "--margins", "3", "0", "0", "8"], "right=1, top=0, bottom=8 would do"),
        (["--method", "replacement"], "--method replacement must come with something to agree with"),
        (["--method", "reconstruction", "--frames", "7"], "--method reconstruction must come with"),
        (["--fps", "12", "-o", "x.png"], "--fps 12.0 must be left out: pictures have no rate"),
        (["--fps", "12", "-o", "shots/%d.png"], "--fps 12.0 must be left out"),
        (
            ["--keyframes", "film.npz", "film.npz", "--fps", "12", "-o", "x.png"],
            "--fps 12.0 must be left out",
        ),
        (["--continue-from", ""], "--continue-from '' must name a file"),
        (["--keyframes", "film.npz", ""], "--keyframes '' must name a file"),
        (["--inpaint", "film.npz", "--mask", ""], "--mask '' must name a file"),
        (["-o", ""], "out='' must name a file or folder"),
    ],
)
def test_senseless_requests_end_with_status_2_and_a_hint(clip, film, here, options, complaint):
    outcome = clip(SEVEN, *options)
    assert complaint in outcome.err
    assert outcome.status == 2
    assert files(here) == ["film.npz"]


def test_guidance_needs_a_prompt_to_follow(clip, film, here):
    for options in ((), ("--continue-from", film)):
        outcome = clip("--guidance", 2, *options)
        assert outcome.status == 2
        assert "--guidance 2.0 must come with a prompt" in outcome.err
    assert files(here) == ["film.npz"]


@pytest.mark.parametrize("options", [("--frames", 15), ("--loop",)])
def test_methods_make_a_difference_wherever_they_are_taken(clip, here, options):
    made = []
    for method in ("reconstruction", "replacement"):
        outcome = clip(SEVEN, *options, "--method", method, "-o", f"{method}.npz")
        assert outcome.status == 0, outcome.err
        made.append(video(f"{method}.npz"))
    assert not torch.equal(*made)


def pictures(folder: str, frames: int) -> dict[str, bytes]:
    """Write numbered pictures; return what is in the folder."""
    Path(folder).mkdir()
    io.write(f"{folder}/%04d.png", noise(frames), 8)
    return content(folder)


def content(folder: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(folder).iterdir()}


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("imgs", "imgs/%04d.png"),
        ("imgs", "imgs/0001.png"),
        ("imgs", "../here/imgs/x.mp4"),
        ("imgs", "imgs"),
        ("imgs/%04d.png", "imgs/%04d.png"),
        ("imgs/%04d.png", "imgs/%d.png"),  # would leave none of those after its last
        ("imgs/%04d.png", "imgs/0001.png"),
    ],
)
@pytest.mark.parametrize(
    "task",
    [
        ["--continue-from", "IN", "--frames", 1],
        ["--inpaint", "IN", "--mask", "white.png"],
        ["--inpaint", "film.npz", "--mask", "IN"],
        ["--outpaint", "IN", "--margins", 4],
        ["--upscale", "IN"],
        ["--keyframes", "IN", "white.png", "--frames", 6],
        ["--keyframes", "imgs/0001.png", "imgs/0003.png", "IN", "--frames", 6],
    ],
)
def test_pictures_that_are_read_are_never_replaced(clip, film, here, task, given, out):
    before = pictures("imgs", 5)
    io.write("white.png", torch.full((3, 1, 16, 16), 255, dtype=torch.uint8), 8)
    outcome = clip(*[given if word == "IN" else word for word in task], "-o", out)
    assert outcome.status == 2, outcome.err
    assert "out: " in outcome.err
    assert content("imgs") == before


def test_a_contact_sheet_replaces_no_picture_that_is_read(clip, here):
    before = pictures("imgs", 3)
    for given in ("imgs", "imgs/%04d.png"):
        outcome = clip("--continue-from", given, "--frames", 2, "-o", "x.mp4", "--plot", "imgs/0001.png")
        assert outcome.status == 2
        assert "imgs/0001.png" in outcome.err
    assert content("imgs") == before


@pytest.mark.parametrize("out", ["film.npz/x.mp4", "film.npz/deep/er", "/dev/null", "film.npz/%d.png"])
def test_places_where_nothing_can_be_written_are_named(clip, film, here, out):
    outcome = clip(SEVEN, "-o", out)
    assert outcome.status == 2
    assert "is no folder" in outcome.err
    (here / "dir.png").mkdir()
    assert "is no file" in clip(SEVEN, "-o", "x.mp4", "--plot", "dir.png").err


def test_a_mask_must_have_the_shape_of_the_film_or_of_what_is_read(clip, here):
    wide = noise(5, 32)[:, :, :16]
    io.write("wide.npz", wide, 8)
    hole = torch.zeros(3, 1, 16, 32, dtype=torch.uint8)
    hole[..., 8:14] = 255  # of which the left half of the square in the middle is 0 to 6
    io.write("wide.png", hole, 8)
    io.write("square.png", hole[..., 8:24], 8)
    io.write("tall.png", hole.transpose(2, 3), 8)
    made = []
    for mask in ("wide.png", "square.png"):
        outcome = clip("--inpaint", "wide.npz", "--mask", mask, "--size", 16, "-o", "x.npz")
        assert outcome.status == 0, outcome.err
        made.append(video("x.npz"))
    assert torch.equal(*made)
    changed = made[0] != wide[..., 8:24]
    assert not changed[..., 6:].any()
    assert changed[..., :6].float().mean() > 0.8
    outcome = clip("--inpaint", "wide.npz", "--mask", "tall.png", "--size", 16)
    assert outcome.status == 2
    assert "of 32x16 must have the shape of wide.npz, 16x32, or of what is read from it, 16x16" in outcome.err


def test_a_white_mask_is_remarked_on(clip, film, here):
    io.write("white.png", torch.full((3, 1, 16, 16), 255, dtype=torch.uint8), 8)
    outcome = clip("--inpaint", film, "--mask", "white.png", "-o", "x.npz")
    assert "white.png is white everywhere: everything is painted anew" in outcome.err


def test_what_is_done_to_key_frames_is_told(clip, film, here):
    io.write("large.png", noise(1, 64), 8)
    outcome = clip("--keyframes", film, "large.png", "-o", "x.npz")
    assert "large.png is 64x64: read at 16x16" in outcome.err
    assert "film.npz has more than one picture: its first is taken" in outcome.err
    assert torch.equal(video("x.npz")[:, 0], noise(5)[:, 0])


def test_what_has_no_rate_of_its_own_is_not_said_to_have_one(clip, here):
    pictures("imgs", 3)
    np.save("array.npy", noise(3).permute(1, 2, 3, 0).numpy())
    for given in ("imgs", "imgs/%04d.png", "array.npy"):
        outcome = clip("--continue-from", given, "--frames", 1, "-o", "x.npz")
        assert outcome.status == 0
        assert "a second: read at" not in outcome.err
        assert torch.equal(video("x.npz")[:, :3], noise(3))
        assert clip("--upscale", given, "--factor", 1, 2, "-o", "y.npz").status == 0
        assert io.info("y.npz").fps == 16


def test_evaluations_are_told_where_the_steps_do_not(clip, here):
    assert "note: sampler adaptive chooses its own steps: " in clip(SEVEN, "--sampler", "adaptive").err
    outcome = clip(SEVEN, "--sampler", "heun", "--steps", 4)
    assert "sampler heun takes up to 2 network evaluations a step: 4 steps, 7 network" in outcome.err
    assert "sampler" not in clip(SEVEN).err


def test_one_is_singular(clip, here):
    outcome = clip(SEVEN, "--frames", 1, "--steps", 1, "-o", "x.mp4")
    assert "1 frame of 16x16" in outcome.out
    assert "(1 network evaluation," in outcome.out


def test_a_black_mask_is_refused(clip, film, here):
    io.write("black.png", torch.zeros(3, 1, 16, 16, dtype=torch.uint8), 8)
    assert "must be white somewhere" in clip("--inpaint", film, "--mask", "black.png").err


def test_a_model_of_another_kind_is_told_its_command(mmdiff_command, tiny_model, tiny_clips, here):
    outcome = mmdiff_command("clip", SEVEN, "--model", tiny_model)
    assert outcome.status == 2
    assert "`mmdiff vocode`" in outcome.err
    outcome = mmdiff_command("vocode", "x.wav", "--model", tiny_clips)
    assert outcome.status == 2
    assert "`mmdiff clip`" in outcome.err


def test_sizes_are_height_and_width():
    assert read_size("32") == (32, 32)
    assert read_size("32x48") == (32, 48)
    assert read_size(None) is None
    for wrong in ("", "x", "0", "3x4x5", "-3"):
        with pytest.raises(InputError, match="size="):
            read_size(wrong)


def test_names_are_safe_whatever_the_prompt():
    def name(prompt: str | None, *inputs: str, tag: str | None = None) -> str:
        return str(plan_outputs(None, [prompt], [Path(i) for i in inputs], tag, None, None, 6).clips[0])

    assert name("../../etc/passwd: a *star*?") == "etc-passwd-a-star.mp4"
    assert name("Ünïcode 字") == "ünïcode-字.mp4"
    assert name(None) == name("!?") == "clip.mp4"
    assert len(name("long " * 100)) < 70
    assert name("a", "shots/%04d.png", tag="continued") == "shots/clip.continued.mp4"


def test_a_contact_sheet_takes_evenly_spaced_frames_from_blocks_as_they_come():
    whole = torch.arange(100.0).reshape(1, 1, 100, 1, 1).expand(2, 1, 100, 1, 1)
    strips = Strips(2, 100)
    for block in whole.split([7, 60, 1, 32], 2):
        strips.add(block, 0)
    expected = [round(n * 99 / (SHOWN - 1)) for n in range(SHOWN)]
    assert [shown[0, :, 0, 0].tolist() for shown in strips.videos()] == [expected] * 2
