"""Scores of spoken digits: labels, what is measured, and whether copies are found."""

from __future__ import annotations

import pytest
import torch

from mmdiff.audio.evaluation.digits import (
    MEASURES,
    OTHER_VOICES,
    VARIED,
    Recordings,
    Spoken,
    digit_of,
    evaluate_digits,
    labelled_digits,
)
from mmdiff.audio.evaluation.word_judge import WordJudge
from mmdiff.errors import InputError


@pytest.fixture(scope="module")
def judge() -> WordJudge:
    torch.manual_seed(0)
    return WordJudge((8, 8, 8), 8).eval()


def test_labels_are_ordered_by_language_and_digit(spoken):
    clips, numbers, labels = labelled_digits(spoken, "test")
    assert labels[0] == "zero-en"
    assert labels[9:12] == ("nine-en", "zero-es", "one-es")
    assert all(labels[n].startswith(clip.text) for clip, n in zip(clips, numbers, strict=True))
    assert len(clips) == 20  # words that are no digits are left out
    assert digit_of("seven-en") == 7
    with pytest.raises(InputError, match="label='hello' must name a digit"):
        digit_of("hello")


def test_copies_are_found_and_other_sounds_are_not(spoken, judge):
    recordings = Recordings(spoken)
    hiss = 0.1 * torch.randn(30, 16_000, generator=torch.Generator().manual_seed(1))
    digits = torch.arange(30) % 10
    copies = recordings.copies()
    assert len(copies) == 120
    systems = [Spoken("copies", copies[:30], digits, {}), Spoken("hiss", hiss, digits, {"steps": 5})]
    scores = evaluate_digits(systems, judge, recordings)
    assert [score.name for score in scores] == [OTHER_VOICES, VARIED, "copies", "hiss"]
    found = {score.name: score.measures for score in scores}
    assert found["copies"]["duplicates"].value == 1
    assert found["copies"]["nearest"].value < 0.1
    assert found["hiss"]["duplicates"].value == 0
    assert found["hiss"]["nearest"].value > 1
    assert found[OTHER_VOICES]["nearest"].value == 1
    assert found["hiss"]["frechet"].value > 10 * found[VARIED]["frechet"].value
    assert scores[-1].about == {"sounds": 30, "steps": 5}
    assert {*found["hiss"]} <= {*MEASURES}


def test_without_recordings_the_judge_alone_is_asked(judge):
    waves = 0.1 * torch.randn(100, 16_000, generator=torch.Generator().manual_seed(1))
    (score,) = evaluate_digits([Spoken("hiss", waves, torch.arange(100) % 10, {})], judge)
    assert [*score.measures] == ["digit", "none", "inception"]
    heard = judge.probabilities(waves)[:, :10].argmax(1)
    assert score.measures["digit"].value == pytest.approx(
        float((heard == torch.arange(100) % 10).double().mean())
    )


def test_the_judge_hears_sounds_of_other_devices():
    """A GPU's judge is shown recordings, which are on the host: here both lie where nothing is computed."""
    elsewhere = WordJudge((8, 8, 8), 8).to("meta")
    assert elsewhere.features(torch.randn(3, 16_000)).device.type == "meta"
    assert elsewhere.probabilities(torch.randn(3, 16_000)).shape == (3, 11)
