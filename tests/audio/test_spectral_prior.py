"""The prior with the spectrum that a spectrogram makes expect, and a vocoder that has it."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_vocoders import SHORT as MEL
from tiny_vocoders import diffwave
from torchaudio.functional import lfilter

from mmdiff.audio import io
from mmdiff.audio.mel import preset
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.spectral_prior import SpectralPrior
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas
from mmdiff.errors import InputError
from mmdiff.export import export
from mmdiff.registry import from_config, to_config

PRIOR, TABLE = SpectralPrior(), BetaTable(diffwave_betas())
SPEC = preset("mmdiff-16k")


@pytest.fixture(scope="module")
def speech() -> torch.Tensor:
    wave, *_ = io.read("examples/speech.flac", sample_rate=16_000)
    wave = wave.mean(0, keepdim=True)
    return wave[:, : wave.shape[1] // 256 * 256]


def mel_of(wave: torch.Tensor) -> torch.Tensor:
    return SPEC(wave)[..., : wave.shape[1] // SPEC.hop_length]


def vocoder(**options) -> WaveformVocoder:
    return diffwave(prior=PRIOR, clamp="deviations", **options)


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_whitened_speech_is_as_loud_at_all_frequencies_and_exactly_restored(speech):
    prior = PRIOR(mel_of(speech), SPEC)
    white = prior.whiten(speech[:, None])
    numbers = prior.basis.forward(white)[0, 0] * PRIOR.gain
    for low in range(0, 256, 32):  # a kHz each; the speech itself falls by 40 dB
        assert numbers[:, low : low + 32].std().item() == pytest.approx(1, abs=0.15)
    assert numbers.abs().max() < 15  # nothing that leaks is far above what is expected there
    torch.testing.assert_close(prior.unwhiten(white), speech[:, None], atol=1e-5, rtol=0)


def test_of_steady_noise_it_expects_the_filter_that_made_it():
    wave = lfilter(
        draw(16, 200 * 256).double(), torch.tensor([1, -0.9]).double(), torch.tensor([0.1, 0]).double()
    )
    std = SpectralPrior(gain=1.0)(mel_of(wave.float()), SPEC).std.square().mean((0, 1, 2)).sqrt()
    turn = torch.polar(torch.ones(256), -torch.pi * (torch.arange(256) + 0.5) / 256)
    response = 0.1 / (1 - 0.9 * turn).abs()
    # a band of magnitudes tells their mean, which is √π/2 of the deviation; one of a single bin its deviation itself
    ratio = std[8:-8] / response[8:-8]
    assert 0.95 * math.sqrt(math.pi) / 2 < ratio.min()
    assert ratio.max() < 1.02
    assert response.max() / response.min() > 15


def test_silence_has_the_floor_and_gain_is_a_factor():
    mel = SPEC(torch.zeros(1, 20 * 256))[..., :20]
    std = PRIOR(mel, SPEC).std
    assert std.shape == (1, 1, 20, 256)
    torch.testing.assert_close(std, torch.full_like(std, 1e-4))
    loud = SPEC(draw(1, 20 * 256))[..., :20]
    torch.testing.assert_close(SpectralPrior(3.0)(loud, SPEC).std, 0.3 * PRIOR(loud, SPEC).std)
    torch.testing.assert_close(
        PRIOR(loud, SPEC).std.square().mean().sqrt(), torch.tensor(10.0), rtol=0.1, atol=0
    )


def test_a_network_that_says_anything_ends_in_sound():
    model = vocoder()
    model.network.register_forward_hook(lambda _, args, output: 1e6 * output)
    wave = Vocoder(model, "cpu", "float32")(MEL(0.1 * draw(1, 60 * 64))[..., :60], mel_spec=MEL, steps=6)
    assert wave.isfinite().all()
    assert 0 < wave.abs().max() <= 1


def test_training_in_bfloat16_has_the_same_prior():
    mel = MEL(draw(1, 20 * 64))[..., :20]
    with torch.autocast("cpu", torch.bfloat16):
        found = PRIOR(mel, MEL).std
    assert torch.equal(found, PRIOR(mel, MEL).std)


def test_windows_give_what_the_whole_gives():
    mel = MEL(0.002 * draw(2, 60 * 64))[..., :60]
    whole = Vocoder(vocoder(), "cpu", "float32")(mel, mel_spec=MEL, seed=3, steps=4)
    assert whole.abs().max() < 1
    pieces = Vocoder(vocoder(window=10), "cpu", "float32")(mel, mel_spec=MEL, seed=3, steps=4)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_training_is_that_of_whitened_sound_and_the_model_survives_its_config(norm, power):
    model, wave = vocoder(), 0.1 * draw(2, 20 * 64)
    task, mel = WaveformTask(model, norm), MEL(wave)[..., :20]
    loss = task({"wave": wave}, torch.Generator().manual_seed(0))["loss"]
    prior, rng = PRIOR(mel, MEL), torch.Generator().manual_seed(0)
    t = task.objective.times.draw(2, model.denoiser.schedule, generator=rng)
    eps = torch.randn(2, 1, 20 * 64, generator=rng)
    alpha, sigma, *_ = (level[:, None, None] for level in model.denoiser.schedule(t))
    # the noise that a waveform gets has the prior's covariance; the network sees the sum whitened
    noisy = alpha * wave[:, None] + sigma * prior.color(eps)
    said = model.denoiser.raw(prior.whiten(noisy), t, mel=mel)
    torch.testing.assert_close(loss, (said - eps).abs().pow(power).mean(), rtol=1e-4, atol=0)
    assert from_config(to_config(model)).prior == PRIOR


def test_a_distance_compares_the_sound_that_is_found():
    wave, heard = 0.1 * draw(2, 40 * 64), []
    task = WaveformTask(vocoder(), distance=1.0)
    rng = torch.Generator().manual_seed(0)
    task.objective.times.draw(2, task.model.denoiser.schedule, generator=rng)
    noise = torch.randn(2, 1, 40 * 64, generator=rng)
    task.model.network.register_forward_hook(lambda *_: noise)  # a network that knows it all
    task.spectra.register_forward_pre_hook(lambda _, sounds: heard.extend(sounds))
    parts = task({"wave": wave}, torch.Generator().manual_seed(0))
    assert parts["denoising"].item() == 0
    made, recording = heard
    assert torch.equal(recording, wave)
    torch.testing.assert_close(made, recording, atol=1e-4, rtol=0)


def test_it_is_exported_with_its_prior(tmp_path):
    facts = export(vocoder(), tmp_path / "specgrad.onnx", steps=2)
    assert facts["check"]["decibels"] > 80


def test_a_stream_that_hears_two_frames_more_than_the_network_is_that_which_hears_many():
    mel, model = MEL(0.1 * draw(1, 120 * 64))[..., :120], vocoder()
    voc = Vocoder(model, "cpu", "float32")
    steps = 3
    enough = steps * (model.network.reach + 2)
    near, far = (
        torch.cat(list(voc.stream(mel.split(7, -1), lookahead=enough + n, block=4, seed=2, steps=steps)), -1)
        for n in (0, 20)
    )
    torch.testing.assert_close(near, far, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectralPrior(0.0), "gain=0.0 must be above 0"),
        (lambda: SpectralPrior(1.0, float("inf")), "floor=inf must be above 0 and finite"),
        (lambda: diffwave(prior=PRIOR), "clamp='data' must be 'deviations'"),
        (lambda: diffwave(prior=PRIOR, clamp="state"), "clamp='state' must be 'deviations'"),
        (
            lambda: WaveformVocoder(MEL, FrameNet(MEL, 8, 1), TABLE, prior=PRIOR, clamp="deviations"),
            "network=FrameNet must see the sound",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
