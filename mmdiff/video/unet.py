"""The space-time U-Net: convolutions within frames, attention within and across them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mmdiff.devices import multiplying
from mmdiff.errors import InputError
from mmdiff.nn import conv, sinusoidal
from mmdiff.nn.group_norm import group_norm_silu
from mmdiff.registry import register
from mmdiff.video.checks import check_steps
from mmdiff.video.layers import GROUPS, Embedded, Layout, Mixing, ResidualBlock, TemporalConv

MIXINGS = ("space", "time", "joint", "tokens", "shift")
_ATTENDING = {*MIXINGS} - {"shift"}


@register
class SpaceTimeUNet(nn.Module):
    """Factorised space-time U-Net (Video Diffusion Models, 2204.03458, section 3), for clips and images at once.

    Each level has residual blocks of 1x3x3 convolutions, and after each of them the level's mixing layers:
    "space" and "time" attention one after the other are the paper's factorisation; "joint" attends to all
    places of all frames, for the small grids at the bottom; "tokens" attends to the text; "shift" is a 3x1x1
    convolution.

    Parameters
    ----------
    channels : int
        Of a frame.
    widths : tuple of int
        Channels of each level, multiples of 8, from the finest; each level halves height and width.
    blocks : int > 0
        Residual blocks a level.
    mixing : tuple of str
        Mixing layers of each level, joined by "+", such as ("shift", "space+time+tokens"); "" is none.
    patch : int > 0
        Pixels along each side that are folded into channels at the finest level.
    embedding : int, even
        Channels of the vector that carries noise level, conditions and time.
    vector, tokens, planes : int
        Channels of the conditions that can be given: a vector for each clip or frame, tokens to attend to, and
        planes beside the noisy frames. 0: none.
    span : int
        Frames see each other over at most this distance: that of the training clips, so that longer clips show
        attention no distance it has not seen.
    clock : int
        Frames from the beginning of a video that the network can tell apart; later ones look alike to it.
    head_width : int
        Channels of an attention head.
    checkpointing : bool
        Compute each block again in the backward pass instead of keeping its insides.
    inputs : int, optional
        Channels of a frame as it is shown; default: ``channels``. Twice as many for pairs of frames and velocities.

    Raises
    ------
    InputError
        ``widths`` and ``mixing`` differ in length, a mixing layer is unknown, a width is no multiple of 8, or
        ``head_width`` does not divide the width of a level that has attention.
    """

    def __init__(
        self,
        channels: int = 3,
        widths: tuple[int, ...] = (64, 128, 256),
        blocks: int = 2,
        mixing: tuple[str, ...] = ("", "space+time+tokens", "joint+tokens"),
        patch: int = 1,
        embedding: int = 256,
        vector: int = 0,
        tokens: int = 0,
        planes: int = 0,
        span: int = 15,
        clock: int = 16,
        head_width: int = 32,
        checkpointing: bool = False,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        if len(mixing) != len(widths):
            raise InputError(f"mixing={mixing} must have an entry for each of the levels widths={widths}")
        self.compute_dtype: torch.dtype | None = None  # half precision, set by whoever runs it
        self.patch, self.span, self.clock, self.embedding = patch, span, clock, embedding
        self.channels, self.planes, self.checkpointing = channels, planes, checkpointing
        self.stride = patch * 2 ** (len(widths) - 1)
        kinds = [[kind for kind in level.split("+") if kind] for level in mixing]
        _check_widths(widths, kinds, head_width)

        self.level = nn.Sequential(nn.Linear(64, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.time = nn.Linear(32, embedding)
        self.still = nn.Parameter(0.1 * torch.randn(embedding))
        self.vector = nn.Linear(vector, 2 * embedding) if vector else None
        self.fuse = nn.Sequential(nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())

        def stage(inputs: Sequence[int], level: int) -> nn.ModuleList:
            width = widths[level]
            layers = [_mixing(kind, width, head_width, tokens) for kind in kinds[level]]
            return nn.ModuleList([*(ResidualBlock(n, width, embedding) for n in inputs), *layers])

        folded = ((inputs or channels) + planes) * patch**2 + 2  # two planes say where a place is
        self.read = conv(2, folded, widths[0], 3)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            if level:
                self.shrink.append(conv(2, widths[level - 1], width, 3, stride=2))
            self.down.append(stage([width] * blocks, level))
        self.middle = stage([widths[-1]], len(widths) - 1)
        for level, width in reversed(list(enumerate(widths))):
            self.up.append(stage([2 * width] * blocks, level))
            if level:
                self.grow.append(conv(2, width, 4 * widths[level - 1], 1))
        self.norm = nn.GroupNorm(GROUPS, widths[0])
        self.write = conv(2, widths[0], channels * patch**2, 3)
        nn.init.zeros_(self.write.weight)
        assert self.write.bias is not None
        nn.init.zeros_(self.write.bias)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        *,
        vector: Tensor | None = None,
        tokens: Tensor | None = None,
        seen: Tensor | None = None,
        planes: Tensor | None = None,
        positions: Tensor | None = None,
        stills: int = 0,
    ) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : Tensor, shape (B, inputs, F, H, W)
            H and W divisible by ``stride``.
        level : Tensor, shape (B,)
            Noise level as log-SNR.
        vector : Tensor, shape (B, F, V) or (B, V), optional
        tokens : Tensor, shape (B, L, E) or, with stills, (B, 1 + stills, L, E), optional
        seen : Tensor of bool, shape of ``tokens`` without E, optional
            Which tokens are not padding.
        planes : Tensor, shape (B, P, F, H, W), optional
        positions : Tensor of int, shape (F - stills,) or (B, F - stills), optional
            Places of the frames in the whole video, in the same steps for every clip; default: 0, 1, ...
        stills : int >= 0
            How many of the last frames are images of their own, that no other frame sees.

        Returns
        -------
        Tensor, shape (B, C, F, H, W), float32 (float64 for a float64 network)

        Raises
        ------
        InputError
            A shape breaks its rule; or positions on the CPU differ in their steps.
        """
        batch, frames = len(x), x.shape[2]
        layout = self._layout(x, positions, stills)
        with multiplying(x.device, self.compute_dtype):
            vectors = self._vectors(level, vector, layout)
            flat = None if tokens is None else tokens.reshape(-1, *tokens.shape[-2:])
            embedded = Embedded(vectors, flat, None if seen is None else seen.reshape(-1, seen.shape[-1]))
            h = self._body(self._fold(x, planes), layout, embedded)
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        out = functional.pixel_shuffle(h, self.patch) if self.patch > 1 else h
        return out.unflatten(0, (batch, frames)).transpose(1, 2)

    def _layout(self, x: Tensor, positions: Tensor | None, stills: int) -> Layout:
        batch, _, frames, height, width = x.shape
        if not height or not width or height % self.stride or width % self.stride:
            raise InputError(f"size={height}x{width} must be divisible by {self.stride} along both sides")
        frames -= stills
        if stills < 0 or frames < 1:
            raise InputError(
                f"stills={stills} must leave at least one of the {x.shape[2]} frames to the clip"
            )
        if positions is None:
            positions = torch.arange(frames, device=x.device)
        if positions.shape not in ((frames,), (1, frames), (batch, frames)):
            raise InputError(
                f"positions={tuple(positions.shape)} must be ({frames},) or ({batch}, {frames}): one for each "
                "frame that is no still"
            )
        if positions.ndim == 2 and positions.device.type == "cpu":  # to look would make other devices wait
            check_steps(positions)
        return Layout(batch, frames, stills, positions.to(x.device).expand(batch, -1), self.span)

    def _body(self, h: Tensor, layout: Layout, embedded: Embedded) -> Tensor:
        h = self.read(h)
        skips: list[Tensor] = []
        for level, stage in enumerate(self.down):
            if level:
                h = self.shrink[level - 1](h)
            for layer in stage:  # type: ignore[attr-defined]
                h = self._layer(layer, h, layout, embedded)
                if isinstance(layer, ResidualBlock):
                    skips.append(h)
        for layer in self.middle:
            h = self._layer(layer, h, layout, embedded)
        for level, stage in enumerate(self.up):
            for layer in stage:  # type: ignore[attr-defined]
                if isinstance(layer, ResidualBlock):
                    h = torch.cat((h, skips.pop()), 1)
                h = self._layer(layer, h, layout, embedded)
            if level < len(self.grow):
                h = _spread(self.grow[level](h))
        return self.write(group_norm_silu(h, self.norm))

    def _layer(self, layer: nn.Module, h: Tensor, layout: Layout, embedded: Embedded) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(layer, h, layout, embedded, use_reentrant=False)
        return layer(h, layout, embedded)

    def _fold(self, x: Tensor, planes: Tensor | None) -> Tensor:
        """Frames side by side with their planes and coordinates: (B·F, ..., H / patch, W / patch)."""
        if (0 if planes is None else planes.shape[1]) != self.planes:
            raise InputError(
                f"planes={None if planes is None else tuple(planes.shape)} must have {self.planes} channels"
            )
        whole = x if planes is None else torch.cat((x, planes.to(x)), 1)
        h = whole.transpose(1, 2).flatten(0, 1)
        h = functional.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        rows, columns = (torch.linspace(-1, 1, n, device=x.device, dtype=x.dtype) for n in h.shape[2:])
        where = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).expand(len(h), -1, -1, -1)
        return torch.cat((h, where), 1).contiguous(memory_format=torch.channels_last)

    def _vectors(self, level: Tensor, vector: Tensor | None, layout: Layout) -> Tensor:
        """One vector a frame: (B·(F+stills), embedding)."""
        code = sinusoidal(level.float() / 4, 64, scale=4.0, max_period=256.0)
        told = self.level(code.to(self.time.weight.dtype))[:, None]
        since = layout.positions.flatten().clamp_max(self.clock) / self.clock
        code = sinusoidal(since, 32, scale=8.0, max_period=32.0)
        time = self.time(code.to(self.time.weight.dtype)).unflatten(0, (layout.clips, -1))
        if layout.frames == 1:
            time = self.still.to(time).expand_as(time)  # a clip of one frame is a still
        time = torch.cat((time, self.still.to(time).expand(layout.clips, layout.stills, -1)), 1)
        total = told + time
        if vector is not None and self.vector is not None:
            vector = vector[:, None] if vector.ndim == 2 else vector
            plain, gate = self.vector(vector).chunk(2, -1)
            # What a word means may change in the course of the clip: "left" is right at first, then left.
            total = total + plain + gate * time
        frames = layout.frames + layout.stills
        return self.fuse(total.expand(layout.clips, frames, -1)).flatten(0, 1)


def _spread(x: Tensor) -> Tensor:
    """``pixel_shuffle(x, 2)`` in one copy from channels last to channels last."""
    rows = x.permute(0, 2, 3, 1).unflatten(-1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)  # N, H, 2, W, 2, C
    return rows.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _check_widths(widths: Sequence[int], kinds: Sequence[Sequence[str]], head_width: int) -> None:
    if not widths or any(width < 1 or width % GROUPS for width in widths):
        near = tuple(max(1, round(width / GROUPS)) * GROUPS for width in widths) or (8 * GROUPS,)
        raise InputError(
            f"widths={tuple(widths)} must be multiples of {GROUPS}, the groups of group norm; take {near}"
        )
    attending = [width for width, level in zip(widths, kinds, strict=True) if {*level} & _ATTENDING]
    if head_width < 1 or any(width % head_width for width in attending):
        raise InputError(
            f"widths={tuple(widths)} must be multiples of head_width={head_width} wherever mixing has attention"
        )


def _mixing(kind: str, channels: int, head_width: int, tokens: int) -> nn.Module:
    if kind not in MIXINGS:
        raise InputError(f"mixing={kind!r} must be one of {', '.join(MIXINGS)}, joined by +")
    if kind == "shift":
        return TemporalConv(channels)
    return Mixing(kind, channels, head_width, tokens)
