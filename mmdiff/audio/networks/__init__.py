"""Networks of the audio adapter, which know neither schedules nor samplers.

:mod:`~mmdiff.audio.networks.waveform` is what networks of samples have in common;
:mod:`~mmdiff.audio.networks.wavegrad` and :mod:`~mmdiff.audio.networks.diffwave` are two, each with presets of the
papers' sizes, and :mod:`~mmdiff.audio.networks.frames` has two that work at frame rate, by
:mod:`~mmdiff.audio.networks.spectral`, by which the spectral vocoder's magnitude and phase are found too.
:mod:`~mmdiff.audio.networks.mel` makes spectrograms of labels, and :mod:`~mmdiff.audio.networks.critic` tells sound of
networks from recordings.
"""
