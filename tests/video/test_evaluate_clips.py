"""Oracles: real clips as a model, clips spoilt in a known way, closed forms, and what must not be looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import load_model
from mmdiff.media.tables import Score
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import ConditionedNetwork, KnownFrames
from mmdiff.video.digit_files import write_digits
from mmdiff.video.digits import COLOURS
from mmdiff.video.evaluate import (
    _TRAINING,
    System,
    evaluate_digits,
    model_system,
    probabilities,
)
from mmdiff.video.evaluate_captions import check_digit_model, pair_captions, questions, real_digits
from mmdiff.video.evaluate_edits import EDIT_MEASURES, METHODS, edit_measures, evaluate_edits
from mmdiff.video.evaluate_folder import evaluate_folder, folder_clips
from mmdiff.video.evaluate_pairs import judge_pairs, pair_accuracy, split_colours
from mmdiff.video.evaluate_tasks import blend, edit_tasks
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.judge import DigitJudge, caption_accuracy
from mmdiff.video.metrics import psnr, ssim
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.video.validation import NOISE, noise_losses

FRAMES = 8
ASKED = questions(limit=24, pairs=12, seed=3)
Spoil = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def judge() -> DigitJudge:
    judge = load_model("digit-judge")
    assert isinstance(judge, DigitJudge)
    return judge


@pytest.fixture(scope="module")
def gen() -> ClipGenerator:
    """An untrained model of captioned 32x32 clips of 8 frames."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            widths=(16, 16), blocks=1, mixing=("shift", "joint+tokens"), patch=4, embedding=32, vector=32,
            tokens=32, span=7, head_width=16,
        )  # fmt: skip
        conditions = (CaptionEncoder(learn_vocabulary((*questions().captions, "and") * 2), 32),)
        for p in network.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.05)
        conditioned = ConditionedNetwork(network, conditions)
        model = ClipModel(conditioned, CosineVP(), frames=FRAMES, mean=-0.9, std=0.37, steps=2)
    return ClipGenerator(model, "cpu", "float32")


def coarse(video: Tensor) -> Tensor:
    """Feature network that is quick."""
    return functional.adaptive_avg_pool3d(video, (2, 2, 2)).flatten(1)


def measured(judge: DigitJudge, spoil: Spoil | None = None, batch: int = 8) -> tuple[Score, Score]:
    """Scores of real clips, and of the same clips spoilt, as if a model had made them."""
    real = real_digits(FRAMES, 32)

    def make(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        clips = real(captions, seeds).float() / 127.5 - 1
        return clips if spoil is None else spoil(clips)

    system = System("oracle", make)
    one, other = evaluate_digits(
        [system], judge, ASKED, frames=FRAMES, features=coarse, reference=100, batch=batch, progress=False
    )
    return one, other


@pytest.fixture(scope="module")
def real_score(judge: DigitJudge) -> Score:
    real, oracle = measured(judge)
    assert oracle.measures == real.measures
    return real


# --- captions -> clips ------------------------------------------------------------------------------------


def test_a_model_that_makes_real_clips_has_the_judges_own_accuracy(
    judge: DigitJudge, real_score: Score
) -> None:
    clips = real_digits(FRAMES, 32)(ASKED.captions, range(3, 3 + len(ASKED.captions)))
    own = caption_accuracy(clips, ASKED.labels, judge)
    assert {name: real_score.measures[name] for name in own} == own
    assert own["all"].value > 0.95
    assert (real_score.about["clips"], real_score.about["pairs"]) == (24, 12)
    assert real_score.measures["jump"].value == pytest.approx(1, abs=0.02)  # a pixel a frame
    assert 0.8 < real_score.measures["nearest"].value < 1.2


def test_batches_make_no_difference(judge: DigitJudge, real_score: Score) -> None:
    _, other = measured(judge, batch=5)
    assert other.measures.keys() == real_score.measures.keys()
    for name, value in other.measures.items():
        assert value.value == pytest.approx(real_score.measures[name].value, rel=1e-4, abs=1e-6), name


def test_each_fault_shows_in_its_measure_and_in_no_other(judge: DigitJudge, real_score: Score) -> None:
    def changed(spoil: Spoil) -> dict[str, float]:
        _, score = measured(judge, spoil)
        names = ("digit", "motion", "colour", "empty", "smooth")
        return {
            name: score.measures[name].value
            for name in names
            if abs(score.measures[name].value - real_score.measures[name].value) > 0.02
        }

    def blank(clips: Tensor) -> Tensor:
        return torch.cat((clips[:, :, :-1], torch.full_like(clips[:, :, -1:], -1)), 2)

    still = sum(int(label[1]) == 0 for label in ASKED.labels) / len(ASKED.labels)
    assert changed(lambda clips: clips[:, :, :1].expand_as(clips)) == {"motion": pytest.approx(still)}
    recoloured = changed(lambda clips: clips.roll(1, 1))
    assert set(recoloured) == {"colour"}
    digit = real_score.measures["digit"].value
    lost = changed(blank)
    assert lost == {
        "digit": pytest.approx(digit * (FRAMES - 1) / FRAMES, abs=0.03),
        "empty": pytest.approx(1 / FRAMES),
        "smooth": 0.0,
    }


def test_distances_see_what_the_judge_does_not_ask(judge: DigitJudge, real_score: Score) -> None:
    _, dimmer = measured(judge, lambda clips: (clips + 1) * 0.8 - 1)
    near, far = real_score.measures["kernel"], dimmer.measures["kernel"]
    assert far.value > near.value + 1e-4


def test_a_model_that_repeats_training_clips_is_found_out(judge: DigitJudge) -> None:
    asked, training = questions(limit=24, pairs=0), real_digits(FRAMES, 32, "train")
    chosen = np.random.default_rng(0).integers(24, size=100)  # as the clips compared with

    def repeat(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return training(
            [asked.captions[chosen[seed]] for seed in seeds], [_TRAINING + seed for seed in seeds]
        )

    real, copied = evaluate_digits(
        [System("copies", repeat)],
        judge,
        asked,
        frames=FRAMES,
        features=coarse,
        reference=100,
        progress=False,
    )
    assert copied.measures["nearest"].value == pytest.approx(0, abs=1e-3)
    assert copied.measures["duplicates"].value == 1
    assert real.measures["duplicates"].value < 0.2
    assert "pair_digit" not in real.measures


def test_probabilities_are_the_judges_mean_over_frames(judge: DigitJudge) -> None:
    clips = real_digits(3, 32)(ASKED.captions[:2], [0, 1])
    frames = clips[1].float().transpose(0, 1) / 127.5 - 1
    with torch.no_grad():
        torch.testing.assert_close(probabilities(clips, judge)[1], judge(frames).softmax(1).mean(0))


def test_questions_are_crossed_or_held_out_and_few_of_them_already_differ() -> None:
    assert len(set(questions().captions)) == 300
    unseen = questions(True, num=3, pairs=20)
    assert len(unseen.captions) == 90
    assert len(set(unseen.captions)) == 30
    few = questions(limit=10).labels
    assert [len(set(column.tolist())) for column in few.unbind(1)] == [10, 5, 6]
    captions, labels = pair_captions(30, True, seed=1)
    assert captions == pair_captions(30, True, seed=1)[0] != pair_captions(30, True, seed=2)[0]
    held_out = {tuple(label) for label in unseen.labels.tolist()}
    assert {tuple(figure) for pair in labels.tolist() for figure in pair} <= held_out
    assert bool((labels[:, 0, 2] != labels[:, 1, 2]).all())


def test_a_model_is_asked_by_caption_and_seed(judge: DigitJudge, gen: ClipGenerator) -> None:
    system = model_system(gen, "tiny", steps=1)
    few = questions(limit=3, pairs=1)
    _, score = evaluate_digits(
        [system], judge, few, frames=FRAMES, features=coarse, reference=100, progress=False
    )
    assert (score.about["steps"], score.about["evaluations"]) == (1, 1)
    assert score.about["seconds"] > 0
    again = gen(few.captions[1], seed=1, steps=1)
    torch.testing.assert_close(system.make(few.captions, [0, 1, 2])[1:2], again, atol=2e-5, rtol=0)


def test_models_of_something_else_are_refused(gen: ClipGenerator) -> None:
    check_digit_model(gen.model)
    network = SpaceTimeUNet(widths=(16,), blocks=1, mixing=("tokens",), vector=32, tokens=32, head_width=16)
    cats = CaptionEncoder(learn_vocabulary(["a cat on a mat"] * 2), 32)
    model = ClipModel(ConditionedNetwork(network, (cats,)), CosineVP())
    with pytest.raises(InputError, match="not trained on captions of moving digits"):
        check_digit_model(model)


# --- two figures ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> tuple[Tensor, Tensor]:
    captions, labels = pair_captions(24, seed=5)
    return real_digits(16, 32)(captions, range(24)), labels


def test_figures_of_real_pairs_are_judged_as_well_as_single_ones(
    judge: DigitJudge, pairs: tuple[Tensor, Tensor]
) -> None:
    found = pair_accuracy(judge_pairs(*pairs, judge))
    assert found["digit"].value > 0.98
    assert found["all"].value > 0.95
    assert found["motion"].value > 0.98
    assert found["empty"].value == found["neither"].value == 0


def test_faults_of_pairs_show(judge: DigitJudge, pairs: tuple[Tensor, Tensor]) -> None:
    video, labels = pairs
    light, _ = split_colours(video, labels[..., 2])
    palette = torch.tensor(list(COLOURS.values()))[labels[..., 2]][..., None, None, None]

    def painted(colours: Tensor, figures: Tensor) -> dict[str, float]:
        made = (figures[:, :, None] * colours).amax(1)
        return {
            name: share.value
            for name, share in pair_accuracy(judge_pairs(2 * made - 1, labels, judge)).items()
        }

    whole = painted(palette, light)
    assert whole["digit"] > 0.98
    swapped = painted(palette.flip(1), light)
    same = float((labels[:, 0, 0] == labels[:, 1, 0]).double().mean())
    assert swapped["digit"] < same + 0.1
    assert swapped["digits"] > 0.97
    one = painted(palette, light * torch.tensor([1.0, 0.0])[:, None, None, None])
    assert one["empty"] == 0.5
    assert one["digit"] == pytest.approx(0.5, abs=0.02)
    third = torch.tensor([0.0, 1.0, 1.0])[:, None, None, None].expand_as(
        palette
    )  # cyan is not in the palette
    assert painted(third, light)["neither"] > 0.6


def test_overlaid_colours_are_taken_apart_exactly() -> None:
    palette = torch.tensor(list(COLOURS.values()))
    red, blue = list(COLOURS).index("red"), list(COLOURS).index("blue")
    amounts = torch.tensor([[1.0, 0.0], [0.0, 0.7], [0.9, 0.8], [0.0, 0.0], [0.4, 1.0]])
    pixels = (amounts[:, :, None] * palette[[red, blue]]).amax(1)  # (5, 3)
    video = 2 * pixels.T[None, :, None, None] - 1
    light, neither = split_colours(video, torch.tensor([[red, blue]]))
    torch.testing.assert_close(light[0, :, 0, 0].T, amounts, atol=1e-5, rtol=0)
    assert not neither.any()
    with pytest.raises(InputError, match="different colours"):
        judge_pairs(video, torch.tensor([[[0, 0, red], [1, 0, red]]]), DigitJudge())


# --- edits ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips() -> Tensor:
    few = questions(limit=2, pairs=0)
    return real_digits(FRAMES, 32)(few.captions, [0, 1]).float() / 127.5 - 1


TASKS = edit_tasks(FRAMES, (32, 32))


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_neither_baselines_nor_methods_see_what_is_left_out(task, clips: Tensor, gen: ClipGenerator) -> None:
    noise = torch.rand(clips.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    other = torch.where(task.known, clips, noise)
    if task.name == "upsampling in space":  # rows change places two by two: means stay
        other = clips.unflatten(-2, (-1, 2)).flip(-2).flatten(-3, -2)
    assert not torch.equal(other, clips)
    for name, baseline in task.baselines.items():
        filled = baseline(other)
        torch.testing.assert_close(filled, baseline(clips), msg=name)
        assert torch.equal(filled[:, :, task.known], clips[:, :, task.known]), name
    settings = {"tasks": [task], "steps": 2, "progress": False}
    rows = evaluate_edits(gen, clips, **settings)  # type: ignore[arg-type]
    assert [row.name for row in rows] == [
        "real clips",
        *task.baselines,
        "reconstruction guidance",
        "replacement in x0",
        "replacement in x_t, fresh noise",
    ]
    edit, again = task.edit(clips), task.edit(other)
    for one, two in ((edit.video, again.video), (edit.small, again.small)):
        if one is not None and two is not None:
            kept = edit.mask.expand_as(one) if one is edit.video and edit.mask is not None else slice(None)
            torch.testing.assert_close(one[kept], two[kept])


def test_methods_differ_but_not_with_the_batch(clips: Tensor, gen: ClipGenerator) -> None:
    def values(batch: int) -> list[float]:
        rows = evaluate_edits(gen, clips, tasks=TASKS[:1], batch=batch, sampler="ddpm", progress=False)
        return [row.measures["psnr"].value for row in rows[2:]]

    together, alone = values(2), values(1)
    assert together == pytest.approx(alone, abs=1e-3)
    assert len({round(value, 4) for value in together}) == 3


def test_a_model_that_learned_to_be_given_frames_is_measured_by_that_too(clips: Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(widths=(16,), blocks=1, mixing=("",), patch=8, embedding=32, planes=4, span=7)
        model = ClipModel(ConditionedNetwork(network, (KnownFrames(),)), CosineVP(), frames=FRAMES, steps=1)
    rows = evaluate_edits(ClipGenerator(model, "cpu"), clips, progress=False)
    ways = {task.name: [row.name for row in rows if row.about["task"] == task.name] for task in TASKS}
    told = [name for name, systems in ways.items() if METHODS["trained"] in systems]
    assert told == ["prediction", "interpolation", "inpainting", "outpainting"]


def test_measures_of_edits_have_their_closed_forms(clips: Tensor, judge: DigitJudge) -> None:
    prediction, interpolation, _, outpainting = TASKS[:4]
    perfect = edit_measures(prediction.known, clips, clips, judge)
    assert perfect["psnr"].value == math.inf
    assert [perfect[name].value for name in ("ssim", "seam", "motion")] == pytest.approx([1, 1, 1])
    assert perfect["digit"].value > 0.9
    assert set(perfect) == set(EDIT_MEASURES)
    copied = edit_measures(prediction.known, clips, prediction.baselines["copying the last frame"](clips))
    assert (copied["seam"].value, copied["motion"].value) == (0, 0)
    inside = clips * 0.9
    found = edit_measures(prediction.known, inside, inside + 0.1)
    assert found["psnr"].value == pytest.approx(-20 * math.log10(0.05), abs=1e-5)
    assert found["motion"].value == pytest.approx(1, abs=1e-5)
    begin = FRAMES // 4
    expected = [ssim(a[:, begin:], b[:, begin:]) for a, b in zip(clips, inside, strict=True)]
    assert edit_measures(prediction.known, clips, inside)["ssim"].value == pytest.approx(sum(expected) / 2)
    # a step of known size at the edge of the frame's inner part
    grey = torch.zeros_like(clips)
    steep = grey + torch.linspace(-0.5, 0.5, 32)
    stepped = torch.where(outpainting.known, steep, steep + 0.25)
    column = 1 / 31
    change = edit_measures(outpainting.known, steep, stepped)["seam"].value
    sides = ((0.25 + column) + (0.25 - column)) / (2 * column)
    both = 16 * (0.25 + 0.25) / (16 * 2 * column) + sides  # rows above and below have no step in real clips
    assert change == pytest.approx(both, rel=1e-4)
    assert math.isnan(edit_measures(interpolation.known, grey, grey)["seam"].value)


def test_blending_is_exact_for_a_fade() -> None:
    fade = torch.linspace(-1, 1, 11).view(1, 1, 11, 1, 1).expand(2, 3, 11, 4, 4)
    known = torch.zeros(11, dtype=torch.bool)
    known[[0, 3, 4, 10]] = True
    torch.testing.assert_close(blend(torch.where(known[:, None, None], fade, 7.0), known), fade)


# --- a folder of videos -----------------------------------------------------------------------------------


def test_a_folder_is_measured_by_loss_distances_and_prediction(gen: ClipGenerator, tmp_path) -> None:
    write_digits(tmp_path / "videos", 4, frames=12)
    clips = folder_clips(tmp_path / "videos", gen.model, seed=1, progress=False)
    settings = {"count": 4, "features": coarse, "progress": False}
    real, copied, model = evaluate_folder(gen, clips, name="tiny", **settings)  # type: ignore[arg-type]
    assert [row.name for row in (real, copied, model)] == ["real clips", "copying the last frame", "tiny"]
    losses = noise_losses(gen.model, clips, 4, 4, NOISE, 0)
    assert {name: model.measures[name].value for name in losses} == losses
    videos = torch.stack([clips[n]["video"] for n in range(4)]).float() / 127.5 - 1
    errors = [10 ** (-psnr(v[:, 2:], v[:, 1:2].expand(-1, 6, -1, -1)) / 10) for v in videos]
    assert copied.measures["psnr"].value == pytest.approx(-10 * math.log10(sum(errors) / 4), abs=1e-3)
    assert model.measures["kernel"].value > real.measures["kernel"].value
    assert model.about["evaluations"] == 2
    repeated = evaluate_folder(gen, clips, name="tiny", **settings)[-1]  # type: ignore[arg-type]
    assert repeated.measures == model.measures
