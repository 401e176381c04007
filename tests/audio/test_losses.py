"""Losses of waveforms: closed forms, invariances, and agreement with the measure that one of them follows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from mmdiff.audio.disturbance import DisturbanceLoss
from mmdiff.audio.io import read
from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.metrics import pesq

RATE = 16_000


def speech_like(seed: int = 0, seconds: float = 2.0) -> torch.Tensor:
    """Harmonics of a gliding pitch in syllables; (1, samples)."""
    time = torch.arange(int(seconds * RATE)) / RATE
    phase = 2 * math.pi * (120 * time + 15 * (3 * time).sin())
    partials = sum((k * phase + k * seed).sin() / k for k in range(1, 40))
    assert isinstance(partials, torch.Tensor)
    return 0.1 * (partials * (2 * math.pi * 2 * time).sin().square())[None]


@pytest.mark.parametrize("band", [12, 24, 40])
def test_ten_decibels_more_sound_as_much_louder_as_zwicker_says(band: int):
    """Far above the threshold loudness is a power law of power: 10 dB multiply it by about 10^0.23."""
    loss = DisturbanceLoss(RATE)
    soft, loud = (loss.loudness(loss.threshold * 10**level)[band] for level in (6.0, 7.0))
    assert float(loud / soft) == pytest.approx(10 ** float(loss.exponents[band]), rel=0.05)
    assert 0.23 <= float(loss.exponents[band]) < 0.26


def test_what_is_below_the_threshold_of_hearing_is_not_heard():
    loss = DisturbanceLoss(RATE)
    assert float(loss.loudness(0.99 * loss.threshold).amax()) == 0
    assert float(loss.loudness(1.5 * loss.threshold).amin()) > 0


def test_bands_are_as_the_standard_says():
    """Each bin of 31.25 Hz belongs to one band but those below 16 Hz; 7.8 kHz are 21 Bark, each half a Bark at most."""
    loss = DisturbanceLoss(RATE)
    owners = (loss.filters > 0).sum(1)
    assert owners.tolist() == [0] + 255 * [1] + [0]
    assert float(loss.widths.sum()) == pytest.approx(21.2, abs=0.2)
    assert float(loss.widths.amax()) < 0.6


def two_tones(rate: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A trembling tone with and without a fainter one beside it, four seconds of each; (1, samples)."""
    time = torch.arange(4 * rate) / rate
    tones = [0.1 * (2 * math.pi * hertz * time).sin() * (6 * math.pi * time).sin() for hertz in (440, 1330)]
    return (tones[0] + 0.1 * tones[1])[None], tones[0][None]


@pytest.mark.parametrize("rate", [22_050, 44_100])
def test_other_rates_hear_the_same(rate: int):
    torch.testing.assert_close(
        DisturbanceLoss(rate)(*two_tones(rate)), DisturbanceLoss(RATE)(*two_tones(RATE)), rtol=0.1, atol=0
    )


@pytest.mark.parametrize(
    "loss", [DisturbanceLoss(RATE), MultiResolutionLoss(RATE)], ids=["disturbance", "spectra"]
)
def test_losses_vanish_on_the_same_sound_and_keep_gradients_finite(loss):
    wave = speech_like()
    silence = torch.zeros(1, 16_000)
    assert float(loss(wave, wave)) == pytest.approx(0, abs=1e-3)
    for reference in (wave[:, :16_000], silence):
        estimate = (0.5 * reference).requires_grad_()
        loss(estimate, reference).backward()
        assert bool(estimate.grad.isfinite().all())


def test_disturbance_does_not_depend_on_the_volume_both_are_played_at():
    loss, wave = DisturbanceLoss(RATE), speech_like()
    other = wave + 0.01 * torch.randn(wave.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(0.2 * other, 0.2 * wave), loss(other, wave), rtol=1e-3, atol=0)


def test_what_is_added_counts_more_than_what_is_missing():
    both, one = two_tones(RATE)
    loss = DisturbanceLoss(RATE)
    assert float(loss(both, one)) > 1.5 * float(loss(one, both))


@pytest.mark.parametrize("name", ["english", "italian", "russian"])
def test_scores_are_those_of_pesq(name: str):
    """With its emphasis of 6, and PESQ's map to opinions, the loss is what the reference implementation says."""
    wave, _ = read(Path(__file__).parent / "clips" / f"{name}.flac", sample_rate=RATE)
    noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(1)) * wave.std()
    worse = [wave + amount * noise for amount in (0.003, 0.01, 0.03, 0.1)]
    worse += [wave.clamp(-0.15, 0.15), (wave * 32).round() / 32, 0.5 * wave]
    loss = DisturbanceLoss(RATE, emphasis=6)
    for sound in worse:
        score = 0.999 + 4 / (1 + math.exp(3.8224 - 1.3669 * (4.5 - float(loss(sound, wave)))))
        assert score == pytest.approx(pesq(wave[0], sound[0], RATE), abs=0.25)


@pytest.mark.parametrize("samples", [4000, 16_384, 20_000])
def test_the_end_of_a_sound_is_heard(samples: int):
    """The last section of frames counts though it is shorter, as the standard has it."""
    wave = speech_like()[:, 3000 : 3000 + samples]
    worse = wave.clone()
    worse[:, -1000:] *= 1.5
    loss = DisturbanceLoss(RATE)
    assert float(loss(worse, wave)) > 0.01 + float(loss(wave, wave))
