from __future__ import annotations

import json

import pytest
import torch
import video_diffusion_pytorch as package

import mmdiff.hub
from mmdiff.video import bench


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


def test_bench_prints_a_table_or_json(mmdiff_command, monkeypatch):
    # Memory is measured in processes of its own: see tests/video/test_bench.py.
    monkeypatch.setattr(bench, "_fresh_process", lambda side, *_: {"mmdiff": 10.0}.get(side, 40.0))
    options = ("bench", "video", "--size", 8, "--frames", 1, "--dim", 8, "--batch", 1, "--repeats", 1)
    outcome = mmdiff_command(*options, "--dtype", "float32")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert "times as fast" in lines[0]
    assert lines[2].startswith("| forward, float32")
    assert lines[2].endswith(" 0.25 |")
    rows = [json.loads(line) for line in mmdiff_command(*options, "--json").out.splitlines()]
    assert [(row["mode"], row["dtype"]) for row in rows] == [
        (mode, dtype) for dtype in ("float32", "bfloat16") for mode in ("forward", "training step")
    ]
    assert all(row["speed_ratio"] > 0 for row in rows)
