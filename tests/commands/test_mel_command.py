from __future__ import annotations

import numpy as np
import torch

from mmdiff.audio import io
from mmdiff.audio.mel import preset
from mmdiff.audio.mel.files import read_mel


def test_file_holds_the_spectrogram_and_states_its_definition(mmdiff_command, speech):
    outcome = mmdiff_command("mel", speech, "--preset", "lmnt-wavegrad-24k")
    assert outcome.status == 0, outcome.err
    mel, spec = read_mel(speech.with_name("speech.mel.safetensors"))
    assert spec == preset("lmnt-wavegrad-24k")
    expected = spec(io.read(speech, sample_rate=24_000)[0])
    torch.testing.assert_close(mel, expected, atol=1e-5, rtol=0)


def test_vocode_reads_the_definition_from_the_file(mmdiff_command, tiny_model, speech, tmp_path):
    mmdiff_command("mel", speech, "--preset", "lmnt-wavegrad-24k", "-o", tmp_path / "m.safetensors")
    mmdiff_command("mel", speech, "--preset", "lmnt-wavegrad-24k", "-o", tmp_path / "m.npy")
    stated = mmdiff_command(
        "vocode", tmp_path / "m.safetensors", "--model", tiny_model, "-o", tmp_path / "a.wav"
    )
    assert stated.status == 0, stated.err
    options = ("--mel-preset", "lmnt-wavegrad-24k", "-o", tmp_path / "b.wav")
    assert mmdiff_command("vocode", tmp_path / "m.npy", "--model", tiny_model, *options).status == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_folder_in_numpy_format(mmdiff_command, folder):
    outcome = mmdiff_command("mel", folder, "--format", "npy")
    assert outcome.status == 1
    assert "broken.wav" in outcome.err
    assert np.load(folder.parent / "clips.mel" / "deeper" / "b.npy").shape == (80, 32)


def test_unknown_preset_is_a_usage_error(mmdiff_command, speech):
    outcome = mmdiff_command("mel", speech, "--preset", "magic")
    assert outcome.status == 2
    assert "hifigan-22k" in outcome.err
