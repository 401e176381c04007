"""When each picture of a clip is shown: constant and variable frame rates, and changing one into another."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Picture = TypeVar("Picture")

EXACT = 1e-6  # seconds, or parts of a frame: what floating point may spoil
_NTSC = 1000 / 1001
_MAX_GUESS = 1000  # frames a second
_MOST = 0.8  # of the gaps between pictures that make a rate the usual one
_JITTER = 0.05  # of a gap
_COARSE = 8  # ticks a gap, from which on a difference of one is only rounding
_NEAR = 0.005  # of a rate, to a whole number or to one of NTSC


class Timing(NamedTuple):
    """How a film runs.

    ``fps`` is the constant rate; of a variable one the usual rate where most pictures keep to one, else the
    average. ``tolerance`` is by how much, in seconds,
    a time stamp may be late because its container rounds. ``frames`` and ``seconds`` are None when not known.
    """

    fps: float
    variable: bool
    tolerance: float
    frames: int | None
    seconds: float | None


def measure(ticks: list[int], last: int, tick: float, hints: Iterable[float], complete: bool) -> Timing:
    """Derive the frame rate from time stamps.

    Parameters
    ----------
    ticks : list of int
        Time stamps in order of presentation, all different.
    last : int >= 0, ticks
        How long the last picture is shown; 0 when not known.
    tick : float > 0, seconds
        Unit of the time stamps. They are taken to be rounded to it.
    hints : iterable of float
        Rates that the file states; absurd ones are ignored.
    complete : bool
        Whether ``ticks`` reaches the end of the film.
    """
    hints = [rate for rate in hints if EXACT < rate <= _MAX_GUESS]
    frames = len(ticks) if complete else None
    if len(ticks) < 2:
        rate = hints[0] if hints else (1 / (last * tick) if last else 25.0)
        return Timing(rate, False, EXACT, frames, 1 / rate if complete else None)
    span = (ticks[-1] - ticks[0]) * tick
    average = (len(ticks) - 1) / span
    for rate in (float(round(average)), round(average / _NTSC) * _NTSC, *hints, average):
        if rate > 0 and _on_grid(ticks, rate * tick):
            return Timing(rate, False, EXACT, frames, len(ticks) / rate if complete else None)
    usual = _usual_rate(ticks, tick)
    seconds = span + (last * tick or 1 / (usual or average))
    fps = usual or len(ticks) / seconds
    return Timing(fps, True, EXACT + tick / 2, frames, seconds if complete else None)


def _on_grid(ticks: list[int], frames_per_tick: float) -> bool:
    """Say whether time stamps are those of a constant rate, rounded to ticks."""
    slack = 0.51 + 0.5 * (ticks[0] != 0)  # the first one may be rounded too
    return all(abs(k / frames_per_tick - (t - ticks[0])) <= slack for k, t in enumerate(ticks))


def _usual_rate(ticks: list[int], tick: float) -> float | None:
    """Return the rate of a film that is nearly constant, but for some jitter and pictures left out."""
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(ticks))
    usual = gaps[len(gaps) // 2]
    slack = max(_JITTER * usual, usual >= _COARSE)
    regular = [gap for gap in gaps if abs(gap - usual) <= slack]
    if len(regular) < _MOST * len(gaps):
        return None
    rate = len(regular) / (sum(regular) * tick)
    near = (float(round(rate)), round(rate / _NTSC) * _NTSC)
    return next((known for known in near if abs(known - rate) < _NEAR * rate), rate)


def at_times(
    shown: Iterable[tuple[float, float, Picture]], start: float, fps: float, tolerance: float
) -> Iterator[Picture]:
    """Pick the pictures that are on screen at ``start``, ``start + 1/fps``, ``start + 2/fps``, ...

    Parameters
    ----------
    shown : iterable of (begin, end, picture), seconds
        In order of presentation. Only the ``end`` of the last one counts: every other picture stays until
        the next one begins.
    start : float >= 0, seconds
        Time of the first picture wanted.
    fps : float > 0
        Pictures wanted a second.
    tolerance : float >= 0, seconds
        A picture that begins by this much too late still counts as begun.

    Yields
    ------
    picture
        The latest that has begun, repeated or left out as the rates demand, until the last has ended.
    """
    count, end = 0, -math.inf
    current: list[Picture] = []
    for begin, end_, picture in shown:
        while current and begin > start + count / fps + tolerance:
            yield current[0]
            count += 1
        current, end = [picture], end_
    while current and start + count / fps + EXACT + min(tolerance, 0.5 / fps) < end:
        yield current[0]
        count += 1
