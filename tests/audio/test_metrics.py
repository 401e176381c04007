from __future__ import annotations

import importlib
import math
from typing import Any

import librosa
import numpy as np
import pytest
import torch

from mmdiff.audio import metrics
from mmdiff.audio.metrics import (
    METRICS,
    evaluate,
    f0_error,
    log_mel_l1,
    log_spectral_distance,
    mel_cepstra,
    mel_cepstral_distortion,
    multi_resolution_stft,
    pesq,
    real_time_factor,
    si_sdr,
    stoi,
    voicing_error,
    word_error_rate,
    words,
)
from mmdiff.audio.metrics.words import edits, words_heard
from mmdiff.errors import InputError

RATE = 16_000
BEST = {"pesq": 4.644, "stoi": 1.0, "si_sdr": math.inf}  # of the others, 0


def noise(seconds: float = 1.0, seed: int = 0, level: float = 0.1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return level * torch.randn(round(seconds * RATE), generator=rng, dtype=torch.float64)


def vibrato(seconds: float, cents: float = 0.0, rate: int = RATE) -> tuple[torch.Tensor, torch.Tensor]:
    """A voice-like tone of ten harmonics around 150 Hz, ``cents`` sharp; and its pitch at every sample."""
    t = torch.arange(int(seconds * rate), dtype=torch.float64) / rate
    f0 = 150 * 2 ** ((cents + 60 * torch.sin(2 * math.pi * 4 * t)) / 1200)
    phase = 2 * math.pi * f0.cumsum(0) / rate
    return sum(0.1 / k * torch.sin(k * phase) for k in range(1, 11)), f0


def syllables(count: int = 6, seed: int = 0) -> torch.Tensor:
    """Tones that swell and fade, pauses, faint noise: speech enough for models of hearing."""
    voice, _ = vibrato(0.4)
    syllable = torch.cat((voice * torch.hann_window(len(voice), dtype=voice.dtype), voice.new_zeros(3200)))
    return syllable.repeat(count) + noise(count * 0.6, seed, 1e-4)


# --- all measures -----------------------------------------------------------------------------------------


def test_identity_is_best() -> None:
    x = syllables()
    for name, value in evaluate(x, x, RATE, [name for name in METRICS if name != "wer"]).items():
        assert value == pytest.approx(BEST.get(name, 0.0), abs=1e-3), name


def test_direction_of_every_measure_under_growing_noise() -> None:
    x, names = syllables(), [name for name in METRICS if name not in ("f0_error", "wer")]
    values = [evaluate(x, x + noise(len(x) / RATE, 1, level), RATE, names) for level in (0.002, 0.006, 0.02)]
    for name in names:
        series = [v[name] if METRICS[name].higher_is_better else -v[name] for v in values]
        assert series == sorted(series, reverse=True), name
        assert series[0] > series[-1], name


def test_arrays_tensors_and_precision_do_not_matter() -> None:
    x, y = noise(), noise(seed=1)
    expected = log_spectral_distance(x, y, RATE)
    assert log_spectral_distance(x.numpy(), y.numpy(), RATE) == expected
    assert log_spectral_distance(x.float().requires_grad_(), y.float(), RATE) == pytest.approx(
        expected, rel=1e-4
    )


def test_a_frame_more_or_less_is_cut_and_more_is_refused() -> None:
    x = noise()
    assert si_sdr(x, torch.cat((0.5 * x, x[:320])), RATE) > 200
    assert si_sdr(x, x[:-320], RATE) > 200
    with pytest.raises(InputError, match="at most 320"):
        si_sdr(x, x[:-321], RATE)


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (torch.zeros(1, 16_000), RATE, "one channel"),
        (torch.zeros(0), RATE, "one channel"),
        (torch.zeros(16_000, dtype=torch.int16), RATE, "32768"),
        (torch.full((16_000,), math.nan), RATE, "finite"),
        (torch.zeros(16_000), 0, "sample_rate=0"),
    ],
)
@pytest.mark.parametrize("name", METRICS)
def test_unfit_sounds_are_refused_by_every_measure(name: str, sound: Any, rate: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        METRICS[name].function(sound, sound, rate)


def test_unknown_measure_is_refused() -> None:
    with pytest.raises(InputError, match=r"name='mos'.*pesq"):
        evaluate(noise(), noise(), RATE, ["mos"])


@pytest.mark.parametrize("name", METRICS)
def test_short_and_silent_sounds_give_a_warning_and_nan_or_a_true_value(name: str) -> None:
    function = METRICS[name].function
    blip, silence = noise(0.02), torch.zeros(RATE, dtype=torch.float64)
    if name != "si_sdr":  # which needs no more than one sample
        with pytest.warns(UserWarning, match=f"{name} is undefined"):
            assert math.isnan(function(blip, blip, RATE))
    if name in {"pesq", "stoi", "mr_stft", "si_sdr", "f0_error", "wer"}:
        with pytest.warns(UserWarning, match=f"{name} is undefined"):
            assert math.isnan(function(silence, noise(), RATE))
    else:
        assert math.isfinite(function(silence, noise(), RATE))


@pytest.mark.parametrize(("name", "package"), [("pesq", "pesq"), ("stoi", "pystoi")])
def test_a_missing_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_module(asked: str) -> None:
        assert asked == package
        raise ImportError(asked)

    monkeypatch.setattr(importlib, "import_module", no_module)
    with pytest.raises(InputError, match=r"pip install mmdiff\[metrics\]"):
        METRICS[name].function(noise(), noise(), RATE)


# --- hearing ----------------------------------------------------------------------------------------------


def test_pesq_and_stoi_equal_their_packages_at_their_own_rates() -> None:
    x, y = syllables(), syllables() + noise(3.6, 2, 0.003)
    package = importlib.import_module("pesq")
    assert pesq(x, y, 16_000) == package.pesq(16_000, x.numpy(), y.numpy(), "wb")
    assert stoi(x, y, 10_000) == importlib.import_module("pystoi").stoi(x.numpy(), y.numpy(), 10_000)


def test_pesq_of_another_rate_is_that_of_the_same_sound_at_16_khz() -> None:
    voice, (low, high) = {}, (16_000, 48_000)
    for rate in (low, high):
        tone, _ = vibrato(2.0, rate=rate)
        wobble, _ = vibrato(2.0, cents=300, rate=rate)
        voice[rate] = tone, tone + 0.05 * wobble
    assert pesq(*voice[high], high) == pytest.approx(pesq(*voice[low], low), abs=0.02)


def test_pesq_survives_more_pauses_than_its_package_does() -> None:
    x = syllables(75)  # the package alone crashes on these 45 s
    y = x + noise(45.0, 1, 0.003)
    whole = pesq(x, y, RATE)
    parts = [pesq(a, b, RATE) for a, b in zip(x.chunk(3), y.chunk(3), strict=True)]
    assert whole == pytest.approx(np.mean(parts))


def test_pesq_leaves_out_parts_without_speech() -> None:
    x = torch.cat((syllables(25), torch.zeros(15 * RATE, dtype=torch.float64)))
    y = x + torch.cat((noise(15.0, 1, 0.003), torch.zeros(15 * RATE, dtype=torch.float64)))
    assert pesq(x, y, RATE) == pesq(x[: 15 * RATE], y[: 15 * RATE], RATE)


# --- waveform and spectra ---------------------------------------------------------------------------------


@pytest.mark.parametrize("decibels", [-10.0, 0.0, 25.0])
def test_si_sdr_of_a_known_mixture(decibels: float) -> None:
    x, other = noise(), noise(seed=1)
    other -= (other @ x) / (x @ x) * x  # orthogonal: all of it is distortion
    other *= x.norm() / other.norm()
    assert si_sdr(x, 0.3 * (x + 10 ** (-decibels / 20) * other), RATE) == pytest.approx(decibels, abs=1e-6)


def test_si_sdr_limits() -> None:
    x = noise()
    assert si_sdr(x, x, RATE) == math.inf
    assert si_sdr(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), RATE) == -math.inf


@pytest.mark.parametrize("decibels", [-20.0, 3.0, 12.0])
def test_a_gain_moves_every_spectral_measure_by_its_closed_form(decibels: float) -> None:
    x, gain = noise(), 10 ** (decibels / 20)
    y = gain * x
    assert log_spectral_distance(x, y, RATE) == pytest.approx(abs(decibels), rel=1e-6)
    assert log_mel_l1(x, y, RATE) == pytest.approx(abs(math.log(gain)), rel=1e-4)
    assert multi_resolution_stft(x, y, RATE) == pytest.approx(abs(gain - 1) + abs(math.log(gain)), rel=1e-6)
    assert mel_cepstral_distortion(x, y, RATE) == pytest.approx(0.0, abs=1e-4)  # c0 is left out


def test_mel_cepstral_distortion_of_a_known_filter() -> None:
    # y[n] = x[n] - a x[n-1] multiplies the spectrum by |1 - a e^{-iw}|, smooth over a mel band.
    x, a = noise(20.0), 0.7
    y = torch.cat((x[:1], x[1:] - a * x[:-1]))
    centres = librosa.mel_frequencies(82, fmin=0, fmax=RATE / 2)[1:-1]
    response = np.log(np.abs(1 - a * np.exp(-2j * np.pi * centres / RATE)))
    n, m = np.arange(80) + 0.5, np.arange(1, 25)[:, None]
    ripple = 2 / 80 * np.cos(np.pi * m * n / 80) @ response
    expected = 10 / np.log(10) * np.sqrt(2 * np.sum(ripple**2))
    assert mel_cepstral_distortion(x, y, RATE) == pytest.approx(expected, rel=0.03)


def test_mel_cepstral_distortion_is_the_decibel_difference_of_smooth_spectra() -> None:
    # With all 79 coefficients, Parseval: the mean square of the log difference less its mean (c0).
    x, y = noise(), noise(seed=1)
    difference = mel_cepstra(x, RATE, 79) - mel_cepstra(y, RATE, 79)
    cepstral = 10 / math.log(10) * difference.square().sum(0).mul(2).sqrt()
    spec = metrics.spectral.MelSpec()
    decibels = 20 / math.log(10) * (spec(x[None].float()) - spec(y[None].float()))[0].double()
    torch.testing.assert_close(cepstral, decibels.std(0, correction=0), rtol=1e-4, atol=1e-4)


def test_log_mel_l1_is_the_vocoders_own_definition() -> None:
    x, y = noise().float(), noise(seed=1).float()
    bands = torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=1024, n_mels=80, fmin=0, fmax=8000))

    def log_mel(wave: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(wave, 1024, 256, window=torch.hann_window(1024), return_complex=True)
        return torch.log(torch.clamp(bands @ spectrum.abs(), min=1e-5))

    expected = (log_mel(x) - log_mel(y)).abs().mean().item()
    assert log_mel_l1(x, y, RATE) == pytest.approx(expected, rel=1e-4)


# --- voice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_pitch_of_a_vibrato_tone(rate: int) -> None:
    tone, truth = vibrato(1.5, rate=rate)
    f0, voiced = metrics.pitch(tone, rate)
    at = np.round(np.arange(len(f0)) * 0.01 * rate).astype(int).clip(max=len(truth) - 1)
    cents = 1200 * np.log2(f0 / truth.numpy()[at])
    assert voiced.mean() > 0.95
    assert np.sqrt(np.nanmean(cents[5:-5] ** 2)) < 10  # a step of the tracker


@pytest.mark.parametrize("cents", [-200.0, 50.0])
def test_f0_error_of_a_mistuned_tone(cents: float) -> None:
    assert f0_error(vibrato(1.5)[0], vibrato(1.5, cents)[0], RATE) == pytest.approx(abs(cents), abs=4)


def test_voicing_error_counts_the_frames_turned_to_noise() -> None:
    tone, _ = vibrato(2.0)
    broken = torch.cat((tone[:RATE], noise(1.0)))
    assert voicing_error(tone, broken, RATE) == pytest.approx(0.5, abs=0.06)
    assert voicing_error(broken, tone, RATE) == pytest.approx(0.5, abs=0.06)


# --- speed ------------------------------------------------------------------------------------------------


def test_real_time_factor_is_the_median_time_over_the_seconds_of_sound() -> None:
    calls, now = [], 0.0
    durations = iter([100.0, 1.0, 9.0, 2.0])  # the warm-up, then three timed calls

    def synthesise() -> torch.Tensor:
        nonlocal now
        now += next(durations)
        calls.append(now)
        return torch.zeros(2, 4 * RATE)

    assert real_time_factor(synthesise, RATE, clock=lambda: now) == 2.0 / 8.0
    assert len(calls) == 4


def test_real_time_factor_refuses_nothing_to_time() -> None:
    with pytest.raises(InputError, match="empty"):
        real_time_factor(lambda: torch.zeros(2, 0), RATE)
    with pytest.raises(InputError, match="repeats=0"):
        real_time_factor(lambda: torch.zeros(1), RATE, repeats=0)


# --- words ------------------------------------------------------------------------------------------------


def test_a_recogniser_hears_the_end_of_a_prompt_and_less_of_it_in_noise() -> None:
    speech = torch.tensor(librosa.load("examples/speech.flac", sr=None, offset=2.4)[0])
    heard = words_heard(speech, RATE)
    assert heard[-5:] == ["followed", "by", "the", "pound", "key"]
    noisy = speech + noise(len(speech) / RATE, level=0.01)
    assert word_error_rate(speech, noisy, RATE) == edits(heard, words_heard(noisy, RATE)) / len(heard) > 0.1


def test_no_words_are_lost_of_a_sound_itself_and_it_is_heard_as_before() -> None:
    speech = torch.tensor(librosa.load("examples/speech.flac", sr=None, offset=4)[0])
    assert word_error_rate(speech, speech, RATE) == 0
    heard = words_heard(speech, RATE)
    words._recognised.cache_clear()
    assert words_heard(speech, RATE) == heard


@pytest.mark.parametrize("seed", range(5))
def test_edits_are_the_fewest_that_exist(seed: int) -> None:
    text = np.random.default_rng(seed).integers(0, 3, 11).tolist()
    a, b = text[:5], text[5:]

    def fewest(i: int, j: int) -> int:
        """Try everything."""
        if i == len(a) or j == len(b):
            return len(a) - i + len(b) - j
        return min(1 + fewest(i + 1, j), 1 + fewest(i, j + 1), (a[i] != b[j]) + fewest(i + 1, j + 1))

    assert edits(a, b) == fewest(0, 0)
