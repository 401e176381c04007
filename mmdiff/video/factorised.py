"""The factorised space-time U-Net of Video Diffusion Models, as its best-known public implementation trains it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mmdiff.errors import InputError
from mmdiff.nn import conv, sinusoidal
from mmdiff.nn.axis_attention import AxisAttention
from mmdiff.nn.positions import RelativeBias, rotary_frequencies, rotary_turns
from mmdiff.registry import register
from mmdiff.video.conditioning import Conditioner
from mmdiff.video.factorised_layers import Bottom, Level, SteeredBlock, Time, across_frames
from mmdiff.video.told import Told

NORMS = ("rms", "group")
_MAX_DISTANCE = 32


@register
class FactorisedUNet(nn.Module):
    """Predict what is to be predicted of a noisy clip by convolutions in frames and attention across them.

    Each resolution has two blocks of 1x3x3 convolutions, linear attention within each frame, and attention
    across frames, for every pixel for itself, with rotary and bucketed relative positions. It is the network
    of ``Denoiser(..., prediction="eps", noise_input="index")`` in the ``video-diffusion-pytorch`` package,
    whose weights it takes through :func:`mmdiff.video.factorised_checkpoint.factorised_state`.

    Frames lie in the batch of plain 2-D convolutions, channels last in memory, so that attention reads them
    without a copy; see :mod:`mmdiff.nn.pieces` for what keeps attention's memory small.

    Parameters
    ----------
    channels : int > 0
        Of a frame.
    base : int > 0, a multiple of 2, at least 4
        Channels after the first convolution, and of the sinusoidal code of the level.
    widths : sequence of int > 0
        Channels at each resolution, the finest first; each has half the height and width of the one before.
    heads, head_width : int > 0, the latter even
        Attention heads, and channels of a head of temporal attention; spatial ones have 32.
    condition : int >= 0
        Channels of a vector given with the clip; 0 for none.
    norm : {"rms", "group"}
        Normalisation in the blocks: over the channels at each place, or over groups of channels in the clip.
    groups : int > 0
        Of "group"; divides all widths.
    linear_attention : bool
        Whether there is attention within frames above the lowest resolution.
    outputs : int, optional
        Channels of the result; default: ``channels``.
    kernel : int > 0, odd
        Width of the first convolution.
    checkpointing : bool
        Compute the insides of each resolution again in the backward pass instead of keeping them.

    Raises
    ------
    InputError
        A count is not positive or not divisible as it must be.

    References
    ----------
    Ho et al. (2022), "Video diffusion models", section 3, https://arxiv.org/abs/2204.03458
    """

    frequencies: Tensor

    def __init__(
        self,
        channels: int = 3,
        base: int = 64,
        widths: Sequence[int] = (64, 128, 256, 512),
        heads: int = 8,
        head_width: int = 32,
        condition: int = 0,
        norm: str = "rms",
        groups: int = 8,
        linear_attention: bool = True,
        outputs: int | None = None,
        kernel: int = 7,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(channels, base, widths, heads, head_width, condition, norm, groups, kernel)
        self.compute_dtype: torch.dtype | None = None  # of the products; set by whoever runs it
        self.channels, self.base, self.norm, self.checkpointing = channels, base, norm, checkpointing
        self.stride = 2 ** (len(widths) - 1)
        told = 4 * base + condition
        shared = (told, norm, groups, heads, head_width)

        self.read = conv(2, channels, base, kernel)
        self.read_time = AxisAttention(base, heads, head_width)
        self.register_buffer("frequencies", rotary_frequencies(min(32, head_width)))
        self.distances = RelativeBias(heads, max_distance=_MAX_DISTANCE)
        self.level = nn.Sequential(nn.Linear(base, 4 * base), nn.GELU(), nn.Linear(4 * base, 4 * base))
        self.absent = nn.Parameter(torch.randn(condition)) if condition else None
        steps = list(zip((base, *widths[:-1]), widths, strict=True))
        self.down = nn.ModuleList(Level(a, b, *shared, linear_attention) for a, b in steps)
        self.shrink = nn.ModuleList(nn.Conv2d(b, b, 4, 2, 1) for _, b in steps[:-1])
        self.bottom = Bottom(widths[-1], *shared)
        self.up = nn.ModuleList(Level(2 * b, a, *shared, linear_attention) for a, b in reversed(steps))
        self.grow = nn.ModuleList(nn.ConvTranspose2d(a, a, 4, 2, 1) for a, _ in reversed(steps[1:]))
        self.last = SteeredBlock(2 * base, base, 0, norm, groups)
        self.write = conv(2, base, outputs or channels, 1)
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        *,
        vector: Tensor | None = None,
        positions: Tensor | None = None,
        stills: int = 0,
        present: Tensor | None = None,
    ) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : Tensor, shape (B, channels, F, H, W)
            Noisy clips; H and W multiples of ``stride``.
        level : Tensor, shape (B,)
            Index of the noise level.
        vector : Tensor, shape (B, condition) or (B, F, condition), optional
            What is given with each clip or frame. Where it is nan, and without it, a learned vector stands
            for its absence.
        positions : Tensor of int, shape (F - stills,), optional
            Places of the frames in the video; only their differences matter. Default: 0, 1, ...
        stills : int >= 0
            How many of the last frames are images of their own, which see no other frame; not with "group".
        present : Tensor of bool, shape (B,), optional
            Clips whose frames see only themselves, but for the attention before the first block, as in the
            ``focus_present_mask`` of the package.

        Returns
        -------
        Tensor, shape (B, outputs, F, H, W)
            Of x's dtype.

        Raises
        ------
        InputError
            The shapes do not fit the network.
        """
        self._check_input(x, level, vector, stills)
        with self._precision(x.device):
            told = self._told(level, vector, len(x))
            times = self._times(x.shape[2], positions, stills, present, x.device)
            h = x.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            h = self._body(h, len(x), told, *times)
        return h.to(x.dtype).unflatten(0, (len(x), -1)).transpose(1, 2)

    def _body(self, h: Tensor, clips: int, told: Tensor, first: Time, time: Time) -> Tensor:
        h = across_frames(self.read_time, self.read(h), first)
        skips = [h]
        for n, level in enumerate(self.down):
            h = self._run(level, h, clips, told, time)
            skips.append(h)
            h = self.shrink[n](h) if n < len(self.shrink) else h
        h = self._run(self.bottom, h, clips, told, time)
        for n, level in enumerate(self.up):
            h = self._run(level, torch.cat((h, skips.pop()), 1), clips, told, time)
            h = self.grow[n](h) if n < len(self.grow) else h
        return self.write(self._run(self.last, torch.cat((h, skips.pop()), 1), clips))

    def _run(self, module: nn.Module, *args: object) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *args, use_reentrant=False)
        return module(*args)

    def _told(self, level: Tensor, vector: Tensor | None, clips: int) -> Tensor:
        """Level and condition, activated: (B, D), or (B·F, D) with a vector for each frame."""
        half = self.base // 2
        # The slowest wave is 1e4 times slower than the fastest: the two are half - 1 steps apart.
        code = sinusoidal(level, self.base, max_period=1e4 ** (half / (half - 1)))
        told = self.level(code.to(self.read.weight.dtype))
        if self.absent is not None:
            given = self.absent.expand(clips, -1) if vector is None else vector.to(told.dtype)
            given = torch.where(given.isnan(), self.absent.to(given.dtype), given)
            told = told if given.ndim == 2 else told[:, None].expand(-1, given.shape[1], -1)
            told = torch.cat((told, given.to(told.dtype)), dim=-1)
        return functional.silu(told.flatten(0, -2))

    def _times(
        self, frames: int, positions: Tensor | None, stills: int, present: Tensor | None, device: torch.device
    ) -> tuple[Time, Time]:
        """For the attention before the first block, and for all others."""
        positions = torch.arange(frames - stills) if positions is None else positions
        # A still sees only itself, at distance 0, wherever it is put.
        positions = torch.cat((positions, positions.new_zeros(stills))).to(device)
        itself = torch.eye(frames, dtype=torch.bool, device=device)
        of_clip = torch.arange(frames, device=device) < frames - stills
        seen = itself | (of_clip & of_clip[:, None])
        turns = rotary_turns(positions, self.frequencies)
        bias = self.distances(positions)
        first = rest = bias.masked_fill(~seen, -math.inf) if stills else bias
        if present is not None:
            alone = present.to(device)[:, None, None, None] & ~itself
            rest = first.masked_fill(alone, -math.inf)
        return Time(frames, turns, first), Time(frames, turns, rest)

    def _precision(self, device: torch.device) -> torch.autocast:
        dtype = self.compute_dtype or torch.bfloat16
        return torch.autocast(device.type, dtype=dtype, enabled=self.compute_dtype is not None)

    def _check_input(self, x: Tensor, level: Tensor, vector: Tensor | None, stills: int) -> None:
        if x.ndim != 5 or x.shape[1] != self.channels or not all(x.shape):
            raise InputError(f"x={tuple(x.shape)} must be (B, {self.channels}, frames, height, width)")
        batch, _, frames, height, width = x.shape
        if height % self.stride or width % self.stride:
            raise InputError(f"size={height}x{width} must be divisible by {self.stride} along both sides")
        if level.shape != (batch,):
            raise InputError(f"level={tuple(level.shape)} must be ({batch},): one index for each clip")
        if not 0 <= stills <= frames:
            raise InputError(f"stills={stills} must be between 0 and the number of frames, {frames}")
        if stills and self.norm == "group":
            raise InputError(
                f"stills={stills} must be 0: norm='group' measures all frames together, so that none is alone"
            )
        if vector is None:
            return
        if self.absent is None:
            raise InputError("vector must be left out: the network was built without a condition")
        if vector.shape not in {(batch, len(self.absent)), (batch, frames, len(self.absent))}:
            raise InputError(
                f"vector={tuple(vector.shape)} must be ({batch}, {len(self.absent)}), "
                f"or ({batch}, {frames}, {len(self.absent)}) with one for each frame"
            )


@register
class VectorCondition(Conditioner):
    """A vector that the user brings, such as a text encoder's, for each clip.

    Parameters
    ----------
    width : int > 0
        Channels of the vector; ``condition`` of the network.
    name : str
    """

    def __init__(self, width: int, name: str = "vector") -> None:
        super().__init__()
        self.name, self.width = name, width

    def forward(self, value: Tensor, x: Tensor) -> Told:
        """Pass vectors (B, width) on."""
        if value.shape != (len(x), self.width):
            raise InputError(f"{self.name}={tuple(value.shape)} must be ({len(x)}, {self.width})")
        return Told(vector=value[:, None])

    def null(self, value: Tensor) -> Tensor:
        """Return nan, which :class:`FactorisedUNet` replaces by what it learned for absence."""
        return torch.full_like(value, math.nan)

    def absent(self, x: Tensor) -> Tensor:
        """Return nan for each clip."""
        return x.new_full((len(x), self.width), math.nan)


def _check(
    channels: int,
    base: int,
    widths: Sequence[int],
    heads: int,
    head_width: int,
    condition: int,
    norm: str,
    groups: int,
    kernel: int,
) -> None:
    if not widths or min(channels, base, heads, head_width, groups, kernel, *widths) < 1 or condition < 0:
        raise InputError(
            f"channels={channels}, base={base}, widths={tuple(widths)}, heads={heads}, "
            f"head_width={head_width}, groups={groups} and kernel={kernel} must be positive"
        )
    if base % 2 or base < 4 or head_width % 2 or kernel % 2 == 0:
        raise InputError(
            f"base={base} must be even and at least 4, head_width={head_width} even, kernel={kernel} odd"
        )
    if norm not in NORMS:
        raise InputError(f"norm={norm!r} must be one of {', '.join(NORMS)}")
    if norm == "group" and any(width % groups for width in (base, *widths)):
        raise InputError(f"groups={groups} must divide base={base} and widths={tuple(widths)}")
