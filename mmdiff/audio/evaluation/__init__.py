"""How good models of sound are, each kind beside what it has to beat; the measures are :mod:`mmdiff.audio.metrics`.

:mod:`~mmdiff.audio.evaluation.vocoders` measures copy-synthesis beside :mod:`~mmdiff.audio.evaluation.baselines`, and
:mod:`~mmdiff.audio.evaluation.validation` does so while a model is trained. :mod:`~mmdiff.audio.evaluation.edits`
measures what is filled in where :mod:`~mmdiff.audio.evaluation.edit_tasks` left something out, and
:mod:`~mmdiff.audio.evaluation.likelihood` bits per dimension. :mod:`~mmdiff.audio.evaluation.digits` has a
:mod:`~mmdiff.audio.evaluation.word_judge` listen to spoken digits, which is itself trained by
:mod:`~mmdiff.audio.evaluation.word_judge_training`.
"""
