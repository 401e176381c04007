"""Mel spectrograms: one value, :class:`MelSpec`, holds the full definition of what the numbers mean.

:mod:`~mmdiff.audio.mel.definition` is that value, :mod:`~mmdiff.audio.mel.presets` names those in use. Spectrograms
that others made are read by :mod:`~mmdiff.audio.mel.files`, checked against what they claim by
:mod:`~mmdiff.audio.mel.check`, recognised by :mod:`~mmdiff.audio.mel.identify` among
:mod:`~mmdiff.audio.mel.hypotheses` by a :mod:`~mmdiff.audio.mel.summary` of their values, and turned into others by
:mod:`~mmdiff.audio.mel.convert`.
:mod:`~mmdiff.audio.mel.stream` analyses sound that comes in blocks, :mod:`~mmdiff.audio.mel.lengths` says how much
sound frames are, and :mod:`~mmdiff.audio.mel.variety` draws definitions for training.
"""

from mmdiff.audio.mel.definition import LN_10 as LN_10
from mmdiff.audio.mel.definition import MelSpec as MelSpec
from mmdiff.audio.mel.definition import band_centres as band_centres
from mmdiff.audio.mel.presets import PRESETS as PRESETS
from mmdiff.audio.mel.presets import Logarithm as Logarithm
from mmdiff.audio.mel.presets import preset as preset
from mmdiff.audio.mel.presets import preset_name as preset_name
from mmdiff.audio.mel.presets import with_log as with_log
