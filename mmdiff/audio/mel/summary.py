"""What the values of a mel spectrogram look like, whatever they mean: their range, how they jitter, how they ripple."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

MOST_ITEMS, MOST_FRAMES = 4, 4096  # of a batch that are looked at


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
