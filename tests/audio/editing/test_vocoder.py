"""Gaps filled by a vocoder: what is known stays, and each of its parts does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.editing.baselines import linear_prediction
from mmdiff.audio.editing.edits import continuation, declipping, gap_filling
from mmdiff.audio.editing.vocoder import agreeing_phases, beyond_prediction, bridged, fill_gaps, known_share
from mmdiff.audio.stft import Stft
from mmdiff.errors import InputError

CLIP = Path(__file__).parent.parent / "clips" / "english.flac"
RATE = 16_000


def test_known_samples_stay_and_the_gap_is_as_loud_as_its_surroundings(tiny_model):
    voc = mmdiff.load(tiny_model, device="cpu")
    wave = io.read(CLIP, start=0.8, duration=1.0)[0]
    edit = gap_filling(wave.repeat(2, 1), RATE, [(0.5, 0.58)])
    made = fill_gaps(voc, edit, seed=1)
    assert torch.equal(made[edit.known], edit.wave[edit.known])
    assert not torch.equal(made[0], made[1])
    torch.testing.assert_close(
        fill_gaps(voc, gap_filling(wave, RATE, [(0.5, 0.58)]), seed=2)[0], made[1], atol=1e-4, rtol=0
    )
    told = fill_gaps(voc, edit, voc.mel(wave.repeat(2, 1), RATE), seed=1)
    assert not torch.equal(told, made)


def test_a_frame_is_known_so_far_as_its_window_is():
    known = torch.ones(1, 8192, dtype=torch.bool)
    known[0, 2048:6144] = False
    share = known_share(known, Stft())[0]
    assert share.shape == (33,)
    torch.testing.assert_close(share[[0, 6, 16, 26]], torch.tensor([1.0, 1.0, 0.0, 1.0]))
    assert share[8] == pytest.approx(0.5, abs=2e-3)


def test_a_spectrogram_that_changes_evenly_is_bridged_exactly():
    even = torch.arange(20.0).expand(1, 3, 20)
    share = torch.ones(1, 20)
    share[0, 6:11] = torch.tensor([0.5, 0, 0, 0, 0.3])
    broken = even.masked_fill(share[:, None] == 0, -11.0)
    torch.testing.assert_close(bridged(broken, share), even)


def test_phases_start_from_the_vocoders_own_where_prediction_does_not_reach(tiny_model):
    voc = mmdiff.load(tiny_model, device="cpu")
    wave = io.read(CLIP, start=0.8, duration=0.5)[0]
    known = torch.ones_like(wave, dtype=torch.bool)
    known[:, 2000:4000] = False
    mel, predicted = voc.mel(wave, RATE), torch.zeros_like(wave)
    start = beyond_prediction(voc, mel, predicted, known, [3])
    own = voc(mel, mel_spec=voc.mel_spec, seed=3, samples=8000)
    torch.testing.assert_close(start[:, 2512:3488], own[:, 2512:3488])
    assert not start[:, :2512].any()
    assert not start[:, 3488:].any()
    known[:, 2900:3000] = True  # 900 samples at most, of which none is half a frame from the rest
    assert beyond_prediction(voc, mel, predicted, known, [3]) is predicted


def test_phases_that_agree_with_what_is_known_come_nearer_to_the_sound():
    wave = io.read(CLIP, start=0.8, duration=0.5)[0]
    edit = gap_filling(wave, RATE, [(0.2, 0.22)])
    start = linear_prediction(edit)
    found = agreeing_phases(Stft()(wave).abs(), start, edit.known, Stft(), 30)
    assert (edit.finish(found) - wave).square().sum() < 0.5 * (start - wave).square().sum()


def test_sound_that_fails_to_meet_what_is_known_is_joined_without_a_step():
    wave = 0.5 * torch.cos(2 * torch.pi * torch.arange(8000) / 160)[None]
    edit = gap_filling(wave, RATE, [(0.2, 0.24)])  # from peak to peak
    found = agreeing_phases(0.3 * Stft()(wave).abs(), linear_prediction(edit), edit.known, Stft(), 5)
    joined = edit.finish(found)
    assert torch.equal(joined[edit.known], wave[edit.known])
    assert (joined - wave).abs().max() > 0.2
    assert joined.diff().abs().max() < 2 * wave.diff().abs().max()


def test_what_a_vocoder_cannot_do_is_said(tiny_model):
    voc, wave = mmdiff.load(tiny_model, device="cpu"), torch.randn(1, 8000).clamp(-0.5, 0.5)
    with pytest.raises(InputError, match="both sides"):
        fill_gaps(voc, continuation(wave, RATE, 0.1))
    with pytest.raises(InputError, match="neither declips"):
        fill_gaps(voc, declipping(wave, RATE, 0.5))
    with pytest.raises(InputError, match="steps=0"):
        fill_gaps(voc, gap_filling(wave, RATE, [(0.1, 0.2)]), steps=0)
