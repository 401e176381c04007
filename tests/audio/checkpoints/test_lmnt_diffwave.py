"""DiffWave checkpoints of the package by LMNT: converted models compute and sample what the package does."""

from __future__ import annotations

import math

import lmnt
import pytest
import torch

from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.mel import PRESETS
from mmdiff.audio.vocoder import Vocoder
from mmdiff.convert import convert
from mmdiff.errors import CheckpointError, InputError
from mmdiff.hub import load_model, save_model

SIZES = {"n_mels": 13, "residual_layers": 7, "residual_channels": 12, "dilation_cycle_length": 3}
TABLE = [1e-4 + 0.09 * n / 24 for n in range(25)]


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def other(rng):
    model = lmnt.diffwave(**SIZES, noise_schedule=TABLE, inference_noise_schedule=[1e-4, 0.01, 0.3])
    lmnt.randomise(model, rng)
    lmnt.quieten(model.output_projection)
    model.output_projection.weight.data.mul_(4)
    return model.eval()


@torch.no_grad()
def difference(reference, network, rng, frames=3):
    mel = torch.rand(2, network.n_mels, frames, generator=rng)
    x, step = torch.randn(2, frames * 256, generator=rng), torch.tensor([7.25])
    expected = reference(x, mel, step)
    return ((network(x[:, None], step.expand(2), mel) - expected).abs().max() / expected.abs().max()).item()


def test_the_released_size_computes_the_same_and_says_what_it_is(tmp_path, rng):
    reference = lmnt.diffwave()
    lmnt.randomise(reference, rng)
    model, facts = convert(lmnt.save(reference, tmp_path / "weights.pt"))
    assert difference(reference, model.denoiser.network, rng) < 1e-5
    assert facts["format"] == "DiffWave by LMNT"
    assert (facts["training_steps"], facts["parameters"], facts["sample_rate"]) == (1234, 2_619_971, 22_050)
    assert (facts["schedule"], facts["noise_input"]) == ("50 steps, 0.0001 .. 0.05", "aligned_index")
    assert (facts["betas"], facts["steps"]) == ([1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5], 6)
    assert facts["assumed"] == []
    assert "table_left_out" not in facts
    assert model.mel == PRESETS["lmnt-diffwave-22k"]


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("vintage", ["with unconditional and audio_len", "without"])
def test_a_folder_of_other_sizes_samples_what_the_package_samples(fast, vintage, other, tmp_path, rng):
    new = {"unconditional": False, "audio_len": 110_250} if vintage.startswith("with ") else {}
    model, _ = convert(lmnt.save(other, tmp_path / "weights.pt", params={**other.params, **new}))
    assert difference(other, model.denoiser.network, rng) < 1e-5
    model = load_model(save_model(model, tmp_path / "model", half=False), "cpu")
    mel = torch.rand(2, 13, 4, generator=rng)
    with lmnt.noise_of([5, 6], 4, 256):
        expected = lmnt.diffwave_predict(other, mel, fast)
    assert 0.001 < (expected.abs() == 1).float().mean() < 0.9
    steps = None if fast else 25
    wave = Vocoder(model, "cpu", "float32")(mel, mel_spec=model.mel, seed=[5, 6], samples=1024, steps=steps)
    torch.testing.assert_close(wave, expected, atol=1e-4, rtol=0)


def unconditional(other, path, **params):
    """What versions from 2022 on save of a network without a spectrogram: the same less what reads one."""
    unread = ("spectrogram_upsampler", "conditioner_projection")
    state = {key: t for key, t in other.state_dict().items() if not any(part in key for part in unread)}
    return lmnt.save(other, path, model=state, params={**other.params, "unconditional": True, **params})


def test_a_network_without_a_spectrogram_becomes_a_model_of_sound(other, tmp_path, rng):
    file = unconditional(other, tmp_path / "weights.pt", audio_len=3_000, sample_rate=16_000)
    model, facts = convert(file)
    assert (facts["seconds"], facts["sample_rate"], facts["assumed"]) == (0.1875, 16_000, [])
    for layer in other.residual_layers:  # for the package's network a spectrogram that says nothing
        layer.conditioner_projection.weight.data.zero_()
        layer.conditioner_projection.bias.data.zero_()
    x, step = torch.randn(2, 768, generator=rng), torch.tensor([3.5])
    with torch.no_grad():
        expected = other(x, torch.zeros(2, 13, 3), step)
        result = model.network(x[:, None], step.expand(2))
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
    model = load_model(save_model(model, tmp_path / "model", half=False), "cpu")
    sound = SoundGenerator(model, "cpu")(seed=0)
    assert sound.shape == (1, 3_000)
    assert model.default_steps == 25
    assert convert(unconditional(other, tmp_path / "weights.pt"))[1]["assumed"] == ["seconds"]


def test_a_fast_table_that_the_training_table_cannot_serve_is_left_out(other, tmp_path):
    params = {**other.params, "noise_schedule": [1e-3, 1e-2]}
    model, facts = convert(lmnt.save(other, tmp_path / "weights.pt", params=params))
    assert (facts["betas"], model.default_steps) == (None, 2)
    assert facts["table_left_out"] == [1e-4, 0.01, 0.3]
    # alpha_bar of the training table's first and last step, and of the fast table's
    assert facts["because"].startswith(
        f"betas with log-SNR {log_snr(1e-4, 0.01, 0.3):.3f} .. {log_snr(1e-4):.3f} must lie within the schedule's "
        f"{log_snr(1e-3, 1e-2):.3f}"
    )


def log_snr(*betas):
    kept = math.prod(1 - beta for beta in betas)
    return math.log(kept / (1 - kept))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_mels": 9}, None),  # the weights tell
        ({"hop_samples": 300}, r"params\['hop_samples'\]=300 .* must be 256"),
        ({"hop_samples": -1}, "whole number from 1"),
        ({"residual_layers": 10**9}, "must be 7"),
        ({"residual_channels": 64}, "must be 12"),
        ({"dilation_cycle_length": 40}, "whole number from 1 to 17"),
        ({"dilation_cycle_length": True}, "whole number"),
        ({"noise_schedule": [0.1, 2.0]}, "list of 1 to 100000 numbers between 0 and 1"),
        ({"noise_schedule": []}, "list of 1 to 100000"),
        ({"noise_schedule": ["a" * 100]}, "list of 1 to 100000"),
        ({"noise_schedule": [float("nan")]}, "list of 1 to 100000"),
        ({"inference_noise_schedule": 3}, "list of 1 to 100000"),
        ({"noise_schedule": None}, "must have noise_schedule"),
        ({"sample_rate": "22050"}, "'22050' of the checkpoint must be a whole number"),
        ({"sample_rate": 10**9}, "whole number from 1000"),
        ({"n_fft": 512}, "no spectrogram"),
        ({"n_fft": 2**40}, "whole number from 2"),
        ({"unconditional": True}, "contradicts its weights"),
        ({"unconditional": 1}, "True or False"),
    ],
)
def test_hyper_parameters_of_strangers_are_checked(changes, message, other, tmp_path):
    file = lmnt.save(other, tmp_path / "weights.pt", params={**other.params, **changes})
    if message is None:
        convert(file)
    else:
        with pytest.raises(CheckpointError, match=message):
            convert(file)


def test_options_without_a_spectrogram_are_refused(other, tmp_path):
    with pytest.raises(InputError, match="mel and betas must not be given"):
        convert(unconditional(other, tmp_path / "w.pt"), mel="lmnt-diffwave-22k")
    with pytest.raises(InputError, match="drop the steps outside"):
        convert(lmnt.save(other, tmp_path / "w.pt"), betas=(0.9, 0.9999))
