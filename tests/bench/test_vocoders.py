from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffwave import inference as diffwave_inference
from wavegrad import inference as wavegrad_inference

from mmdiff.audio.checkpoints.lmnt_wavegrad import wavegrad_state
from mmdiff.bench import vocoder_peers, vocoder_systems
from mmdiff.bench.plot import plot_quality
from mmdiff.bench.race import Contender, Run, race
from mmdiff.bench.vocoders import VocoderLoad, _Material, _score, _systems, bench_vocoders
from mmdiff.errors import InputError

CLIP = Path(__file__).parent.parent / "audio" / "clips" / "english.flac"
LOAD = VocoderLoad(0.1, families=["wavegrad", "diffwave", "vocos", "griffin-lim"], threads=1)


@pytest.fixture
def systems(tmp_path):
    """All systems by name and mode, other people's to be run by this interpreter."""
    material = _Material(tmp_path, [CLIP], LOAD)
    return {(s.contender.name, s.mode): s for s in _systems(LOAD, material, sys.executable)}


def test_all_sides_are_there_and_know_their_peers(systems):
    assert {name for name, mode in systems if mode == "inference"} == {
        *("lmnt WaveGrad", "mmdiff WaveGrad, float32", "mmdiff WaveGrad, bfloat16"),
        *("lmnt DiffWave", "mmdiff DiffWave, float32", "mmdiff DiffWave, bfloat16"),
        *("vocos", "Griffin-Lim, torchaudio", "Griffin-Lim, librosa"),
    }
    for (name, mode), system in systems.items():
        if system.peer:
            peer = systems[system.peer, mode].contender.task
            assert name.startswith("mmdiff")
            assert all(peer[key] == system.contender.task[key] for key in ("sound", "betas", "mode"))
    sound = np.load(systems["lmnt DiffWave", "training step"].contender.task["sound"])
    assert (sound["mel"].shape, sound["wave"].shape) == ((1, 80, 62), (1, 62 * 256))
    sound = np.load(systems["lmnt WaveGrad", "inference"].contender.task["sound"])
    assert (sound["mel"].shape, sound["wave"].shape) == ((1, 128, 7), (1, 7 * 300))


def test_both_sides_have_the_same_network_and_steps(systems):
    task = systems["mmdiff WaveGrad, float32", "inference"].contender.task
    vocoder_peers.build(dict(systems["lmnt WaveGrad", "inference"].contender.task))
    theirs = wavegrad_inference.models["ours"]
    model = vocoder_systems.waveform_model(task)
    model.network.load_state_dict(wavegrad_state(theirs.state_dict()))  # every size is the same
    assert len(model.grid(model.default_steps)) - 1 == len(task["betas"]) == 6
    vocoder_peers.build(dict(systems["lmnt DiffWave", "inference"].contender.task))
    theirs = diffwave_inference.models["ours"]
    ours = vocoder_systems.waveform_model(systems["mmdiff DiffWave, float32", "inference"].contender.task)
    assert sum(p.numel() for p in ours.network.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_a_training_step_trains_every_weight_of_either_side(systems):
    theirs = vocoder_peers.build(dict(systems["lmnt WaveGrad", "training step"].contender.task))["warm"]
    model = vocoder_systems.waveform_model(
        systems["mmdiff WaveGrad, bfloat16", "training step"].contender.task
    )
    ours = vocoder_systems.training_step(model, "bfloat16")
    networks = (wavegrad_inference.models["ours"], model.network)
    before = [[p.detach().clone() for p in network.parameters()] for network in networks]
    theirs()
    ours(0.1 * torch.randn(1, 8 * 300, generator=torch.Generator().manual_seed(0)))
    for network, old in zip(networks, before, strict=True):
        for was, now in zip(old, network.parameters(), strict=True):
            assert now.isfinite().all()
            assert not torch.equal(was, now)


def test_other_peoples_packages_run_in_a_process_of_their_own(systems):
    run = race([systems["vocos", "inference"].contender], repeats=1, threads=1)["vocos"]
    assert run.error == ""
    assert run.seconds[0] > 0


def test_the_network_of_vocos_makes_sound_of_that_length(systems):
    task = systems["vocos", "inference"].contender.task
    made = vocoder_peers.build(dict(task))["full"]()
    frames = np.load(task["sound"])["mel"].shape[-1]
    assert made.shape == (1, (frames - 1) * 256)


def test_scores_are_ratios_to_the_peer_and_to_the_slowest(systems):
    system = systems["mmdiff DiffWave, float32", "inference"]
    runs = {
        "mmdiff DiffWave, float32": Run([1.0, 2.0, 3.0], 40.0),
        "lmnt DiffWave": Run([2.0, 6.0, 3.0], 20.0),
        "lmnt WaveGrad": Run([8.0, 8.0, 9.0], 10.0),
    }
    score = _score(system, runs, LOAD)
    found = {name: estimate.value for name, estimate in score.measures.items()}
    assert found == {
        "seconds": 2.0,
        "megabytes": 40.0,
        "speed": 2.0,
        "memory": 2.0,
        "real_time_factor": pytest.approx(2 / (8 * 256 / 22_050)),
        "speed_slowest": 4.0,
    }
    runs["lmnt DiffWave"].error = "broken"
    assert "speed" not in _score(system, runs, LOAD).measures


def test_recordings_are_timed_and_heard(in_this_process, tmp_path):
    load = VocoderLoad(0.3, families=["griffin-lim"], threads=1)
    table, failures = bench_vocoders(load, [CLIP, CLIP], repeats=1)
    assert not failures
    for score in table.scores:
        assert score.about == {"mode": "inference, 0.3 s of sound"}
        assert 0 < score.measures["log_mel_l1"].value < 0.5  # two libraries invert the same spectrogram
        assert score.measures["log_mel_l1"].samples == 2
        assert math.isclose(
            score.measures["real_time_factor"].value, score.measures["seconds"].value / 0.3, rel_tol=0.1
        )
    assert "| Griffin-Lim, librosa" in table.markdown()
    assert json.dumps(table.records())
    assert plot_quality(tmp_path / "plot.png", table).read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"batch": 0}, {"threads": -1}])
def test_impossible_workloads_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        VocoderLoad(**wrong)
    with pytest.raises(InputError, match="griffin-lim"):
        VocoderLoad(families=["wavenet"])


def test_contender_that_cannot_be_built_is_a_failure(tmp_path, in_this_process):
    contender = Contender("x", Path(vocoder_peers.__file__), {"system": "vocos", "sound": "nowhere"})
    assert race([contender], repeats=1)["x"].error.startswith("FileNotFoundError")
