"""Vocoders that are small enough for tests, with random weights."""

from __future__ import annotations

from typing import Any

import torch

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas

SHORT = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)


def diffwave(**options: Any) -> WaveformVocoder:
    """DiffWave of three layers for :data:`SHORT`, which says something, as a trained one does."""
    torch.manual_seed(0)
    network = DiffWave(20, 8, 6, 3, (8, 8), step_width=32)
    torch.nn.init.normal_(network.out.weight)
    return WaveformVocoder(SHORT, network, BetaTable(diffwave_betas()), **options).eval()
