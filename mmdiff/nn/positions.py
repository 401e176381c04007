"""Relative positions for attention: rotated queries and keys, and a learned bias for each distance."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rotary_frequencies(channels: int, max_period: float = 1e4) -> Tensor:
    """Angles per position for :func:`rotary_turns`: ``max_period^(−2i/channels)``, i < channels/2.

    Parameters
    ----------
    channels : int > 0, even
        Channels of a head that are rotated.
    max_period : float > 1
        Ratio of the slowest rotation's period to the fastest's, nearly.

    Returns
    -------
    Tensor, shape (channels / 2,), float32, radians

    References
    ----------
    Su et al. (2021), "RoFormer: enhanced transformer with rotary position embedding", section 3.2,
    https://arxiv.org/abs/2104.09864
    """
    assert channels % 2 == 0, f"channels={channels} must be even: they are rotated in pairs"
    return max_period ** -(torch.arange(0, channels, 2, dtype=torch.float32) / channels)


def rotary_turns(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Return exp(i · position · frequency), complex of shape (L, R): what :func:`rotate` multiplies by."""
    angles = positions[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor, out: Tensor | None = None) -> Tensor:
    """Rotate neighbouring channels, as complex numbers, by angles that grow with the position.

    The product of a rotated query and a rotated key depends on the difference of their positions only.
    The conjugate of ``turns`` rotates back, and is what the gradient is rotated by.

    Parameters
    ----------
    x : Tensor, shape (..., L, C)
        Queries or keys; of the C >= 2R channels the first 2R are rotated, the others left as they are.
    turns : Tensor of complex, shape (L, R)
        Unit numbers, one for each position and pair of channels, of :func:`rotary_turns`.
    out : Tensor, shape (..., L, C), optional
        Where to write, other than x; only without gradients.

    Returns
    -------
    Tensor, shape (..., L, C)
        Of x's dtype, whatever that of ``turns``.

    Examples
    --------
    >>> rotate(torch.tensor([[1.0, 0.0]]), rotary_turns(torch.tensor([torch.pi / 2]), torch.ones(1))).round().abs()
    tensor([[0., 1.]])
    """
    count, real = 2 * turns.shape[-1], torch.promote_types(x.dtype, turns.real.dtype)
    x = x if x.stride(-1) == 1 else x.contiguous()
    pairs = torch.view_as_complex(x[..., :count].to(real).unflatten(-1, (-1, 2)))
    if out is None:
        turned = torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)
        return torch.cat((turned, x[..., count:]), -1) if count < x.shape[-1] else turned
    if out.dtype == real:
        torch.mul(pairs, turns, out=torch.view_as_complex(out[..., :count].unflatten(-1, (-1, 2))))
    else:
        out[..., :count] = torch.view_as_real(pairs * turns).flatten(-2)
    out[..., count:] = x[..., count:]
    return out


def relative_buckets(distance: Tensor, buckets: int = 32, max_distance: int = 128) -> Tensor:
    """Sort signed distances into buckets: one for each short one, wider ones for longer ones.

    Half of the buckets are for distances above zero; half of each half are exact, and the others' borders
    grow geometrically up to ``max_distance``, beyond which all share the last one.

    Parameters
    ----------
    distance : Tensor of integers
        Position of the key minus that of the query.
    buckets : int, a multiple of 4
        Number of buckets.
    max_distance : int > buckets / 4

    Returns
    -------
    Tensor of int64, shape of ``distance``, in [0, buckets)

    References
    ----------
    Raffel et al. (2020), "Exploring the limits of transfer learning with a unified text-to-text
    transformer", section 2.1, https://arxiv.org/abs/1910.10683

    Examples
    --------
    >>> relative_buckets(torch.tensor([-200, -8, -1, 0, 1, 8, 200]))
    tensor([15,  8,  1,  0, 17, 24, 31])
    """
    assert buckets % 4 == 0, f"buckets={buckets} must be a multiple of 4"
    side, exact = buckets // 2, buckets // 4
    assert max_distance > exact, f"max_distance={max_distance} must exceed buckets / 4 = {exact}"
    ratio = max_distance / exact
    # The slack keeps a border that is a whole number from being missed by rounding.
    borders = [exact * ratio ** (n / (side - exact)) - 1e-6 for n in range(1, side - exact)]
    size = distance.abs()
    wide = exact + torch.bucketize(size.double(), torch.tensor(borders, dtype=torch.float64).to(size.device))
    return torch.where(size < exact, size, wide) + side * (distance > 0)


class RelativeBias(nn.Module):
    """One learned number for each bucket of distances and each head, to be added to attention logits.

    Parameters
    ----------
    heads : int > 0
    buckets : int, a multiple of 4
    max_distance : int > buckets / 4
        See :func:`relative_buckets`.
    """

    def __init__(self, heads: int, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.max_distance = max_distance
        self.weight = nn.Parameter(torch.randn(buckets, heads))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the bias, shape (heads, F, F), query by key, for integer ``positions (F,)``."""
        distance = positions[None, :] - positions[:, None]
        bucket = relative_buckets(distance, self.weight.shape[0], self.max_distance)
        return self.weight[bucket].permute(2, 0, 1)
