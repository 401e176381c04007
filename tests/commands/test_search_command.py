from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.metrics import log_mel_l1
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, CosineVP, wavegrad_betas
from mmdiff.hub import save_model
from mmdiff.media.grid_tables import read_table
from mmdiff.video import io as video_io
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet

QUICK = ("--seconds", 0.5, "--limit", 1, "--evaluations", 8, "--device", "cpu")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def plain_clips(tmp_path_factory) -> Path:
    """Folder of an untrained model of 8x8 clips of 2 frames that takes no captions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            widths=(8,), blocks=1, mixing=("shift",), patch=2, embedding=16, vector=0, span=1
        )
        for p in network.parameters():
            if not p.any():
                nn.init.normal_(p, std=0.1)
        model = ClipModel(network, CosineVP(), frames=2, size=(8, 8), steps=3, sampler="ddim")
    return save_model(model, tmp_path_factory.mktemp("models") / "plain")


def test_a_search_writes_a_table_that_vocode_reads(mmdiff_command, tiny_model, speech, here):
    found = mmdiff_command(
        "search", tiny_model, "--data", speech, "--steps", 3, 4, *QUICK, "-o", "t.json", "--plot"
    )
    assert found.status == 0, found.err
    table = read_table("t.json")
    assert [grid.steps for grid in table.grids] == [2, 3]  # and one evaluation for the phases
    assert (table.sampler, table.measure, table.data["data"][0][0]) == ("ddim", "log_mel_l1", "speech.wav")
    assert [grid.asked for grid in table.grids] == [3, 4]
    heading = found.out.splitlines()[0].split("|")[1:-1]
    assert [cell.strip() for cell in heading] == ["log_mel_l1 ↓", "3 steps", "4 steps"]
    assert "dynamic programming" in found.out
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    best = table.grids[1]
    assert best.score <= min(best.others.values())
    options = ("--model", tiny_model, "--schedule", "t.json", "--steps", 4, "--device", "cpu", "-o", "x.wav")
    made = mmdiff_command("vocode", speech, *options)
    assert made.status == 0, made.err
    assert "4 steps" in made.out
    wave, voc = io.read(speech)[0], mmdiff.load(tiny_model, device="cpu")
    expected = voc(voc.mel(wave, 16_000), steps=4, grid="t.json", samples=wave.shape[1])
    torch.testing.assert_close(io.read("x.wav")[0], expected, atol=2e-4, rtol=0)
    half = voc(voc.mel(wave[:, :8000], 16_000), steps=4, grid="t.json", samples=8000)
    assert log_mel_l1(wave[0, :8000], half[0], 16_000) == pytest.approx(best.score)


def test_an_interrupted_search_goes_on_where_it_was(mmdiff_command, tiny_model, speech, here):
    again = ("search", tiny_model, "--data", speech, "--steps", 4, *QUICK, "-o", "t.json")
    assert mmdiff_command(*again).status == 0
    whole, scores = Path("t.json").read_text(), Path("t.scores.jsonl")
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines[:4]) + lines[4][:20])  # killed while it wrote
    Path("t.json").unlink()
    resumed = mmdiff_command(*again)
    assert resumed.status == 0
    assert "3 grids are known" in resumed.err
    assert Path("t.json").read_text() == whole
    assert scores.read_text() == "".join(lines)
    other = mmdiff_command(*again, "--seed", 7)
    assert other.status == 2
    assert "seed=0, now 7" in other.err


@pytest.fixture(scope="module")
def tiny_wavegrad(tmp_path_factory) -> Path:
    """Folder of an untrained WaveGrad with the paper's table of 1000 noise levels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = WaveGrad(20, (4, 4, 4), (16, 16, 8), (8, 8), ((1, 2, 1, 2),) * 3, 16, 8)
    mel = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)
    model = WaveformVocoder(mel, network, BetaTable(wavegrad_betas()))
    return save_model(model, tmp_path_factory.mktemp("models") / "wavegrad")


def test_six_steps_of_a_wavegrad_are_found_that_are_no_worse_than_the_papers(
    mmdiff_command, tiny_wavegrad, speech, here
):
    scores = set()
    for seed in (1, 2):
        settings = ("--data", speech, "--steps", 6, "--seconds", 0.3, "--limit", 1, "--evaluations", 16)
        found = mmdiff_command(
            "search", tiny_wavegrad, *settings, "--seed", seed, "--device", "cpu", "-o", f"{seed}.json"
        )
        assert found.status == 0, found.err
        (grid,) = read_table(f"{seed}.json").grids
        assert {"WaveGrad's table", "DiffWave's table"} <= set(grid.others)
        assert grid.score < min(grid.others.values())
        scores.add(grid.score)
        options = ("--model", tiny_wavegrad, "--schedule", f"{seed}.json", "--device", "cpu", "-o", "x.wav")
        made = mmdiff_command("vocode", speech, *options)
        assert made.status == 0, made.err
        assert "6 steps" in made.out
    assert len(scores) == 2  # of other noise


def test_clips_are_searched_and_made_by_the_table(mmdiff_command, plain_clips, here):
    settings = ("--steps", 2, "--limit", 2, "--evaluations", 8, "--device", "cpu", "--dtype", "float32")
    found = mmdiff_command("search", plain_clips, *settings, "--json")
    assert found.status == 0, found.err
    (record,) = map(json.loads, found.out.splitlines())
    assert record["output"] == "plain.grids.json"
    assert record["score"] <= min(record["others"].values())
    own = ("--model", plain_clips, "--device", "cpu", "--dtype", "float32", "--schedule", "plain.grids.json")
    made = mmdiff_command("clip", *own, "-o", "x.npz")
    assert made.status == 0, made.err
    assert "2 network evaluations" in made.out
    expected = mmdiff.load(plain_clips, "cpu", "float32")(grid="plain.grids.json")[0]
    pixels = ((expected + 1) * 127.5).round()
    torch.testing.assert_close(
        video_io.read("x.npz", dtype=torch.uint8).video.float(), pixels, atol=1, rtol=0
    )


def test_what_makes_no_sense_is_refused(mmdiff_command, tiny_model, plain_clips, speech, here):
    (here / "bad.json").write_text("{}")
    for arguments, word in (
        (("search", tiny_model), "data must be given"),
        (("search", tiny_model, "--data", speech, "--steps", 0), "must be positive"),
        (("search", tiny_model, "--data", speech, "--steps", 4, 4), "the steps differ"),
        (("search", tiny_model, "--data", speech, "-o", "t.txt"), "ends in .json"),
        (
            ("search", tiny_model, "--data", speech, "--measure", "loudness"),
            "measure='loudness' must be one of",
        ),
        (("search", tiny_model, "--data", here / "none"), "does not exist"),
        (("search", plain_clips, "--measure", "pesq"), "must be left out"),
        (("search", plain_clips, "--sampler", "ddpm"), "must be a deterministic one"),
        (("vocode", speech, "--model", tiny_model, "--schedule", "bad.json"), "bad.json"),
        (
            ("vocode", speech, "--model", tiny_model, "--schedule", "none.json"),
            "grid='none.json' must be one of",
        ),
        (("clip", "--model", plain_clips, "--schedule", "bad.json"), "bad.json"),
    ):
        outcome = mmdiff_command(*arguments)
        assert outcome.status == 2, arguments
        assert word in outcome.err
        assert "Traceback" not in outcome.err
