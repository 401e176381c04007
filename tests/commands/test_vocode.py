from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.mel import preset


def test_sound_gives_as_much_sound_beside_it(mmdiff_command, tiny_model, speech):
    outcome = mmdiff_command("vocode", speech, "--model", tiny_model)
    assert outcome.status == 0, outcome.err
    made = io.info(speech.with_name("speech.vocoded.wav"))
    assert (made.sample_rate, made.frames) == (16_000, io.info(speech).frames)
    assert "real-time factor" in outcome.out


def test_command_line_gives_what_python_gives(mmdiff_command, tiny_model, speech, tmp_path):
    voc = mmdiff.load(tiny_model, device="cpu")
    wave = io.read(speech)[0]
    expected = voc(voc.mel(wave, 16_000), steps=3, seed=7, samples=wave.shape[1])
    options = ("--model", tiny_model, "--steps", 3, "--seed", 7, "--device", "cpu", "-o", tmp_path / "x.wav")
    assert mmdiff_command("vocode", speech, *options).status == 0
    torch.testing.assert_close(io.read(tmp_path / "x.wav")[0], expected, atol=2e-4, rtol=0)


def test_json_has_one_object_per_sound_with_its_quality(mmdiff_command, tiny_model, speech):
    outcome = mmdiff_command("vocode", speech, "--model", tiny_model, "--json", "--steps", "2")
    (record,) = map(json.loads, outcome.out.splitlines())
    assert record["input"] == str(speech)
    assert record["seconds"] == 1.0
    assert record["steps"] == 2
    assert record["real_time_factor"] == pytest.approx(record["elapsed"] / record["seconds"], rel=1e-3)
    assert 0 < record["metrics"]["log_mel_l1"] < 1


def test_plot_is_a_png(mmdiff_command, tiny_model, speech):
    assert mmdiff_command("vocode", "--plot", speech, "--model", tiny_model).status == 0
    assert speech.with_name("speech.vocoded.png").read_bytes().startswith(b"\x89PNG")


def test_broken_file_is_named_and_the_others_are_finished(mmdiff_command, tiny_model, folder):
    outcome = mmdiff_command("vocode", folder, "--model", tiny_model)
    assert outcome.status == 1
    assert "broken.wav" in outcome.err
    assert "Traceback" not in outcome.err
    made = sorted(str(p.relative_to(folder.parent)) for p in folder.parent.glob("clips.vocoded/**/*.*"))
    assert made == ["clips.vocoded/a.wav", "clips.vocoded/deeper/b.wav"]


def test_json_has_an_object_for_a_failure_too(mmdiff_command, tiny_model, folder):
    outcome = mmdiff_command("vocode", folder, "--model", tiny_model, "--json")
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert [("error" in r, "output" in r) for r in records] == [(False, True), (True, False), (False, True)]
    assert records[1]["input"] == str(folder / "broken.wav")


def test_nobody_listening_is_no_failure(tiny_model, speech):
    made = speech.with_name("x.wav")
    vocode = shlex.join(
        map(str, (sys.executable, "-m", "mmdiff", "vocode", speech, "--model", tiny_model, "-o", made))
    )
    for command in (vocode, f"{sys.executable} -m mmdiff --help"):
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} > >(exec 0<&-)"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert made.exists()


def test_names_that_cannot_be_printed(mmdiff_process, tiny_model, speech):
    name = speech.with_name("sp\udce9ech\n.wav")
    speech.rename(name)
    outcome = mmdiff_process("vocode", name, "--model", tiny_model, "-o", speech.with_name("x.wav"), "--json")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["input"] == str(name)


def test_a_file_alone_sounds_as_it_does_among_others(mmdiff_command, tiny_model, folder, tmp_path):
    mmdiff_command("vocode", folder, "--model", tiny_model)
    mmdiff_command("vocode", folder / "deeper" / "b.flac", "--model", tiny_model, "-o", tmp_path / "b.wav")
    among = (folder.parent / "clips.vocoded" / "deeper" / "b.wav").read_bytes()
    assert (tmp_path / "b.wav").read_bytes() == among


def _write_mel(path, mel):
    if path.suffix == ".npy":
        np.save(path, mel.numpy())
    elif path.suffix == ".pt":
        torch.save({"mel": mel, "text": "hello"}, path)
    else:
        save_file({"anything": mel.contiguous()}, path)
    return path


@pytest.mark.parametrize("ending", ["npy", "pt", "safetensors"])
def test_mel_files_of_every_kind_and_orientation(mmdiff_command, tiny_model, speech, tmp_path, ending):
    spec = preset("hifigan-22k")
    mel = spec(io.read(speech, sample_rate=22_050)[0])
    options = ("--model", tiny_model, "--mel-preset", "hifigan-22k", "-o")
    sounds = []
    for name, values in {"plain": mel[0], "batch": mel, "transposed": mel[0].T}.items():
        path = _write_mel(tmp_path / f"{name}.{ending}", values)
        outcome = mmdiff_command("vocode", path, *options, tmp_path / f"{name}.wav")
        assert outcome.status == 0, outcome.err
        sounds.append(io.read(tmp_path / f"{name}.wav")[0])
    assert sounds[0].shape[1] == pytest.approx(16_000, abs=256)
    assert torch.equal(sounds[0], sounds[1])
    assert torch.equal(sounds[0], sounds[2])


def test_a_batch_gives_numbered_files(mmdiff_command, tiny_model, tmp_path):
    spec = preset("mmdiff-16k")
    mel = spec(torch.stack([torch.linspace(-0.1, 0.1, 8000), torch.zeros(8000)]))
    np.save(tmp_path / "two.npy", mel.numpy())
    outcome = mmdiff_command("vocode", tmp_path / "two.npy", "--model", tiny_model, "-o", tmp_path / "x.flac")
    assert outcome.status == 0, outcome.err
    assert [p.name for p in sorted(tmp_path.glob("x*.flac"))] == ["x-0.flac", "x-1.flac"]


def test_a_numbered_file_never_replaces_another_inputs_result(mmdiff_command, tiny_model, tmp_path):
    mel = preset("mmdiff-16k")(torch.stack([torch.linspace(-0.1, 0.1, 8000), torch.zeros(8000)])).numpy()
    np.save(tmp_path / "a.npy", mel)
    np.save(tmp_path / "a-0.npy", mel[:1, :, :20])
    files = [tmp_path / "a.npy", tmp_path / "a-0.npy"]
    outcome = mmdiff_command("vocode", *files, "--model", tiny_model, "-o", tmp_path / "out")
    assert outcome.status == 1
    assert "a-0.wav' is another input's result already" in outcome.err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a-0.wav"]
    assert io.info(tmp_path / "out" / "a-0.wav").seconds < 0.4


def test_wrong_mel_is_refused_with_the_preset_it_looks_like(mmdiff_command, tiny_model, speech, tmp_path):
    mel = preset("vocos-24k-100")(io.read(speech, sample_rate=24_000)[0])
    np.save(tmp_path / "mel.npy", mel.numpy())
    outcome = mmdiff_command("vocode", tmp_path / "mel.npy", "--model", tiny_model)
    assert outcome.status == 1
    assert "vocos-24k-100" in outcome.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--steps", "0"], "steps=0 must be at least 1"),
        (["--steps", "99999999999999999999"], "must be at most 1000000"),
        (["--temperature", "-1"], "temperature=-1.0"),
        (["--steps", "many"], "steps"),
        (["--sampler", "magic"], "sampler='magic' must be one of"),
        (["--mel-preset", "magic"], "preset='magic' must be one of"),
        (["--model", "no/such/model"], "no/such/model"),
        (["--device", "abacus"], "device='abacus'"),
        (["--device", "mps"], "device='mps' cannot be used: it has no float64"),
        (["--dtype", "float8"], "dtype"),
        (["-o", "out.xyz"], "out='out.xyz' must be a folder or end in .wav"),
        (["--colour", "blue"], "--colour"),
    ],
)
def test_senseless_requests_end_with_status_2_and_a_hint(
    mmdiff_command, tiny_model, speech, options, complaint, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    outcome = mmdiff_command("vocode", speech, "--model", tiny_model, *options)
    assert outcome.status == 2
    assert complaint in outcome.err
    assert list(speech.parent.glob("*.vocoded.*")) == []


def test_inputs_are_never_replaced(mmdiff_command, tiny_model, speech):
    before = speech.read_bytes()
    outcome = mmdiff_command("vocode", speech, "--model", tiny_model, "-o", speech)
    assert outcome.status == 2
    assert "is an input and would be replaced" in outcome.err
    assert speech.read_bytes() == before


@pytest.mark.parametrize("kind", ["silence", "loud", "tone", "faint"])
def test_sound_that_resembles_no_speech_is_vocoded_all_the_same(mmdiff_command, tiny_model, tmp_path, kind):
    tone = torch.sin(torch.arange(8000) / 3.0)
    wave = {"silence": 0 * tone, "loud": 300 * tone, "tone": tone, "faint": 1e-3 * tone}[kind]
    io.write(tmp_path / "x.wav", wave, 16_000, bits=32)
    outcome = mmdiff_command("vocode", tmp_path / "x.wav", "--model", tiny_model)
    assert outcome.status == 0, outcome.err
    remark = {"silence": "is silent", "loud": "peak of 300"}.get(kind)
    assert remark in outcome.err if remark else outcome.err == ""


def test_named_definition_is_believed(mmdiff_command, tiny_model, speech, tmp_path):
    mel = preset("vocos-24k-100")(io.read(speech, sample_rate=24_000)[0])
    options = ("--model", tiny_model, "--mel-preset", "bigvgan-24k-100")
    np.save(tmp_path / "mel.npy", mel.clamp_min(-11.5).numpy())
    outcome = mmdiff_command("vocode", tmp_path / "mel.npy", *options)
    assert outcome.status == 0, outcome.err


def test_one_frame_is_heard_for_a_hop(mmdiff_command, tiny_model, tmp_path):
    np.save(tmp_path / "mel.npy", np.full((80, 1), -5, np.float32))
    outcome = mmdiff_command(
        "vocode", tmp_path / "mel.npy", "--model", tiny_model, "--mel-preset", "mmdiff-16k",
        "-o", tmp_path / "mel.wav"
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert io.info(tmp_path / "mel.wav").frames == 256


def test_missing_file_fails_alone(mmdiff_command, tiny_model, speech, tmp_path):
    outcome = mmdiff_command("vocode", tmp_path / "gone.wav", speech, "--model", tiny_model)
    assert outcome.status == 1
    assert "gone.wav" in outcome.err
    assert speech.with_name("speech.vocoded.wav").exists()
    assert not (tmp_path / "gone.vocoded.wav").exists()


@pytest.mark.parametrize("samples", [1, 100, 700, 5000])
def test_very_short_sound(mmdiff_command, tiny_model, tmp_path, samples):
    io.write(tmp_path / "short.wav", 0.3 * torch.sin(torch.arange(samples) / 5.0), 16_000)
    outcome = mmdiff_command("vocode", tmp_path / "short.wav", "--model", tiny_model, "--json")
    assert outcome.status == 0, outcome.err
    assert io.info(tmp_path / "short.vocoded.wav").frames == samples


def test_metrics_are_left_out_where_their_packages_are_missing(
    mmdiff_command, tiny_model, speech, monkeypatch
):
    monkeypatch.setattr("mmdiff.commands.vocode.find_spec", lambda name: None)
    outcome = mmdiff_command("vocode", speech, "--model", tiny_model, "--json")
    metrics = json.loads(outcome.out)["metrics"]
    assert "pesq" not in metrics
    assert "lsd" in metrics


def test_a_spectrogram_without_a_stated_definition_is_said_to_be_read_as_the_models(
    mmdiff_command, tiny_model, tmp_path
):
    path = tmp_path / "mel.npy"
    np.save(path, np.random.default_rng(0).normal(-5, 1, (80, 12)).astype(np.float32))
    silent = mmdiff_command("vocode", path, "--model", tiny_model)
    assert silent.status == 0
    assert "name it with --mel-preset" in silent.err
    named = mmdiff_command("vocode", path, "--model", tiny_model, "--mel-preset", "mmdiff-16k")
    assert "name it with --mel-preset" not in named.err


def test_termination_leaves_nothing_half_written(mmdiff_command, tiny_model, tmp_path, monkeypatch):
    def blocks(*_, **__):
        yield torch.zeros(1, 1600)
        os.kill(os.getpid(), signal.SIGTERM)
        yield torch.zeros(1, 1600)

    monkeypatch.setattr("mmdiff.audio.vocoder.Vocoder.blocks", blocks)
    folder = tmp_path / "here"
    folder.mkdir()
    np.save(folder / "mel.npy", np.full((80, 12), -5, np.float32))
    before = signal.getsignal(signal.SIGTERM)
    assert mmdiff_command("vocode", folder / "mel.npy", "--model", tiny_model).status == 128 + signal.SIGTERM
    assert [p.name for p in folder.iterdir()] == ["mel.npy"]
    assert signal.getsignal(signal.SIGTERM) is before
