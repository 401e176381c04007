"""The audio adapter: sound files in, spectrograms, models of sound, sound files out.

In reading order:

Sound and its pictures
    ``io`` reads and writes files (``decode``, ``encode``; ``resampling``, ``loudness``, ``plot``).
    :mod:`~mmdiff.audio.mel` says what the numbers of a mel spectrogram mean; ``stft`` is the transform below it.
Vocoders
    ``vocoder`` is the pipeline and ``vocoder_model`` what it asks of a model; ``stream`` vocodes what is still coming,
    ``vocode_files`` files. There are two kinds of model. ``spectral`` diffuses the ``magnitude`` about the ``prior`` of
    a mel and finds its ``phase`` (long sound: ``spectral_windows``, ``spectral_stream``). ``waveform_vocoder`` diffuses
    samples, as WaveGrad and DiffWave do (``waveform``, ``waveform_stream``), from noise that suits the spectrogram
    (``energy_prior``; ``spectral_prior`` in the numbers of a ``lapped`` transform).
Sound of its own
    ``generator`` is the pipeline; ``sound_model`` diffuses samples, ``mel_sound`` spectrograms for a vocoder,
    ``latent_sound`` an autoencoder's latents: the last two are both ``framed_sound``.
    :mod:`~mmdiff.audio.editing` fills gaps, continues, widens and declips with either, or with a vocoder.
Shared by all models
    ``sampling`` decides steps, sampler and times, ``noise`` depends on seed and place alone, ``search`` finds grids of
    few steps, ``graphs`` exports (``planes``: complex numbers as pairs). :mod:`~mmdiff.audio.networks` has the
    networks, :mod:`~mmdiff.audio.checkpoints` reads those of other projects.
Training and measuring
    :mod:`~mmdiff.audio.datasets` makes training data of recordings; ``tasks`` is what the trainer optimises of vocoders
    and waveforms, by ``losses`` and the ``disturbance`` that is heard, or as the generator of a ``vocoder_gan`` (the
    task of ``framed_sound`` is beside it).
    :mod:`~mmdiff.audio.evaluation` compares models with what they have to beat, by :mod:`~mmdiff.audio.metrics`.
"""
