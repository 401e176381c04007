"""What a mel spectrogram says about a magnitude: against direct analysis on the model's grid."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torchaudio

from mmdiff.audio.disturbance import DisturbanceLoss
from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.mel import PRESETS, MelSpec, preset
from mmdiff.audio.mel.lengths import longest_length, resampled_length, whole_length
from mmdiff.audio.prior import bands_on_grid, context_filters, context_of
from mmdiff.audio.stft import Stft

STFT = Stft()
NATIVE = preset("mmdiff-16k")


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    """Two seconds of pink-like noise."""
    white = torch.randn(1, 32_768, generator=torch.Generator().manual_seed(0))
    return 0.05 * torchaudio.functional.lowpass_biquad(white, 16_000, 2000.0)


def test_native_bands_are_those_of_the_magnitude(noise):
    bands = bands_on_grid(NATIVE(noise), NATIVE, STFT)
    assert bands.native
    torch.testing.assert_close(bands.values, bands.of(STFT(noise).abs()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_prior_and_rescaling_meet_the_bands(noise, power):
    spec = MelSpec(power=power, floor=1e-10)
    bands = bands_on_grid(spec(noise), spec, STFT)
    prior = bands.magnitude_prior(iterations=30)
    ratio = bands.of(prior) / bands.values
    assert float((ratio.log().abs()).mean()) < 0.02
    off = prior * (1 + 0.5 * torch.rand(prior.shape, generator=torch.Generator().manual_seed(1)))
    before = (bands.of(off) / bands.values).log().abs().mean()
    after = (bands.of(bands.rescale(off)) / bands.values).log().abs().mean()
    assert float(after) < 0.1 * float(before)


@pytest.mark.parametrize("name", [n for n in PRESETS if PRESETS[n].sample_rate <= 24_000])
def test_every_preset_gives_nearly_the_native_bands(noise, name):
    """A mel of another rate, window, hop, scale and logarithm, undone, is within 1 dB of the right level."""
    spec = preset(name)
    sound = torchaudio.functional.resample(noise, 16_000, spec.sample_rate, lowpass_filter_width=64)
    bands = bands_on_grid(spec(sound), spec, STFT, frames=STFT.frames(noise.shape[1]))
    truth = bands.of(STFT(noise).abs())
    error = (bands.values / truth).log()[:, 4:-4, :-2]
    assert abs(float(error.mean())) < 0.12
    assert float(error.abs().mean()) < 0.35


def test_frames_past_the_end_repeat_the_last_and_lengths_follow_the_rates():
    spec = preset("hifigan-22k")
    assert resampled_length(spec, 100, 16_000) == round(100 * 256 * 16_000 / 22_050)
    centred = replace(spec, centred=True)  # from the first frame's middle to the last one's
    lengths = (resampled_length, whole_length, longest_length)
    assert [length(centred, 100, 22_050) for length in lengths] == [99 * 256, 99 * 256, 100 * 256]
    assert [length(centred, 1, 22_050) for length in lengths] == [0, 256, 256]
    bands = bands_on_grid(torch.zeros(1, 80, 10), spec, STFT, frames=20)
    torch.testing.assert_close(bands.values[:, 19], bands.values[:, 18])


def test_priors_are_positive_and_finite_for_silence():
    for spec in PRESETS.values():
        silence = torch.full((1, spec.n_mels, 8), spec.lowest_value)
        prior = bands_on_grid(silence, spec, STFT).magnitude_prior()
        assert bool((prior > 0).all() and prior.isfinite().all())


def test_what_is_measured_is_the_same_in_a_training_in_half_precision(noise):
    """Under autocast as without: the spectrogram of a training is the one that is told later."""
    spec, stft = preset("mmdiff-16k"), Stft(16000, 512, 256)
    filters = context_filters(stft, 20)
    other = noise + 0.01 * noise.roll(1, -1)

    def measured() -> list[torch.Tensor]:
        mel = spec(noise)
        prior = bands_on_grid(mel, spec, stft, mel.shape[-1]).magnitude_prior()
        losses = [loss(other, noise) for loss in (MultiResolutionLoss(16000), DisturbanceLoss(16000))]
        return [mel, prior, context_of(prior, filters), *losses]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = measured()
    for found, wanted in zip(half, measured(), strict=True):
        assert torch.equal(found, wanted)
