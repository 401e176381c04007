from __future__ import annotations

import json

import pytest

from mmdiff.audio import io

FAST = ("--measures", "lsd", "log_mel_l1")


def test_table_has_baselines_and_every_number_of_steps(mmdiff_command, tiny_model, speech, tmp_path):
    out = tmp_path / "results.json"
    options = ("--model", tiny_model, "--steps", 1, 2, "--mel-presets", "hifigan-22k", *FAST, "-o", out)
    outcome = mmdiff_command("evaluate", speech, *options)
    assert outcome.status == 0, outcome.err
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in outcome.out.splitlines()]
    assert rows[0] == ["system", "evaluations", "lsd, dB ↓", "log_mel_l1, Np ↓", "RTF ↓", "diversity, dB"]
    assert [row[:2] for row in rows[2:]] == [
        ["Griffin-Lim, 60 iterations", ""],
        ["no network", ""],
        ["zero noise", "2"],
        ["tiny", "1"],
        ["tiny", "2"],
        ["tiny, mel hifigan-22k", "2"],
    ]
    scores = json.loads(out.read_text())
    assert [f"{score['measures']['lsd']['value']:.3f}" for score in scores] == [row[2] for row in rows[2:]]
    assert list(scores[0]["per_file"]) == [str(speech)]


def test_files_against_files(mmdiff_command, speech, tmp_path):
    wave, rate = io.read(speech)
    for folder, gain in (("ref", 1.0), ("est", 0.5)):
        (tmp_path / folder).mkdir()
        io.write(tmp_path / folder / "one.wav", gain * wave, rate, bits=32)
    io.write(tmp_path / "ref" / "alone.wav", wave, rate)
    outcome = mmdiff_command("evaluate", tmp_path / "ref", tmp_path / "est", "--measures", "lsd", "--json")
    assert outcome.status == 0, outcome.err
    assert f"1 of 2 files of {tmp_path / 'ref'} are left out" in outcome.err
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["file"] for row in rows] == [str(tmp_path / "est" / "one.wav"), "mean"]
    assert all(abs(row["measures"]["lsd"]["value"] - 6.02) < 0.05 for row in rows)  # a gain of a half, in dB


def test_the_files_table_is_written_as_it_is_printed(mmdiff_command, speech, tmp_path):
    out = tmp_path / "new" / "Results.MD"
    outcome = mmdiff_command("evaluate", speech, speech, "--measures", "log_mel_l1", "-o", out)
    assert outcome.status == 0, outcome.err
    assert out.read_text(encoding="utf-8") == outcome.out
    assert [row.split("|")[2].strip() for row in outcome.out.splitlines()] == [
        "log_mel_l1, Np ↓", "---------------:", "0.000", "0.000"
    ]  # fmt: skip
    assert [file.name for file in out.parent.iterdir()] == ["Results.MD"]


@pytest.mark.parametrize(
    ("out", "message"), [("x.csv", "must end in .json"), ("x", "must end in"), ("a.md", "is a folder")]
)
def test_a_file_of_another_kind_is_refused_before_the_work(mmdiff_command, tmp_path, out, message):
    (tmp_path / "a.md").mkdir()
    outcome = mmdiff_command("evaluate", tmp_path / "missing", "--model", "missing", "-o", tmp_path / out)
    assert outcome.status == 2
    assert message in outcome.err
    assert "missing" not in outcome.err


def test_options_of_models_are_refused_with_files(mmdiff_command, speech):
    outcome = mmdiff_command("evaluate", speech, speech, "--limit", 3, "--seeds", 1, "--edits")
    assert outcome.status == 2
    assert "--limit, --seeds, --edits must be left out: for models, and these are sound files" in outcome.err


def test_nothing_to_pair_is_a_usage_error(mmdiff_command, speech, folder):
    outcome = mmdiff_command("evaluate", speech.parent / "clips", speech)
    assert outcome.status == 2
    assert "two files or two folders" in outcome.err


def test_unknown_measure_is_a_usage_error(mmdiff_command, tiny_model, speech):
    outcome = mmdiff_command("evaluate", speech, "--model", tiny_model, "--measures", "beauty")
    assert outcome.status == 2
    assert "measures=['beauty'] must be some of pesq" in outcome.err


def test_a_broken_recording_is_named_and_the_others_are_measured(mmdiff_command, tiny_model, folder):
    options = ("--model", tiny_model, "--steps", 1, "--seeds", 1, "--no-baselines", *FAST)
    outcome = mmdiff_command("evaluate", folder, *options)
    assert outcome.status == 1
    assert "broken.wav" in outcome.err
    assert "tiny" in outcome.out


def test_recordings_too_short_or_silent_are_named_and_the_others_are_measured(
    mmdiff_command, tiny_model, speech, tmp_path
):
    wave, rate = io.read(speech, duration=1.0)
    io.write(tmp_path / "long.wav", wave, rate)
    io.write(tmp_path / "short.wav", wave[:, :7], rate)
    shared = ("--model", tiny_model, "--measures", "log_mel_l1")
    outcome = mmdiff_command("evaluate", tmp_path, *shared, "--steps", 1, "--seeds", 1)
    assert outcome.status == 1
    assert "short.wav: seconds=0.000438 must be at least 0.1" in outcome.err
    assert "tiny" in outcome.out
    io.write(tmp_path / "silent.wav", 0 * wave, rate)
    outcome = mmdiff_command("evaluate", tmp_path, *shared, "--edits")
    assert outcome.status == 1
    assert "silent.wav: it is silent" in outcome.err
    assert "short.wav: seconds=" in outcome.err
    assert "clipped" in outcome.out
