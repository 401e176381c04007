"""Checkpoints of other projects' vocoders as models of this one, one module for each format.

Each has ``recognise(content)`` and ``build_model(content, ...)`` for :mod:`mmdiff.convert`, and the names
of the project's weights.
"""
