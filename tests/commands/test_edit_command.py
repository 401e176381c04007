"""Editing from the command line: files in and out, and requests that make no sense."""

from __future__ import annotations

import json

import pytest
import soundfile
import torch
from test_sound_generator import model

from mmdiff.audio import io
from mmdiff.hub import save_model


@pytest.fixture
def tone(tmp_path):
    time = torch.arange(500) / 1000
    wave = 0.5 * torch.sin(2 * torch.pi * torch.tensor([[30.0], [45.0]]) * time)
    return io.write(tmp_path / "tone.flac", wave, 1000, bits=24)


def test_a_gap_is_filled_and_the_rest_and_the_format_stay(mmdiff_command, tone, tmp_path):
    outcome = mmdiff_command("edit", str(tone), "--fill", "0.2:0.22", "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["unknown"] == 0.04
    (before, _), (after, rate) = (io.read(path, mono=False) for path in (tone, tmp_path / "tone.edited.flac"))
    assert (rate, after.shape) == (1000, before.shape)
    assert torch.equal(after[:, :200], before[:, :200])
    assert torch.equal(after[:, 220:], before[:, 220:])
    assert (after - before).abs().max() < 0.01  # linear prediction knows tones
    assert not torch.equal(after, before)


def test_a_model_continues_and_declips(mmdiff_command, tone, tmp_path):
    folder = str(save_model(model(), tmp_path / "digits", half=False))
    out = tmp_path / "longer.wav"
    outcome = mmdiff_command(
        "edit",
        str(tone),
        "--continue-by",
        "0.1",
        "--model",
        folder,
        "--label",
        "one",
        "--steps",
        "2",
        "-o",
        str(out),
    )
    assert outcome.status == 0, outcome.err
    assert "0.60 s of sound, 16.7 % of its samples new" in outcome.out
    assert io.read(out, mono=False)[0].shape == (2, 600)
    wave = io.read(tone, mono=False)[0]
    clipped = io.write(tmp_path / "clipped.wav", (3 * wave).clamp(-1, 1), 1000, bits=24)
    outcome = mmdiff_command("edit", str(clipped), "--declip")
    assert outcome.status == 0, outcome.err
    assert "times as loud" in outcome.err


@pytest.mark.parametrize("subtype", ["DOUBLE", "FLOAT", "PCM_32", "PCM_24"])
def test_what_is_known_is_kept_to_the_bit_in_every_kind_of_wav(mmdiff_command, tone, tmp_path, subtype):
    wave = 0.7 * io.read(tone, mono=False)[0]
    soundfile.write(tmp_path / "a.wav", wave.double().numpy().T, 1000, subtype=subtype)
    assert mmdiff_command("edit", str(tmp_path / "a.wav"), "--fill", "0.2:0.22").status == 0
    (before, _), (after, _) = (io.read(tmp_path / name, mono=False) for name in ("a.wav", "a.edited.wav"))
    assert torch.equal(after[:, :200], before[:, :200])
    assert torch.equal(after[:, 220:], before[:, 220:])


def test_sound_above_full_scale_stays_in_files_of_floats_and_is_made_to_fit_into_others(
    mmdiff_command, tone, tmp_path
):
    loud = 5 * io.read(tone, mono=False)[0]
    file = io.write(tmp_path / "loud.wav", loud, 1000, bits=32)
    assert torch.equal(io.read(file, mono=False)[0], loud)
    outcome = mmdiff_command("edit", str(file), "--fill", "0.2:0.22")
    assert (outcome.status, outcome.err) == (0, "")
    assert torch.equal(io.read(tmp_path / "loud.edited.wav", mono=False)[0][:, :200], loud[:, :200])
    outcome = mmdiff_command("edit", str(file), "--fill", "0.2:0.22", "-o", str(tmp_path / "fits.flac"))
    made = io.read(tmp_path / "fits.flac", mono=False)[0]
    assert "made 0.4 times as loud" in outcome.err
    torch.testing.assert_close(made[:, :200], 0.4 * loud[:, :200], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fill", "0.1:0.1001"], "--fill 0.1:0.1001 must hold a sample; they are 1/1000 s apart"),
        ([], "exactly one of --fill, --continue-by, --extend-to, --declip must be given; got none of them"),
        (["--fill", "0.1:0.2", "--declip"], "got --fill, --declip"),
        (["--fill", "early"], "--fill 'early' must be begin:end"),
        (["--fill", "0.1:7"], "--fill 0.1:7 must lie within the recording, 0 to 0.5 s"),
        (["--fill", "0:0.5"], "--fill 0:0.5 must leave something known"),
        (["--continue-by", "0"], "--continue-by 0.0 to add must be above 0"),
        (["--extend-to", "800"], "--extend-to 800 must be above the recording's 1000 Hz"),
        (["--declip"], "the recording was not clipped: it has no 3 samples in a row"),
        (["--fill", "0.1:0.2", "--steps", "2"], "--steps must be left out"),
        (["--fill", "0.1:0.2", "--steps", "0"], "--steps must be left out"),
        (["--continue-by", "0.1", "--model", "vocoder-16k"], "needs sound on both sides of a gap"),
        (["--extend-to", "16000", "--model", "vocoder-16k"], "a vocoder fills gaps, and neither declips"),
        (["--fill", "0.1:0.2", "--model", "vocoder-16k", "--steps", "0"], "--steps 0 must be at least 1"),
        (["--fill", "0.1:0.2", "--model", "digits-16k", "--label", "moo"], "--label 'moo' must be"),
        (["--fill", "0.1:0.2", "--model", "nothing"], "clips-32, digits-16k, vocoder-16k"),
    ],
)
def test_wrong_requests_are_named(mmdiff_command, tone, options, message):
    outcome = mmdiff_command("edit", str(tone), *options)
    assert outcome.status == 2, outcome.err
    assert message in outcome.err


def test_sound_edits_are_measured(mmdiff_command, speech, tiny_model, tmp_path):
    out = tmp_path / "edits.json"
    outcome = mmdiff_command(
        "evaluate", str(speech), "--edits", "--model", str(tiny_model), "--measures", "lsd", "-o", str(out)
    )
    assert outcome.status == 0, outcome.err
    assert "**gaps of 50 ms**" in outcome.out
    records = json.loads(out.read_text())
    assert {record["system"] for record in records} >= {
        "linear prediction",
        "vocoder, spectrogram interpolated",
    }
    assert records[0]["measures"]["snr"]["unit"] == "dB"
    assert records[0]["gaps"] == 2
    wrong = mmdiff_command(
        "evaluate", str(speech), "--edits", "--model", str(tiny_model), "--lookaheads", "2"
    )
    assert wrong.status == 2
    assert "--lookaheads" in wrong.err
