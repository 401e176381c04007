"""WaveGrad checkpoints of the package by LMNT: converted models compute and sample what the package does."""

from __future__ import annotations

import lmnt
import pytest
import torch

from mmdiff.audio.mel import PRESETS
from mmdiff.audio.vocoder import Vocoder
from mmdiff.convert import convert
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import load_model, save_model

SIZES = {"factors": lmnt.OTHER_FACTORS, "dilations": lmnt.OTHER_DILATIONS}


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def other(rng):
    model = lmnt.wavegrad_other_sizes()
    lmnt.randomise(model, rng)
    return model


@pytest.fixture
def file(other, tmp_path):
    return lmnt.save(other, tmp_path / "weights.pt")


@torch.no_grad()
def difference(reference, network, rng, frames=4):
    mel = torch.rand(2, network.n_mels, frames, generator=rng)
    x, level = torch.randn(2, frames * network.hop_length, generator=rng), torch.rand(2, generator=rng)
    expected = reference(x, mel, level)
    return ((network(x[:, None], level, mel) - expected).abs().max() / expected.abs().max()).item()


def test_the_released_size_computes_the_same_and_says_what_it_is(tmp_path, rng):
    reference = lmnt.wavegrad_default()
    lmnt.randomise(reference, rng)
    model, facts = convert(lmnt.save(reference, tmp_path / "weights.pt"))
    assert difference(reference, model.denoiser.network, rng) < 1e-5
    assert facts["format"] == "WaveGrad by LMNT"
    assert (facts["training_steps"], facts["parameters"], facts["sample_rate"]) == (1234, 15_920_993, 22_050)
    assert facts["network"]["level_scale"] == 1.0
    assert facts["schedule"] == "1000 steps, 1e-06 .. 0.01"
    assert facts["mel"].startswith("lmnt-wavegrad-22k")
    assert facts["assumed"] == ["betas"]
    assert model.mel == PRESETS["lmnt-wavegrad-22k"]


@pytest.mark.parametrize("betas", [(1e-4, 1e-2, 0.3), None], ids=["few steps", "the file's own table"])
def test_a_folder_of_other_sizes_samples_what_the_package_samples(betas, other, tmp_path, rng):
    table = [1e-4 + 0.09 * n / 24 for n in range(25)]
    lmnt.quieten(other.last_conv)
    other.params.override({"noise_schedule": table})
    file = lmnt.save(other, tmp_path / "weights.pt", params={**other.params, "noise_schedule": table})
    model, _ = convert(file, betas=betas or (0.1,), **SIZES)
    assert difference(other, model.denoiser.network, rng) < 1e-5
    model = load_model(save_model(model, tmp_path / "model", half=False), "cpu")
    mel = torch.rand(2, 9, 11, generator=rng)
    with lmnt.noise_of([5, 6], 11, 42):
        expected = lmnt.wavegrad_predict(other, mel, betas or table)
    assert 0.001 < (expected.abs() == 1).float().mean() < 0.9  # clipping is part of it
    wave = Vocoder(model, "cpu", "float32")(
        mel, mel_spec=model.mel, seed=[5, 6], samples=11 * 42, steps=None if betas else 25
    )
    torch.testing.assert_close(wave, expected, atol=1e-4, rtol=0)


def test_24_khz_is_taken_for_the_public_checkpoint_unless_a_preset_is_named(tmp_path, rng):
    reference = lmnt.wavegrad_default()
    reference.params["sample_rate"] = 24_000
    lmnt.randomise(reference, rng)
    file = lmnt.save(reference, tmp_path / "weights.pt")
    model, facts = convert(file)
    assert model.mel == PRESETS["lmnt-wavegrad-24k"]
    assert facts["assumed"] == ["betas", "mel"]
    model, facts = convert(file, mel="lmnt-wavegrad-22k", betas=(0.01, 0.5))
    assert (model.mel, model.default_steps) == (PRESETS["lmnt-wavegrad-22k"], 2)
    assert facts["assumed"] == []


def _without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


def _with(state, name, tensor):
    return {**state, name: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: _without(s, "film.1.input_conv.bias"), "lacks .film.1.input_conv.bias"),
        (
            lambda s: _with(s, "encoder.weight", torch.zeros(1)),
            "belongs to no such network: 'encoder.weight'",
        ),
        (lambda s: _with(s, "x" * 500, torch.zeros(1)), r"belongs to no such network: 'x{10,60}\.\.\."),
        (lambda s: _with(s, "last_conv.bias", torch.full((1,), torch.nan)), "last_conv.bias .* finite"),
        (lambda s: _with(s, "last_conv.bias", torch.zeros(1, dtype=torch.int64)), "floating-point tensor"),
        (lambda s: _with(s, "last_conv.bias", [0.0]), "floating-point tensor; got list"),
        (lambda s: _with(s, "last_conv.bias", torch.zeros(1).to_sparse()), "without numbers of its own"),
        (lambda s: _with(s, "last_conv.weight", torch.zeros(1, 4, 3)), "wrong shape: out.weight"),
        (
            lambda s: _with(s, "first_conv.weight", torch.zeros(20)),
            "mel_in.weight must be there and have 2 axes",
        ),
        (lambda s: _with(s, "first_conv.weight", torch.zeros(10**6, 0, 3)), "must not be empty"),
        (lambda s: _with(s, "upsample.1.block2.0.weight", torch.zeros(10**6, 1, 3)), "wrong shape"),
        (lambda s: _with(s, "downsample.0.weight", torch.zeros(3, 1, 5)), "describes no network: .* even"),
        (
            lambda s: _with(s, "upsample.2.block1.weight", torch.zeros(10, 12, 7)),
            "wrong shape: up.2.shortcut",
        ),
    ],
)
def test_weights_of_strangers_are_checked(change, message, other, tmp_path):
    file = lmnt.save(other, tmp_path / "weights.pt", model=change(other.state_dict()))
    with pytest.raises(CheckpointError, match=message):
        convert(file, **SIZES)


@pytest.mark.parametrize(
    ("changes", "options", "error", "message"),
    [
        ({"params": None}, SIZES, CheckpointError, "no params"),
        ({"params": [1]}, SIZES, CheckpointError, "no params"),
        ({"params": {}}, SIZES, CheckpointError, "must have sample_rate"),
        ({}, {}, InputError, "factors=.* must have 3 entries"),
        ({}, {"factors": lmnt.OTHER_FACTORS}, InputError, "dilations=.* must have 3 entries"),
        ({}, {**SIZES, "factors": (7, 3, 3)}, InputError, "multiply to the hop of the file, 42"),
        ({}, {**SIZES, "dilations": ((1, 2),) * 3}, InputError, "four positive numbers each"),
        ({}, {**SIZES, "mel": "nothing"}, InputError, "must be one of"),
        ({}, {**SIZES, "energy_min": 1.0}, InputError, "among those for WaveGrad by LMNT"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(changes, options, error, message, other, tmp_path):
    with pytest.raises(error, match=message):
        convert(lmnt.save(other, tmp_path / "weights.pt", **changes), **options)
