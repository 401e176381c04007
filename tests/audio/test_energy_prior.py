"""PriorGrad's prior from the energy of frames, and a vocoder that has it."""

from __future__ import annotations

import pytest
import torch
from tiny_vocoders import SHORT as MEL
from tiny_vocoders import diffwave

from mmdiff.audio.energy_prior import EnergyPrior
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config

PRIOR = EnergyPrior(0.5, 2.5, 0.2)


def test_the_deviation_is_where_the_energy_lies_between_the_datas():
    bands = torch.full((1, 20, 4), 1e-5)
    bands[0, 0, 1:] = torch.tensor([1.5**2, 2.5**2, 9.0**2])
    prior = PRIOR(MEL.compress(bands), MEL)
    assert prior.std.shape == (1, 1, 4 * 64)
    steps = torch.tensor([0.2, 0.5, 1.0, 1.0])
    torch.testing.assert_close(prior.std[0, 0], steps.repeat_interleave(64), atol=1e-4, rtol=0)
    assert float(prior.mean) == 0
    free = EnergyPrior(0.5, 2.5, 0.2, ceiling=None)(MEL.compress(bands), MEL)
    assert float(free.std.max()) == pytest.approx(4.25, abs=1e-4)


def vocoder(**options) -> WaveformVocoder:
    return diffwave(prior=PRIOR, **options)


@pytest.mark.parametrize("clamp", ["data", "state"])
def test_noise_is_as_loud_as_the_frames_and_windows_give_what_the_whole_gives(clamp):
    mel = MEL.compress(torch.rand(2, 20, 60, generator=torch.Generator().manual_seed(0)) ** 4)
    model, seen = vocoder(clamp=clamp), []
    model.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    whole = Vocoder(model, "cpu", "float32")(mel, mel_spec=MEL, seed=3, steps=4)
    start = seen[0][:, 0] / PRIOR(mel, MEL).std[:, 0]
    assert start.std().item() == pytest.approx(1, abs=0.03)
    pieces = Vocoder(vocoder(clamp=clamp, window=10), "cpu", "float32")(mel, mel_spec=MEL, seed=3, steps=4)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("norm", "power"), [("l1", 1), ("l2", 2)])
def test_training_weighs_the_error_by_the_prior_and_the_model_survives_its_config(norm, power):
    model = vocoder()
    wave = 0.5 * torch.randn(2, 20 * 64, generator=torch.Generator().manual_seed(1))
    task, mel = WaveformTask(model, norm), MEL(wave)[..., :20]
    loss = task({"wave": wave}, torch.Generator().manual_seed(0))["loss"]
    rng = torch.Generator().manual_seed(0)
    eps, std = torch.randn(2, 1, 20 * 64, generator=rng), PRIOR(mel, MEL).std
    t = task.objective.times.draw(2, model.denoiser.schedule, generator=rng)
    alpha, sigma, *_ = (level[:, None, None] for level in model.denoiser.schedule(t))
    said = model.denoiser.raw(alpha * wave[:, None] + sigma * std * eps, t, mel=mel)
    expected = ((said - std * eps) / std).abs().pow(power).mean()  # algorithm 1 of the paper, for l2
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)
    assert from_config(to_config(model)).prior == PRIOR


@pytest.mark.parametrize(
    ("numbers", "message"),
    [((2.0, 1.0), "lowest < highest"), ((0.0, 1.0, 0.0), "floor=0"), ((0.0, 1.0, 2.0), "at most ceiling=1")],
)
def test_numbers_out_of_range_are_named(numbers, message):
    with pytest.raises(InputError, match=message):
        EnergyPrior(*numbers)
