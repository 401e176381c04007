"""How much sound at some rate the frames of a spectrogram are."""

from __future__ import annotations

from mmdiff.audio.mel.definition import MelSpec


def resampled_length(spec: MelSpec, frames: int, sample_rate: int) -> int:
    """Samples at ``sample_rate`` that ``frames`` mel frames of ``spec`` stand for."""
    return round(spec.samples(frames) * sample_rate / spec.sample_rate)


def whole_length(spec: MelSpec, frames: int, sample_rate: int) -> int:
    """Samples at ``sample_rate`` that a spectrogram of ``frames`` becomes.

    A single frame, which has a centre but no length, is heard for a hop.
    """
    return round(max(spec.samples(frames), spec.hop_length) * sample_rate / spec.sample_rate)


def longest_length(spec: MelSpec, frames: int, sample_rate: int) -> int:
    """Most samples at ``sample_rate`` that may be asked for of ``frames``: a hop for each, the last one too."""
    return round(frames * spec.hop_length * sample_rate / spec.sample_rate)
