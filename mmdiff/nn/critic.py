"""A critic of reverse steps, for sound, pictures and clips alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.nn.convolution import conv
from mmdiff.nn.embeddings import sinusoidal
from mmdiff.nn.resample import fold

_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_SLOPE = 0.2
_CODE = 64


class StepCritic(nn.Module):
    """Judge whether x_s is what really came before x_t, or what a generator made of x_t.

    A convolutional network on x_s and x_t laid one over the other: residual blocks, each told the time, that thin out
    space and end in one score for each item. There is no normalisation, and no item sees another.

    Parameters
    ----------
    dims : {1, 2, 3}
        Spatial dimensions.
    channels : int > 0
        C, of the data.
    widths : sequence of int > 0
        Channels of the first convolution, and after each block.
    factors : sequence of int or of dims int, one for each block
        By how much a block divides each dimension, rounded up; 2 everywhere by default.
    planes : int >= 0
        Channels of what else the critic is shown beside each position, such as a spectrogram at the data's rate.
    embedding : int > 0
        Channels of the vector that carries the time.
    vector : int >= 0
        Size of what else it is told of each item, such as a caption's features; 0 for nothing.
    patch : int > 0, or dims of them
        Neighbours along each dimension that are folded into channels to begin with, which saves most of the work;
        sizes must be multiples.

    Raises
    ------
    InputError
        The numbers of widths and factors do not fit together.

    References
    ----------
    Xiao et al. 2022, arXiv:2112.07804, appendix C, whose critic has the same parts and compares items with each other
    beside them.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        widths: Sequence[int] = (32, 64, 128, 128),
        factors: Sequence[int | Sequence[int]] | None = None,
        planes: int = 0,
        embedding: int = 128,
        vector: int = 0,
        patch: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        factors = (2,) * (len(widths) - 1) if factors is None else factors
        if len(widths) < 2 or len(factors) != len(widths) - 1:
            raise InputError(
                f"widths={tuple(widths)} must be one more than factors={tuple(factors)}, and two at least: "
                "the first convolution's, then one for each block"
            )
        self.channels, self.planes = channels, planes
        self.time = nn.Sequential(
            nn.Linear(_CODE, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.tell = nn.Linear(vector, embedding) if vector else None
        self.patch = (patch,) * dims if isinstance(patch, int) else tuple(patch)
        self.read = conv(dims, (2 * channels + planes) * math.prod(self.patch), widths[0], 3)
        self.blocks = nn.ModuleList(
            CriticBlock(dims, narrow, wide, factor, embedding)
            for (narrow, wide), factor in zip(pairwise(widths), factors, strict=True)
        )
        self.score = nn.Linear(widths[-1], 1)

    def forward(
        self,
        x_s: Tensor,
        x_t: Tensor,
        t: Tensor,
        planes: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        """Score a step.

        Parameters
        ----------
        x_s, x_t : Tensor, shape (B, C, *space)
            What the step ends with, and what it begins with.
        t : Tensor, shape (B,), in [0, 1]
            Time of x_t.
        planes : Tensor, shape (B, planes, *space), optional
        vector : Tensor, shape (B, vector), optional

        Returns
        -------
        Tensor, shape (B,)
            High for data's.
        """
        assert (planes is not None) == (self.planes > 0), f"planes={self.planes}"
        assert (vector is not None) == (self.tell is not None), "vector"
        shown = (x_s, x_t) if planes is None else (x_s, x_t, planes.to(x_s))
        known = self.time(sinusoidal(t, _CODE, scale=50.0, max_period=100.0).to(self.score.weight.dtype))
        if self.tell is not None:
            known = known + self.tell(vector)
        h = self.read(fold(torch.cat(shown, 1), self.patch))
        for block in self.blocks:
            h = block(h, known)
        return self.score(functional.leaky_relu(h, _SLOPE).flatten(2).mean(2))[:, 0]


class CriticBlock(nn.Module):
    """Two convolutions between which the time scales and shifts, the mean of neighbours, and a way past them.

    Parameters
    ----------
    dims : {1, 2, 3}
    inputs, outputs : int > 0
        Channels.
    factor : int > 0, or dims of them
        Neighbours along each dimension that become one.
    embedding : int > 0
        Channels of the time's vector.
    """

    def __init__(
        self, dims: int, inputs: int, outputs: int, factor: int | Sequence[int], embedding: int
    ) -> None:
        super().__init__()
        self.pool, self.factors = _POOLS[dims], (factor,) * dims if isinstance(factor, int) else tuple(factor)
        self.first, self.second = conv(dims, inputs, outputs, 3), conv(dims, outputs, outputs, 3)
        self.past = conv(dims, inputs, outputs, 1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight, a=_SLOPE)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Map (B, inputs, *space) to (B, outputs, *ceil(space / factor)), told a vector (B, embedding)."""
        scale, shift = self.modulation(vector)[(..., *(None,) * (x.ndim - 2))].chunk(2, 1)
        h = self.first(functional.leaky_relu(x, _SLOPE)) * (1 + scale) + shift
        h = self.second(functional.leaky_relu(h, _SLOPE))
        return (self._thinned(h) + self.past(self._thinned(x))) / math.sqrt(2)

    def _thinned(self, x: Tensor) -> Tensor:
        kernel = [min(factor, size) for factor, size in zip(self.factors, x.shape[2:], strict=True)]
        return self.pool(x, kernel, ceil_mode=True)
