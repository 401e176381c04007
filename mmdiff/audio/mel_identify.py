"""Which definition do the numbers of a mel spectrogram follow? Shape and values give it away, mostly.

Every hypothesis (a preset, a logarithm, an orientation) turns the values into natural logarithms of magnitude
bands. There, sound has habits that no wrong hypothesis shares: its loudest band lies a little below what a
full-scale wave can reach, its values span nine nepers, they jitter from frame to frame by a third of a neper,
low bands are two nepers above high ones, and silence is cut at the definition's own floor.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from mmdiff.audio.mel import LN_10, PRESETS, Logarithm, MelSpec, band_centres, with_log

MOST_ITEMS, MOST_FRAMES = 4, 4096  # of a batch that are looked at

# Habits of speech in nepers, as (typical, deviation below, deviation above): measured on 24 prompts of five
# speakers; the deviations are widened for other levels, noise and the smoother mels of text-to-speech.
HEADROOM = (1.9, 0.7, 2.5)
SPAN = (9.3, 2.3, 2.5)
LOG_ROUGHNESS = (math.log(0.36), 0.7, 0.35)
RIPPLE = 1.7  # second difference over bands in loud frames: harmonics and formants
# Logarithm of the largest of span, roughness and ripple over typical. Noise lowers the first, smoothing the
# others; only another logarithm lowers all three.
LIVELINESS = (0.0, 0.2, math.inf)
MOSTLY_SILENT = 0.5  # share of values at the floor above which only level and floor are judged
ROOM = 6.0  # nepers from floor to loudest value; with less, any sound looks lifeless
TILT = (-2.0, 1.3, 1.3)
STANDARD_DEVIATION = 2.1
FLOOR_FOUND, FLOOR_ELSEWHERE = 4.0, -4.0  # log-likelihood of a repeated lowest value
RELABELLED, LMNT_RELABELLED = -2.5, -4.0  # of a preset with another logarithm; LMNT's seldom gets one

SCALES = {
    "preset": "as defined",
    "ln": "with natural logarithms",
    "log10": "with base-ten logarithms",
    "db": "in decibels",
    "lmnt": "in decibels scaled to [0, 1]",
    "linear": "without a logarithm",
    "standardised": "standardised to mean 0 and deviation 1",
    "db_below_peak": "in decibels below its loudest value",
}
"""What a guess can say about the numbers, and how it is said in words."""


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


@dataclass(frozen=True)
class Summary:
    """What is looked at in the values of a mel spectrogram (B, n, frames).

    ``low`` and ``high`` bound 98 % of the values above the lowest, ``repeated`` is the share of the lowest.
    """

    lowest: float
    low: float
    high: float
    highest: float
    mean: float
    deviation: float
    repeated: float
    roughness: float
    ripple: float
    medians: Tensor

    @classmethod
    def of(cls, mel: Tensor) -> Summary:
        """Summarise four items at most, and of each the middle frames."""
        skip = max(0, (mel.shape[-1] - MOST_FRAMES) // 2)
        mel = mel[:MOST_ITEMS, :, skip : skip + MOST_FRAMES].detach().double()
        values = mel.flatten().sort().values
        lowest, highest = float(values[0]), float(values[-1])
        margin = 1e-6 * (highest - lowest)  # a floor is met exactly, up to rounding
        audible = values[values > lowest + margin] if highest > lowest else values
        last = len(audible) - 1
        return cls(
            lowest,
            float(audible[round(0.01 * last)]),
            float(audible[round(0.99 * last)]),
            highest,
            float(values.mean()),
            float(values.std(correction=0)),
            float((values <= lowest + margin).double().mean()),
            _roughness(mel, lowest + 1e3 * margin),
            _ripple(mel),
            mel.median(-1).values.median(0).values,
        )


def _roughness(mel: Tensor, floor: float) -> float:
    """Median |second difference| over frames in the upper half of the bands, away from the floor."""
    upper = mel[:, mel.shape[1] // 2 :]
    bends = (upper[..., 2:] - 2 * upper[..., 1:-1] + upper[..., :-2]).abs()
    audible = (upper > floor)[..., 2:] & (upper > floor)[..., 1:-1] & (upper > floor)[..., :-2]
    return float(bends[audible].median()) if int(audible.sum()) >= 50 else math.nan


def _ripple(mel: Tensor) -> float:
    """80 % quantile of |second difference| over the lower half of the bands, in the loudest frames."""
    frames = mel[:, : mel.shape[1] // 2].transpose(1, 2).flatten(0, 1)
    loudest = frames.mean(1).topk(max(1, len(frames) * 3 // 10)).indices
    bends = frames[loudest].diff(n=2, dim=1).abs().flatten()
    return float(bends.sort().values[int(0.8 * (len(bends) - 1))]) if len(bends) else 0.0


@dataclass(frozen=True)
class Hypothesis:
    """A value v (or, if ``linear``, its logarithm) is gain · ln(magnitude band) + offset."""

    name: str
    spec: MelSpec
    scale: str
    gain: float
    offset: float
    linear: bool = False
    prior: float = 0.0

    def log_likelihood(self, seen: Summary) -> float:
        """How well the summary fits the habits of sound; comparable between hypotheses, else arbitrary."""
        bound, floor = _limits(self.spec)
        low, high, lowest, highest = (
            (v - self.offset) / self.gain for v in (seen.low, seen.high, seen.lowest, seen.highest)
        )
        total = self.prior + _fit(bound - highest, HEADROOM) - 20 * max(0.0, highest - bound - 0.7)
        if self.scale in ("preset", "lmnt"):  # elsewhere the floor is anyone's
            total -= 2 * max(0.0, (floor - lowest) / 0.5) ** 2
        if seen.repeated > 0.002 and self.scale not in ("standardised", "db_below_peak"):
            total += FLOOR_FOUND if abs(lowest - floor) < 0.05 else FLOOR_ELSEWHERE
        if seen.repeated < MOSTLY_SILENT:
            total += self._texture(seen, (high - low), highest - floor)
        return total

    def _texture(self, seen: Summary, span: float, room: float) -> float:
        tilt, widening = _tilt(self.spec, seen.medians)
        total = _fit(span, SPAN)
        if not math.isnan(tilt):
            total += _fit(tilt / self.gain - widening, TILT)
        lively = max(span / SPAN[0], seen.ripple / self.gain / RIPPLE)
        if seen.roughness > 0:
            roughness = math.log(seen.roughness / self.gain)
            total += _fit(roughness, LOG_ROUGHNESS)
            lively = max(lively, math.exp(roughness - LOG_ROUGHNESS[0]))
        return total + (_fit(math.log(max(lively, 1e-3)), LIVELINESS) if room > ROOM else 0.0)

    def reasons(self, seen: Summary) -> tuple[str, ...]:
        """Say what speaks for the hypothesis."""
        bound, floor = _limits(self.spec)
        lowest, highest = (seen.lowest - self.offset) / self.gain, (seen.highest - self.offset) / self.gain
        decibels = 20 / LN_10 * (bound - highest)
        reasons = [
            f"its loudest value would be {decibels:.0f} dB below full scale"
            if decibels > 0
            else f"its loudest value would be {-decibels:.0f} dB above full scale"
        ]
        if seen.repeated > 0.002 and abs(lowest - floor) < 0.05:
            reasons.append(f"{100 * seen.repeated:.1f} % of the values lie at its floor")
        span = 20 / LN_10 * (seen.high - seen.low) / self.gain
        reasons.append(f"98 % of its values would span {span:.0f} dB")
        return tuple(reasons)


def _fit(value: float, habit: tuple[float, float, float]) -> float:
    typical, below, above = habit
    return -0.5 * ((value - typical) / (below if value < typical else above)) ** 2


@functools.lru_cache(maxsize=64)
def _limits(spec: MelSpec) -> tuple[float, float]:
    """Highest and lowest natural logarithm of a magnitude band under ``spec``."""
    floor = (spec.lowest_value - spec.offset) / spec.gain / spec.power
    return with_log(spec, "ln").highest_value / spec.power, floor


def _tilt(spec: MelSpec, medians: Tensor) -> tuple[float, float]:
    """Level of 3-6 kHz above 0.2-1 kHz as seen, and the part of it that unit-height filters add."""
    centres, widths = band_centres(spec)
    high, low = (centres > 3000) & (centres < 6000), (centres > 200) & (centres < 1000)
    if not high.any() or not low.any():
        return math.nan, 0.0
    seen = medians.cpu()
    wider = float(widths[high].log().mean() - widths[low].log().mean()) if spec.norm is None else 0.0
    return float(seen[high].mean() - seen[low].mean()), wider


def hypotheses(name: str, spec: MelSpec, seen: Summary) -> Iterator[Hypothesis]:
    """List what values (not logarithms of values) with the bands of ``spec`` could be."""
    yield Hypothesis(name, spec, "preset", spec.gain * spec.power, spec.offset)
    prior = RELABELLED if spec.clip is None else LMNT_RELABELLED
    for scale in get_args(Logarithm):
        other = with_log(spec, scale)
        same = math.isclose(other.gain, spec.gain) and math.isclose(other.offset, spec.offset, abs_tol=1e-9)
        inside = scale != "lmnt" or (seen.lowest >= -0.05 and seen.highest <= 1.05)
        if not same and inside:
            yield Hypothesis(name, other, scale, other.gain * spec.power, other.offset, prior=prior)
    bound, _ = _limits(spec)
    if abs(seen.mean) < 0.15 and abs(seen.deviation - 1) < 0.15:
        gain = 1 / STANDARD_DEVIATION
        exact = abs(seen.mean) < 0.01 and abs(seen.deviation - 1) < 0.01
        offset = seen.highest - gain * (bound - HEADROOM[0])
        yield Hypothesis(name, spec, "standardised", gain, offset, prior=prior + (4.0 if exact else 0.0))
    if abs(seen.highest) < 1e-3 and seen.lowest > -80.01:
        gain = 20 / LN_10
        yield Hypothesis(name, spec, "db_below_peak", gain, -gain * (bound - HEADROOM[0]), prior=prior)


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
