"""What is known of sound that is to be made, for each way of editing it: masks and operators, nothing else.

A :class:`SoundEdit` says it of whole recordings; :mod:`mmdiff.audio.editing.sound` has a model fill in the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.diffusion.bounds import bounded
from mmdiff.diffusion.measurement import Measurement, low_pass, observed
from mmdiff.errors import InputError

FADE = 0.002
"""Seconds in which what was made comes to meet what is known, at most."""
RUN = 3  # samples at one level that are no accident
_NEAR = 1e-4  # of the peak: what counts as the same level


@dataclass(frozen=True)
class SoundEdit:
    """Sound to be made, and what is known of it.

    Attributes
    ----------
    wave : Tensor, shape (N, samples)
        What is known; where something was clipped, the level it was clipped at. Elsewhere anything.
    sample_rate : int, Hz
    known : Tensor of bool, shape (N, samples)
        Where samples are known.
    side : Tensor, shape (N, samples), optional
        Where samples are known to be at least (1) or at most (-1) what ``wave`` says; 0 elsewhere.
    known_rate : int, Hz, optional
        ``wave`` is known below half this rate, and nothing of single samples.
    """

    wave: Tensor
    sample_rate: int
    known: Tensor
    side: Tensor | None = None
    known_rate: int | None = None

    @property
    def level(self) -> Tensor:
        """Root mean square of what is known, shape (N,): how large the sound is."""
        if self.known_rate is not None:
            return self.wave.square().mean(-1).sqrt()
        count = self.known.sum(-1).clamp_min(1)
        return (torch.where(self.known, self.wave, 0.0).square().sum(-1) / count).sqrt()

    def measurement(self) -> Measurement:
        """The same for the core: of x0 (N, 1, samples)."""
        wave, known = self.wave[:, None], self.known[:, None]
        if self.known_rate is not None:
            return low_pass(wave, self.known_rate / self.sample_rate)
        if self.side is not None:
            side = self.side[:, None]
            return bounded(wave, known, side > 0, side < 0)
        return observed(wave, known)

    def part(self, begin: int, end: int) -> SoundEdit:
        """The same of some of the samples."""
        side = None if self.side is None else self.side[:, begin:end]
        return replace(self, wave=self.wave[:, begin:end], known=self.known[:, begin:end], side=side)

    def scaled(self, gain: float) -> SoundEdit:
        """The same of sound so many times as loud."""
        return replace(self, wave=self.wave * gain)

    def windows(self, context: int, least: int = 0) -> list[tuple[int, int]]:
        """First and last sample of the parts that have something unknown, with so many samples around it.

        Parts are at least ``least`` samples long, as far as the sound is.
        """
        samples = self.wave.shape[-1]
        if self.known_rate is not None:
            return [(0, samples)]
        found: list[tuple[int, int]] = []
        for begin, end in spans(~self.known.all(0)):
            begin, end = max(0, begin - context), min(samples, end + context)
            missing = max(0, least - (end - begin))
            begin = max(0, min(begin - missing // 2, samples - least)) if missing else begin
            end = min(samples, max(end, begin + least))
            if found and begin <= found[-1][1]:
                begin = found.pop()[0]
            found.append((begin, end))
        return found

    def finish(self, made: Tensor) -> Tensor:
        """Put what is known into what was made (N, samples): exactly, and without a step at its edges.

        Where the two do not meet, the difference at the last known sample is added to what was made and faded out
        within :data:`FADE`. Nothing of the known is touched.
        """
        if self.known_rate is not None:
            return self.measurement().project(made[:, None])[:, 0]
        wave = self.wave.expand_as(made)
        if self.side is not None:
            return torch.where(self.known, wave, self.measurement().project(made[:, None])[:, 0])
        result = torch.where(self.known, wave, made)
        for item, known in enumerate(self.known.expand(len(made), -1)):
            for begin, end in spans(~known):
                result[item, begin:end] += self._step(wave[item] - made[item], begin, end)
        return result

    def _step(self, difference: Tensor, begin: int, end: int) -> Tensor:
        length = min(round(FADE * self.sample_rate), end - begin)
        fade = torch.zeros(end - begin).to(difference)
        ramp = torch.linspace(1, 0, length + 2)[1:-1].to(difference)
        if begin > 0:
            fade[:length] += difference[begin - 1] * ramp
        if end < len(difference):
            fade[len(fade) - length :] += difference[end] * ramp.flip(0)
        return fade


def gap_filling(wave: Tensor, sample_rate: int, gaps: Sequence[tuple[float, float]]) -> SoundEdit:
    """Stretches of a recording are unknown.

    Parameters
    ----------
    wave : Tensor, shape (N, samples) or (samples,)
    sample_rate : int, Hz
    gaps : sequence of (begin, end), seconds
        Within the recording; something must be known.

    Examples
    --------
    >>> edit = gap_filling(torch.zeros(16_000), 16_000, [(0.5, 0.52)])
    >>> int((~edit.known).sum())
    320
    """
    wave = as_waves(wave)
    seconds = wave.shape[-1] / sample_rate
    known = torch.ones_like(wave, dtype=torch.bool)
    if not gaps:
        raise InputError("gaps must be at least one (begin, end) in seconds")
    for begin, end in gaps:
        if not 0 <= begin < end <= seconds + 0.5 / sample_rate:
            raise InputError(
                f"gap={begin:g}:{end:g} must lie within the recording, 0 to {seconds:g} s, and end after it begins"
            )
        first, last = round(begin * sample_rate), round(end * sample_rate)
        if first == last:
            raise InputError(
                f"gap={begin:g}:{end:g} must hold a sample; they are 1/{sample_rate} s apart: end it later"
            )
        known[:, first:last] = False
    if not known.any():
        raise InputError(f"gaps={_listed(gaps)} must leave something known of the {seconds:g} s")
    return SoundEdit(torch.where(known, wave, 0.0), sample_rate, known)


def continuation(wave: Tensor, sample_rate: int, seconds: float) -> SoundEdit:
    """What follows a recording is unknown.

    Parameters
    ----------
    wave : Tensor, shape (N, samples) or (samples,)
    sample_rate : int, Hz
    seconds : float > 0
        How much to add.
    """
    wave = as_waves(wave)
    if not 0 < seconds < 3600:
        raise InputError(f"seconds={seconds} to add must be above 0, and below an hour")
    longer = torch.nn.functional.pad(wave, (0, max(1, round(seconds * sample_rate))))
    known = torch.arange(longer.shape[-1], device=wave.device) < wave.shape[-1]
    return SoundEdit(longer, sample_rate, known.expand_as(longer))


def bandwidth_extension(wave: Tensor, sample_rate: int, to_rate: int) -> SoundEdit:
    """The recording is known below half its rate, and wanted at a higher one.

    Parameters
    ----------
    wave : Tensor, shape (N, samples) or (samples,)
    sample_rate, to_rate : int, Hz
        The recording's, and the result's.
    """
    wave = as_waves(wave)
    if not to_rate > sample_rate:
        raise InputError(
            f"to_rate={to_rate} must be above the recording's {sample_rate} Hz; a recording that only holds low "
            "frequencies must be resampled to its own bandwidth first"
        )
    higher = io.resample(wave, sample_rate, to_rate)
    # a resampler's transition band is not known
    return SoundEdit(
        higher, to_rate, torch.zeros_like(higher, dtype=torch.bool), known_rate=round(0.9 * sample_rate)
    )


def declipping(wave: Tensor, sample_rate: int, threshold: float | None = None) -> SoundEdit:
    """Samples at the threshold are known to have been at least as large.

    Parameters
    ----------
    wave : Tensor, shape (N, samples) or (samples,)
    sample_rate : int, Hz
    threshold : float > 0, optional
        Magnitude at which the recording was clipped; default: of each item, positive and negative separately, the
        peak, if three or more samples in a row are there.

    Raises
    ------
    InputError
        Nothing was clipped.
    """
    wave = as_waves(wave)
    side = torch.zeros_like(wave)
    for sign in (1, -1):
        for item, heights in enumerate(sign * wave):
            peak = float(heights.max()) if threshold is None else threshold
            there = heights >= peak * (1 - _NEAR)
            longest = max((end - begin for begin, end in spans(there)), default=0)
            if peak > 0 and (threshold is not None or longest >= RUN):
                side[item][there] = sign
    if not side.any():
        raise InputError(
            f"the recording was not clipped: it has no {RUN} samples in a row at its peak"
            if threshold is None
            else f"threshold={threshold} must be a level that the recording reaches: its peak is {wave.abs().max():g}"
        )
    return SoundEdit(wave, sample_rate, side == 0, side)


def _listed(gaps: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{begin:g}:{end:g}" for begin, end in gaps)


def spans(flags: Tensor) -> list[tuple[int, int]]:
    """First index and the one after the last of each run of True in flags (samples,)."""
    edges = torch.nn.functional.pad(flags.to(torch.int8), (1, 1)).diff()
    begins, ends = (torch.nonzero(edges == sign)[:, 0].tolist() for sign in (1, -1))
    return list(zip(begins, ends, strict=True))


def as_waves(wave: Tensor) -> Tensor:
    """Give sound its batch dimension; check that it is some."""
    wave = wave[None] if wave.ndim == 1 else wave
    if wave.ndim != 2 or not wave.is_floating_point():
        raise InputError(f"wave={tuple(wave.shape)} must be floating point, (N, samples) or (samples,)")
    return io.check(wave)
