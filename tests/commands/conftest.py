from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmdiff.audio import io

CLIPS = Path(__file__).parent.parent / "audio" / "clips"


@pytest.fixture
def speech(tmp_path) -> Path:
    """One second of speech at 16 kHz in a folder of its own."""
    wave, rate = io.read(CLIPS / "english.flac", start=0.4, duration=1.0)
    return io.write(tmp_path / "speech.wav", wave, rate)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Folder of two sounds, mono and, deeper in, stereo, and of a broken one."""
    wave = io.read(CLIPS / "italian.flac", duration=0.5)[0]
    (tmp_path / "clips" / "deeper").mkdir(parents=True)
    io.write(tmp_path / "clips" / "a.wav", wave, 16_000)
    io.write(tmp_path / "clips" / "deeper" / "b.flac", torch.cat([wave, wave]), 16_000)
    (tmp_path / "clips" / "broken.wav").write_bytes(b"RIFF this is no sound")
    return tmp_path / "clips"
