"""Whether what is asked of a clip pipeline is of the right kind, before anything is computed with it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from mmdiff.errors import InputError

SEEDS = (-(2**63), 2**64 - 1)
"""What PyTorch's generators take."""


def check_number(name: str, value: Any, low: float = 0.0, high: float = math.inf) -> None:
    """Refuse what is no finite number from ``low`` to ``high``."""
    fits = isinstance(value, Real) and math.isfinite(value) and low <= float(value) <= high
    if not fits:
        rule = f"in [{low:g}, {high:g}]" if math.isfinite(high) else f"of at least {low:g}"
        raise InputError(f"{name}={value!r} must be a finite number {rule}")


def check_count(name: str, value: Any, why: str = "") -> None:
    """Refuse what is no whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r} must be a whole number of at least 1{why}")


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor, and say where to get one."""
    if not isinstance(value, Tensor):
        raise InputError(
            f"{name} must be a torch.Tensor, not {type(value).__name__}: read files with mmdiff.video.io.read, and "
            "wrap arrays by torch.from_numpy"
        )


def check_steps(positions: Tensor) -> None:
    """Refuse places (B, F) of frames in their videos whose steps are not the same for every clip."""
    steps = positions.diff(dim=-1)
    if (steps != steps[:1]).any():
        one, other = steps[0].tolist(), steps[(steps != steps[:1]).any(1)][0].tolist()
        raise InputError(
            f"positions must go in the same steps for all clips of a batch, not {one} and {other}: "
            "give them one stride, or batches of their own"
        )


def as_prompts(prompt: Any) -> list[str | None]:
    """One prompt or several, as a list.

    Raises
    ------
    InputError
        One is no string.
    """
    several = isinstance(prompt, Iterable) and not isinstance(prompt, str)
    prompts = list(prompt) if several else [prompt]
    for each in prompts:
        if not isinstance(each, str | None):
            raise InputError(f"prompt={prompt!r} must be a string, None, or a list of strings and None")
    return prompts


def check_interval(name: str, value: Any) -> None:
    """Refuse what is no pair of rising numbers in [0, 1]."""
    if not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(f"{name}={value!r} must be two numbers, its first and its last time in [0, 1]")
    check_number(f"{name}[0]", value[0], high=1)
    check_number(f"{name}[1]", value[1], low=float(value[0]), high=1)


def as_size(size: Any) -> tuple[int, int]:
    """Height and width.

    Raises
    ------
    InputError
        It is neither a whole number nor two.
    """
    sides = [size, size] if isinstance(size, Integral) else size
    if isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(side, Integral) for side in sides):
        return int(sides[0]), int(sides[1])
    raise InputError(f"size={size!r} must be a whole number of pixels, or two: (height, width)")


def as_seeds(seed: Any, count: int) -> tuple[int, ...]:
    """A seed for each clip: those given, or the numbers from the one given on.

    Raises
    ------
    InputError
        There are more or fewer, one is no whole number, or PyTorch does not take it.
    """
    try:
        given = range(int(seed), int(seed) + count) if isinstance(seed, Integral) else seed
        seeds = tuple(operator.index(each) for each in given)
    except TypeError:
        raise InputError(f"seed={seed!r} must be a whole number, or a list of one for each clip") from None
    if len(seeds) != count:
        raise InputError(f"seed has {len(seeds)} entries for {count} clips; give one for each, or one number")
    if min(seeds) < SEEDS[0] or max(seeds) > SEEDS[1]:
        raise InputError(f"seed={seed!r} must give each clip a number from {SEEDS[0]} to {SEEDS[1]}")
    return seeds
