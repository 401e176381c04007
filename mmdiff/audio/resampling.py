"""Change of sample rate: band-limited, for whole waves and for streams of blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from mmdiff.errors import InputError

# A Kaiser-windowed sinc of 64 zero crossings: aliases below -100 dB, pass band to 0.9 of the lower Nyquist.
WIDTH = 64
ROLLOFF = 0.9475937167399596
BETA = 14.769656459379492
MAX_KERNEL = 1 << 24  # entries of a polyphase filter bank; rates with a small common divisor exceed it
MAX_RATE = 1_000_000  # Hz


def resample(wave: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sample rate of sound.

    Parameters
    ----------
    wave : Tensor, shape (..., samples)
        Floating-point sound; gradients pass through.
    from_rate, to_rate : int in [1, 1_000_000], Hz
        Rates before and after.

    Returns
    -------
    Tensor, shape (..., ceil(samples * to_rate / from_rate))
        Same dtype and device; sample 0 stays at time 0.

    Raises
    ------
    InputError
        A rate is out of range, or the wave is not floating point.

    Examples
    --------
    >>> resample(torch.zeros(2, 44_100), 44_100, 16_000).shape
    torch.Size([2, 16000])
    """
    check_rate(from_rate, "from_rate")
    check_rate(to_rate, "to_rate")
    if not wave.is_floating_point():
        raise InputError(f"wave.dtype={wave.dtype} must be floating point: divide int16 samples by 32768.0")
    if from_rate == to_rate or wave.shape[-1] == 0:
        return wave
    common = math.gcd(from_rate, to_rate)
    old, new = from_rate // common, to_rate // common
    reach = _half_width(old, new)
    if new * (old + 2 * reach) > MAX_KERNEL:
        return _interpolate(wave, old, new, reach)
    kernel = _filter_bank(old, new, reach).to(wave)
    flat = F.pad(wave.reshape(-1, 1, wave.shape[-1]), (reach, reach + old))
    phases = F.conv1d(flat, kernel, stride=old)  # (waves, new, periods): one filter for each output phase
    count = math.ceil(wave.shape[-1] * new / old)
    return phases.transpose(1, 2).reshape(*wave.shape[:-1], -1)[..., :count]


def resample_blocks(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """Change the sample rate of a stream with the result of :func:`resample` on the whole, in bounded memory.

    Every block is filtered together with the past and future it needs. Cuts fall on multiples of the
    reduced old rate, where both grids of samples meet.

    Parameters
    ----------
    blocks : iterable of Tensor, shape (channels, any number of samples)
        The stream.
    from_rate, to_rate : int, Hz
        Rates before and after.

    Yields
    ------
    Tensor, shape (channels, samples)
        Consecutive pieces of the resampled stream, as long as what came in.
    """
    common = math.gcd(from_rate, to_rate)
    old, new = from_rate // common, to_rate // common
    context = old * math.ceil((_half_width(old, new) + old) / old)
    held: Tensor | None = None  # [past context | not yet resampled]
    past = 0
    for block in blocks:
        held = block if held is None else torch.cat((held, block), -1)
        ready = (held.shape[-1] - past - context) // old * old
        if ready <= 0:
            continue
        piece = resample(held[:, : past + ready + context], from_rate, to_rate)
        skip = past // old * new
        yield piece[:, skip : skip + ready // old * new]
        kept = min(context, past + ready)
        held, past = held[:, past + ready - kept :], kept
    if held is not None and held.shape[-1] > past:
        yield resample(held, from_rate, to_rate)[:, past // old * new :]


def check_rate(rate: int, name: str = "sample_rate") -> None:
    """Refuse a sample rate that no sound has.

    Raises
    ------
    InputError
        The rate is not a whole number from 1 to 1,000,000 Hz.
    """
    if isinstance(rate, bool) or not isinstance(rate, int) or not 1 <= rate <= MAX_RATE:
        raise InputError(f"{name}={rate!r} must be a whole number of Hz from 1 to {MAX_RATE}")


def _half_width(old: int, new: int) -> int:
    """Return how many old samples the filter reaches to each side."""
    return math.ceil(WIDTH * old / (min(old, new) * ROLLOFF))


def _taps(time: Tensor, old: int, new: int) -> Tensor:
    """Return the windowed sinc (Smith, "Digital audio resampling", 2002) at times in old samples, float64."""
    cutoff = min(1.0, new / old) * ROLLOFF  # zero crossings of the sinc in one old sample
    crossings = (time * cutoff).clamp(-WIDTH, WIDTH)
    window = torch.special.i0(BETA * (1 - (crossings / WIDTH) ** 2).sqrt())
    peak = torch.special.i0(torch.tensor(BETA, dtype=torch.float64))
    taps: Tensor = torch.sinc(crossings) * window * (cutoff / peak)
    return taps


@functools.lru_cache(maxsize=8)
def _filter_bank(old: int, new: int, reach: int) -> Tensor:
    """Return the filters of the ``new`` output samples in each period of ``old`` input samples."""
    late = torch.arange(new, dtype=torch.float64) * (old / new)
    return _taps(late[:, None] - torch.arange(-reach, reach + old), old, new)[:, None]


def _interpolate(wave: Tensor, old: int, new: int, reach: int, chunk: int = 1 << 14) -> Tensor:
    """Evaluate the filter at each output time, for rates whose filter bank would be huge."""
    count = math.ceil(wave.shape[-1] * new / old)
    padded = F.pad(wave, (reach, reach + 1))
    offsets = torch.arange(-reach, reach + 1, device=wave.device)
    pieces = []
    for first in range(0, count, chunk):
        ticks = torch.arange(first, min(first + chunk, count), device=wave.device) * old  # 1/new old samples
        nearest = ticks.div(new, rounding_mode="floor")
        late = (ticks - nearest * new).double() / new
        kernel = _taps(late[:, None] - offsets, old, new).to(wave.dtype)
        pieces.append((padded[..., nearest[:, None] + offsets + reach] * kernel).sum(-1))
    return torch.cat(pieces, -1)
