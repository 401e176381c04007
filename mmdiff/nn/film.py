"""Feature-wise modulation: one stream of features steers another, position by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn.convolution import conv
from mmdiff.nn.embeddings import LevelEmbedding


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return ``scale · x + shift`` in one pass; the three broadcast."""
    return torch.addcmul(shift, scale, x)


class FiLM(nn.Module):
    """Shift and scale made from a feature map and a noise level (WaveGrad, 2009.00713, figure 6).

    ``features → convolution → leaky ReLU → + code of the level → convolution → (shift, scale)``

    Parameters
    ----------
    dims : {1, 2, 3}
        Spatial dimensions.
    inputs : int > 0, even
        Channels of the features.
    outputs : int > 0
        Channels of the features to be modulated.
    level_scale : float
        Factor on the level before it is encoded; see :func:`mmdiff.nn.sinusoidal`.
    slope : float
        Slope of the leaky ReLU below zero.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, *, level_scale: float = 1.0, slope: float = 0.2
    ) -> None:
        super().__init__()
        self.slope = slope
        self.conv_in = conv(dims, inputs, inputs, 3)
        self.level = LevelEmbedding(inputs, level_scale)
        self.conv_out = conv(dims, inputs, 2 * outputs, 3)
        for layer in (self.conv_in, self.conv_out):
            nn.init.xavier_uniform_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x (B, inputs, *space)``, ``level (B,)`` to (shift, scale), each ``(B, outputs, *space)``."""
        x = functional.leaky_relu(self.conv_in(x), self.slope, inplace=True)
        shift, scale = self.conv_out(self.level(x, level)).chunk(2, dim=1)
        return shift, scale
