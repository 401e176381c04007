"""Clips of two moving digits: each is judged alone, by the light of its own colour.

The caption says which two colours there are, and the data set lays figures over each other by the greater
value in each channel. So each pixel is one colour's, or the other's, or an overlay of both, or something else.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, wilson
from mmdiff.video.digits import COLOURS
from mmdiff.video.judge import DigitJudge, as_video, judge_clips

_OVERLAY = 0.1  # better than either colour alone, in RGB, before an overlay is believed
_REACH = 0.4  # of a pixel's brightness: what is further from all three is neither colour
_LIT = 0.5  # of full brightness


def split_colours(video: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Light of each of two colours.

    Parameters
    ----------
    video : Tensor, shape (B, 3, F, H, W), in [-1, 1] or uint8
    colours : Tensor of int, shape (B, 2)
        Indices into :data:`mmdiff.video.digits.COLOURS`, different ones.

    Returns
    -------
    light : Tensor, shape (B, 2, F, H, W), in [0, 1]
        Brightness of each; where they overlap, of both.
    neither : Tensor of bool, shape (B, F, H, W)
        Where a pixel is lit in another colour.
    """
    pixels = (as_video(video) + 1) / 2
    palette = torch.tensor(list(COLOURS.values())).to(pixels)[colours.to(pixels.device)]  # (B, 2, 3)
    ink = palette[..., None, None, None]
    amount = (
        torch.einsum("bcfhw,bkc->bkfhw", pixels, palette) / palette.square().sum(-1)[..., None, None, None]
    )
    # most of a colour that a pixel can hold under another
    most = (pixels[:, None] / ink).amin(2)
    overlay = (most[:, :, None] * ink).amax(1)
    distance = torch.cat(
        (
            (pixels[:, None] - amount[:, :, None] * ink).norm(dim=2),
            (pixels - overlay).norm(dim=1)[:, None] + _OVERLAY,
        ),
        1,
    )
    nearest, kind = distance.min(1)
    brightness = pixels.amax(1)
    neither = nearest > _REACH * brightness.clamp_min(_OVERLAY)
    own = torch.arange(2, device=kind.device)[None, :, None, None, None] == kind[:, None]
    light = torch.where(own, amount, torch.where((kind == 2)[:, None], most, 0.0))
    return light.masked_fill(neither[:, None], 0.0).clamp(0, 1), neither & (brightness > _LIT)


class PairVerdict(NamedTuple):
    """What each of B clips of two figures shows of its caption; shape (B,), float64 in [0, 1]."""

    digit: Tensor
    """Share of frames in which a figure's colour shows its digit, mean over both."""
    motion: Tensor
    """Share of the two figures that move as told."""
    all: Tensor
    """1 where both figures have their digit, in most frames, and motion."""
    digits: Tensor
    """Recall of the two digits, whichever colour they have, mean over frames."""
    empty: Tensor
    """Share of frames in which a figure's colour shows next to nothing, mean over both."""
    neither: Tensor
    """Share of lit pixels that have another colour."""


def judge_pairs(video: Tensor, labels: Tensor, judge: DigitJudge) -> PairVerdict:
    """Judge each of two figures by the light of its colour.

    Parameters
    ----------
    video : Tensor, shape (B, 3, F, H, W), in [-1, 1] or uint8
    labels : Tensor of int, shape (B, 2, 3)
        Digit, motion and colour of both figures.
    judge : DigitJudge

    Raises
    ------
    InputError
        Shapes do not fit, or two figures have the same colour.
    """
    if labels.shape != (len(video), 2, 3) or bool((labels[:, 0, 2] == labels[:, 1, 2]).any()):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} must be ({len(video)}, 2, 3): digit, motion and colour of two "
            "figures, of different colours"
        )
    light, neither = split_colours(video, labels[..., 2])
    grey = (2 * light - 1).flatten(0, 1)[:, None].expand(-1, 3, -1, -1, -1)
    verdict = judge_clips(grey, judge)
    told = labels.to(verdict.digits.device)
    digits = verdict.digits.unflatten(0, (-1, 2))  # (B, 2, F)
    right = (digits == told[..., :1]).double()
    swapped = (digits.flip(1) == told[..., :1]).double()
    motion = verdict.motion.unflatten(0, (-1, 2)) == told[..., 1]
    digit = verdict.digit.unflatten(0, (-1, 2)) == told[..., 0]
    lit = (((as_video(video).amax(1) + 1) / 2) > _LIT).sum((1, 2, 3))
    return PairVerdict(
        right.mean((1, 2)),
        motion.double().mean(1),
        (digit & motion).all(1).double(),
        torch.maximum(right.mean(1), swapped.mean(1)).mean(1),
        verdict.empty.unflatten(0, (-1, 2)).double().mean((1, 2)),
        (neither.sum((1, 2, 3)) / lit.clamp_min(1)).double().to(right.device),
    )


def pair_accuracy(verdict: PairVerdict) -> dict[str, Estimate]:
    """Means over clips of what :func:`judge_pairs` says; intervals rest on the number of clips."""
    return {
        name: wilson(min(1.0, float(values.mean())), len(values))
        for name, values in verdict._asdict().items()
    }
