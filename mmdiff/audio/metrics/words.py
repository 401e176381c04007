"""What a speech recogniser hears: how many words a sound's copy has lost."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from mmdiff.audio.metrics.hearing import needed_package
from mmdiff.audio.metrics.sounds import Sound, is_silent, pair
from mmdiff.audio.resampling import resample
from mmdiff.media.measures import undefined

_RATE = 16_000  # of the recogniser's acoustic model


def word_error_rate(reference: Sound, estimate: Sound, sample_rate: int) -> float:
    """Share of English words that a recogniser hears otherwise in the estimate (package ``pocketsphinx``).

    The true text is not needed: what is heard in the reference stands for it, so that the recogniser's own mistakes do
    not count. It is a small one, of US English, and easily misled; that makes it a strict judge of copies.

    Parameters
    ----------
    reference, estimate : Tensor or array, shape (samples,), in [-1, 1]
        English speech.
    sample_rate : int > 0, Hz
        The recogniser hears 16 kHz: other rates are resampled to it.

    Returns
    -------
    float
        Words replaced, left out and put in, over the words of the reference: at least 0, possibly above 1, lower is
        better; nan when no word is heard in the reference.

    Raises
    ------
    InputError
        The package is missing, or the sounds do not fit together.
    """
    spoken, heard = (words_heard(sound, sample_rate) for sound in pair(reference, estimate, sample_rate))
    if not spoken:
        return undefined("wer", "no word heard in the reference")
    return edits(spoken, heard) / len(spoken)


def words_heard(sound: Sound, sample_rate: int) -> list[str]:
    """Recognise the words of English speech (samples,) in [-1, 1].

    Raises
    ------
    InputError
        The package is missing.
    """
    needed_package("pocketsphinx")
    samples, _ = pair(sound, sound, sample_rate)
    if is_silent(samples):
        return []  # the recogniser may hear words in it
    wave = resample(samples, sample_rate, _RATE).clamp(-1, 1)
    return list(_recognised((wave * 32767).round().short().numpy().tobytes()))


@functools.lru_cache(maxsize=16)  # several estimates in a row are measured against one reference
def _recognised(wave: bytes) -> tuple[str, ...]:
    # A new one each time: it remembers enough of one utterance to hear the next differently.
    decoder = needed_package("pocketsphinx").Decoder(samprate=_RATE, cmn="batch", loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(wave, full_utt=True)
    decoder.end_utt()
    best = decoder.hyp()
    return tuple(best.hypstr.split()) if best else ()


def edits(reference: Sequence[str], other: Sequence[str]) -> int:
    """Fewest words to replace, leave out or put in that make one text the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, word in enumerate(reference, 1):
        above, row[0] = row[0], i
        for j, found in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != found))
    return row[-1]
