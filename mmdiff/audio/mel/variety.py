"""Definitions of spectrograms drawn for training, so that a vocoder learns to read any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from mmdiff.audio.mel.definition import MelSpec
from mmdiff.audio.mel.presets import PRESETS

T = TypeVar("T")


def random_mel_spec(generator: torch.Generator, native: MelSpec, variety: float = 0.5) -> MelSpec:
    """Draw a mel definition for training: the model's own, a known preset, or one near a preset.

    Parameters
    ----------
    generator : torch.Generator
    native : MelSpec
        Definition measured on the model's own grid; returned with probability ``1 - variety``.
    variety : float in [0, 1]

    Returns
    -------
    MelSpec
        At least 80 bands at a rate like the model's own (for 16 kHz: 16, 22.05 or 24 kHz). Where no preset has such a
        rate, always ``native``.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, device=generator.device))

    def choose(options: Sequence[T]) -> T:
        return options[int(uniform(0, len(options)))]

    others = [p for p in PRESETS.values() if 0.9 < p.sample_rate / native.sample_rate < 1.6]
    if uniform(0, 1) >= variety or not others:
        return native
    spec = choose(others)
    if uniform(0, 1) < 0.5:
        return spec
    half = spec.sample_rate / 2
    return replace(
        spec,
        n_mels=int(uniform(80, 129)),
        f_min=choose([0.0, 20.0, 50.0]),
        f_max=uniform(min(native.f_max, half), half),
        mel_scale=choose(["slaney", "htk"]),
        norm=choose(["slaney", None]),
        power=choose([1.0, 1.0, 2.0]),
        win_length=int(uniform(0.75, 1) * spec.win_length),
        hop_length=choose([200, 240, 256, 300]),
        floor=10 ** uniform(-7, -4),
        clip=None,
        centred=choose([True, False]),
    )
