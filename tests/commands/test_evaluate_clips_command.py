from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_clips import DIGITS, save_clips_model
from torch import nn

from mmdiff.video.digit_files import write_digits
from mmdiff.video.evaluate import COUNTS, MEASURES


@pytest.fixture(scope="module")
def clips_model(tmp_path_factory):
    """Folder of an untrained model of 32x32 clips of 4 frames that knows the captions of moving digits."""
    return save_clips_model(tmp_path_factory.mktemp("models") / "tiny-clips", DIGITS, frames=4)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """TorchScript file of a feature network: mean colours."""

    class Mean(nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return video.mean((2, 3, 4))

    file = tmp_path_factory.mktemp("features") / "mean.pt"
    torch.jit.script(Mean()).save(str(file))
    return file


def table(text):
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return rows[0], {row[0]: row[1:] for row in rows[2:]}


def test_moving_digits_beside_real_ones(mmdiff_command, clips_model, features, tmp_path):
    out = tmp_path / "results.json"
    options = ("--limit", 5, "--steps", 1, 2, "--features", features, "--seed", 3, "-o", out)
    outcome = mmdiff_command("evaluate", "--model", clips_model, *options)
    assert outcome.status == 0, outcome.err
    header, rows = table(outcome.out)
    assert header == ["", "real clips", "tiny-clips, 1 steps", "tiny-clips, 2 steps"]
    assert rows["network evaluations a clip"] == ["", "1", "2"]
    assert rows[COUNTS["clips"].title] == rows[COUNTS["pairs"].title] == ["5", "5", "5"]
    real, one, two = json.loads(out.read_text())
    assert (one["captions"], one["num"], one["seed"], one["steps"], two["steps"]) == ("crossed", 1, 3, 1, 2)
    assert list(real["measures"]) == [name for name in MEASURES if name != "inception"]
    share = real["measures"]["digit"]
    assert share["samples"] == 5
    assert (share["unit"], share["higher_is_better"]) == ("share", True)
    text = f"{100 * share['value']:.1f} % [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
    assert rows[MEASURES["digit"].label][0] == text
    assert real["measures"]["frechet"]["real"] == 100
    assert {f"{MEASURES[name].label} (100 real)" for name in ("frechet", "frechet_plug_in", "kernel")} < set(
        rows
    )


def test_held_out_captions_as_json(mmdiff_command, clips_model, features):
    options = ("--captions", "held-out", "--num", 2, "--limit", 3, "--features", features, "--json")
    outcome = mmdiff_command("evaluate", "--model", clips_model, *options)
    assert outcome.status == 0, outcome.err
    real, model = map(json.loads, outcome.out.splitlines())
    assert (model["clips"], model["captions"], model["evaluations"]) == (6, "held-out", 1)
    assert real["measures"]["nearest"]["low"] is None
    assert math.isfinite(model["measures"]["kernel"]["value"])


def test_edits_of_digits_beside_baselines(mmdiff_command, clips_model, tmp_path):
    out = tmp_path / "edits.md"
    outcome = mmdiff_command("evaluate", "--model", clips_model, "--edits", "--limit", 2, "-o", out)
    assert outcome.status == 0, outcome.err
    header, rows = table(outcome.out)
    assert header == ["2 clips", "evaluations", "PSNR, dB ↑", "SSIM ↑", "seam", "motion", "digit ↑"]
    names = [line.split("|")[1].strip() for line in outcome.out.splitlines()[2:]]
    assert names[:6] == [
        "**prediction**",
        "real clips",
        "copying the last frame",
        "reconstruction guidance",
        "replacement in x0",
        "replacement in x_t, fresh noise",
    ]
    assert names.count("real clips") == 6
    assert rows["copying the last frame"][3:5] == ["0.00 [0.00, 0.00]", "0.00 [0.00, 0.00]"]
    assert "note: seam: change across the border" in outcome.err
    written = out.read_text(encoding="utf-8")
    assert written.startswith(outcome.out)
    assert "\n\n- PSNR: of the unknown part\n- SSIM:" in written


def test_folder_of_videos(mmdiff_command, clips_model, features, tmp_path):
    write_digits(tmp_path / "videos", 3, frames=6)
    asked = ("evaluate", tmp_path / "videos", "--model", clips_model, "--limit", 4, "--features", features)
    outcome = mmdiff_command(*asked)
    assert outcome.status == 0, outcome.err
    header, rows = table(outcome.out)
    assert header == ["", "real clips", "copying the last frame", "tiny-clips"]
    assert rows["clips"] == ["4", "4", "4"]
    assert float(rows["denoising loss (v), mean over noise levels ↓"][2]) > 0
    assert mmdiff_command(*asked).out == outcome.out
    edits = mmdiff_command(*asked, "--edits", "--json")
    assert edits.status == 0, edits.err
    assert len(edits.out.splitlines()) == 6 * 4 + 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seeds", 3), "--seeds must be left out: for vocoders"),
        (("--no-baselines", "--measures", "lsd"), "--measures, --no-baselines must be left out"),
        (("--edits", "--steps", 1, 2), "must be one number with --edits"),
        (("--captions", "none"), "captions='none' and split must be left out"),
        (("--features", "i3d"), "features='i3d' must be judge"),
        (("--num", 0), "num=0"),
        (("-o", "results.txt"), "out='results.txt' must end in .json, for all numbers, or .md"),
    ],
)
def test_what_does_not_go_with_clips_is_a_usage_error(mmdiff_command, clips_model, options, message):
    outcome = mmdiff_command("evaluate", "--model", clips_model, *options)
    assert outcome.status == 2
    assert message in outcome.err


def test_what_does_not_go_with_sound_is_a_usage_error(mmdiff_command, tiny_model, speech):
    outcome = mmdiff_command("evaluate", speech, "--model", tiny_model, "--guidance", 2, "--num", 2)
    assert outcome.status == 2
    assert "--num, --guidance must be left out: for models of clips" in outcome.err
    outcome = mmdiff_command("evaluate", speech, "--model", tiny_model, "--edits", "--num", 2)
    assert outcome.status == 2
    assert "--num must be left out" in outcome.err
    assert mmdiff_command("evaluate", "--model", tiny_model).status == 2
