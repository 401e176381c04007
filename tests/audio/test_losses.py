"""Losses of waveforms: closed forms, invariances, and agreement with the measure of hearing they are akin to."""

from __future__ import annotations

import math

import pytest
import torch

from mmdiff.audio.losses import LoudnessLoss, MultiResolutionLoss
from mmdiff.audio.metrics import pesq

RATE = 16_000


def tone(hertz: float, level_db: float, seconds: float = 0.5) -> torch.Tensor:
    """A sine of so many dB relative to one of unit root mean square; (1, samples)."""
    time = torch.arange(int(seconds * RATE)) / RATE
    return (2**0.5 * 10 ** (level_db / 20) * (2 * math.pi * hertz * time).sin())[None]


def speech_like(seed: int = 0, seconds: float = 2.0) -> torch.Tensor:
    """Harmonics of a gliding pitch in syllables; (1, samples)."""
    time = torch.arange(int(seconds * RATE)) / RATE
    phase = 2 * math.pi * (120 * time + 15 * (3 * time).sin())
    partials = sum((k * phase + k * seed).sin() / k for k in range(1, 40))
    assert isinstance(partials, torch.Tensor)
    return 0.1 * (partials * (2 * math.pi * 2 * time).sin().square())[None]


@pytest.mark.parametrize("hertz", [500.0, 1000.0, 2000.0])
def test_a_tone_ten_decibels_louder_sounds_as_much_louder_as_zwicker_says(hertz: float):
    """Far above the threshold loudness is a power law of pressure: 10 dB multiply it by about 10^0.23."""
    loss, one = LoudnessLoss(RATE), torch.ones(1, 1)
    soft, loud = (loss.loudness(tone(hertz, level), one)[0, 5:-5].amax(-1) for level in (-20.0, -10.0))
    torch.testing.assert_close(loud / soft, torch.full_like(soft, 10**0.23), rtol=0.06, atol=0)


def test_what_is_below_the_threshold_of_hearing_is_not_heard():
    loss, one = LoudnessLoss(RATE), torch.ones(1, 1)
    assert float(loss.loudness(tone(100.0, 20.0 - 79.0), one).amax()) < 0.1  # the threshold is 23 dB there
    assert float(loss.loudness(tone(3000.0, 20.0 - 79.0), one).amax()) > 0.2  # and below 0 dB here


def test_bands_share_all_power_between_fifty_hertz_and_eight_kilohertz():
    loss = LoudnessLoss(RATE)
    total = loss.filters.sum(1)
    frequencies = loss.stft.frequencies()
    inside = (frequencies > 70) & (frequencies < 7980)
    torch.testing.assert_close(total[inside], torch.ones_like(total[inside]))


@pytest.mark.parametrize("loss", [LoudnessLoss(RATE), MultiResolutionLoss(RATE)], ids=["loudness", "spectra"])
def test_losses_vanish_on_the_same_sound_and_keep_gradients_finite(loss):
    wave = speech_like()
    silence = torch.zeros(1, 16_000)
    assert float(loss(wave, wave)) == pytest.approx(0, abs=1e-3)
    for reference in (wave[:, :16_000], silence):
        estimate = (0.5 * reference).requires_grad_()
        loss(estimate, reference).backward()
        assert bool(estimate.grad.isfinite().all())


def test_loudness_does_not_depend_on_the_volume_both_are_played_at():
    loss, wave = LoudnessLoss(RATE), speech_like()
    other = wave + 0.01 * torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(0.2 * other, 0.2 * wave), loss(other, wave), rtol=1e-3, atol=0)


def test_what_is_added_counts_more_than_what_is_missing():
    loss, wave = LoudnessLoss(RATE), speech_like()
    noise = 0.02 * torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))
    assert float(loss(wave + noise, wave)) > 2 * float(loss(wave, wave + noise))


def test_loudness_orders_noise_as_pesq_does():
    loss, wave = LoudnessLoss(RATE), speech_like()
    noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(1)) * wave.std()
    worse = [wave + amount * noise for amount in (0.003, 0.01, 0.03, 0.1)]
    ours = [float(loss(sound, wave)) for sound in worse]
    theirs = [pesq(wave[0], sound[0], RATE) for sound in worse]
    assert ours == sorted(ours)
    assert theirs == sorted(theirs, reverse=True)
