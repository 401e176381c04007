"""Autoencoders of sound, pictures and clips: one network for any number of dimensions, without any memory of places.

Everything in it sees a known number of neighbours, normalisation included: media of any length can be encoded and
decoded in parts, see :mod:`mmdiff.latent.stream`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.devices import multiplying
from mmdiff.diffusion.vlb import gaussian_nll
from mmdiff.errors import InputError
from mmdiff.latent.posterior import Posterior
from mmdiff.nn import conv, fold, unfold
from mmdiff.nn.norm import ChannelNorm
from mmdiff.registry import register

_LEAST, _MOST = -10.0, 3.0  # of ln(deviation), where exp stays harmless


@register
class Autoencoder(nn.Module):
    """Encoder to a normal distribution of latents, decoder of latents, and how far data lie from what is decoded.

    Each level folds cells of neighbours into channels and refines them by residual blocks of two convolutions; the
    decoder goes the same way back. Without blocks it is linear.

    Parameters
    ----------
    dims : {1, 2, 3}
        Spatial dimensions: sound, pictures, clips.
    channels : int > 0
        C, of the data.
    latents : int > 0
        Channels of the latents.
    widths : sequence of int > 0
        Channels of each level, from the finest.
    factors : sequence of int or of dims int, one for each level
        Neighbours along each dimension that the level folds into one place.
    blocks : int >= 0
        Residual blocks of a level, on either side.
    kernel : int, odd, or dims of them
        Taps of the convolutions; 1 along a dimension whose places shall not see each other.
    norm : {"l2", "l1"}
        Whether data are normal or Laplace distributed about what is decoded.
    deviation : float > 0, optional
        Their scale (standard deviation, or mean absolute deviation); default: learned.

    Attributes
    ----------
    factor : tuple of dims int
        Places of data along each dimension that a latent stands for.
    latents : int
    reach : tuple of dims int
        A latent depends on the data of so many latents to either side, and what is decoded on so many latents.
    shift, scale : Tensor, shape (latents,)
        Latents are (what the network makes - shift) / scale; see :meth:`standardise`.

    Raises
    ------
    InputError
        Widths and factors do not fit together, or a number is out of range.

    Examples
    --------
    >>> net = Autoencoder(1, 1, 8, widths=(16, 32), factors=(8, 4))
    >>> net.encode(torch.zeros(2, 1, 1000)).mean.shape  # 1000 / 32, rounded up
    torch.Size([2, 8, 32])
    >>> net.decode(torch.zeros(2, 8, 32)).shape
    torch.Size([2, 1, 1024])
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        dims: int,
        channels: int,
        latents: int,
        widths: Sequence[int] = (32, 64),
        factors: Sequence[int | Sequence[int]] = (2, 2),
        blocks: int = 1,
        kernel: int | Sequence[int] = 3,
        norm: str = "l2",
        deviation: float | None = None,
    ) -> None:
        super().__init__()
        taps = _for_each(dims, kernel)
        self.steps = tuple(_for_each(dims, factor) for factor in factors)
        _check(dims, widths, self.steps, taps, norm, deviation)
        if min(channels, latents, *widths) < 1 or blocks < 0:
            raise InputError(
                f"channels={channels}, latents={latents} and widths={tuple(widths)} must be at least 1, and "
                f"blocks={blocks} 0"
            )
        self.compute_dtype: torch.dtype | None = None  # half precision, set by whoever runs it
        self.dims, self.channels, self.latents, self.norm = dims, channels, latents, norm
        self.factor = tuple(math.prod(each) for each in zip(*self.steps, strict=True))
        self.reach = _reach(self.steps, taps, blocks)
        cells = [math.prod(step) for step in self.steps]

        def refine(width: int) -> nn.Sequential:
            return nn.Sequential(*(ResidualBlock(dims, width, taps) for _ in range(blocks)))

        self.read = conv(dims, channels * cells[0], widths[0], taps)
        self.fine = nn.ModuleList(map(refine, widths))
        self.shrink = nn.ModuleList(
            conv(dims, narrow * cell, wide, 1)
            for (narrow, wide), cell in zip(pairwise(widths), cells[1:], strict=True)
        )
        self.code = conv(dims, widths[-1], 2 * latents, taps)
        self.decode_in = conv(dims, latents, widths[-1], taps)
        self.coarse = nn.ModuleList(map(refine, widths))
        self.grow = nn.ModuleList(
            conv(dims, wide, narrow * cell, 1)
            for (narrow, wide), cell in zip(pairwise(widths), cells[1:], strict=True)
        )
        self.write = conv(dims, widths[0], channels * cells[0], taps)
        self.log_deviation = nn.Parameter(
            torch.tensor(math.log(deviation or 1.0)), requires_grad=deviation is None
        )
        self.register_buffer("shift", torch.zeros(latents))
        self.register_buffer("scale", torch.ones(latents))

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode data (B, C, *space) by the means of their latents."""
        return crop(self.decode(self.encode(x).mean), x.shape[2:])

    def encode(self, x: Tensor) -> Posterior:
        """Distribution of latents.

        Parameters
        ----------
        x : Tensor, shape (B, C, *space)
            Of sizes that are no multiples of ``factor`` the last values are repeated.

        Returns
        -------
        Posterior
            Of shape (B, latents, *ceil(space / factor)).

        Raises
        ------
        InputError
            x has another number of dimensions or channels, or is empty.
        """
        if x.ndim != self.dims + 2 or x.shape[1] != self.channels or not x.numel():
            space = ", ".join(("space",) * self.dims)
            raise InputError(f"x.shape={tuple(x.shape)} must be (B, {self.channels}, {space}), and not empty")
        with multiplying(x.device, self.compute_dtype):
            h = self.read(fold(self._filled(x), self.steps[0]))
            for level, blocks in enumerate(self.fine):
                if level:
                    h = self.shrink[level - 1](fold(h, self.steps[level]))
                h = blocks(h)
            code = self.code(h)
        mean, log_std = code.to(torch.promote_types(code.dtype, torch.float32)).chunk(2, 1)
        shift, scale = (self._along(each) for each in (self.shift, self.scale))
        log_std = log_std.clamp(_LEAST, _MOST)
        return Posterior((mean - shift) / scale, log_std - scale.log())

    def decode(self, z: Tensor) -> Tensor:
        """Map latents (B, latents, *space) to data (B, C, *(space · factor)).

        Raises
        ------
        InputError
            z has another number of dimensions or channels.
        """
        if z.ndim != self.dims + 2 or z.shape[1] != self.latents:
            raise InputError(
                f"z.shape={tuple(z.shape)} must have {self.latents} channels and {self.dims} dimensions"
            )
        with multiplying(z.device, self.compute_dtype):
            h = self.decode_in(z * self._along(self.scale) + self._along(self.shift))
            for level in reversed(range(len(self.coarse))):
                h = self.coarse[level](h)
                if level:
                    h = unfold(self.grow[level - 1](h), self.steps[level])
            cells = self.write(h)
        return unfold(cells.to(torch.promote_types(cells.dtype, torch.float32)), self.steps[0])

    def nll(self, x: Tensor, decoded: Tensor) -> Tensor:
        """-log p(x | z) of data (B, C, *space), given what z decodes to, in nats: (B,)."""
        log_scale = self.log_deviation.to(torch.promote_types(x.dtype, torch.float32))
        if self.norm == "l2":
            elements = gaussian_nll(x, decoded, (2 * log_scale).exp())
        else:
            elements = (x - decoded).abs() * (-log_scale).exp() + log_scale + math.log(2)
        return elements.flatten(1).sum(1)

    @torch.no_grad()
    def standardise(self, data: Iterable[Tensor]) -> None:
        """Set ``shift`` and ``scale`` so that latents drawn for these data have mean 0 and variance 1, by channel.

        Parameters
        ----------
        data : iterable of Tensor, shape (B, C, *space)
            Batches of what the autoencoder was trained on.

        Raises
        ------
        InputError
            There are no data, or latents that are not finite.
        """
        count, sums = 0, torch.zeros(2, self.latents, dtype=torch.float64, device=self.shift.device)
        for x in data:
            q = self.encode(x)
            mean, std = (each.double().movedim(1, 0).flatten(1) for each in (q.mean, q.std))
            sums += torch.stack((mean.sum(1), (mean.square() + std.square()).sum(1)))
            count += mean.shape[1]
        mean, power = sums / max(1, count)
        deviation = (power - mean.square()).clamp_min(1e-12).sqrt()
        if not count or not torch.isfinite(deviation).all():
            raise InputError(f"data must give finite latents, but {count} places did not: train longer")
        self.shift += self.scale * mean.to(self.shift)
        self.scale *= deviation.to(self.scale)

    def _filled(self, x: Tensor) -> Tensor:
        missing = [-size % factor for size, factor in zip(x.shape[2:], self.factor, strict=True)]
        if not any(missing):
            return x
        return functional.pad(x, [n for size in reversed(missing) for n in (0, size)], mode="replicate")

    def _along(self, values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * self.dims)


class ResidualBlock(nn.Module):
    """Two convolutions, each after normalisation over channels and SiLU, added to their input; starts as nothing.

    Parameters
    ----------
    dims : {1, 2, 3}
    channels : int > 0
    kernel : sequence of dims int
    """

    def __init__(self, dims: int, channels: int, kernel: Sequence[int]) -> None:
        super().__init__()
        self.norm_in, self.norm_out = ChannelNorm(channels), ChannelNorm(channels)
        self.conv_in, self.conv_out = (conv(dims, channels, channels, kernel) for _ in range(2))
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Refine x (B, channels, *space)."""
        h = self.conv_in(functional.silu(self.norm_in(x)))
        return x + self.conv_out(functional.silu(self.norm_out(h)))


def crop(x: Tensor, space: Sequence[int]) -> Tensor:
    """First values of x (B, C, *larger) along each dimension: (B, C, *space)."""
    for dim, size in enumerate(space, 2):
        x = x.narrow(dim, 0, size)
    return x


def _for_each(dims: int, value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def _reach(steps: Sequence[Sequence[int]], taps: Sequence[int], blocks: int) -> tuple[int, ...]:
    """Latents to either side that a latent depends on, or that a decoded cell does: the same for both ways."""
    reach = []
    for axis, n in enumerate(taps):
        seen = 0
        for level, step in enumerate(steps):
            layers = 2 * blocks + (level == 0) + (level == len(steps) - 1)
            seen = -(-seen // step[axis]) + layers * (n // 2)
        reach.append(seen)
    return tuple(reach)


def _check(
    dims: int,
    widths: Sequence[int],
    steps: Sequence[Sequence[int]],
    taps: Sequence[int],
    norm: str,
    deviation: float | None,
) -> None:
    if dims not in (1, 2, 3) or norm not in ("l1", "l2"):
        raise InputError(f"dims={dims} must be 1, 2 or 3, and norm={norm!r} l1 or l2")
    if not widths or len(widths) != len(steps):
        raise InputError(
            f"widths={tuple(widths)} and factors={tuple(steps)} must have an entry for each level, as many of both"
        )
    whole = all(len(each) == dims and min(each) > 0 for each in (*steps, taps))
    if not whole or any(n % 2 == 0 for n in taps):
        raise InputError(
            f"factors={tuple(steps)} must have {dims} positive numbers each, and kernel={tuple(taps)} odd ones"
        )
    if deviation is not None and not 0 < deviation < math.inf:
        raise InputError(f"deviation={deviation} must be positive, or None to be learned")
