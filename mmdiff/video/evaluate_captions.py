"""What a model of moving digits is asked to make: captions and what they say, and the real clips of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.video.digits import COLOURS, DIGITS, MOTIONS, Figure, MovingDigits
from mmdiff.video.judge import crossed_captions
from mmdiff.video.model import ClipModel

Make = Callable[[Sequence[str], Sequence[int]], Tensor]
"""``(captions, seeds) -> (B, 3, F, H, W)`` in [-1, 1] or uint8; a clip depends on its caption and seed only."""
PAIRS = 60
"""Clips of two figures, unless told."""
_STRIDE = 109  # prime to the numbers of captions: few of them already differ in digit, motion and colour


@dataclass(frozen=True)
class Questions:
    """What is asked: captions, what they say, and the first clip's seed (the others count on).

    Attributes
    ----------
    captions : tuple of N str
    labels : Tensor of int, shape (N, 3)
    pair_captions : tuple of M str
    pair_labels : Tensor of int, shape (M, 2, 3)
    seed : int
    """

    captions: tuple[str, ...]
    labels: Tensor
    pair_captions: tuple[str, ...]
    pair_labels: Tensor
    seed: int


def questions(
    held_out: bool | None = None, num: int = 1, *, limit: int | None = None, pairs: int = PAIRS, seed: int = 0
) -> Questions:
    """Captions to measure a model of moving digits with.

    Parameters
    ----------
    held_out : bool, optional
        Only triples of digit, motion and colour that training leaves out (True) or shows (False); default:
        all 300.
    num : int > 0
        Clips for each caption.
    limit : int > 0, optional
        Use only so many of the captions, which differ in digit, motion and colour.
    pairs : int >= 0
        Clips of two figures of different colours; no more than of one.
    seed : int
        Of the first clip, and of the choice of pairs.
    """
    if num < 1 or pairs < 0 or (limit is not None and limit < 1):
        raise InputError(f"num={num}, pairs={pairs} and limit={limit} must be positive")
    captions, labels = crossed_captions(held_out)
    chosen = list(range(len(captions)))
    if limit is not None and limit < len(chosen):
        chosen = [(n + 1) * _STRIDE % len(chosen) for n in range(limit)]
    repeated = [i for i in chosen for _ in range(num)]
    doubles, double_labels = pair_captions(min(pairs, len(repeated)), held_out, seed)
    return Questions(
        tuple(captions[i] for i in repeated), labels[repeated], tuple(doubles), double_labels, seed
    )


def makes_pairs(model: ClipModel) -> bool:
    """Whether a model knows the word that joins two figures."""
    return model.captions is not None and not model.captions.unknown_words("and")


def is_digit_model(model: ClipModel) -> bool:
    """Whether a model knows every word of the captions of moving digits."""
    return model.captions is not None and not model.captions.unknown_words(" ".join(_words()))


def _words() -> list[str]:
    return sorted({word for caption in crossed_captions()[0] for word in caption.split()})


def check_digit_model(model: ClipModel) -> None:
    """Raise InputError unless a model was trained on captions of moving digits, of a size they come in."""
    if not is_digit_model(model):
        raise InputError(
            f"the model was not trained on captions of moving digits, such as {crossed_captions()[0][0]!r}: "
            "give a folder of videos to measure it with"
        )
    height, width = model.size
    if height != width or height % 32 or model.channels != 3 or model.frames < 2:
        raise InputError(
            f"the model's clips of {model.frames} frames of {height}x{width} must have at least 2 of 32x32, 64x64, "
            "..., in colour, to be compared with moving digits"
        )


def pair_captions(count: int, held_out: bool | None = None, seed: int = 0) -> tuple[list[str], Tensor]:
    """Captions of two figures of different colours, as training has them.

    Parameters
    ----------
    count : int >= 0
    held_out : bool, optional
        Only figures that training leaves out (True) or shows (False).
    seed : int

    Returns
    -------
    captions : list of str
        Such as "a red three moving left and a green five standing still".
    labels : Tensor of int, shape (count, 2, 3)
        Digit, motion and colour of both.
    """
    random = np.random.default_rng((seed, 2))
    captions: list[str] = []
    labels: list[list[list[int]]] = []
    while len(captions) < count:
        drawn = random.integers((len(DIGITS), len(MOTIONS), len(COLOURS)), size=(2, 3)).tolist()
        one, other = Figure(*drawn[0]), Figure(*drawn[1])
        if one.colour != other.colour and (held_out is None or one.held_out == other.held_out == held_out):
            captions.append(f"{one.caption()} and {other.caption()}")
            labels.append(drawn)
    return captions, torch.tensor(labels, dtype=torch.int64).reshape(count, 2, 3)


def real_digits(frames: int, size: int, split: str = "test") -> Make:
    """Real clips of captions, of the handwriting of a split; a clip depends on its caption and seed only."""
    data = MovingDigits(split, frames, size)
    captions, labels = crossed_captions()
    figures = {caption: Figure(*label) for caption, label in zip(captions, labels.tolist(), strict=True)}

    def draw(caption: str, seed: int) -> Tensor:
        shown = [figures[part] for part in caption.split(" and ")]
        video: Tensor = data.item(shown, np.random.default_rng(seed))["video"]
        return video

    def make(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        return torch.stack([draw(caption, seed) for caption, seed in zip(captions, seeds, strict=True)])

    return make
