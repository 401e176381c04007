from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmdiff.audio import io

CLIPS = Path(__file__).parent / "clips"


@pytest.fixture(scope="session")
def clips() -> Path:
    """Folder of three short recordings, 16 kHz, that no shipped model was trained on."""
    return CLIPS


@pytest.fixture(scope="session", params=["english", "italian", "russian"])
def speech(request) -> Tensor:
    """Each short recording in turn, (1, samples) at 16 kHz."""
    return io.read(CLIPS / f"{request.param}.flac")[0]


@pytest.fixture(scope="session")
def english() -> Tensor:
    """One short recording, (1, samples) at 16 kHz."""
    return io.read(CLIPS / "english.flac")[0]


@pytest.fixture
def noise():
    """Factory of coloured noise (channels, samples) with peak 0.7."""

    def make(channels: int, samples: int, seed: int = 0) -> Tensor:
        rng = np.random.default_rng(seed)
        white = torch.from_numpy(rng.standard_normal((channels, samples + 64)).astype(np.float32))
        smooth = torch.nn.functional.avg_pool1d(white[None], 65, 1)[0]
        return 0.7 * smooth / smooth.abs().max()

    return make


@pytest.fixture(scope="session")
def spoken(tmp_path_factory) -> Path:
    """Folder like that of spoken digits: tones for words, of one voice to train on and two to test with."""
    folder = tmp_path_factory.mktemp("spoken")
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "other"]
    rows: dict[str, list[str]] = {"train": [], "test": []}
    time = torch.arange(16_000) / 16_000
    inside = ((time - 0.5).abs() < 0.2).float()
    for number, voice in enumerate(("en-anna", "en-boris", "es-carla")):
        (folder / voice).mkdir()
        part = "test" if number else "train"
        for digit, name in enumerate(names):
            pitch = 300 + 250 * digit + 60 * number
            wave = 0.3 * inside * torch.sin(2 * torch.pi * pitch * time)
            io.write(folder / voice / f"{name}.flac", wave[None], 16_000)
            rows[part].append(f"{voice}/{name}.flac,{voice},{name}\n")
    for part, lines in rows.items():
        (folder / f"{part}.csv").write_text("path,speaker,text\n" + "".join(lines))
    return folder
