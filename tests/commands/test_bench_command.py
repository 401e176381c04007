from __future__ import annotations

import json

import pytest


def test_video_prints_a_table_and_writes_all_numbers(mmdiff_command, in_this_process, tmp_path):
    options = ("--size", 8, "--frames", 1, "--dim", 8, "--batch", 1, "--repeats", 1, "--dtype", "float32")
    outcome = mmdiff_command("bench", "video", *options, "-o", tmp_path / "bench.json")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert "times as fast" in lines[0]
    assert lines[2].startswith("| **forward, float32**")
    assert lines[3].startswith("| mmdiff")
    assert "median of 1 interleaved repeat on" in outcome.err
    rows = json.loads((tmp_path / "bench.json").read_text())
    assert [(row["system"], row["work"]) for row in rows] == [
        (side, f"{mode}, float32")
        for mode in ("forward", "training step")
        for side in ("mmdiff", "video-diffusion-pytorch")
    ]
    assert all(row["measures"]["speed"]["value"] > 0 for row in rows[::2])


def test_vocoder_writes_its_table_and_a_picture(mmdiff_command, in_this_process, speech, tmp_path):
    out, plot = tmp_path / "bench.json", tmp_path / "bench.png"
    options = ("--only", "vocoder-16k", "--seconds", 0.5, "--repeats", 1)
    outcome = mmdiff_command("bench", "vocoder", "--audio", speech, *options, "--plot", plot, "-o", out)
    assert outcome.status == 0, outcome.err
    rows = json.loads(out.read_text())
    assert [row["system"] for row in rows] == [
        f"vocoder-16k, {n} evaluation{'s' * (n > 1)}" for n in (1, 2, 4)
    ]
    assert min(row["measures"]["pesq"]["value"] for row in rows) > 2
    assert plot.stat().st_size > 1000
    again = mmdiff_command("bench", "vocoder", "--results", out, "--plot", tmp_path / "again.png")
    assert again.status == 0, again.err
    assert (tmp_path / "again.png").stat().st_size > 1000


def test_without_packages_their_rows_are_left_out(mmdiff_command, in_this_process, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    options = ("--only", "vocos", "griffin-lim", "--seconds", 0.2, "--repeats", 1, "--env", tmp_path)
    outcome = mmdiff_command("bench", "vocoder", *options)
    assert outcome.status == 1
    assert "| Griffin-Lim, librosa" in outcome.out
    assert "vocos" not in outcome.out
    assert "new or empty folder" in outcome.err
    assert "left out" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("video", "--audio", "a.wav"), "--audio must be left out"),
        (("vocoder", "--size", 8), "--size must be left out"),
        (("vocoder", "--plot", "a.png"), "--audio"),
        (("vocoder", "--results", "a.json"), ".png"),
        (
            ("vocoder", "--results", "a.json", "--plot", "a.png", "--audio", "a.wav"),
            "--audio must be left out",
        ),
        (("vocoder", "--results", "missing.json", "--plot", "a.png"), "missing.json"),
        (("vocoder", "--limit", 0), "limit=0"),
        (("vocoder", "--out", "a.txt"), ".json"),
        (("vocoder", "--seconds", 0), "seconds=0"),
    ],
)
def test_requests_that_make_no_sense_are_refused(mmdiff_command, arguments, words):
    outcome = mmdiff_command("bench", *arguments)
    assert outcome.status == 2
    assert words in outcome.err
