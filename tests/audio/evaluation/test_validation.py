"""Validation of vocoders in training: it changes nothing of the run, and needs no optional packages."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import mmdiff.audio.metrics as metrics
from mmdiff.audio.datasets.layouts import Clip
from mmdiff.audio.evaluation.validation import vocoder_validation
from mmdiff.audio.io import write
from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import preset
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.sampling import item_seeds
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.devices import set_compute_dtype
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


@pytest.mark.parametrize("seed", [1 << 63, [0, 1 << 65]])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(InputError, match=r"seed=.* must be a whole number of 64 bits"):
        item_seeds(seed, 2)
