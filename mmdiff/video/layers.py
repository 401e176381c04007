"""Blocks of the space-time U-Net, on frames side by side: (B·F, C, H, W) in channels-last memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn import conv
from mmdiff.nn.attention import Attention, Block, rotary_turns
from mmdiff.nn.group_norm import group_norm_silu

GROUPS = 8
"""Of group norm: divides the channels of each level."""


@dataclass(frozen=True)
class Layout:
    """How the frames in a batch belong together; what follows from it is computed once for all blocks.

    Attributes
    ----------
    clips : int
        B, clips in the batch.
    frames : int
        F, consecutive frames of each.
    stills : int
        Independent images after the frames of each clip.
    positions : Tensor, shape (B, F)
        Places of the frames in the whole video; their differences are the same for every clip.
    span : int
        Frames that see each other lie at most this far apart.
    """

    clips: int
    frames: int
    stills: int
    positions: Tensor
    span: int
    _turns: dict[tuple[str, torch.Size, int], Tensor] = field(default_factory=dict, repr=False)
    _blocks: dict[int, list[Block]] = field(default_factory=dict, repr=False)

    @cached_property
    def relative(self) -> Tensor:
        """Distances of the frames (F,) from the first."""
        return self.positions[0] - self.positions[0, 0]

    @cached_property
    def window(self) -> Tensor | None:
        """Which frames see each other, (F, F) of bool; None where all do."""
        distance = (self.relative[:, None] - self.relative).abs()
        near = distance <= self.span
        return None if bool(near.all()) else near

    def blocks(self, places: int) -> list[Block]:
        """What the frames, of so many places each, see of each other; empty where that is all."""
        if self.window is not None and places not in self._blocks:
            step = max(1, self.span // 2)  # frames: shorter blocks see fewer keys, longer ones are fewer
            starts = range(0, self.frames, step)
            self._blocks[places] = [_block(self.window[n : n + step], n, places) for n in starts]
        return self._blocks.get(places, [])

    def turns(self, kind: str, grid: torch.Size, width: int) -> Tensor:
        """Turns for attention over "space", "time", "joint" and, for a still in clips' place, "still"."""
        key = (kind, grid, width)
        if key not in self._turns:
            self._turns[key] = rotary_turns(self._axes(kind, grid), width)
        return self._turns[key]

    def _axes(self, kind: str, grid: torch.Size) -> list[Tensor]:
        if kind == "time":
            return [self.relative]
        rows, columns = _places(grid, self.positions.device)
        if kind == "space":
            return [rows, columns]
        if kind == "still":
            return [torch.zeros_like(rows), rows, columns]
        frames = self.frames
        return [self.relative.repeat_interleave(len(rows)), rows.repeat(frames), columns.repeat(frames)]


class Embedded(NamedTuple):
    """What every block is told.

    Attributes
    ----------
    vectors : Tensor, shape (B·(F+stills), D)
        Noise level, pooled conditions and place in time of each frame.
    tokens : Tensor, shape (B·(1+stills), L, E), or None
        To be attended to; of the clip, then of each still, clip by clip.
    seen : Tensor of bool, shape (B·(1+stills), L), or None
        Which tokens are not padding.
    """

    vectors: Tensor
    tokens: Tensor | None
    seen: Tensor | None


class ResidualBlock(nn.Module):
    """Two 1x3x3 convolutions with group norm, steered by the frame's vector; starts as the skip alone.

    Parameters
    ----------
    inputs, outputs : int
        Channels; divisible by :data:`GROUPS`.
    embedding : int
        Channels of the vector.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(GROUPS, inputs)
        self.conv_in = conv(2, inputs, outputs, 3)
        self.steer = nn.Linear(embedding, 2 * outputs)
        self.norm_out = nn.GroupNorm(GROUPS, outputs)
        self.conv_out = conv(2, outputs, outputs, 3)
        self.skip = conv(2, inputs, outputs, 1) if inputs != outputs else nn.Identity()
        for layer in (self.conv_out, self.steer):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, layout: Layout, embedded: Embedded) -> Tensor:
        """Map (N, inputs, H, W), N = B·(F+stills), to (N, outputs, H, W)."""
        h = self.conv_in(group_norm_silu(x, self.norm_in))
        scale, shift = self.steer(embedded.vectors).chunk(2, 1)
        return self.skip(x) + self.conv_out(group_norm_silu(h, self.norm_out, 1 + scale, shift))


class Mixing(nn.Module):
    """Attention within frames, across frames, over both, or to condition tokens; added to its input.

    Parameters
    ----------
    kind : {"space", "time", "joint", "tokens"}
        "space": every place of a frame to every place of it. "time": every frame to the frames of its clip at
        the same place. "joint": every place of every frame to all of them.
    channels : int
    head_width : int
    tokens : int, optional
        Channels of the condition tokens.
    """

    def __init__(self, kind: str, channels: int, head_width: int = 32, tokens: int | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(channels, head_width, tokens if kind == "tokens" else None)

    def forward(self, x: Tensor, layout: Layout, embedded: Embedded) -> Tensor:
        """Map (B·(F+stills), C, H, W) to the same shape."""
        grid = x.shape[2:]
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # no copy: channels are last in memory
        mix = {"space": self._space, "time": self._time, "joint": self._joint, "tokens": self._tokens}
        mixed = mix[self.kind](self.norm(tokens), layout, embedded, grid)
        return x + mixed.unflatten(1, grid).permute(0, 3, 1, 2)

    def _space(self, y: Tensor, layout: Layout, embedded: Embedded, grid: torch.Size) -> Tensor:
        return self.attention(y, turns=layout.turns("space", grid, self.attention.head_width))

    def _time(self, y: Tensor, layout: Layout, embedded: Embedded, grid: torch.Size) -> Tensor:
        clips, stills = _split(y, layout)
        sequences = clips.transpose(1, 2).flatten(0, 1)  # (B·HW, F, C)
        turns = layout.turns("time", grid, self.attention.head_width)
        mixed = self.attention(sequences, turns=turns, blocks=layout.blocks(1))
        mixed = mixed.unflatten(0, (len(clips), -1)).transpose(1, 2)
        return _join(mixed, self._alone(stills))

    def _joint(self, y: Tensor, layout: Layout, embedded: Embedded, grid: torch.Size) -> Tensor:
        clips, stills = _split(y, layout)
        places = grid.numel()
        turns = layout.turns("joint", grid, self.attention.head_width)
        mixed = self.attention(clips.flatten(1, 2), turns=turns, blocks=layout.blocks(places))
        mixed = mixed.unflatten(1, (-1, places))
        if layout.stills:
            turns = layout.turns("still", grid, self.attention.head_width)
            alone = self.attention(stills.flatten(0, 1), turns=turns)
            stills = alone.unflatten(0, stills.shape[:2])
        return _join(mixed, stills)

    def _tokens(self, y: Tensor, layout: Layout, embedded: Embedded, grid: torch.Size) -> Tensor:
        if embedded.tokens is None:
            return torch.zeros_like(y)
        clips, stills = _split(y, layout)
        per_clip = (layout.clips, 1 + layout.stills)
        tokens = embedded.tokens.unflatten(0, per_clip)
        seen = None if embedded.seen is None else embedded.seen[:, None, None].unflatten(0, per_clip)
        mixed = self.attention(
            clips.flatten(1, 2), tokens[:, 0], mask=None if seen is None else seen[:, 0]
        ).view_as(clips)
        if layout.stills:
            mask = None if seen is None else seen[:, 1:].flatten(0, 1)
            alone = self.attention(stills.flatten(0, 1), tokens[:, 1:].flatten(0, 1), mask=mask)
            stills = alone.view_as(stills)
        return _join(mixed, stills)

    def _alone(self, stills: Tensor) -> Tensor:
        # A still sees itself only: attention to one token is that token's value.
        value = self.attention.key_value(stills).chunk(2, -1)[1] if stills.numel() else stills
        return self.attention.out(value) if stills.numel() else stills


class TemporalConv(nn.Module):
    """A 3x1x1 convolution with a hidden layer, added to its input; stills see no neighbour.

    Parameters
    ----------
    channels : int
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Linear(3 * channels, channels)
        self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, layout: Layout, embedded: Embedded) -> Tensor:
        """Map (B·(F+stills), C, H, W) to the same shape."""
        y = self.norm(x.permute(0, 2, 3, 1))
        clips, stills = _split(y, layout)
        clips, stills = _with_neighbours(clips), functional.pad(stills, (stills.shape[-1],) * 2)
        mixed = self.out(functional.silu(self.hidden(_join(clips, stills))))
        return x + mixed.permute(0, 3, 1, 2)


def _block(window: Tensor, first: int, places: int) -> Block:
    """Frames from ``first`` on, which see those in ``window (frames, F)``, as tokens."""
    seen = window.any(0).nonzero()
    begin, end = int(seen[0]), int(seen[-1]) + 1
    mask = window[:, begin:end].repeat_interleave(places, 0).repeat_interleave(places, 1)
    return Block(
        slice(first * places, (first + len(window)) * places), slice(begin * places, end * places), mask
    )


def _with_neighbours(clips: Tensor) -> Tensor:
    """Previous, own and next frame side by side: (B, F, ..., C) to (B, F, ..., 3C), zeros beyond the ends."""
    padded = functional.pad(clips.flatten(2), (0, 0, 1, 1)).view(len(clips), -1, *clips.shape[2:])
    return torch.cat((padded[:, :-2], clips, padded[:, 2:]), -1)


def _split(y: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Frames (B, F, ...) and stills (B, S, ...) of y (B·(F+S), ...)."""
    whole = y.unflatten(0, (layout.clips, layout.frames + layout.stills))
    return whole[:, : layout.frames], whole[:, layout.frames :]


def _join(clips: Tensor, stills: Tensor) -> Tensor:
    return (torch.cat((clips, stills), 1) if stills.shape[1] else clips).flatten(0, 1)


def _places(grid: torch.Size, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = (torch.arange(size, device=device) for size in grid)
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))
