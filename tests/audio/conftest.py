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
