"""Recordings as training data: where to get some, how folders of them are read, and the items made of them.

:mod:`~mmdiff.audio.datasets.layouts` finds the clips of any folder, :mod:`~mmdiff.audio.datasets.cache` decodes them
once. Training draws :mod:`~mmdiff.audio.datasets.crops` of speech or labelled :mod:`~mmdiff.audio.datasets.words` out
of them. Who has no recordings builds a folder of free ones: speech to start with
(:mod:`~mmdiff.audio.datasets.fetch`), spoken digits (:mod:`~mmdiff.audio.datasets.fetch_digits`) and speech of other
origin to test with (:mod:`~mmdiff.audio.datasets.fetch_outside`), all out of :mod:`~mmdiff.audio.datasets.debian`
packages.
"""
