"""Moving digits with captions: an endless text-to-clip data set made of real handwriting.

The handwriting is scikit-learn's copy of the UCI "Optical recognition of handwritten digits" test set (1797
images of 8 x 8 cells by 13 people), enlarged smoothly. One digit, or two, of one colour each move over black by
one pixel a frame at 32 pixels; at a wall they turn back. A caption's direction holds for the first half of a
16-frame clip at least.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.errors import InputError

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MOTIONS = ("standing still", "moving left", "moving right", "moving up", "moving down")
VELOCITIES = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""(x, y) in pixels a frame at 32 pixels, for each motion."""
COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "red": (1.0, 0.15, 0.15),
    "green": (0.15, 0.9, 0.2),
    "blue": (0.25, 0.45, 1.0),
    "yellow": (1.0, 0.85, 0.1),
    "purple": (0.75, 0.25, 1.0),
}
"""RGB in [0, 1]."""

TRAIN_IMAGES = 1500
_CELL = 6  # pixels per cell of the enlarged glyph
_ZOOM = 0.85  # of the canvas: glyphs come out 15 pixels high at 32
_PLAIN = "a {colour} {digit} {motion}"
_OTHERS = (
    "{colour} {digit} {motion}",
    "the {colour} {digit} is {motion}",
    "a {digit} in {colour}, {motion}",
    "a {colour} {figure} {motion}",
    "a {digit} {motion}",
    "a {colour} {digit}",
    "a {colour} digit {motion}",
)


@dataclass(frozen=True)
class Figure:
    """One moving digit: indices into :data:`DIGITS`, :data:`MOTIONS` and :data:`COLOURS`."""

    digit: int
    motion: int
    colour: int

    def caption(self, template: str = _PLAIN, motion: bool = True) -> str:
        """Describe it, as in "a blue seven moving left"."""
        words = {
            "digit": DIGITS[self.digit],
            "figure": str(self.digit),
            "colour": list(COLOURS)[self.colour],
            "motion": MOTIONS[self.motion] if motion else "",
        }
        return template.format(**words).strip(" ,").removesuffix(" is")

    @property
    def held_out(self) -> bool:
        """Whether training never shows this triple: one digit in ten for each colour and motion."""
        return (self.digit + 2 * self.colour + 3 * self.motion) % len(DIGITS) == 0


@functools.lru_cache(maxsize=2)
def handwriting(split: str) -> tuple[Tensor, Tensor]:
    """Enlarged glyphs and their digits.

    Parameters
    ----------
    split : {"train", "test"}
        1500 images, or the 297 held out.

    Returns
    -------
    glyphs : Tensor, shape (N, 1, 60, 60), in [0, 1]
    digits : Tensor of int, shape (N,)
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise InputError(f"split={split!r} must be train or test")
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    chosen = order[:TRAIN_IMAGES] if split == "train" else order[TRAIN_IMAGES:]
    cells = torch.tensor(data.images[chosen] / 16, dtype=torch.float32)[:, None]
    cells = functional.pad(cells, (1, 1, 1, 1))
    smooth = functional.interpolate(cells, scale_factor=_CELL, mode="bicubic").clamp(0, 1)
    ink = torch.sigmoid((smooth - 0.42) * 12)
    return (ink - ink.min()) / (ink.max() - ink.min()), torch.tensor(data.target[chosen])


def draw_glyph(glyph: Tensor, size: int, angle: float = 0.0, shear: float = 0.0) -> Tensor:
    """Draw a glyph on a square canvas.

    Parameters
    ----------
    glyph : Tensor, shape (1, 60, 60), in [0, 1]
    size : int > 0, pixels
    angle, shear : float, radians
        Of a slight deformation.

    Returns
    -------
    Tensor, shape (size, size), in [0, 1]
    """
    cos, sin = _ZOOM * math.cos(angle), _ZOOM * math.sin(angle)
    matrix = torch.tensor([[[cos, -sin + shear, 0.0], [sin, cos, 0.0]]]).to(glyph)
    grid = functional.affine_grid(matrix, [1, 1, 3 * size, 3 * size], align_corners=False)
    fine = functional.grid_sample(glyph[None], grid, align_corners=False)
    return functional.avg_pool2d(fine, 3)[0, 0]  # antialiased: three samples a pixel along each axis


def bounce(start: int, velocity: int, frames: Sequence[int] | np.ndarray, room: int) -> np.ndarray:
    """Positions in [0, room] of something that moves from ``start`` and turns back at both ends."""
    unfolded = (start + velocity * np.asarray(frames)) % (2 * room)
    return np.where(unfolded > room, 2 * room - unfolded, unfolded)


class MovingDigits:
    """Captioned clips of moving handwritten digits; ``dataset[n]`` depends on n and the arguments only.

    Parameters
    ----------
    split : {"train", "test"}
        Whose handwriting. Training captions leave out the triples that :attr:`Figure.held_out` names; the
        test split is made of nothing else.
    frames : int > 0
    size : int, divisible by 32
        Height and width in pixels.
    stride : int > 0
        Distance between the frames shown, for clips thinned out in time.
    seed : int
    pairs : float in [0, 1]
        Share of clips with two digits: "a red three moving left and a green five standing still".
    variety : float in [0, 1]
        Share of captions worded in another way, or silent about colour or motion.
    late : float in [0, 1]
        Share of clips cut out of a longer video: they start up to ``latest`` frames after what the caption
        describes.
    latest : int > 0
    deform : float in [0, 1]
        Strength of rotation and shear; 1 is up to 8 degrees.

    Examples
    --------
    >>> item = MovingDigits(frames=4)[0]
    >>> item["video"].shape, item["video"].dtype
    (torch.Size([3, 4, 32, 32]), torch.uint8)
    """

    def __init__(
        self,
        split: str = "train",
        frames: int = 16,
        size: int = 32,
        stride: int = 1,
        seed: int = 0,
        pairs: float = 0.0,
        variety: float = 0.0,
        late: float = 0.0,
        latest: int = 48,
        deform: float = 1.0,
    ) -> None:
        if frames < 1 or stride < 1:
            raise InputError(f"frames={frames} and stride={stride} must be at least 1")
        if size < 32 or size % 32:
            raise InputError(f"size={size} must be a multiple of 32: 32, 64, ...")
        self.glyphs, digits = handwriting(split)
        self.of_digit = [torch.nonzero(digits == d)[:, 0] for d in range(len(DIGITS))]
        self.split, self.frames, self.size, self.stride, self.seed = split, frames, size, stride, seed
        self.pairs, self.variety, self.late, self.latest, self.deform = pairs, variety, late, latest, deform

    def __getitem__(self, n: int) -> dict[str, Any]:
        """Return clip ``n`` >= 0.

        Returns
        -------
        dict
            ``video`` uint8 (3, F, H, W); ``caption``; ``positions`` (F,), the frames' places in the whole
            video; ``label`` (digit, motion, colour) of the first figure; ``figures``, how many there are.
        """
        random = np.random.default_rng((self.seed, self.split == "train", n))
        first = int(random.integers(1, self.latest + 1)) if random.random() < self.late else 0
        figures = [self._figure(random) for _ in range(1 + (random.random() < self.pairs))]
        return self.item(figures, random, first)

    def item(self, figures: Sequence[Figure], random: np.random.Generator, first: int = 0) -> dict[str, Any]:
        """Like ``dataset[n]`` for given figures, which ``random`` gives handwriting and places."""
        positions = first + self.stride * np.arange(self.frames)
        video = self.render(figures, random, positions)
        return {
            "video": video,
            "caption": self._caption(figures, random),
            "positions": torch.from_numpy(positions),
            "label": torch.tensor([figures[0].digit, figures[0].motion, figures[0].colour]),
            "figures": len(figures),
        }

    def render(self, figures: Sequence[Figure], random: np.random.Generator, frames: np.ndarray) -> Tensor:
        """Draw the given frames of a video of figures; uint8 (3, F, H, W)."""
        scale = self.size // 32
        sprite, room = 16 * scale, 16
        places = self._places(figures, random, frames, room)
        canvas = torch.zeros(3, len(frames), self.size, self.size)
        palette = torch.tensor(list(COLOURS.values()))
        for figure, (across, down) in zip(figures, places, strict=True):
            choices = self.of_digit[figure.digit]
            glyph = self.glyphs[choices[int(random.integers(len(choices)))]]
            angle, shear = (self.deform * 0.14 * random.uniform(-1, 1, 2)).tolist()
            ink = palette[figure.colour][:, None, None] * draw_glyph(glyph, sprite, angle, shear)
            for f, (x, y) in enumerate(zip(across * scale, down * scale, strict=True)):
                window = canvas[:, f, y : y + sprite, x : x + sprite]
                torch.maximum(window, ink, out=window)
        return (canvas * 255).round().to(torch.uint8)

    def _figure(self, random: np.random.Generator) -> Figure:
        while True:
            drawn = (int(random.integers(len(kinds))) for kinds in (DIGITS, MOTIONS, COLOURS))
            figure = Figure(*drawn)
            if figure.held_out == (self.split == "test"):
                return figure

    def _places(
        self, figures: Sequence[Figure], random: np.random.Generator, frames: np.ndarray, room: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        # Two figures shall not hide each other: of some tries, keep the one whose closest approach is widest.
        best, widest = [], -1.0
        for _ in range(1 if len(figures) == 1 else 20):
            places = []
            for figure in figures:
                axes = []
                for velocity in VELOCITIES[figure.motion]:
                    # the first wall is 8 frames away at least, so that the caption's direction shows
                    low, high = max(0, -8 * velocity), room - max(0, 8 * velocity)
                    axes.append(bounce(int(random.integers(low, high + 1)), velocity, frames, room))
                places.append((axes[0], axes[1]))
            gaps = [
                np.maximum(abs(a[0] - b[0]), abs(a[1] - b[1])).min()
                for i, a in enumerate(places)
                for b in places[:i]
            ]
            if (gap := float(min(gaps, default=room))) > widest:
                best, widest = places, gap
            if widest >= room:
                break
        return best

    def _caption(self, figures: Sequence[Figure], random: np.random.Generator) -> str:
        other = random.random() < self.variety
        template = _OTHERS[int(random.integers(len(_OTHERS)))] if other else _PLAIN
        return " and ".join(figure.caption(template, self.frames > 1) for figure in figures)
