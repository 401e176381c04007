"""The former place of :class:`mmdiff.audio.waveform_vocoder.WaveformVocoder`."""

from __future__ import annotations

from mmdiff.audio.waveform_vocoder import WaveformVocoder as WaveGradVocoder

__all__ = ["WaveGradVocoder"]
