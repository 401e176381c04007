"""Variations of words, and the judge of spoken digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdiff.audio import io
from mmdiff.audio.datasets.layouts import find_audio
from mmdiff.audio.datasets.words import Variation, Words, word_label
from mmdiff.audio.evaluation.word_judge import NONE, SPEC, WordJudge, digit_accuracy, none_share
from mmdiff.audio.evaluation.word_judge_training import (
    WordTask,
    blot,
    digit_number,
    real_accuracy,
    spoil,
    standardise_features,
    stretched,
)
from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model

RATE = 16_000


def words(spoken, **options) -> Words:
    clips = find_audio(spoken, split="train")
    return Words(clips, [digit_number(clip) for clip in clips], **options)


def pitch(wave: torch.Tensor) -> float:
    """Frequency of the strongest sine of a second, in Hz."""
    return float(torch.fft.rfft(wave).abs().argmax())


def test_labels_say_the_digit_and_the_language(spoken):
    clips = find_audio(spoken, split="test")
    assert {word_label(clip) for clip in clips if clip.text == "two"} == {"two-en", "two-es"}
    assert [digit_number(clip) for clip in clips if clip.speaker == "es-carla"] == list(range(11))


def test_an_item_depends_on_its_number_alone_and_labels_come_equally_often(spoken):
    some, again = words(spoken, seed=3, variation=Variation()), words(spoken, seed=3, variation=Variation())
    assert torch.equal(some[7]["wave"], again[7]["wave"])
    assert not torch.equal(some[7]["wave"], words(spoken, seed=4, variation=Variation())[7]["wave"])
    found = np.bincount([words(spoken)[n]["label"] for n in range(3)], minlength=11)
    assert found.sum() == 3
    plain, weighted = words(spoken), words(spoken, weights={NONE: 10})
    often = [np.mean([each[n]["label"] == NONE for n in range(200)]) for each in (plain, weighted)]
    assert often == pytest.approx([1 / 11, 1 / 2], abs=0.09)


def test_a_recording_without_variation_is_itself_but_for_the_noise(spoken):
    some = words(spoken)
    item = some[0]
    original = io.read(find_audio(spoken, split="train")[item["clip"]].path)[0][0]
    noise = item["wave"] - original
    assert 20 * float(noise.square().mean().sqrt().log10()) == pytest.approx(-72, abs=0.5)


def test_speed_changes_pitch_and_length_shift_the_place_and_gain_the_level(spoken):
    quiet = (-200.0, -200.0)
    plain = words(spoken, variation=Variation((1.0, 1.0), 0.0, (0.0, 0.0), 0.0, quiet))
    fast = words(spoken, variation=Variation((1.25, 1.25), 0.0, (0.0, 0.0), 0.0, quiet))
    loud = words(spoken, variation=Variation((1.0, 1.0), 0.0, (6.0, 6.0), 0.0, quiet))
    late = words(spoken, variation=Variation((1.0, 1.0), 0.3, (0.0, 0.0), 0.0, quiet))
    rng = np.random.default_rng
    first = plain.varied(4, rng(0))["wave"]
    faster = fast.varied(4, rng(0))["wave"]
    assert pitch(faster) == pytest.approx(1.25 * pitch(first), abs=3)
    assert int(faster.abs().gt(0.02).sum()) == pytest.approx(int(first.abs().gt(0.02).sum()) / 1.25, rel=0.02)
    torch.testing.assert_close(loud.varied(4, rng(0))["wave"], first * 10 ** (6 / 20), atol=1e-5, rtol=0)
    moved = late.varied(4, rng(0))["wave"]
    shift = int(moved.abs().gt(0.02).nonzero()[0, 0] - first.abs().gt(0.02).nonzero()[0, 0])
    assert shift != 0
    torch.testing.assert_close(moved.roll(-shift), first, atol=1e-4, rtol=0)


def test_tilt_changes_levels_by_so_many_decibels_an_octave(spoken):
    how = {"speed": (1.0, 1.0), "shift": 0.0, "gain_db": (0.0, 0.0), "noise_db": (-200.0, -200.0)}
    plain, tilted = (
        words(spoken, variation=Variation(**how, tilt_db=0)),
        words(spoken, variation=Variation(**how, tilt_db=3)),
    )
    clip = 3  # 1050 Hz, next to where tilts leave levels as they are; clip 8 is an octave above
    ratios = []
    for n in (clip, 7):
        waves = [each.varied(n, np.random.default_rng(5))["wave"] for each in (plain, tilted)]
        ratios.append(20 * float((waves[1].norm() / waves[0].norm()).log10()))
    drawn = 3 * np.random.default_rng(5).uniform(-1, 1)
    octaves = np.log2(np.array([1050, 2050]) / 1000)
    assert ratios == pytest.approx(drawn * octaves, abs=0.1)


def test_words_need_a_label_for_each_clip(spoken):
    with pytest.raises(InputError, match="11 clips and 1 labels"):
        Words(find_audio(spoken, split="train"), [0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Variation(speed=(2, 1)), r"speed=\(2, 1\) must be a range"),
        (lambda: Variation(speed=(0, 1)), "speeds positive"),
        (lambda: Words(["clip"], [0], 8000, seconds=0), "seconds=0 must be positive"),
    ],
)
def test_ranges_and_lengths_that_make_no_sense_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_spoilt_words_are_labelled_none_and_others_untouched():
    generator = torch.Generator().manual_seed(0)
    wave, label = torch.randn(200, 50, generator=generator), torch.zeros(200, dtype=torch.long)
    spoilt, labels = spoil(wave, label, 0.4, generator)
    same = (spoilt == wave).all(1)
    assert torch.equal(same, labels == 0)
    assert float((labels == NONE).double().mean()) == pytest.approx(0.4, abs=0.1)


def test_blots_are_stripes_no_wider_than_told():
    looked = torch.ones(40, 1, 10, 30)
    blotted = blot(looked, 6, 3, torch.Generator().manual_seed(0))
    assert torch.equal(blotted, blotted[:, :, :1].expand_as(blotted))
    widths = (blotted[:, 0, 0] == 0).sum(1)
    assert widths.max() <= 6
    assert len(widths.unique()) > 3


def test_stretching_keeps_bands_and_changes_the_number_of_frames():
    looked = torch.linspace(0, 1, 40)[None, None, None].expand(2, 1, 5, 40)
    longer = stretched(looked, (1.5, 1.5), torch.Generator().manual_seed(0))
    assert longer.shape == (2, 1, 5, 60)
    assert (longer.diff(dim=3) >= 0).all()
    assert float(longer[0, 0, 0, 30]) == pytest.approx(0.5, abs=0.02)


def test_the_judge_does_not_hear_how_loud_a_sound_is(spoken):
    torch.manual_seed(0)
    judge = WordJudge().eval()
    wave = 0.1 * torch.randn(3, RATE)
    torch.testing.assert_close(judge.probabilities(wave), judge.probabilities(4 * wave), atol=1e-4, rtol=0)
    assert judge.look(wave).shape == (3, 1, SPEC.n_mels, judge.FRAMES)
    with pytest.raises(InputError, match=r"must be \(B, samples\)"):
        judge.look(wave[0])


def test_a_judge_learns_tones_and_its_features_are_standardised(spoken, tmp_path):
    torch.manual_seed(0)
    judge = WordJudge((8, 8, 16), 24, dropout=0.0)
    task = WordTask(judge, spoilt=0.1, blots=2)
    data = words(spoken, variation=Variation())
    optimizer = torch.optim.Adam(task.parameters(), 1e-2)
    for step in range(24):
        items = [data[n] for n in range(16 * step, 16 * step + 16)]
        batch = {
            key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in ("wave", "label")
        }
        optimizer.zero_grad()
        loss = task(batch, torch.Generator().manual_seed(step))["loss"]
        loss.backward()
        optimizer.step()
    judge.eval()
    found = real_accuracy(judge, find_audio(spoken, split="train"))
    assert found["digits"].value > 0.5  # guessing finds a tenth
    assert found["digits"].samples == 10
    standardise_features(judge, data, 60)
    features = judge.features(torch.stack([data[n]["wave"] for n in range(60)]))
    torch.testing.assert_close(features.mean(0), torch.zeros(24), atol=1e-4, rtol=0)
    again = load_model(save_model(judge, tmp_path / "judge", half=False))
    wave = data[0]["wave"][None]
    torch.testing.assert_close(again.features(wave), judge.features(wave))


def test_accuracy_counts_the_most_probable_digit():
    chances = torch.eye(11)[[0, 3, 10, 4]] + 0.1 * torch.eye(11)[7]
    assert (
        digit_accuracy(chances, torch.tensor([0, 3, 7, 5])).value == 0.75
    )  # the third, too: it is one of ten
    assert none_share(chances).value == 0.25
