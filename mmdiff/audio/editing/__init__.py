"""Filling in what is not known of sound: gaps, what follows, higher frequencies, what was clipped.

:mod:`~mmdiff.audio.editing.edits` says what is known, and nothing else. :mod:`~mmdiff.audio.editing.sound` has a model
of sound fill in the rest: of waveforms itself, of spectrograms by :mod:`~mmdiff.audio.editing.mel`.
:mod:`~mmdiff.audio.editing.vocoder` fills gaps with a vocoder alone, and :mod:`~mmdiff.audio.editing.baselines` without
any model. :mod:`~mmdiff.audio.editing.tools` has what they share.
"""
