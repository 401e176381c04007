"""PriorGrad checkpoints: LMNT's DiffWave network, sampled with a prior that is stated anew here."""

from __future__ import annotations

import lmnt
import numpy as np
import pytest
import torch

from mmdiff.audio.mel import PRESETS
from mmdiff.audio.vocoder import Vocoder
from mmdiff.convert import convert
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import load_model, save_model

SIZES = {"n_mels": 13, "residual_layers": 5, "residual_channels": 12, "dilation_cycle_length": 3}
BETAS = [1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5]
OWN = {
    "use_prior": True,
    "condition_prior": False,
    "condition_prior_global": False,
    "std_min": 0.1,
    "max_energy_override": 4.0,
    "fmin": 0,
    "fmax": 8000,
    "use_l2loss": True,
}


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def reference(rng):
    model = lmnt.diffwave(**SIZES)
    lmnt.randomise(model, rng)
    lmnt.quieten(model.output_projection)
    return model.eval()


@pytest.fixture
def file(reference, tmp_path):
    def save(**changes):
        return lmnt.save(reference, tmp_path / "weights.pt", params={**reference.params, **OWN, **changes})

    return save


def predict(model, mel, std):
    """The ancestral steps of the packages, with noise of deviation ``std`` (B, samples)."""
    beta, trained = np.array(BETAS), np.cumprod(1 - np.array(model.params["noise_schedule"])) ** 0.5
    kept = np.cumprod(1 - beta)
    index = np.interp(-(kept**0.5), -trained, np.arange(len(trained)))
    y = torch.randn(len(mel), 1) * std
    for n in reversed(range(len(beta))):
        with torch.no_grad():
            eps = model(y, mel, torch.tensor([index[n]], dtype=torch.float32))[:, 0]
        y = (y - beta[n] / (1 - kept[n]) ** 0.5 * eps) / (1 - beta[n]) ** 0.5
        if n:
            y = y + ((1 - kept[n - 1]) / (1 - kept[n]) * beta[n]) ** 0.5 * (torch.randn_like(y) * std)
        y = y.clamp(-1, 1)
    return y.float()


@pytest.mark.parametrize("override", [4.0, None], ids=["energies clipped", "energies of the data"])
def test_a_folder_samples_with_the_prior_of_the_project(override, reference, file, tmp_path, rng):
    options = {"energy_min": 0.05} if override else {"energy_min": 0.05, "energy_max": 3.0}
    model, facts = convert(file(max_energy_override=override), **options)
    assert facts["format"] == "PriorGrad"
    assert (facts["energy_min"], facts["energy_max"]) == (0.05, override or 3.0)
    model = load_model(save_model(model, tmp_path / "model", half=False), "cpu")
    mel = 0.3 * torch.randn(2, 13, 6, generator=rng) + torch.linspace(-8, 1, 6)
    energy = mel.exp().sum(1).sqrt()
    highest = override or 3.0
    assert energy.max() > highest
    std = ((energy.clamp(max=override) if override else energy) - 0.05) / (highest - 0.05)
    std = std.clamp(min=0.1).repeat_interleave(256, 1)
    assert (std == 0.1).any()
    with lmnt.noise_of([5, 6], 6, 256):
        expected = predict(reference, mel, std)
    assert 0.001 < (expected.abs() == 1).float().mean() < 0.9
    wave = Vocoder(model, "cpu", "float32")(mel, mel_spec=model.mel, seed=[5, 6], samples=6 * 256)
    torch.testing.assert_close(wave, expected, atol=1e-4, rtol=0)


def test_the_spectrogram_is_hifigans_and_what_the_file_lacks_is_assumed(rng, tmp_path):
    reference = lmnt.diffwave(residual_layers=1)
    path = lmnt.save(reference, tmp_path / "weights.pt", params={**reference.params, **OWN})
    model, facts = convert(path)
    assert model.mel == PRESETS["hifigan-22k"]
    assert facts["assumed"] == ["energy_min"]
    silence = model.mel(torch.zeros(1, 4096))
    assert facts["energy_min"] == pytest.approx(silence.exp().sum(1).sqrt().max().item(), rel=1e-4)
    assert convert(path, energy_min=0.03)[1]["assumed"] == []


def test_without_its_prior_it_is_diffwave(file):
    model, facts = convert(file(use_prior=False))
    assert (model.prior, facts["prior"], facts["assumed"]) == (None, "standard normal", [])


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"condition_prior": True}, {}, CheckpointError, "condition too cannot be converted"),
        ({"condition_prior_global": True}, {}, CheckpointError, "condition too cannot be converted"),
        ({"std_min": 0.0}, {}, CheckpointError, "std_min"),
        ({"fmax": 1e9}, {}, CheckpointError, "fmax"),
        ({"fmin": 8000}, {}, CheckpointError, "no spectrogram"),
        ({"max_energy_override": "4"}, {}, CheckpointError, "max_energy_override"),
        ({"max_energy_override": 0.01}, {}, InputError, "lowest < highest"),
        ({"max_energy_override": None}, {}, InputError, "energy_max=None must be given"),
        ({}, {"energy_max": 5.0}, InputError, "the file overrides it by 4"),
        ({}, {"energy_min": -1.0}, InputError, "lowest"),
    ],
)
def test_what_makes_no_prior_is_refused(changes, options, error, message, file):
    with pytest.raises(error, match=message):
        convert(file(**changes), **options)
