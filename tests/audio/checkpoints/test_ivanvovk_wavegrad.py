"""WaveGrad checkpoints by ivanvovk, against LMNT's network changed to what that project does differently."""

from __future__ import annotations

from unittest import mock

import lmnt
import numpy as np
import pytest
import torch
from torch.nn import functional

from mmdiff.audio.checkpoints.wavegrad import SIX_STEPS
from mmdiff.audio.vocoder import Vocoder
from mmdiff.convert import convert
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import load_model, save_model

SIZES = {"factors": lmnt.OTHER_FACTORS, "dilations": lmnt.OTHER_DILATIONS}
BETAS = (1e-5, 1e-3, 0.05, 0.4)
HOP = 42

interpolate = functional.interpolate


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def reference(rng):
    model = lmnt.wavegrad_other_sizes()
    lmnt.randomise(model, rng)
    lmnt.quieten(model.last_conv)
    return model.eval()


def network(reference, x, mel, level):
    """LMNT's network with linear interpolation and levels scaled by 5000, as the paper has it."""

    def linear(x, size):
        return interpolate(x, size=size, mode="linear", align_corners=False)

    with mock.patch("torch.nn.functional.interpolate", linear), torch.no_grad():
        return reference(x, mel, 5000 * level)[:, 0]


def file(reference, path, **more):
    """What the project saves: its names, scale and shift apart, and buffers of the table last tested."""
    state = {}
    for key, tensor in reference.state_dict().items():
        match key.split("."):
            case ["first_conv", kind]:
                state[f"ublock_preconv.{kind}"] = tensor
            case ["last_conv", kind]:
                state[f"ublock_postconv.{kind}"] = tensor
            case ["downsample", "0", kind]:
                state[f"dblock_preconv.{kind}"] = tensor
            case ["downsample", n, "residual_dense", kind]:
                state[f"dblocks.{int(n) - 1}.residual_branch.0.{kind}"] = tensor
            case ["downsample", n, "conv", i, kind]:
                state[f"dblocks.{int(n) - 1}.main_branch.{int(i) + 1}.convolution.{kind}"] = tensor
            case ["film", n, "input_conv", kind]:
                state[f"films.{n}.signal_conv.0.{kind}"] = tensor
            case ["film", n, "output_conv", kind]:
                for name, half in zip(("shift", "scale"), tensor.chunk(2), strict=True):
                    state[f"films.{n}.{name}_conv.{kind}"] = half
            case ["upsample", n, "block1", kind]:
                state[f"ublocks.{n}.first_block_residual_branch.0.{kind}"] = tensor
            case ["upsample", n, "block2", i, kind]:
                part = ("upsampling.2", "modulation.convolution")[int(i)]
                state[f"ublocks.{n}.first_block_main_branch.{part}.{kind}"] = tensor
            case ["upsample", n, "block3", i, kind]:
                state[f"ublocks.{n}.second_block_main_branch.modulation_{i}.convolution.{kind}"] = tensor
    named = {f"nn.{key.rpartition('.')[0]}.conv1d.{key.rpartition('.')[2]}": t for key, t in state.items()}
    table = torch.linspace(1e-6, 0.01, 50)
    torch.save({"model": {**named, "betas": table, "alphas": 1 - table}, "iteration": 77, **more}, path)
    return path


def test_the_network_computes_the_same(reference, tmp_path, rng):
    model, facts = convert(file(reference, tmp_path / "checkpoint_77.pt"), **SIZES)
    mel = torch.randn(2, 9, 5, generator=rng)
    x, level = torch.randn(2, 5 * HOP, generator=rng), torch.rand(2, generator=rng)
    expected = network(reference, x, mel, level)
    with torch.no_grad():
        result = model.denoiser.network(x[:, None], level, mel)[:, 0]
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    assert facts["format"] == "WaveGrad by ivanvovk"
    assert (facts["training_steps"], facts["network"]["level_scale"]) == (77, 5000.0)
    assert facts["network"]["linear"]
    assert facts["assumed"] == ["mel", "sample_rate", "schedule", "betas"]


def test_a_folder_samples_as_the_project_does(reference, tmp_path, rng):
    model, _ = convert(file(reference, tmp_path / "checkpoint_77.pt"), betas=BETAS, **SIZES)
    model = load_model(save_model(model, tmp_path / "model", half=False), "cpu")
    mel = torch.randn(2, 9, 11, generator=rng) - 3
    beta = np.array(BETAS)
    kept = np.cumprod(1 - beta)
    before = np.concatenate([[1.0], kept[:-1]])
    with lmnt.noise_of([5, 6], 11, HOP):
        y = torch.randn(2, 11 * HOP)
        for n in reversed(range(4)):
            eps = network(reference, y, mel, torch.full((2,), before[n] ** 0.5))  # told what it will reach
            x0 = ((y - (1 - kept[n]) ** 0.5 * eps) / kept[n] ** 0.5).clamp(-1, 1)
            y = (beta[n] * before[n] ** 0.5 * x0 + (1 - before[n]) * (1 - beta[n]) ** 0.5 * y) / (1 - kept[n])
            if n:
                y = y + (beta[n] * (1 - before[n]) / (1 - kept[n])) ** 0.5 * torch.randn_like(y)
    assert (y.abs() == 1).float().mean() < 0.9
    wave = Vocoder(model, "cpu", "float32")(mel, mel_spec=model.mel, seed=[5, 6], samples=11 * HOP)
    torch.testing.assert_close(wave, y.float(), atol=1e-4, rtol=0)


def test_its_spectrogram_is_that_of_the_project(reference, tmp_path):
    torchaudio = pytest.importorskip("torchaudio")
    model, _ = convert(file(reference, tmp_path / "m.pt"), sample_rate=16_000, **SIZES)
    wave = 0.1 * torch.randn(1, 4200, generator=torch.Generator().manual_seed(0))
    theirs = torchaudio.transforms.MelSpectrogram(
        16_000, 1024, 1024, HOP, n_mels=9, f_min=80.0, f_max=8000.0, window_fn=torch.hann_window
    )
    torch.testing.assert_close(model.mel(wave), theirs(wave).log10(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, InputError, "factors=.* must have 3 entries"),
        ({**SIZES, "factors": (7, 2, 0)}, InputError, "positive"),
        ({**SIZES, "mel": "lmnt-wavegrad-22k"}, InputError, "must have the network's, 42 and 9"),
        ({**SIZES, "betas": (0.5, 1.5)}, InputError, "strictly between 0 and 1"),
        ({**SIZES, "size": 64}, InputError, "among those for WaveGrad by ivanvovk"),
        ({**SIZES, "sample_rate": 10}, CheckpointError, "no spectrogram"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, error, message, reference, tmp_path):
    with pytest.raises(error, match=message):
        convert(file(reference, tmp_path / "m.pt"), **options)


def test_early_versions_are_named(reference, tmp_path):
    content = torch.load(file(reference, tmp_path / "m.pt"))
    content["model"]["nn.films.0.positional_encoding.pe"] = torch.zeros(4, 5)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="early version"):
        convert(tmp_path / "m.pt", **SIZES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (3, torch.zeros(1), "must be text; got 3"),
        ("nn.ublock_postconv.conv1d.bias", torch.full((1,), 1e300, dtype=torch.float64), "must be finite"),
    ],
)
def test_names_and_numbers_of_strangers_are_checked(name, value, message, reference, tmp_path):
    content = torch.load(file(reference, tmp_path / "m.pt"))
    content["model"][name] = value
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "m.pt", **SIZES)


def test_six_steps_are_whole_multiples_of_the_projects_grid_and_begin_in_noise():
    grid = torch.logspace(-6, -2, 6, dtype=torch.float64)
    betas = torch.tensor(SIX_STEPS, dtype=torch.float64)
    expected = torch.tensor([1, 3, 3, 4, 7, 60], dtype=torch.float64)
    torch.testing.assert_close(betas / grid, expected, rtol=1e-4, atol=0)
    assert float((1 - betas).prod()) < 0.4
