"""Which definition do the numbers of a mel spectrogram follow? Shape and values give it away, mostly.

Every orientation and every hypothesis of :mod:`mmdiff.audio.mel.hypotheses` is weighed; what fits sound best is it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from mmdiff.audio.mel.definition import MelSpec
from mmdiff.audio.mel.hypotheses import LMNT_RELABELLED, RELABELLED, SCALES, Hypothesis, hypotheses
from mmdiff.audio.mel.presets import PRESETS
from mmdiff.audio.mel.summary import Summary


@dataclass(frozen=True)
class Guess:
    """A hypothesis about a mel spectrogram.

    Attributes
    ----------
    name : str
        Preset whose bands these are.
    scale : str
        Key of :data:`SCALES`.
    transposed : bool
        Frames come before bands.
    score : float in [0, 1]
        Probability among the hypotheses considered; ties have equal scores.
    reasons : tuple of str
    """

    name: str
    scale: str
    transposed: bool
    score: float
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        words = self.name if self.scale == "preset" else f"{self.name} {SCALES[self.scale]}"
        return words + (", transposed" if self.transposed else "")


def weigh(mel: Tensor, presets: Mapping[str, MelSpec]) -> list[tuple[float, Hypothesis, Summary]]:
    """Log-likelihoods of every hypothesis about a finite mel (B, n, frames) whose axis 1 is the bands."""
    fitting = {name: spec for name, spec in presets.items() if spec.n_mels == mel.shape[1]}
    if not fitting:
        return []
    seen = Summary.of(mel)
    found = [(h, seen) for name, spec in fitting.items() for h in hypotheses(name, spec, seen)]
    if seen.lowest >= 0 and seen.highest > 0:
        smallest = max(1e-12, 1e-12 * seen.highest)
        logarithms = Summary.of(mel.double().clamp_min(smallest).log())
        for name, spec in fitting.items():
            prior = RELABELLED if spec.clip is None else LMNT_RELABELLED
            h = Hypothesis(name, spec, "linear", spec.power, 0.0, linear=True, prior=prior)
            found.append((h, logarithms))
    return [(h.log_likelihood(summary), h, summary) for h, summary in found]


def identify(mel: Tensor, presets: Mapping[str, MelSpec] = PRESETS) -> list[Guess]:
    """Guess which preset, logarithm and orientation a mel spectrogram has.

    Parameters
    ----------
    mel : Tensor, shape (B, n_mels, frames), (n_mels, frames) or either transposed
        Finite values. At most four items and 4096 frames of each are looked at.
    presets : mapping of str to MelSpec
        Definitions to choose from.

    Returns
    -------
    list of Guess
        Likeliest first; empty if no axis has a preset's number of bands. Definitions that differ in sampling
        rate or framing only give the same numbers: their scores tie, and the reasons say so.

    Examples
    --------
    >>> import torch
    >>> from mmdiff.audio.mel import preset
    >>> sound = torch.randn(1, 24_000, generator=torch.Generator().manual_seed(0)).cumsum(1)
    >>> sound = 0.5 * sound / sound.abs().max()
    >>> mel = preset("vocos-24k-100")(sound)
    >>> print(identify(mel.mT)[0])
    vocos-24k-100, transposed
    """
    batch = mel.reshape(-1, *mel.shape[-2:]) if mel.dim() != 2 else mel[None]
    weighed = [(score, h, seen, False) for score, h, seen in weigh(batch, presets)]
    weighed += [(score - 1.0, h, seen, True) for score, h, seen in weigh(batch.mT, presets)]
    if not weighed:
        return []
    best = max(score for score, *_ in weighed)
    total = sum(math.exp(score - best) for score, *_ in weighed)
    guesses = [
        Guess(h.name, h.scale, flipped, math.exp(score - best) / total, _axis(h, flipped) + h.reasons(seen))
        for score, h, seen, flipped in weighed
    ]
    guesses = sorted(guesses, key=lambda guess: -guess.score)
    likely = [guess for guess in guesses if guess.score > 1e-3]
    return [_mention_ties(guess, likely) for guess in likely]


def _axis(hypothesis: Hypothesis, transposed: bool) -> tuple[str, ...]:
    return (f"{hypothesis.spec.n_mels} bands on axis {-1 if transposed else -2}",)


def _mention_ties(guess: Guess, guesses: list[Guess]) -> Guess:
    ties = [
        g.name
        for g in guesses
        if g.name != guess.name
        and (g.scale, g.transposed) == (guess.scale, guess.transposed)
        and math.isclose(g.score, guess.score, rel_tol=0.5)
    ]
    if not ties:
        return guess
    said = f"the numbers fit {' and '.join(ties)} as well or nearly: ask how they were made"
    return dataclasses.replace(guess, reasons=(*guess.reasons, said))
