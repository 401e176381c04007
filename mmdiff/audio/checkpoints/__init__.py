"""Checkpoints of other projects' vocoders as models of this one, one module for each format.

The formats are :mod:`~mmdiff.audio.checkpoints.lmnt_wavegrad`, :mod:`~mmdiff.audio.checkpoints.lmnt_diffwave`,
:mod:`~mmdiff.audio.checkpoints.ivanvovk_wavegrad` and :mod:`~mmdiff.audio.checkpoints.priorgrad`. Each has
``recognise(content)`` and ``build_model(content, ...)`` for :mod:`mmdiff.convert`, and the names of the project's
weights. :mod:`~mmdiff.audio.checkpoints.reading` doubts what a file says, :mod:`~mmdiff.audio.checkpoints.wavegrad`
reads the sizes of a WaveGrad off its weights, :mod:`~mmdiff.audio.checkpoints.assemble` makes the model, and
:mod:`~mmdiff.audio.checkpoints.writing` is the way back to LMNT's packages.
"""
