"""Models of clips that are small enough for tests of commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from mmdiff.diffusion.schedules import CosineVP
from mmdiff.hub import save_model
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import ConditionedNetwork
from mmdiff.video.judge import crossed_captions
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet

DIGITS = (*crossed_captions()[0], "and")
"""Captions that have every word of those of moving digits."""


def save_clips_model(folder: Path, captions: Sequence[str], frames: int) -> Path:
    """Save an untrained model of 32x32 clips that knows the words of some captions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SpaceTimeUNet(
            widths=(16,), blocks=1, mixing=("joint+tokens",), patch=8, embedding=32, vector=32, tokens=32,
            head_width=16,
        )  # fmt: skip
        words = CaptionEncoder(learn_vocabulary(captions * 2), 32)
        model = ClipModel(ConditionedNetwork(network, (words,)), CosineVP(), frames=frames, steps=1)
    return save_model(model, folder)
