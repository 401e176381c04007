"""What a vocoder has to beat: spectrogram inversion without a network."""

from __future__ import annotations

import librosa
import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.phase import single_pass_phase
from mmdiff.audio.resampling import resample
from mmdiff.audio.spectral import SpectralVocoder


def griffin_lim_of_mel(mel: Tensor, spec: MelSpec, iterations: int = 60, seed: int = 0) -> Tensor:
    """Invert a mel spectrogram by librosa: non-negative least squares, then fast Griffin-Lim.

    Parameters
    ----------
    mel : Tensor, shape (n_mels, frames)
    spec : MelSpec
    iterations : int > 0
    seed : int
        Of the phases to start from.

    Returns
    -------
    Tensor, shape (samples,), float32, at ``spec.sample_rate``
    """
    bands = (spec.expand(mel.cpu().double()) * spec.level() ** spec.power).numpy()
    magnitude = librosa.util.nnls(spec.filterbank().double().numpy(), bands) ** (1 / spec.power)
    wave = librosa.griffinlim(
        magnitude,
        n_iter=iterations,
        hop_length=spec.hop_length,
        win_length=spec.win_length,
        n_fft=spec.n_fft,
        center=spec.centred,
        random_state=seed,
    )
    if not spec.centred:  # the definition has padded the sound by so much
        padding = (spec.n_fft - spec.hop_length) // 2
        wave = wave[padding : len(wave) - padding]
    return torch.from_numpy(wave).float()


def griffin_lim_at_rate(mel: Tensor, spec: MelSpec, sample_rate: int, samples: int, seed: int = 0) -> Tensor:
    """Do the same with a result of ``samples`` samples (at most) at ``sample_rate``; shape (samples,)."""
    return resample(griffin_lim_of_mel(mel, spec, seed=seed), spec.sample_rate, sample_rate)[:samples]


def without_network(model: SpectralVocoder, mel: Tensor, spec: MelSpec, samples: int) -> Tensor:
    """Run the spectral vocoder's own pipeline with its networks left out.

    The magnitude is the prior that the mel gives, rescaled to the mel's bands where they can be met; phases
    are those of single-pass inversion and the model's Griffin-Lim iterations.

    Parameters
    ----------
    model : SpectralVocoder
    mel : Tensor, shape (n_mels, frames)
    spec : MelSpec
    samples : int
        Length of the result at the model's rate.

    Returns
    -------
    Tensor, shape (samples,)
    """
    conditions = model.conditions(mel[None], spec, model.stft.frames(samples))
    magnitude = conditions.agreeing(conditions.prior)
    start, _ = single_pass_phase(magnitude, model.stft)
    spectrum = model.spectrum(magnitude, start, conditions, samples)
    return model.stft.inverse(spectrum, samples)[0]
