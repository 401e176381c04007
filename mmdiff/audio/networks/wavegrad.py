"""WaveGrad: a waveform denoiser steered by a spectrogram (Chen et al., 2009.00713)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.errors import InputError
from mmdiff.nn import FiLM, LineConv, as_line, condense, conv, decimate, keep_as_lines, modulate, stretch
from mmdiff.registry import register

WIDE = (1, 2, 4, 8)
"""Dilations of an ``up`` block with a wide receptive field."""
NARROW = (1, 2, 1, 2)
"""Dilations of an ``up`` block with a narrow one."""


class UpBlock(nn.Module):
    """Two residual steps that raise the resolution of the spectrogram path (paper figure 4, "UBlock")."""

    def __init__(
        self, inputs: int, outputs: int, factor: int, dilations: Sequence[int], linear: bool, slope: float
    ) -> None:
        super().__init__()
        self.factor = factor
        self.linear = linear
        self.slope = slope
        self.shortcut = (
            nn.Identity() if inputs == outputs and factor == 1 else _orthogonal(conv(1, inputs, outputs, 1))
        )
        self.convs = nn.ModuleList(
            _orthogonal(conv(1, inputs if n == 0 else outputs, outputs, 3, dilation=d))
            for n, d in enumerate(dilations)
        )

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Map a line of ``inputs`` channels to one of ``outputs``, ``factor`` times as long, as shift and scale are."""
        # A 1-tap convolution and an interpolation commute: do the convolution at the lower rate.
        shortcut, h = self.shortcut(x), functional.leaky_relu(x, self.slope)
        first = cast("LineConv", self.convs[0])
        h = first(stretch(h, (1, self.factor))) if self.linear else first.of_repeated(h, self.factor)
        y = self._raised(shortcut, self.convs[1](self._modulated(h, shift, scale)))
        h = self.convs[2](self._modulated(y, shift, scale))
        out: Tensor = self.convs[3](self._modulated(h, shift, scale)).add_(y)
        return out

    def _raised(self, low: Tensor, y: Tensor) -> Tensor:
        """Add to y what has a value for every ``factor`` places of it."""
        if self.linear:
            return y.add_(stretch(low, (1, self.factor)))
        return (y.unflatten(3, (-1, self.factor)) + low[..., None]).flatten(3)

    def _modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return functional.leaky_relu(modulate(x, shift, scale), self.slope, inplace=True)


class DownBlock(nn.Module):
    """One residual step that lowers the resolution of the waveform path (paper figure 5, "DBlock")."""

    def __init__(
        self, inputs: int, outputs: int, factor: int, strided: bool, linear: bool, slope: float
    ) -> None:
        super().__init__()
        self.factor = factor
        self.strided = strided
        self.reduce = condense if linear else decimate
        self.slope = slope
        self.shortcut = (
            nn.Identity() if inputs == outputs and factor == 1 else _orthogonal(conv(1, inputs, outputs, 1))
        )
        stride = factor if strided else 1
        self.convs = nn.ModuleList(
            (
                _orthogonal(conv(1, inputs, outputs, 3, stride=stride)),
                _orthogonal(conv(1, outputs, outputs, 3, dilation=2)),
                _orthogonal(conv(1, outputs, outputs, 3, dilation=4)),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map a line ``(B, inputs, 1, L)`` to ``(B, outputs, 1, L / factor)``."""
        shortcut: Tensor = self.shortcut(
            self.reduce(x, (1, self.factor))
        )  # a 1-tap convolution with a stride
        x = x if self.strided else self.reduce(x, (1, self.factor))
        for n, layer in enumerate(self.convs):
            x = layer(functional.leaky_relu(x, self.slope, inplace=n > 0))
        return x.add_(shortcut)


@register
class WaveGrad(WaveformNetwork):
    """Predict the noise in a waveform, given the noise level and a spectrogram.

    The noisy waveform goes down through ``len(factors)`` resolutions; the spectrogram comes up through
    the same ones to the waveform's rate; at each, FiLM turns the former and the noise level into a shift
    and a scale of the latter::

        noisy ── wave_in ─┬─ down ─┬─ ... ─ down ─┐
                        film     film            film   ◄─ level
                          │        │              │
        eps ◄─── out ──── up ◄──── up ◄─ ... ◄─── up ◄── mel_in ── mel

    It is the network of ``Denoiser(..., prediction="eps", noise_input="sqrt_alpha_bar")``. Of the work that
    the steps of one generation repeat, only ``mel_in`` and the first ``up`` block's shortcut and first
    convolution depend on nothing but the spectrogram; they run at the lowest rates, so keeping their result
    saves little (2 % of the multiplications of :func:`wavegrad_base`), and it is not kept.

    Parameters
    ----------
    n_mels : int > 0
        Bands of the spectrogram.
    factors : sequence of int > 0
        Upsampling factor of each ``up`` block, from the spectrogram on. Their product is the hop length:
        samples per frame.
    up_channels : sequence of int > 0, as many as factors
        Output channels of the ``up`` blocks.
    down_channels : sequence of int > 0, even, one fewer than factors
        Output channels of the ``down`` blocks, from the waveform on; they undo all factors but the first,
        last one first.
    dilations : sequence of 4 int > 0, as many as factors
        Tap distances of the four convolutions of each ``up`` block.
    mel_channels, wave_channels : int > 0, the latter even
        Channels after the first convolution over the spectrogram and over the waveform.
    up_repeats, down_repeats : int > 0
        Blocks at each resolution; only the first of them changes it.
    strided : bool
        Lower the resolution by the stride of a convolution (paper, appendix A), or else by dropping samples
        before it (the lmnt implementation). Both have the same weights.
    level_scale : float
        Factor on the noise level before its sinusoidal code: 5000 in the paper, 1 in lmnt's implementation.
    slope : float
        Slope of the leaky ReLU below zero.
    linear : bool
        Change resolutions by linear interpolation (the ivanvovk implementation), or else by repeating and
        dropping samples. Not with ``strided``.

    Raises
    ------
    InputError
        The sequences' lengths do not fit together, a count is not positive, or both kinds of downsampling are
        asked for.
    """

    noise_input = "sqrt_alpha_bar"

    def __init__(
        self,
        n_mels: int = 128,
        factors: Sequence[int] = (5, 5, 3, 2, 2),
        up_channels: Sequence[int] = (512, 512, 256, 128, 128),
        down_channels: Sequence[int] = (128, 128, 256, 512),
        dilations: Sequence[Sequence[int]] = (WIDE, WIDE, WIDE, NARROW, NARROW),
        mel_channels: int = 768,
        wave_channels: int = 32,
        up_repeats: int = 1,
        down_repeats: int = 1,
        strided: bool = True,
        level_scale: float = 5000.0,
        slope: float = 0.2,
        linear: bool = False,
    ) -> None:
        super().__init__()
        if strided and linear:
            raise InputError("strided=True and linear=True must not go together; choose one downsampling")
        _check_lengths(factors, up_channels, down_channels, dilations)
        counts = (n_mels, *factors, *up_channels, *down_channels, mel_channels, wave_channels)
        _check_counts((*counts, up_repeats, down_repeats), (wave_channels, *down_channels))
        self.n_mels = n_mels
        self.hop_length = math.prod(factors)
        self.up_repeats = up_repeats
        self.down_repeats = down_repeats

        self.wave_in = _orthogonal(conv(1, 1, wave_channels, 5))
        self.down = nn.ModuleList()
        width = wave_channels
        for channels, factor in zip(down_channels, reversed(factors[1:]), strict=True):
            for n in range(down_repeats):
                block = DownBlock(width, channels, factor if n == 0 else 1, strided, linear, slope)
                self.down.append(block)
                width = channels
        self.film = nn.ModuleList(
            FiLM(1, features, channels, level_scale=level_scale, slope=slope)
            for features, channels in zip((wave_channels, *down_channels), reversed(up_channels), strict=True)
        )
        self.mel_in = _orthogonal(conv(1, n_mels, mel_channels, 3))
        self.up = nn.ModuleList()
        width = mel_channels
        for channels, factor, taps in zip(up_channels, factors, dilations, strict=True):
            for n in range(up_repeats):
                self.up.append(UpBlock(width, channels, factor if n == 0 else 1, taps, linear, slope))
                width = channels
        self.out = _orthogonal(conv(1, width, 1, 3))
        keep_as_lines(self)

    @property
    def reach(self) -> int:
        """Frames to either side: down with the waveform and up again, or by the spectrogram's own convolution."""
        rate = 1  # samples per position
        down = 2
        steering = []
        for n, block in enumerate(cast("Sequence[DownBlock]", self.down)):
            if n % self.down_repeats == 0:
                steering.append((down + 2 * rate, rate))
            first = 1 if block.strided else block.factor
            down += first * rate + 6 * rate * block.factor
            rate *= block.factor
        steering.append((down + 2 * rate, rate))
        ups = cast("Sequence[UpBlock]", self.up)
        up = rate * ups[0].factor  # a frame, by mel_in
        for n, rise in enumerate(ups):
            film, rate = steering[len(steering) - 1 - n // self.up_repeats]
            # a repeated position may stand up to a factor less one beside its source
            taps = sum(layer.dilation[0] for layer in cast("Sequence[nn.Conv1d]", rise.convs))
            up = max(up, film) + rate * (taps + rise.factor - 1)
        return math.ceil((up + 1) / self.hop_length)

    def forward(self, x: Tensor, level: Tensor, mel: Tensor) -> Tensor:
        """Predict the noise in x.

        Parameters
        ----------
        x : Tensor, shape (B, 1, samples)
            Noisy waveform, ``samples = frames * hop_length``.
        level : Tensor, shape (B,), in [0, 1]
            Noise level √ᾱ: 1 for clean, 0 for pure noise.
        mel : Tensor, shape (B, n_mels, frames)
            Spectrogram, as the network's training defined it.

        Returns
        -------
        Tensor, shape (B, 1, samples)
            The noise ε (or whatever else the denoiser's parameterisation asks for).

        Raises
        ------
        InputError
            The shapes do not fit together.
        """
        self.check_inputs(x, level, mel)
        dtype = x.dtype if self.compute_dtype is None or torch.is_grad_enabled() else self.compute_dtype
        return self._evaluate(x.to(dtype), level, mel.to(dtype)).to(x.dtype)

    def _evaluate(self, x: Tensor, level: Tensor, mel: Tensor) -> Tensor:
        x = self.wave_in(as_line(x))
        steering = [self.film[0](x, level)]
        for n, down in enumerate(self.down, start=1):
            x = down(x)
            if n % self.down_repeats == 0:
                steering.append(self.film[n // self.down_repeats](x, level))
        h = self.mel_in(as_line(mel))
        for n, up in enumerate(self.up):
            # A level's shift and scale are large, and used up by its last block: let them go then.
            shift, scale = steering[-1] if (n + 1) % self.up_repeats else steering.pop()
            h = up(h, shift, scale)
        eps: Tensor = self.out(h)[:, :, 0]
        return eps


def _orthogonal(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """Start from orthogonal weights and zero constants (paper, appendix A)."""
    nn.init.orthogonal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _check_lengths(
    factors: Sequence[int], up: Sequence[int], down: Sequence[int], dilations: Sequence[Sequence[int]]
) -> None:
    levels = len(factors)
    if levels == 0 or (len(up), len(down), len(dilations)) != (levels, levels - 1, levels):
        raise InputError(
            f"factors={tuple(factors)} has {levels} entries: up_channels and dilations must have as many, "
            f"down_channels one fewer; got {len(up)}, {len(dilations)} and {len(down)}"
        )
    for taps in dilations:
        if len(taps) != 4 or min(taps) < 1:
            raise InputError(f"dilations={tuple(taps)} must be four positive integers, such as {WIDE}")


def _check_counts(counts: Sequence[int], coded: Sequence[int]) -> None:
    if min(counts) < 1:
        raise InputError(f"channels, factors, n_mels and repeats must be positive; got {min(counts)}")
    if any(channels % 2 for channels in coded):
        raise InputError(
            f"wave_channels and down_channels={tuple(coded)} must be even: sines and cosines code the level"
        )
