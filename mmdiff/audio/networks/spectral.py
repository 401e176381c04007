"""Sub-band ConvNeXt on spectrograms: equal-width frequency bands share their weights.

Bands of linear frequency look alike (harmonics at the same spacing everywhere), so one set of weights serves
all of them; a learned bias per band and a pooled view of the whole spectrum tell a band where it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mmdiff.devices import full_precision, multiplying
from mmdiff.errors import InputError
from mmdiff.registry import register

LEVEL_CHANNELS = 128
"""Size of the vector that carries the noise level, and what else is the same everywhere."""


class SubBandBlock(nn.Module):
    """ConvNeXt block over (frames, bands) with the noise level as scale and shift.

    Parameters
    ----------
    channels, hidden : int
    bands : int
    depth : int
        Blocks in the network; each starts as 1/depth of its branch.
    level_channels : int
    kernel : tuple of int
        Frames and bands that the depthwise convolution spans.
    """

    def __init__(
        self, channels: int, hidden: int, bands: int, depth: int, level_channels: int, kernel: tuple[int, int]
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        frames, neighbours = kernel
        self.depthwise = nn.Conv2d(channels, channels, (frames, neighbours), padding=padding, groups=channels)
        self.band_bias = nn.Parameter(torch.zeros(bands, channels))
        self.modulation = nn.Linear(level_channels, 2 * channels)
        self.widen = nn.Linear(channels, hidden)
        self.narrow = nn.Linear(hidden, channels)
        self.gate = nn.Parameter(torch.full((channels,), 1.0 / depth))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        with torch.no_grad():
            self.depthwise.weight.mul_(0.5)

    def forward(self, h: Tensor, level: Tensor) -> Tensor:
        """Refine ``h`` (B, T, bands, channels) given ``level`` (B, level_channels)."""
        # Depthwise convolutions lose to float32 in bfloat16 on CPUs (measured 3x slower), so they leave autocast.
        with full_precision(h.device):
            local = self.depthwise(h.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            scale, shift = self.modulation(level)[:, None, None].chunk(2, -1)
            local = torch.addcmul(self.band_bias + shift, F.layer_norm(local, local.shape[-1:]), 1 + scale)
        # Not the approximation by tanh: on CPUs that takes four times as long, half of an evaluation.
        branch = self.narrow(F.gelu(self.widen(local)))
        return torch.addcmul(h, self.gate, branch.to(h.dtype))


def nearest_divisor(number: int, wanted: int) -> int:
    """Of the whole numbers that divide ``number``, the one next to ``wanted``, the less of two."""
    return min((n for n in range(1, number + 1) if number % n == 0), key=lambda n: abs(n - wanted))


@register
class SubBandNet(nn.Module):
    """Map features on a (frames, bins) grid to outputs on the same grid, given the noise level.

    Parameters
    ----------
    features, outputs : int
        Planes per bin in and out.
    bins : int
        Frequency bins; a multiple of ``bands``.
    bands : int
        Bands that share weights.
    overlap : int, bins
        How far a band sees into its neighbours.
    context : int >= 0
        Channels of the pooled view of the whole spectrum, given per frame; 0 for none.
    channels, expansion, depth : int
        Width, hidden width as a multiple of it, and number of blocks.
    kernel : tuple of int
        Depthwise kernel in frames and bands.
    output_scale : float
        Scale of the last layer's initial weights.

    Raises
    ------
    InputError
        ``bins`` is not a multiple of ``bands``.
    """

    def __init__(
        self,
        features: int,
        outputs: int,
        bins: int = 512,
        bands: int = 16,
        overlap: int = 8,
        context: int = 80,
        channels: int = 96,
        expansion: int = 2,
        depth: int = 8,
        kernel: tuple[int, int] = (7, 5),
        output_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if bands < 1 or bins % bands:
            raise InputError(
                f"bands={bands} must be at least 1 and divide bins={bins}; try {nearest_divisor(bins, bands)}"
            )
        self.compute_dtype: torch.dtype | None = (
            None  # bfloat16 for the matrix products, set by whoever runs it
        )
        self.bands, self.overlap, self.width, self.outputs = bands, overlap, bins // bands, outputs
        self.context = context
        self.embed_level = nn.Sequential(
            nn.Linear(64, LEVEL_CHANNELS), nn.SiLU(), nn.Linear(LEVEL_CHANNELS, LEVEL_CHANNELS), nn.SiLU()
        )
        self.reach = depth * (kernel[0] // 2) + 1
        """Frames to either side that are heard: of the depthwise convolutions, and one of the context's."""
        self.read = nn.Linear(features * (self.width + 2 * overlap), channels)
        self.read_context = nn.Conv1d(context, channels * bands, 3, padding=1) if context else None
        self.band_bias = nn.Parameter(torch.randn(bands, channels) * 0.1)
        self.blocks = nn.ModuleList(
            SubBandBlock(channels, channels * expansion, bands, depth, LEVEL_CHANNELS, kernel)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)
        self.write = nn.Linear(channels, self.width * outputs)
        with torch.no_grad():
            if self.read_context is not None:
                self.read_context.weight.mul_(0.5)
            self.write.weight.mul_(output_scale)
            self.write.bias.zero_()

    def forward(self, planes: Tensor, level: Tensor, context: Tensor, vector: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        planes : Tensor, shape (B, features, T, bins)
        level : Tensor, shape (B,), in [0, 1]
            Noise level.
        context : Tensor, shape (B, T, context), or None
            About unit variance.
        vector : Tensor, shape (B, LEVEL_CHANNELS), optional
            Added to what is made of the level.

        Returns
        -------
        Tensor, shape (B, outputs, T, bins), of the weights' dtype
        """
        dtype = self.band_bias.dtype
        tiles = F.pad(planes, (self.overlap, self.overlap))
        tiles = tiles.unfold(-1, self.width + 2 * self.overlap, self.width)
        tiles = rearrange(tiles, "b plane frame band bin -> b frame band (plane bin)")
        with multiplying(planes.device, self.compute_dtype):
            embedded = self.embed_level(_fourier(level.to(dtype))).to(dtype)
            embedded = embedded if vector is None else embedded + vector.to(dtype)
            h = self.read(tiles).to(dtype)
            if self.read_context is not None:
                assert context is not None
                pooled = self.read_context(rearrange(context, "b frame c -> b c frame")).to(dtype)
                h = h + rearrange(pooled, "b (band c) frame -> b frame band c", band=self.bands)
            h = h + self.band_bias
            for block in self.blocks:
                h = block(h, embedded)
            out = self.write(self.norm(h)).to(dtype)
        return rearrange(out, "b frame band (plane bin) -> b plane frame (band bin)", plane=self.outputs)


def deepened(deeper: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add to a model's tensors, by name, the blocks that a deeper one has beyond them, closed by gates of 0.

    The deeper model then computes what the other does, and learns from there (Bachlechner et al. 2021,
    arXiv:2003.04887, begin all blocks so).
    """
    new = {name: tensor for name, tensor in deeper.items() if ".blocks." in name and name not in tensors}
    closed = {name: torch.zeros_like(tensor) for name, tensor in new.items() if name.endswith(".gate")}
    return {**tensors, **new, **closed}


def thinned(shallower: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a model's tensors, by name, take those that one of fewer blocks begins with: blocks are evenly chosen.

    What it then computes is near enough to the model for a distillation to begin with.

    Raises
    ------
    InputError
        The one has no blocks, or more than the model.
    """
    depth, kept = (_depth(names) for names in (tensors, shallower))
    if not 1 <= kept <= depth:
        raise InputError(f"depth={kept} must be at least 1 and at most {depth}, the blocks that there are")
    places = [round(place * (depth - 1) / max(1, kept - 1)) for place in range(kept)]
    return {
        name: tensors[_BLOCK.sub(lambda found: f"blocks.{places[int(found[1])]}.", name)]
        for name in shallower
    }


_BLOCK = re.compile(r"blocks\.(\d+)\.")


def _depth(names: Iterable[str]) -> int:
    """Count the blocks that tensors of these names are of."""
    return len({found[1] for name in names if (found := _BLOCK.search(name))})


def _fourier(level: Tensor, frequencies: int = 32, highest: float = 200.0) -> Tensor:
    """Sines and cosines of π·level at geometric frequencies 1 … highest; shape (B, 2·frequencies)."""
    scale = torch.linspace(0, math.log(highest), frequencies, device=level.device).exp()
    angle = math.pi * level[:, None] * scale
    return torch.cat([angle.sin(), angle.cos()], -1)
