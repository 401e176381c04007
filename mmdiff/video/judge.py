"""The judge of moving digits: which digit a frame shows, how it moves, in what colour; and caption accuracy.

A small classifier (:mod:`mmdiff.video.judge_network`), trained on real handwriting
(:mod:`mmdiff.video.judge_training`), reads every frame on its own; motion and colour are measured, not learned.
Each statement may also be "none of these".
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, wilson
from mmdiff.video.digits import COLOURS, DIGITS, MOTIONS, VELOCITIES, Figure
from mmdiff.video.judge_network import CHUNK, LIT, frames_of, light_of, mean_colours
from mmdiff.video.judge_network import SIDE as SIDE
from mmdiff.video.judge_network import DigitJudge as DigitJudge
from mmdiff.video.judge_network import as_video as as_video
from mmdiff.video.metrics.coherence import centroids

NONE = -1
"""Index of "none of these" among digits, motions and colours."""
HOLDS = 8  # frames that a caption's direction holds for, of a video that is not thinned out
_EMPTY = 10  # lit pixels at 32 x 32: half of what the thinnest real glyph has
_MOVING = 0.5  # pixels a frame: half of the speed of digits that move
_JUMP = 1.5  # pixels a frame: real digits step by 1
_COLOUR_RADIUS = 0.4  # less than this from a palette colour, in RGB scaled to a greatest channel of 1
_SHARED = 0.75  # of the frames must have one colour


class Verdict(NamedTuple):
    """What the judge says about B clips of F frames; -1 is "none of these"."""

    digits: Tensor
    """(B, F), of each frame."""
    confidence: Tensor
    """(B, F), probability of what ``digits`` says."""
    digit: Tensor
    """(B,), the most frequent one of a clip's frames."""
    agreement: Tensor
    """(B,), share of a clip's frames that show ``digit``."""
    motion: Tensor
    """(B,), index into :data:`mmdiff.video.digits.MOTIONS`."""
    colour: Tensor
    """(B,), index into :data:`mmdiff.video.digits.COLOURS`."""
    centroids: Tensor
    """(B, F, 2), x and y of the light in pixels at 32 × 32; nan in empty frames."""
    steps: Tensor
    """(B, F - 1), distance between centroids of successive frames in pixels at 32 × 32; nan beside empty frames."""
    empty: Tensor
    """(B, F) bool, frames that show next to nothing."""


@torch.no_grad()
def judge_clips(video: Tensor, judge: DigitJudge) -> Verdict:
    """Say what clips of one moving digit show.

    The digit is read frame by frame. Motion is the least-squares velocity of the centroid of light over the
    first nine frames, for which a caption's direction holds: standing still below half a pixel a frame (at 32
    pixels), one of the four directions where one axis has at least twice the speed of the other, else none.
    Colour is the one of the palette nearest to the mean of a frame's lit pixels, or none within reach; a clip's
    is the one that three quarters of its frames share, so a digit that changes its colour has none.

    Parameters
    ----------
    video : Tensor, shape (B, 3, F, H, W), in [-1, 1] or uint8
        The shorter side counts as 32 pixels.
    judge : DigitJudge

    Returns
    -------
    Verdict

    Raises
    ------
    InputError
        The shape is another, or the values are out of range.
    """
    video = as_video(video)
    device = next(judge.parameters()).device
    parts = [_judge(clips.to(device), judge) for clips in video.split(CHUNK)]
    return Verdict(*(torch.cat(column) for column in zip(*parts, strict=True)))


def caption_accuracy(video: Tensor, labels: Tensor, judge: DigitJudge) -> dict[str, Estimate]:
    """Compare clips with what their captions say.

    Frames of a clip are not independent, so the intervals of shares of frames rest on the number of clips: they
    are rather too wide.

    Parameters
    ----------
    video : Tensor, shape (B, 3, F, H, W), in [-1, 1] or uint8
    labels : Tensor of int, shape (B, 3)
        Digit, motion and colour, as ``MovingDigits[n]["label"]``.
    judge : DigitJudge

    Returns
    -------
    dict from str to Estimate
        ``digit``: share of frames that show the caption's digit. ``motion``, ``colour``: of clips. ``all``: of
        clips whose most frequent digit, motion and colour are all right. ``steady``: share of frames that
        agree with the most frequent digit of their clip. ``empty``: share of frames that show nothing. ``smooth``:
        share of clips in which no frame is empty and the light's centre never moves more than 1.5 times as far
        from frame to frame as real digits do (1 pixel at 32 x 32, without ``stride``). What is fainter than a
        quarter of full brightness does not count, so that haze, noise and compression do not move the centre.

    Raises
    ------
    InputError
        Shapes do not fit.
    """
    if labels.shape != (len(video), 3) or len(video) == 0:
        raise InputError(
            f"labels of shape {tuple(labels.shape)} must be ({len(video)}, 3): digit, motion and colour of "
            "each clip, of one clip at least"
        )
    return verdict_accuracy(judge_clips(video, judge), labels)


def verdict_accuracy(verdict: Verdict, labels: Tensor) -> dict[str, Estimate]:
    """Like :func:`caption_accuracy`, of what was said about clips that need not be in memory any more."""
    digit, motion, colour = labels.to(verdict.digit.device).unbind(1)
    right = {"motion": verdict.motion == motion, "colour": verdict.colour == colour}
    right["all"] = (verdict.digit == digit) & right["motion"] & right["colour"]
    frames = {"digit": verdict.digits == digit[:, None], "steady": verdict.digits == verdict.digit[:, None]}
    frames["steady"] &= verdict.digits != NONE
    frames["empty"] = verdict.empty
    right["smooth"] = (verdict.steps <= _JUMP).all(1) & ~verdict.empty.any(1)
    shares = {name: float(x.double().mean()) for name, x in (frames | right).items()}
    order = ("digit", "motion", "colour", "all", "steady", "empty", "smooth")
    return {name: wilson(shares[name], len(labels)) for name in order}


def crossed_captions(held_out: bool | None = None) -> tuple[list[str], Tensor]:
    """All 300 captions of one digit: every digit in every motion and colour, once.

    Parameters
    ----------
    held_out : bool, optional
        Only the triples that training leaves out (True) or shows (False), see
        :attr:`mmdiff.video.digits.Figure.held_out`.

    Returns
    -------
    captions : list of str
    labels : Tensor of int, shape (N, 3)
    """
    triples = itertools.product(range(len(DIGITS)), range(len(MOTIONS)), range(len(COLOURS)))
    figures = [Figure(*triple) for triple in triples]
    figures = [figure for figure in figures if held_out is None or figure.held_out == held_out]
    labels = torch.tensor([(figure.digit, figure.motion, figure.colour) for figure in figures])
    return [figure.caption() for figure in figures], labels


def _judge(video: Tensor, judge: DigitJudge) -> Verdict:
    frames = frames_of(video)
    probabilities = judge(frames.flatten(0, 1)).softmax(1).unflatten(0, frames.shape[:2])
    confidence, digits = probabilities.max(-1)
    light = light_of(frames.flatten(0, 1))[:, 0].unflatten(0, frames.shape[:2])
    empty = (light > LIT).sum((2, 3)) < _EMPTY
    digits = digits.masked_fill((digits == len(DIGITS)) | empty, NONE)
    digit = torch.stack([functional.one_hot(d + 1, len(DIGITS) + 1).sum(0).argmax() for d in digits]) - 1
    path = centroids(light).masked_fill(empty[..., None], math.nan)
    return Verdict(
        digits,
        confidence,
        digit,
        (digits == digit[:, None]).double().mean(1),
        torch.stack([_motion(c[: HOLDS + 1]) for c in path]),
        torch.stack([_colour(f[~e]) for f, e in zip(frames, empty, strict=True)]),
        path,
        path.diff(dim=1).norm(dim=2),
        empty,
    )


def _motion(path: Tensor) -> Tensor:
    """Index of the motion of a path (F, 2); empty frames are left out."""
    seen = path.isfinite().all(1)
    times = torch.arange(len(path)).to(path)[seen]
    if len(times) < 2:
        return torch.tensor(NONE, device=path.device)
    times = times - times.mean()
    velocity = times @ path[seen] / times.square().sum()
    speed, slow = velocity.abs().max(), velocity.abs().min()
    if speed < _MOVING:
        return torch.tensor(0, device=path.device)
    directions = torch.tensor(VELOCITIES).to(velocity)
    return (directions @ velocity).argmax() if slow <= speed / 2 else torch.tensor(NONE, device=speed.device)


def _colour(frames: Tensor) -> Tensor:
    """Index of the colour that most of some frames (N, 3, H, W), none of them empty, have."""
    palette = torch.tensor(list(COLOURS.values())).to(frames)
    palette = palette / palette.amax(1, keepdim=True)
    distance, index = torch.cdist(mean_colours(frames), palette).min(1)
    votes = torch.bincount(index[distance < _COLOUR_RADIUS], minlength=len(palette))
    most, colour = votes.max(0)
    return colour if most >= max(1, _SHARED * len(frames)) else torch.full_like(colour, NONE)
