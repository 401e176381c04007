"""What the numbers of a mel spectrogram may mean, and how well each meaning fits the habits of sound.

A hypothesis (a preset and a scale) turns the values into natural logarithms of magnitude bands. There, sound has habits
that no wrong hypothesis shares: its loudest band lies a little below what a full-scale wave can reach, its values span
nine nepers, they jitter from frame to frame by a third of a neper, low bands are two nepers above high ones, and
silence is cut at the definition's own floor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from mmdiff.audio.mel.definition import LN_10, MelSpec, band_centres
from mmdiff.audio.mel.presets import Logarithm, with_log
from mmdiff.audio.mel.summary import Summary

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
