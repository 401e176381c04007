"""Knowing that data lie above or below a level, as where a recording was clipped."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmdiff.diffusion.conditions import per_item
from mmdiff.diffusion.measurement import Measurement, broadcast_mask
from mmdiff.errors import InputError

_FAR = -1e4  # standard deviations below its bound at which an element is moved to the bound itself


@dataclass(frozen=True)
class Bounds(Measurement):
    """Elements of x0 that are known, and others of which a lower or an upper bound is; made by :func:`bounded`.

    Attributes
    ----------
    side : Tensor, shape of y
        0 where y is known, 1 where x0 >= y, -1 where x0 <= y, nan where nothing is known.

    Notes
    -----
    Replacement takes the nearest x0 within the bounds. Reconstruction guidance needs the gradient of log p(bound |
    x_t). With x0 given x_t normal about m = E[x0 | x_t] with variance r^2, as for equalities, and d = side (m - y) / r,

        p(side (x0 - y) >= 0 | x_t) = Phi(d),    its gradient by m is  side lambda / r,  lambda = phi(d) / Phi(d),

    so that m + side r lambda is the mean of the normal distribution cut at y: for independent normal data guidance of
    weight 1 is exact. A number of that pull exists: y' = m + side r / (lambda + d), believed with noise of variance
    r^2 (1 / delta - 1), delta = lambda (lambda + d), leaves a normal distribution the mean and the variance of the cut
    one (moment matching). At d << 0 that is y without noise, at d >> 0 nothing; and the guidance need know of numbers
    only.

    References
    ----------
    Minka (2001), "Expectation propagation for approximate Bayesian inference", section 3 (moment matching),
    https://arxiv.org/abs/1301.2294
    """

    side: Tensor = field(default_factory=lambda: torch.empty(0))

    def residual(self, x0: Tensor) -> Tensor:
        """Return how far x0 is from the nearest that keeps to what is known; 0 where it does."""
        missing = super().residual(x0)
        side = self.side.to(missing)
        keeps = (side * missing < 0) | side.isnan()
        return torch.where(keeps, 0.0, missing)

    def believed(
        self, x0: Tensor, variance: Tensor | float, data_std: float = 1.0
    ) -> tuple[Tensor, Tensor | float]:
        """Return y' - x0 and the variance of its noise; see the class."""
        missing = super().residual(x0).double()
        side = self.side.to(missing)
        r = per_item(torch.as_tensor(variance, dtype=missing.dtype, device=missing.device).sqrt(), missing)
        d = -side * missing / r
        ratio = math.sqrt(2 / math.pi) / torch.special.erfcx(-d.clamp_min(_FAR) / math.sqrt(2))
        delta = (ratio * (ratio + d.clamp_min(_FAR))).clamp(1e-30, 1.0)
        clipped = side.abs() == 1
        near = clipped & (d > _FAR)
        pull = torch.where(near, side * r * ratio / delta, torch.where(side.isnan(), 0.0, missing))
        noise = torch.where(near, r**2 * (1 / delta - 1), 0.0)
        return pull.to(x0), (noise + self.noise_std**2).to(x0)


def bounded(y: Tensor, known: Tensor, above: Tensor, below: Tensor, *, noise_std: float = 0.0) -> Bounds:
    """Elements that are known, and others that are at least, or at most, a level: clipped recordings.

    Parameters
    ----------
    y : Tensor, shape (B or 1, C, *space)
        Known values, and levels.
    known, above, below : Tensor of bool, broadcastable to y
        Where x0 = y, where x0 >= y, and where x0 <= y; no two at one place.
    noise_std : float >= 0, default 0
        Standard deviation of the noise in known values.

    Raises
    ------
    InputError
        A mask does not broadcast to y, or two hold at one place.

    Examples
    --------
    >>> y = torch.tensor([[[0.2, 0.5, -0.5]]])
    >>> clipped = bounded(y, y.abs() < 0.5, y >= 0.5, y <= -0.5)
    >>> clipped.project(torch.tensor([[[0.0, 0.7, 0.7]]]))
    tensor([[[ 0.2000,  0.7000, -0.5000]]])
    """
    masks = [broadcast_mask(mask, y).bool() for mask in (known, above, below)]
    if (torch.stack(masks).sum(0) > 1).any():
        raise InputError("known, above and below must not hold at one place; leave it out of two of them")
    side = torch.full_like(y, torch.nan)
    for mask, value in zip(masks, (0.0, 1.0, -1.0), strict=True):
        side = torch.where(mask, value, side)
    told = ~side.isnan()

    def select(x: Tensor) -> Tensor:
        return x * told.to(x)

    return Bounds(torch.where(told, y, 0.0), select, select, gram=1.0, noise_std=noise_std, side=side)
