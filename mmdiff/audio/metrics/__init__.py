"""Measures of how close one sound is to another, and of how fast it was made.

Every measure is a function ``(reference, estimate, sample_rate) -> float`` of two mono sounds of the same
content and timing; :data:`METRICS` lists them with unit and direction. They are computed on the host in
float64 (float32 where a mel definition is involved), so a value does not depend on where the sound was
made. Where a value does not exist (an utterance too short, or silent), the result is ``nan`` and a
warning gives the reason: leave such items out of a mean, as ``numpy.nanmean`` does.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from mmdiff.audio.metrics.hearing import pesq as pesq
from mmdiff.audio.metrics.hearing import si_sdr as si_sdr
from mmdiff.audio.metrics.hearing import stoi as stoi
from mmdiff.audio.metrics.sounds import Sound as Sound
from mmdiff.audio.metrics.sounds import pair
from mmdiff.audio.metrics.spectral import log_mel_l1 as log_mel_l1
from mmdiff.audio.metrics.spectral import log_spectral_distance as log_spectral_distance
from mmdiff.audio.metrics.spectral import mel_cepstra as mel_cepstra
from mmdiff.audio.metrics.spectral import mel_cepstral_distortion as mel_cepstral_distortion
from mmdiff.audio.metrics.spectral import multi_resolution_stft as multi_resolution_stft
from mmdiff.audio.metrics.speed import real_time_factor as real_time_factor
from mmdiff.audio.metrics.voice import f0_error as f0_error
from mmdiff.audio.metrics.voice import pitch as pitch
from mmdiff.audio.metrics.voice import voicing_error as voicing_error
from mmdiff.audio.metrics.words import word_error_rate as word_error_rate
from mmdiff.media.measures import Metric as Metric
from mmdiff.media.measures import chosen

METRICS: dict[str, Metric] = {
    "pesq": Metric(pesq, "MOS", True, "pesq"),
    "stoi": Metric(stoi, "", True, "pystoi"),
    "mcd": Metric(mel_cepstral_distortion, "dB", False),
    "lsd": Metric(log_spectral_distance, "dB", False),
    "mr_stft": Metric(multi_resolution_stft, "", False),
    "log_mel_l1": Metric(log_mel_l1, "Np", False),
    "si_sdr": Metric(si_sdr, "dB", True),
    "f0_error": Metric(f0_error, "cents", False),
    "voicing_error": Metric(voicing_error, "", False),
    "wer": Metric(word_error_rate, "", False, "pocketsphinx"),
}
"""The measures by name."""


def installed(names: Sequence[str]) -> list[str]:
    """Those of some measures whose packages are here."""
    return [name for name in names if importlib.util.find_spec(METRICS[name].package or "mmdiff")]


def evaluate(
    reference: Sound, estimate: Sound, sample_rate: int, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Compare one sound with another by several measures.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,), in [-1, 1]
        Mono sounds; they may differ in length by 20 ms, and the longer one is cut.
    sample_rate : int > 0, Hz
        Both sounds' rate.
    names : sequence of str, optional
        Keys of :data:`METRICS`; all of them unless given.

    Returns
    -------
    dict from str to float
        A value for each name, in the units of :data:`METRICS`; nan, with a warning, where it does not exist.

    Raises
    ------
    InputError
        A name is unknown, the package of a measure is missing, or the sounds do not fit together.

    Examples
    --------
    >>> noise = np.random.default_rng(0).standard_normal(16_000)
    >>> evaluate(noise, 0.5 * noise, 16_000, ["lsd", "si_sdr"])
    {'lsd': 6.020599913279623, 'si_sdr': inf}
    """
    functions = chosen(names, METRICS)
    x, y = pair(reference, estimate, sample_rate)
    return {name: function(x, y, sample_rate) for name, function in functions.items()}
