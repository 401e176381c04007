"""Blocks of the factorised space-time U-Net, on frames side by side: (B·F, C, H, W), channels last in memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn import conv
from mmdiff.nn.axis_attention import AxisAttention
from mmdiff.nn.linear_attention import LinearAttention
from mmdiff.nn.norm import rms_silu

_SPATIAL_HEAD_WIDTH = 32


class Time(NamedTuple):
    """What temporal attention is told.

    Attributes
    ----------
    frames : int
    turns : Tensor of complex, shape (F, R)
        Rotation of queries and keys.
    bias : Tensor, shape (heads, F, F) or (B, heads, F, F)
    """

    frames: int
    turns: Tensor
    bias: Tensor


class SteeredConv(nn.Module):
    """1x3x3 convolution, normalisation, scale and shift, SiLU."""

    def __init__(self, inputs: int, outputs: int, norm: str, groups: int) -> None:
        super().__init__()
        self.groups = groups if norm == "group" else 0
        self.conv = conv(2, inputs, outputs, 3)
        self.gain = nn.Parameter(torch.ones(outputs))
        self.constant = nn.Parameter(torch.zeros(outputs)) if self.groups else None

    def forward(self, x: Tensor, clips: int, steer: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map (B·F, inputs, H, W) to (B·F, outputs, H, W), steered by scale and shift (B, C) or (B·F, C)."""
        x = self.conv(x)
        rows = x.permute(0, 2, 3, 1)
        if self.constant is None:
            gain, shift = self.gain[None], torch.zeros_like(self.gain)[None]
        else:
            rows = self._group_normed(rows, clips)
            gain, shift = torch.ones_like(self.gain)[None], torch.zeros_like(self.gain)[None]
        if steer is not None:
            gain, shift = gain * (1 + steer[0]), steer[1]
        if self.constant is None:
            y = rms_silu(rows.reshape(len(gain), -1, rows.shape[-1]), gain[:, None], shift[:, None])
        else:
            flat = rows.reshape(len(gain), -1, rows.shape[-1])
            y = functional.silu(torch.addcmul(shift[:, None], flat, gain[:, None]))
        return y.view(rows.shape).permute(0, 3, 1, 2)

    def _group_normed(self, rows: Tensor, clips: int) -> Tensor:
        """Normalise over all frames of a clip: frames one above the other are one tall picture."""
        tall = rows.reshape(clips, -1, *rows.shape[2:]).permute(0, 3, 1, 2)
        normed = functional.group_norm(tall, self.groups, self.gain, self.constant)
        return normed.permute(0, 2, 3, 1).reshape(rows.shape)


class SteeredBlock(nn.Module):
    """Two steered convolutions, the first one told level and condition, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, told: int, norm: str, groups: int) -> None:
        super().__init__()
        self.steer = nn.Linear(told, 2 * outputs) if told else None
        self.first = SteeredConv(inputs, outputs, norm, groups)
        self.second = SteeredConv(outputs, outputs, norm, groups)
        self.shortcut = conv(2, inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, clips: int, told: Tensor | None = None) -> Tensor:
        """Map (B·F, inputs, H, W) to (B·F, outputs, H, W); ``told`` is (B, D) or (B·F, D)."""
        steer = None
        if self.steer is not None and told is not None:
            scale, shift = self.steer(told).chunk(2, dim=-1)
            steer = (scale, shift)
        return self.shortcut(x) + self.second(self.first(x, clips, steer), clips)


class Level(nn.Module):
    """Two blocks, attention within frames and attention across them, at one resolution."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        told: int,
        norm: str,
        groups: int,
        heads: int,
        head_width: int,
        linear: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SteeredBlock(width, outputs, told, norm, groups) for width in (inputs, outputs)
        )
        self.space = LinearAttention(outputs, heads, _SPATIAL_HEAD_WIDTH) if linear else None
        self.time = AxisAttention(outputs, heads, head_width)

    def forward(self, x: Tensor, clips: int, told: Tensor, time: Time) -> Tensor:
        """Map (B·F, inputs, H, W) to (B·F, outputs, H, W)."""
        for block in self.blocks:
            x = block(x, clips, told)
        if self.space is not None:
            x = within_frames(self.space, x)
        return across_frames(self.time, x, time)


class Bottom(nn.Module):
    """Between the two halves: a block, full attention within and across frames, a block."""

    def __init__(self, width: int, told: int, norm: str, groups: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.before = SteeredBlock(width, width, told, norm, groups)
        self.space = AxisAttention(width, heads, _SPATIAL_HEAD_WIDTH)
        self.time = AxisAttention(width, heads, head_width)
        self.after = SteeredBlock(width, width, told, norm, groups)

    def forward(self, x: Tensor, clips: int, told: Tensor, time: Time) -> Tensor:
        """Map (B·F, width, H, W) to the same shape."""
        x = self.before(x, clips, told)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)[:, :, None]
        x = self.space(pixels).view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
        return self.after(across_frames(self.time, x, time), clips, told)


def within_frames(attention: nn.Module, x: Tensor) -> Tensor:
    """Apply attention over (N, positions, C) to frames (N, C, H, W); no copy, channels being last in memory."""
    rows: Tensor = attention(x.permute(0, 2, 3, 1).flatten(1, 2))
    return rows.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)


def across_frames(attention: AxisAttention, x: Tensor, time: Time) -> Tensor:
    """Apply attention over the frames of each clip to frames (B·F, C, H, W)."""
    rows = x.permute(0, 2, 3, 1)
    clips = rows.reshape(-1, time.frames, x.shape[2] * x.shape[3], x.shape[1])
    return attention(clips, time.turns, time.bias).view(rows.shape).permute(0, 3, 1, 2)
