from __future__ import annotations

import json

import lmnt
import numpy as np
import pytest
import torch
import video_diffusion_pytorch as package

import mmdiff.hub


@pytest.fixture
def checkpoint(tmp_path):
    """What the package's trainer saves, of an untrained model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = package.Unet3D(8, dim_mults=(1, 2), attn_heads=2)
    state = package.GaussianDiffusion(network, image_size=8, num_frames=3, timesteps=5).state_dict()
    averaged = {key: 2 * value if "denoise_fn" in key else value for key, value in state.items()}
    torch.save({"step": 1000, "model": state, "ema": averaged, "scaler": {}}, tmp_path / "model-1.pt")
    return tmp_path / "model-1.pt"


def test_a_checkpoint_becomes_a_model_folder(mmdiff_command, checkpoint, tmp_path):
    outcome = mmdiff_command("convert", checkpoint, "-o", tmp_path / "model", "--size", 8, "--frames", 3)
    assert outcome.status == 0, outcome.err
    for words in ("video-diffusion-pytorch", "ema", "widths 8 16", "cosine, 5 steps", "8.333  (assumed"):
        assert words in outcome.out
    model = mmdiff.hub.load_model(tmp_path / "model", "cpu")
    ema = torch.load(checkpoint)["ema"]["denoise_fn.init_conv.bias"]
    assert torch.equal(model.network.read.bias, ema)
    assert (model.size, model.frames, model.steps) == ((8, 8), 3, 5)


def test_json_and_the_latest_weights(mmdiff_command, checkpoint, tmp_path):
    options = ("--weights", "model", "--fps", 12, "--half", "--json")
    outcome = mmdiff_command("convert", checkpoint, "-o", tmp_path / "model", *options)
    facts = json.loads(outcome.out)
    assert facts["format"] == "video-diffusion-pytorch"
    assert (facts["weights"], facts["training_steps"], facts["assumed"]) == (
        "model",
        1000,
        ["size", "frames"],
    )
    assert facts["network"]["widths"] == [8, 16]
    kept = mmdiff.hub.read_config(tmp_path / "model")["converted"]
    assert kept == {key: value for key, value in facts.items() if key != "folder"}


def test_what_cannot_be_converted_is_a_usage_error(mmdiff_command, tmp_path):
    (tmp_path / "m.pt").write_bytes(b"nothing")
    outcome = mmdiff_command("convert", tmp_path / "m.pt", "-o", tmp_path / "model")
    assert outcome.status == 2
    assert "cannot read" in outcome.err
    assert not (tmp_path / "model").exists()


def test_a_vocoder_becomes_a_folder_and_a_checkpoint_again(mmdiff_command, tmp_path):
    theirs = lmnt.diffwave(n_mels=13, residual_layers=3, residual_channels=4, dilation_cycle_length=2)
    theirs.output_projection.weight.data.fill_(0.01)
    lmnt.save(theirs, tmp_path / "weights.pt")
    outcome = mmdiff_command("convert", tmp_path / "weights.pt", "-o", tmp_path / "model")
    assert outcome.status == 0, outcome.err
    for words in (
        "DiffWave by LMNT",
        "aligned_index",
        "0.0001 0.001 0.01 0.05 0.2 0.5",
        "13 bands at 22050 Hz",
    ):
        assert words in outcome.out
    assert "assumed" not in outcome.out
    outcome = mmdiff_command("convert", tmp_path / "model", "--to", "lmnt", "-o", tmp_path / "again.pt")
    assert outcome.status == 0, outcome.err
    assert "0.0001 .. 0.05 (50 numbers)" in outcome.out
    again = torch.load(tmp_path / "again.pt")
    assert again["step"] == 1234
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again["model"][name], tensor)
    outcome = mmdiff_command(
        "convert",
        tmp_path / "model",
        "--to",
        "lmnt",
        "-o",
        tmp_path / "x.pt",
        "--mel",
        "lmnt-diffwave-22k",
        "--half",
    )
    assert outcome.status == 2
    assert "mel, half must not be given with --to" in outcome.err
    outcome = mmdiff_command("convert", tmp_path / "model", "--to", "lmnt", "-o", tmp_path)
    assert outcome.status == 2
    assert "must be a file to write, and is a folder" in outcome.err


def test_what_a_wavegrad_of_other_sizes_needs_is_given_as_options(mmdiff_command, tmp_path):
    theirs = lmnt.wavegrad_other_sizes()
    lmnt.randomise(theirs, torch.Generator().manual_seed(0))
    lmnt.save(theirs, tmp_path / "weights.pt")
    np.save(tmp_path / "noise_schedule.npy", np.array([1e-5, 1e-3, 0.1]))
    arguments = ("convert", tmp_path / "weights.pt", "-o", tmp_path / "model", "--factors", 7, 2, 3, "--json")
    dilations = ("--dilations", "1,2,4,8", "1,3,1,3", "2,1,2,1")
    outcome = mmdiff_command(*arguments, *dilations, "--betas", tmp_path / "noise_schedule.npy")
    assert outcome.status == 0, outcome.err
    facts = json.loads(outcome.out)
    assert (facts["factors"], facts["dilations"][1]) == ([7, 2, 3], [1, 3, 1, 3])
    assert (facts["betas"], facts["steps"], facts["assumed"]) == ([1e-5, 1e-3, 0.1], 3, [])
    assert mmdiff.hub.load_model(tmp_path / "model", "cpu").network.hop_length == 42
    np.save(tmp_path / "words.npy", np.array(["a"]))
    (tmp_path / "none.npy").write_bytes(b"nothing")
    for wrong, words in (
        (("--dilations", "1;2"), "dilations='1;2' must be whole numbers"),
        (("--betas", "a", "b"), "betas=a b must be numbers"),
        (("--betas", tmp_path / "words.npy"), "must hold 1 to 1000 numbers"),
        (("--betas", tmp_path / "none.npy"), "cannot be read"),
        (("--betas", tmp_path / "absent.npy"), "cannot be read"),
        (("--weights", "model"), "options=weights must be among those for WaveGrad by LMNT"),
    ):
        outcome = mmdiff_command(*arguments, *wrong)
        assert outcome.status == 2
        assert words in outcome.err
