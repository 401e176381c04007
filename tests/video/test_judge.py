from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model
from mmdiff.recipes import find_recipe, load_main
from mmdiff.video.digits import COLOURS, DIGITS, MOTIONS, Figure, MovingDigits
from mmdiff.video.judge import NONE, DigitJudge, caption_accuracy, crossed_captions, judge_clips
from mmdiff.video.judge_training import (
    Glyphs,
    degrade,
    draw,
    real_accuracy,
    real_clips,
    spoil,
    standardise_features,
    train_judge,
)


@pytest.fixture(scope="module")
def judge() -> DigitJudge:
    return load_model("digit-judge")


@pytest.fixture(scope="module")
def crossed() -> tuple[torch.Tensor, torch.Tensor]:
    """Real clips of handwriting that the judge has not seen, each seventh triple."""
    labels = crossed_captions()[1][::7]
    return real_clips(labels, "test", seed=1), labels


def clip(*labels: int, seed: int = 0, **settings: int) -> torch.Tensor:
    return real_clips(torch.tensor([labels]), seed=seed, **settings)


# --- what it is shown -------------------------------------------------------------------------------------


def test_crossed_captions_are_every_triple_once_and_held_out_ones_a_tenth() -> None:
    captions, labels = crossed_captions()
    assert len(set(captions)) == len(captions) == len(DIGITS) * len(MOTIONS) * len(COLOURS)
    assert "a blue seven moving left" in captions
    digit, motion, colour = labels[captions.index("a blue seven moving left")].tolist()
    assert (DIGITS[digit], MOTIONS[motion], list(COLOURS)[colour]) == ("seven", "moving left", "blue")
    unseen, seen = crossed_captions(held_out=True)[0], crossed_captions(held_out=False)[0]
    assert len(unseen) == 30
    assert sorted(unseen + seen) == sorted(captions)
    training = MovingDigits()
    assert not {training[n]["caption"] for n in range(100)} & set(unseen)


def test_real_clips_are_drawn_from_the_asked_handwriting_and_label() -> None:
    labels = torch.tensor([[3, 1, 2], [8, 0, 5]])
    video = real_clips(labels, "test", seed=3)
    assert video.shape == (2, 3, 16, 32, 32)
    assert torch.equal(video, real_clips(labels, "test", seed=3))
    assert not torch.equal(video, real_clips(labels, "train", seed=3))


# --- what is measured, not learned ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [32, 64])
def test_motion_and_colour_of_every_real_triple_at_any_size_and_any_weights(size: int) -> None:
    labels = crossed_captions()[1][:: 1 if size == 32 else 7]
    verdict = judge_clips(real_clips(labels, "train", size=size), DigitJudge((8, 8), 4))
    assert torch.equal(verdict.motion, labels[:, 1])
    assert torch.equal(verdict.colour, labels[:, 2])
    assert not verdict.empty.any()
    # rigid, a pixel a frame; at 64 resizing blurs what touches an edge
    speed = (labels[:, 1] != 0).float()[:, None].expand_as(verdict.steps)
    torch.testing.assert_close(verdict.steps, speed, atol=0.02 if size == 32 else 0.1, rtol=0)


def test_frames_may_be_wider_than_high(judge: DigitJudge) -> None:
    video = clip(7, 2, 1)
    wide = torch.cat((torch.zeros_like(video), video), -1)
    one, two = judge_clips(video, judge), judge_clips(wide, judge)
    assert torch.equal(one.digits, two.digits)
    assert (two.motion, two.colour) == (one.motion, one.colour)
    torch.testing.assert_close(two.centroids - one.centroids, torch.tensor([32.0, 0.0]).expand(1, 16, 2))


@pytest.mark.parametrize(
    ("velocity", "motion"),
    [((1, 1), NONE), ((1, 0), 2), ((0.4, 0), 0), ((-0.7, 0.2), 1), ((0.2, -0.9), 3), ((0.7, 0.5), NONE)],
)
def test_motion_of_a_square_on_a_known_path(velocity: tuple[float, float], motion: int) -> None:
    video = torch.full((1, 3, 16, 32, 32), -1.0)
    for f in range(16):
        x, y = (round(12 + v * min(f, 8)) for v in velocity)
        video[0, :, f, y : y + 6, x : x + 6] = 1
    verdict = judge_clips(video, DigitJudge((8, 8), 4))
    assert verdict.motion == motion
    assert verdict.centroids[0, 0].tolist() == pytest.approx([12 + 2.5, 12 + 2.5])


def test_a_digit_that_changes_its_colour_has_none() -> None:
    red, green = clip(4, 0, 1), clip(4, 0, 2)
    half = torch.cat((red[:, :, :8], green[:, :, 8:]), 2)
    assert judge_clips(half, DigitJudge((8, 8), 4)).colour == NONE


def test_empty_frames_are_counted_and_leave_gaps_in_the_path(judge: DigitJudge) -> None:
    video = clip(5, 2, 0)
    video[:, :, 3:5] = 0
    verdict = judge_clips(video, judge)
    assert verdict.empty[0].nonzero().flatten().tolist() == [3, 4]
    assert (verdict.digits[0, 3:5] == NONE).all()
    assert verdict.steps[0].isnan().nonzero().flatten().tolist() == [2, 3, 4]
    assert verdict.motion == 2
    black = judge_clips(torch.zeros_like(video), judge)
    assert black.empty.all()
    assert (black.digit, black.motion, black.colour) == (NONE, NONE, NONE)


# --- what is learned --------------------------------------------------------------------------------------


def test_shipped_judge_reads_unseen_handwriting(judge: DigitJudge) -> None:
    accuracy = real_accuracy(judge, "test", seed=1)
    assert accuracy["digit"].value >= 0.985
    assert accuracy["all"].value >= 0.98
    assert accuracy["motion"].value == accuracy["colour"].value == 1
    assert accuracy["empty"].value == 0
    assert accuracy["steady"].value >= 0.985
    assert {share.samples for share in accuracy.values()} == {300}


def test_noise_blur_and_a_shift_by_half_a_pixel_do_not_matter(judge: DigitJudge, crossed) -> None:
    video = crossed[0].float() / 127.5 - 1
    sharp = judge_clips(video, judge).digits
    noisy = (video + 0.1 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    shifted = (video + video.roll(1, -1)) / 2
    blurred = (shifted + shifted.roll(-1, -2)) / 2
    for changed in (noisy, shifted, blurred):
        assert (judge_clips(changed, judge).digits == sharp).double().mean() > 0.975


def test_it_is_blind_to_colour_and_to_place(judge: DigitJudge) -> None:
    frames = clip(6, 0, 4)[:, :, 0].float() / 127.5 - 1
    frames = frames.roll([-side for side in _corner(frames)], (2, 3))
    logits = judge(frames)
    torch.testing.assert_close(judge(frames[:, [1, 2, 0]]), logits)
    torch.testing.assert_close(judge(frames.amax(1, keepdim=True).expand(-1, 3, -1, -1)), logits)
    assert judge(frames.roll((8, 8), (2, 3))).argmax() == logits.argmax() == 6


def _corner(frames: torch.Tensor) -> list[int]:
    rows, columns = (frames[0].amax((0, axis)) > -0.9 for axis in (2, 1))
    return [int(rows.nonzero()[0]) - 4, int(columns.nonzero()[0]) - 4]


def test_a_glyph_that_changes_within_a_clip_counts_as_wrong_and_no_digit_as_none(judge: DigitJudge) -> None:
    two, five = clip(2, 0, 0), clip(5, 0, 0)
    morph = torch.cat((two[:, :, :10], five[:, :, 10:]), 2)
    accuracy = caption_accuracy(morph, torch.tensor([[2, 0, 0]]), judge)
    assert accuracy["digit"].value == accuracy["steady"].value == 10 / 16
    assert accuracy["all"].value == 1


def test_an_object_that_jumps_or_vanishes_is_not_smooth() -> None:
    whole, jumping, gone = clip(3, 2, 0), clip(3, 2, 0), clip(3, 2, 0)
    jumping[:, :, 9:] = jumping[:, :, 9:].roll(2, 4)
    gone[:, :, 7] = 0
    judge, label = DigitJudge((8, 8), 4), torch.tensor([[3, 2, 0]])
    smooth = [caption_accuracy(v, label, judge)["smooth"].value for v in (whole, jumping, gone)]
    assert smooth == [1, 0, 0]


@pytest.mark.parametrize("top", [1, 5, 20])
def test_noise_all_over_the_frame_neither_moves_the_centre_nor_hides_a_jump(top: int) -> None:
    labels = crossed_captions()[1][::11]
    rng = torch.Generator().manual_seed(0)

    def noisy(video: torch.Tensor) -> torch.Tensor:
        noise = torch.randint(0, top + 1, video.shape, generator=rng)
        return (video.int() + noise).clamp(0, 255).to(torch.uint8)

    video, judge = real_clips(labels, "test", seed=1), DigitJudge((8, 8), 4)
    clean, changed = judge_clips(video, judge), judge_clips(noisy(video), judge)
    assert (clean.centroids - changed.centroids).norm(dim=2).max() < 0.005 * top + 0.01
    assert changed.steps.max() < 1.1
    assert caption_accuracy(noisy(video), labels, judge)["smooth"].value == 1
    still = video[:1].roll(12 - int(clean.centroids[0, 0, 0]), 4)  # it shall not stick out at the other side
    for far, smooth in ((1, 1), (3, 0)):
        jumping = torch.cat((still[:, :, :9], still[:, :, 9:].roll(far, 4)), 2)
        (steps,) = judge_clips(noisy(jumping), judge).steps
        assert steps[8] == pytest.approx(far, abs=0.1)
        assert caption_accuracy(noisy(jumping), labels[:1], judge)["smooth"].value == smooth


def test_half_a_glyph_that_vanishes_for_a_frame_is_a_jump_by_as_much_as_the_centre_moves() -> None:
    video, judge, label = clip(8, 0, 3), DigitJudge((8, 8), 4), torch.tensor([[8, 0, 3]])
    row = int(judge_clips(video, judge).centroids[0, 0, 1])
    video[:, :, 7, : row + 1] = 0
    verdict = judge_clips(video, judge)
    lower, whole = verdict.centroids[0, 7, 1], verdict.centroids[0, 6, 1]
    assert 2 < lower - whole < 6  # glyphs are 15 pixels high
    assert verdict.steps[0].nonzero().flatten().tolist() == [6, 7]
    torch.testing.assert_close(
        verdict.steps[0, 6:8], (verdict.centroids[0, 7] - verdict.centroids[0, 6]).norm().expand(2)
    )
    assert not verdict.empty.any()
    assert caption_accuracy(video, label, judge)["smooth"].value == 0


def test_what_is_no_digit_is_mostly_refused_and_digits_are_not(judge: DigitJudge) -> None:
    rng = torch.Generator().manual_seed(0)
    items = torch.utils.data.default_collate([Glyphs("test", seed=5)[n] for n in range(400)])
    for share, least in ((1.0, 0.9), (0.0, 0.97)):
        glyph, digit = spoil(items["glyph"], items["other"], items["digit"], share, rng)
        light = degrade(draw(glyph, rng), rng)
        with torch.no_grad():
            answer = judge((2 * light - 1).expand(-1, 3, -1, -1)).argmax(1)
        assert (answer == digit).double().mean() > least


# --- caption accuracy -------------------------------------------------------------------------------------


def test_accuracy_counts_exactly_what_is_wrong(judge: DigitJudge) -> None:
    labels = torch.tensor([[0, 1, 2], [4, 0, 0], [6, 3, 3], [2, 2, 1]])
    video = real_clips(labels, "train")
    assert all(caption_accuracy(video, labels, judge)[n].value == 1 for n in ("digit", "motion", "all"))
    wrong = labels.clone()
    wrong[0, 0], wrong[1, 1], wrong[2, 2], wrong[3, 2] = 7, 1, 0, 0
    accuracy = caption_accuracy(video, wrong, judge)
    assert {n: a.value for n, a in accuracy.items()} == {
        "digit": 0.75, "motion": 0.75, "colour": 0.5, "all": 0.0, "steady": 1.0, "empty": 0.0, "smooth": 1.0
    }  # fmt: skip


def test_bytes_and_numbers_are_judged_alike(judge: DigitJudge, crossed) -> None:
    video = crossed[0][:40]
    for one, two in zip(
        judge_clips(video, judge), judge_clips(video.double() / 127.5 - 1, judge), strict=True
    ):
        torch.testing.assert_close(one, two, equal_nan=True)


def test_misfits_are_refused(judge: DigitJudge) -> None:
    video = clip(1, 1, 1)
    with pytest.raises(InputError, match=r"labels of shape \(2, 3\)"):
        caption_accuracy(video, torch.zeros(2, 3), judge)
    with pytest.raises(InputError, match=r"\(B, 3, F, H, W\)"):
        judge_clips(video[0], judge)
    for bad in (video.float(), torch.full(video.shape, math.nan), video.long()):
        with pytest.raises(InputError, match=r"\[-1, 1\], or uint8"):
            judge_clips(bad, judge)
    with pytest.raises(InputError, match="frames=1"):
        judge.features(video[:, :, :1])


# --- features ---------------------------------------------------------------------------------------------


def test_features_do_not_depend_on_the_batch_and_are_standardised_on_real_clips(judge: DigitJudge) -> None:
    labels = crossed_captions()[1][::2]
    with torch.no_grad():
        features = judge.features(real_clips(labels, "train", seed=9))
        alone = judge.features(real_clips(labels[:1], "train", seed=9))
    assert features.shape == (150, 163)
    torch.testing.assert_close(alone[0], features[0], atol=1e-4, rtol=1e-4)
    assert features.mean().abs() < 0.05
    assert features.std() == pytest.approx(1, abs=0.1)


def test_features_tell_motion_identity_colour_and_flicker_apart(judge: DigitJudge) -> None:
    still = clip(3, 0, 0, seed=4)
    others = [clip(3, 2, 0, seed=4), clip(8, 0, 0, seed=4), clip(3, 0, 1, seed=4)]
    others.append(torch.where(torch.arange(16)[:, None, None] % 2 == 0, still, clip(8, 0, 0, seed=4)))
    with torch.no_grad():
        base = judge.features(still)
        again = judge.features(still.roll(0, 2))
        assert torch.equal(base, again)
        for other in others:
            assert (judge.features(other) - base).norm() > 3


# --- training ---------------------------------------------------------------------------------------------


def test_training_is_repeatable(tmp_path) -> None:
    runs = [train_judge(2, 0, run_dir=tmp_path / n, batch_size=8, device="cpu", real=30) for n in "ab"]
    for one, two in zip(*(run.state_dict().values() for run in runs), strict=True):
        assert torch.equal(one, two)


def test_the_recipe_ends_with_a_model_that_loads(tmp_path, capsys) -> None:
    script = find_recipe("digit_judge")[0].script
    load_main(script)(tmp_path, steps=1, batch_size=4, validate_every=0, real=60, test_rounds=1, device="cpu")
    assert "digit" in capsys.readouterr().out
    assert isinstance(load_model(tmp_path / "model"), DigitJudge)


def test_a_saved_judge_judges_alike(judge: DigitJudge, crossed, tmp_path) -> None:
    loaded = load_model(save_model(judge, tmp_path / "judge"))
    frames = crossed[0][:20, :, 0].float() / 127.5 - 1
    with torch.no_grad():
        assert torch.equal(loaded(frames), judge(frames))
    assert torch.equal(loaded.feature_std, judge.feature_std)


def test_standardising_sets_mean_and_deviation() -> None:
    judge = DigitJudge((8, 8), 4)
    standardise_features(judge, count=60)
    labels = crossed_captions()[1][:60]
    with torch.no_grad():
        features = judge.features(real_clips(labels, "train", seed=0))
    torch.testing.assert_close(features.mean(0), torch.zeros(43), atol=1e-3, rtol=0)
    assert np.isclose(features.std(0).max().item(), 1, atol=1e-3)


def test_glyphs_are_balanced_and_a_function_of_the_index() -> None:
    glyphs = Glyphs()
    assert torch.equal(glyphs[7]["glyph"], Glyphs()[7]["glyph"])
    digits = torch.tensor([int(glyphs[n]["digit"]) for n in range(600)])
    assert digits.bincount(minlength=10).min() > 35
    assert Figure(int(glyphs[0]["digit"]), 0, 0).caption().startswith("a white")
