"""Filling in what was measured: continuation, inpainting, super-resolution, bandwidth extension.

All are one problem: a linear measurement y = A x0 + noise is known, and the rest is to be generated. A
:class:`Measurement` says what A is; :mod:`mmdiff.diffusion.reconstruction` wraps a denoiser so that any
sampler's result agrees with y.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.guidance import gradients_on, usable
from mmdiff.diffusion.linear_solve import Operator, column
from mmdiff.diffusion.linear_solve import conjugate_gradients as conjugate_gradients
from mmdiff.errors import InputError


@dataclass(frozen=True)
class Measurement:
    """What is known of x0: y = A x0 + noise_std n, with n standard normal.

    Make one with :func:`observed`, :func:`block_mean`, :func:`low_pass` or :func:`linear`; of those make others
    with :mod:`mmdiff.diffusion.measurement_combine`.

    Parameters
    ----------
    y : Tensor, shape (B or 1, ...)
        The measurement.
    forward : callable
        A: (B, C, *space) to y's space; linear.
    adjoint : callable
        A^T: y's space to (B, C, *space).
    gram : float, optional
        c where A A^T y = c y for all y that A can produce. None when there is no such number: A A^T is
        then inverted by conjugate gradients.
    noise_std : float >= 0, default 0
    iterations : int > 0, default 50
        At most so many steps of conjugate gradients.
    trust : Tensor in [0, 1], optional
        How far each element of y is believed, broadcastable to y; only where A picks out elements of x0, as
        :func:`observed` does. Of two equally plausible values, that of y and another, w times the one and
        1 - w times the other is kept: y counts as having (1 - w) / w of the data's variance as noise.
    """

    y: Tensor
    forward: Operator
    adjoint: Operator
    gram: float | None = None
    noise_std: float = 0.0
    iterations: int = 50
    trust: Tensor | None = None

    def __post_init__(self) -> None:
        if not (self.noise_std >= 0 and math.isfinite(self.noise_std)):
            raise InputError(f"noise_std={self.noise_std} must be at least 0; 0 trusts the measurement fully")
        if self.iterations < 1:
            raise InputError(f"iterations={self.iterations} must be at least 1; 50 is usual")

    def residual(self, x0: Tensor) -> Tensor:
        """Return y - A x0.

        Raises
        ------
        InputError
            The shapes of y and A x0 do not fit.
        """
        if len(self.y) not in (1, len(x0)):
            raise InputError(
                f"y.shape={tuple(self.y.shape)} must have a batch of 1 or of {len(x0)}, that of the sample; "
                f"repeat it to measure each item of a larger batch"
            )
        seen = self.forward(x0)
        if self.y.shape[1:] != seen.shape[1:]:
            raise InputError(
                f"y.shape={tuple(self.y.shape)} must be that of the operator's result, {tuple(seen.shape)} "
                f"for a sample of shape {tuple(x0.shape)}, but for the batch"
            )
        return self.y.to(seen) - seen

    def solve(self, residual: Tensor, variance: Tensor | float, noise: Tensor | float) -> Tensor:
        """Return (variance A A^T + noise I)^-1 residual.

        Parameters
        ----------
        residual : Tensor, shape (B, ...)
            Lies in the range of A where ``noise`` is 0.
        variance, noise : Tensor or float >= 0
            Numbers, or shape (B,); not both 0. The noise may also have a value for each element of y where A
            picks out elements of x0.
        """
        variance, noise = column(variance, residual), column(noise, residual)
        if self.gram is not None:
            return residual / (variance * self.gram + noise)

        def system(v: Tensor) -> Tensor:
            return variance * self.forward(self.adjoint(v)) + noise * v

        return conjugate_gradients(system, residual, self.iterations)

    def pinv(self, residual: Tensor) -> Tensor:
        """Return A^+ residual = A^T (A A^T)^-1 residual: the smallest x0 measured as this."""
        return self.adjoint(self.solve(residual, 1.0, 0.0))

    def project(self, x0: Tensor) -> Tensor:
        """Return the nearest x0 that is measured as y: x0 + A^+ (y - A x0), so far as y is trusted."""
        residual = self.residual(x0)
        return x0 + self.pinv(residual if self.trust is None else self.trust.to(residual) * residual)

    def noise_variance(self, data_std: float = 1.0) -> Tensor | float:
        """Variance of the noise in y, that of doubt included: a number, or a tensor that broadcasts to y."""
        noise = self.noise_std**2
        if self.trust is None:
            return noise
        # Where there is no trust nothing is measured, and any finite number will do.
        trust = self.trust[(None,) * (self.y.ndim - self.trust.ndim)]
        return noise + data_std**2 * torch.where(trust > 0, 1 / trust.clamp_min(1e-6) - 1, 0.0)

    def believed(
        self, x0: Tensor, variance: Tensor | float, data_std: float = 1.0
    ) -> tuple[Tensor, Tensor | float]:
        """Return y - A x0 and the variance of the noise in y, where x0 is the mean of what is still uncertain.

        Measurements that say less than a number (:mod:`mmdiff.diffusion.bounds`) say here what a number would say
        to a normal distribution of this mean and ``variance``, a number or shape (B,).
        """
        return self.residual(x0), self.noise_variance(data_std)


def observed(y: Tensor, mask: Tensor, *, noise_std: float = 0.0) -> Measurement:
    """Elements of x0 that are known: continuation, gap filling, interpolation, in- and outpainting.

    Parameters
    ----------
    y : Tensor, shape (B or 1, C, *space)
        Known data; what lies outside the mask does not matter.
    mask : Tensor, bool or in [0, 1], broadcastable to y
        Where y is known. Values in between are how far to trust it (see :class:`Measurement`): a mask with
        soft edges joins what is known and what is generated without a seam.
    noise_std : float >= 0, default 0
        Standard deviation of the noise in y.

    Raises
    ------
    InputError
        The mask does not broadcast to y, or holds values outside [0, 1].

    Examples
    --------
    >>> clip = torch.zeros(1, 3, 16, 8, 8)
    >>> known = torch.arange(16).reshape(1, 1, -1, 1, 1) < 4  # continue from the first four frames
    >>> observed(clip, known).gram
    1.0
    """
    kept = broadcast_mask(mask, y)
    if not ((kept >= 0) & (kept <= 1)).all():
        raise InputError("mask must hold values in [0, 1]; divide a mask of bytes by 255")
    hard = bool(((kept == 0) | (kept == 1)).all())

    def select(x: Tensor) -> Tensor:
        return x * (mask > 0).to(x)

    # where, not a product: the unknown part of y may be NaN.
    return Measurement(
        torch.where(kept > 0, y, 0.0),
        select,
        select,
        gram=1.0,
        noise_std=noise_std,
        trust=None if hard else mask,
    )


def broadcast_mask(mask: Tensor, y: Tensor) -> Tensor:
    """Return the mask in y's shape, or raise InputError where it does not fit."""
    try:
        return mask.expand_as(y)
    except RuntimeError:
        raise InputError(
            f"mask.shape={tuple(mask.shape)} must broadcast to y.shape={tuple(y.shape)}; "
            f"a mask of frames has shape (B, 1, frames, 1, 1)"
        ) from None


def block_mean(y: Tensor, factor: tuple[int, ...], *, noise_std: float = 0.0) -> Measurement:
    """Means over blocks of x0's last dimensions: super-resolution in space or time.

    Parameters
    ----------
    y : Tensor, shape (B or 1, C, *small)
    factor : tuple of int > 0
        Block size along each of the last dimensions: (2, 2) doubles height and width, (4, 1, 1) the frame
        rate of (B, C, frames, height, width) fourfold.
    noise_std : float >= 0, default 0

    Raises
    ------
    InputError
        factor has a non-positive entry, or more entries than y has dimensions after the first two.
    """
    if not factor or min(factor) < 1 or len(factor) > y.ndim - 2:
        raise InputError(
            f"factor={factor} must hold 1 to {y.ndim - 2} positive block sizes for y.shape={tuple(y.shape)}"
        )
    size = math.prod(factor)

    def shrink(x: Tensor) -> Tensor:
        for place, count in enumerate(factor, start=x.ndim - len(factor)):
            if x.shape[place] % count:
                raise InputError(
                    f"x.shape={tuple(x.shape)} must be divisible by factor={factor}; pad or crop"
                )
            x = x.unflatten(place, (-1, count)).mean(place + 1)
        return x

    def spread(small: Tensor) -> Tensor:
        for place, count in enumerate(factor, start=small.ndim - len(factor)):
            small = small.repeat_interleave(count, dim=place)
        return small / size

    return Measurement(y, shrink, spread, gram=1 / size, noise_std=noise_std)


def low_pass(y: Tensor, cutoff: float, *, noise_std: float = 0.0) -> Measurement:
    """Keep the low frequencies of x0's last dimension: bandwidth extension.

    Parameters
    ----------
    y : Tensor, shape (B or 1, C, ..., samples)
        A signal of x0's length and rate; its content above the cutoff does not matter.
    cutoff : float in (0, 1]
        Highest known frequency, as a share of half the sampling rate.
    noise_std : float >= 0, default 0
    """
    if not 0 < cutoff <= 1:
        raise InputError(f"cutoff={cutoff} must be in (0, 1], a share of half the sampling rate")

    def keep_low(x: Tensor) -> Tensor:
        samples = x.shape[-1]
        spectrum = torch.fft.rfft(x)
        kept = torch.arange(spectrum.shape[-1], device=x.device) <= cutoff * samples / 2
        return torch.fft.irfft(spectrum * kept, n=samples)

    # An orthogonal projection: its own adjoint and its own pseudo-inverse.
    return Measurement(keep_low(y), keep_low, keep_low, gram=1.0, noise_std=noise_std)


def linear(
    y: Tensor,
    function: Operator,
    example: Tensor,
    *,
    gram: float | None = None,
    noise_std: float = 0.0,
    iterations: int = 50,
) -> Measurement:
    """Any linear, differentiable function of x0; its adjoint comes from autograd.

    Parameters
    ----------
    y : Tensor, shape (B or 1, ...)
    function : callable
        Linear, item by item: (B, C, *space) to (B, ...).
    example : Tensor, shape (any, C, *space)
        Tells the shape of one item of x0.
    gram, noise_std, iterations
        As for :class:`Measurement`.

    Raises
    ------
    InputError
        The function does not map zero to zero, so it is not linear.
    """
    if function(torch.zeros_like(example[:1])).abs().max() > 0:
        raise InputError("function must be linear, but maps zero elsewhere; subtract that from it and y")

    def adjoint(v: Tensor) -> Tensor:
        with gradients_on():
            real = v.real.dtype if v.is_complex() else v.dtype
            start = torch.zeros(len(v), *example.shape[1:], dtype=real, device=v.device, requires_grad=True)
            return torch.autograd.grad(function(start), start, usable(v))[0]

    return Measurement(y, function, adjoint, gram, noise_std, iterations)
