"""Measurements made of measurements: a part of one, and several at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mmdiff.diffusion.measurement import Measurement, broadcast_mask
from mmdiff.errors import InputError


def part(measurement: Measurement, mask: Tensor) -> Measurement:
    """Keep a part of what was measured: some frames of a low-resolution clip, say.

    Parameters
    ----------
    measurement : Measurement
    mask : Tensor, bool or 0/1, broadcastable to the measurement's y
        Where y is known; what lies outside does not matter, NaN included.

    Raises
    ------
    InputError
        The mask does not broadcast to y, or holds other values than 0 and 1.

    Examples
    --------
    >>> from mmdiff.diffusion.measurement import block_mean
    >>> small = torch.zeros(1, 3, 16, 8, 8)
    >>> every_other = torch.arange(16).reshape(1, 1, -1, 1, 1) % 2 == 0
    >>> part(block_mean(small, (4, 4)), every_other).forward(torch.zeros(1, 3, 16, 32, 32)).shape
    torch.Size([1, 3, 16, 8, 8])
    """
    kept = broadcast_mask(mask, measurement.y)
    if not ((kept == 0) | (kept == 1)).all():
        raise InputError("mask must hold only 0 and 1 here; soft masks are for observed")

    def forward(x: Tensor) -> Tensor:
        seen = measurement.forward(x)
        return seen * mask.to(seen)

    def adjoint(v: Tensor) -> Tensor:
        return measurement.adjoint(v * mask.to(v))

    y = torch.where(kept > 0, measurement.y, 0.0)
    # gram may not hold for a part of A; where it does, the iteration is over after one step.
    return replace(measurement, y=y, forward=forward, adjoint=adjoint, gram=None)


def together(measurements: Sequence[Measurement], example: Tensor, *, iterations: int = 50) -> Measurement:
    """Several measurements of the same x0 as one: key frames of full size in a low-resolution clip, say.

    Its y is that of all, in rows of numbers (B, N), each divided by its noise where they differ in noise.

    Parameters
    ----------
    measurements : sequence of Measurement
        They must agree where they measure the same without noise: leave it out of one with
        :func:`part`. Either all or none have noise; without ``trust``.
    example : Tensor, shape (any, C, *space)
        Tells the shape of one item of x0.
    iterations : int > 0, default 50

    Raises
    ------
    InputError
        There is none, one has ``trust``, or only some have noise.
    """
    stds = [m.noise_std for m in measurements]
    if not stds or any(m.trust is not None for m in measurements):
        raise InputError(f"measurements={len(stds)} must be at least one, none of them with a soft mask")
    if min(stds) == 0 < max(stds):
        raise InputError(
            f"noise_std={stds} of measurements taken together must all be 0 or all above; try 1e-3"
        )
    scales = [1 / std if min(stds) < max(stds) else 1.0 for std in stds]
    shapes = [m.forward(torch.zeros_like(example[:1])).shape[1:] for m in measurements]
    batch = max(len(m.y) for m in measurements)

    def rows(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([scale * v.flatten(1) for scale, v in zip(scales, parts, strict=True)], 1)

    def adjoint(v: Tensor) -> Tensor:
        parts = v.split([shape.numel() for shape in shapes], 1)
        back = zip(measurements, scales, parts, shapes, strict=True)
        return torch.stack([m.adjoint(k * u.unflatten(1, shape)) for m, k, u, shape in back]).sum(0)

    y = rows([m.y.expand(batch, *m.y.shape[1:]) for m in measurements])
    return Measurement(
        y, lambda x: rows([m.forward(x) for m in measurements]), adjoint,
        noise_std=1.0 if min(stds) < max(stds) else stds[0], iterations=iterations,
    )  # fmt: skip
