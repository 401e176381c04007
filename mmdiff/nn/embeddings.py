"""Noise levels as vectors that a network can read."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal(values: Tensor, channels: int, *, scale: float = 1.0, max_period: float = 1e4) -> Tensor:
    """Encode numbers as sines, then cosines, at geometrically spaced frequencies.

    Column i < channels/2 is ``sin(scale · value · max_period^(−i/(channels/2)))``, and the second half
    holds the cosines (Vaswani et al. 1706.03762, section 3.5, with the two kinds side by side).

    Parameters
    ----------
    values : Tensor, shape (B,)
        Numbers to encode. Half precision is raised to float32: a scaled level needs the digits.
    channels : int > 0, even
        Size of the code.
    scale : float
        Factor on the values: 5000 in WaveGrad (2009.00713), whose levels lie in [0, 1].
    max_period : float > 1
        Ratio of the longest period to the shortest.

    Returns
    -------
    Tensor, shape (B, channels)
        Values in [-1, 1]; float32, or float64 where the input is.

    Examples
    --------
    >>> sinusoidal(torch.tensor([0.0]), 4)
    tensor([[0., 0., 1., 1.]])
    """
    assert channels % 2 == 0, f"channels={channels} must be even"
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    half = channels // 2
    steps = torch.arange(half, dtype=values.dtype, device=values.device) / half
    angles = (scale * values)[:, None] * torch.exp(-math.log(max_period) * steps)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


class LevelEmbedding(nn.Module):
    """Add the sinusoidal code of the noise level to every position of a feature map.

    Parameters
    ----------
    channels : int > 0, even
        Channels of the feature map, and size of the code.
    scale : float
        Factor on the level before it is encoded; see :func:`sinusoidal`.
    """

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        assert channels % 2 == 0, f"channels={channels} must be even"
        self.channels = channels
        self.scale = scale

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return ``x (B, channels, *space)`` plus the code of ``level (B,)``, in x's dtype."""
        code = sinusoidal(level, self.channels, scale=self.scale).to(x.dtype)
        return x + code.reshape(code.shape + (1,) * (x.ndim - 2))
