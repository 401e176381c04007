"""Data that are whole numbers, as 8-bit pictures and 16-bit sound: their steps, and how they are made continuous."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.solver_tools import Generators
from mmdiff.errors import InputError


@dataclass(frozen=True)
class Quantisation:
    """Which values data can take, in the units of what is diffused.

    A probability P(x) of such data is bounded by a density p of continuous ones: with u uniform in the bin of x,
    log P(x) >= E log p(x + u) + D log(step), for D elements (Theis et al. 2016, arXiv:1511.01844, section 3.1).
    Being a probability of the same whole numbers, it does not depend on the units of what is diffused.

    Parameters
    ----------
    step : float > 0
        Distance of neighbouring values.
    lowest, highest : float
        The outermost values.

    Raises
    ------
    InputError
        The numbers make no range of values.

    Examples
    --------
    >>> Quantisation.of_pictures().scaled(-0.9, 0.37).step  # of (pixel + 0.9) / 0.37, pixels in [-1, 1]
    0.021197668256491786
    """

    step: float
    lowest: float = -1.0
    highest: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.step < math.inf and self.lowest < self.highest):
            raise InputError(
                f"step={self.step}, lowest={self.lowest}, highest={self.highest} must satisfy 0 < step and "
                f"lowest < highest; 8-bit pictures in [-1, 1] have step=2/255"
            )

    @classmethod
    def of_pictures(cls) -> Quantisation:
        """8 bits, 0 to 255 as -1 to 1."""
        return cls(2 / 255)

    @classmethod
    def of_sound(cls) -> Quantisation:
        """16 bits, n / 32768 for n from -32768 to 32767."""
        return cls(2.0**-15, -1.0, 1.0 - 2.0**-15)

    def scaled(self, mean: float, std: float) -> Quantisation:
        """The same of (x - mean) / std."""
        return Quantisation(self.step / std, (self.lowest - mean) / std, (self.highest - mean) / std)

    @property
    def ends(self) -> tuple[float, float]:
        """The outermost values."""
        return self.lowest, self.highest

    def dequantise(self, x: Tensor, generator: Generators = None) -> Tensor:
        """Put each element somewhere in its bin.

        Parameters
        ----------
        x : Tensor, shape (B, ...), float32 or float64
            Quantised values.
        generator : torch.Generator or list of B of them, optional

        Returns
        -------
        Tensor, shape of x
            x + u with u uniform in (-step/2, step/2).
        """
        kind: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        if generator is None or isinstance(generator, torch.Generator):
            u = torch.rand(x.shape, generator=generator, **kind)
        elif callable(generator):
            raise InputError(
                "generator must be one or several torch.Generator: a callable draws normal noise"
            )
        elif len(generator) != len(x):
            raise InputError(f"generator={len(generator)} generators must be one per item, here {len(x)}")
        else:
            u = torch.stack([torch.rand(x.shape[1:], generator=g, **kind) for g in generator])
        return x + self.step * (u - 0.5)
