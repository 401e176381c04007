"""Validation of vocoders in training: it changes nothing of the run, and needs no optional packages."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mmdiff.audio.metrics as metrics
from mmdiff.audio.datasets.layouts import Clip
from mmdiff.audio.evaluation.validation import vocoder_validation
from mmdiff.audio.io import resample, write
from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.mel.lengths import longest_length
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.sampling import item_seeds
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.devices import set_compute_dtype
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.errors import InputError


class Task(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        networks = (make(Stft(), channels=8, depth=1) for make in (MagnitudeNet, PhaseNet))
        self.vocoder = SpectralVocoder(Stft(), preset("mmdiff-16k"), *networks, iterations=1)


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    write(tmp_path / "noise.wav", 0.1 * torch.randn(1, 8000), 16_000)
    return [Clip(tmp_path / "noise.wav")]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_run_keeps_its_precision(clips, dtype):
    task = Task()
    set_compute_dtype(task, dtype)
    with torch.no_grad():
        found = vocoder_validation(clips, device="cpu")(task, 1)
    assert found.metrics.keys() == {"pesq", "stoi", "log_mel_l1"}
    assert {m.compute_dtype for m in task.modules() if hasattr(m, "compute_dtype")} == {dtype}


def test_measures_without_their_packages_are_left_out(clips, monkeypatch):
    only = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name == "mmdiff"))
    monkeypatch.setattr(metrics, "importlib", only)
    with torch.no_grad():
        found = vocoder_validation(clips, device="cpu")(Task(), 1)
    assert found.metrics.keys() == {"log_mel_l1"}
    assert importlib.util.find_spec("pesq")


def test_recordings_that_cannot_be_read_are_named_before_the_training(clips, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    broken = Clip(tmp_path / "broken.wav")
    with pytest.warns(UserWarning, match=r"1 of 2 clips cannot be used: .*broken\.wav"):
        validate = vocoder_validation([*clips, broken], device="cpu")
    assert validate(Task(), 1).metrics["log_mel_l1"] > 0
    with pytest.raises(InputError, match=r"1 of 1 clips cannot be used"):
        vocoder_validation([broken], device="cpu")


class Frames(nn.Module):
    def __init__(self, spec: MelSpec) -> None:
        super().__init__()
        network = FrameNet(spec, 8, 1, latents=0)
        self.vocoder = WaveformVocoder(spec, network, BetaTable((0.01, 0.5)), 2, prediction="x0")


def test_definitions_whose_frames_end_before_the_sound_are_validated(tmp_path):
    """Without padding to the centre of the first window, the last frame ends up to a hop before the sound."""
    write(tmp_path / "noise.wav", 0.1 * torch.randn(1, 22_050 - 13), 22_050)
    task = Frames(replace(preset("hifigan-22k"), hop_length=512))
    found = vocoder_validation([Clip(tmp_path / "noise.wav")], device="cpu")(task, 1)
    assert found.metrics["log_mel_l1"] > 0


@pytest.mark.parametrize("name", sorted({"mmdiff-44k", "vocos-24k-100", "speechbrain", "lmnt-wavegrad-22k"}))
def test_spectrograms_of_other_definitions_become_all_that_they_last(name):
    voc = Vocoder(Frames(preset("mmdiff-16k")).vocoder, "cpu")
    spec = preset(name)
    for samples in (16_200, 20_001):
        mel = spec(resample(0.1 * torch.randn(1, samples), 16_000, spec.sample_rate))
        longest = longest_length(spec, mel.shape[-1], 16_000)
        assert voc(mel, mel_spec=spec, samples=longest, steps=1).shape == (1, longest)
        with pytest.raises(InputError, match="samples="):
            voc(mel, mel_spec=spec, samples=longest + 1)


@pytest.mark.parametrize("seed", [1 << 63, [0, 1 << 65]])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(InputError, match=r"seed=.* must be a whole number of 64 bits"):
        item_seeds(seed, 2)
