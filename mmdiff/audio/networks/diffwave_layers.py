"""The parts of DiffWave: its step embedding, the upsampling of its spectrogram, and its residual layer (2009.09761)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.nn import conv

CODE = 128
"""Size of the sinusoidal code of a step, and of a label's embedding (paper, sections 3.1 and 3.2)."""
MEL_SLOPE = 0.4
"""Slope below zero of the leaky ReLU between the upsampling layers (paper, section 5.1)."""


Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


class StepEmbedding(nn.Module):
    """A step of the diffusion as a vector: sinusoidal code and two layers (paper, section 3.1).

    Parameters
    ----------
    width : int > 0
        Size of the vector.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(CODE, width)
        self.second = nn.Linear(width, width)

    def forward(self, step: Tensor) -> Tensor:
        """Embed steps (B,) >= 0, counted from 0: shape (B, width). Between whole steps the code is interpolated."""
        low = step.floor()
        code = torch.lerp(step_code(low), step_code(step.ceil()), (step - low)[:, None]).to(self.first.weight)
        return functional.silu(self.second(functional.silu(self.first(code))))


def step_code(step: Tensor) -> Tensor:
    """Sines, then cosines, of whole steps (B,) times 10^(4 j / 63), j = 0 ... 63: shape (B, 128).

    Angles reach 10^4 times the step, and are rounded to float32 as by everybody who trains such networks: a step
    then has the same code whatever the device or the precision of the weights.
    """
    angles = (step.float()[:, None] * _frequencies(step.device)).to(step.dtype)
    return torch.cat((angles.sin(), angles.cos()), 1)


@functools.lru_cache(maxsize=16)
def _frequencies(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        exponents = torch.arange(CODE // 2, device="cpu") * 4.0 / (CODE // 2 - 1)
        return (10.0**exponents).to(device)


class MelUpsampler(nn.Module):
    """Transposed convolutions over bands and frames that bring a spectrogram to the waveform's rate.

    Parameters
    ----------
    factors : sequence of int > 0
        Upsampling in time by each; their product is the hop length.
    """

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        for factor in factors:
            margin = (factor + 1) // 2
            kernel, padding = (3, factor + 2 * margin), (1, margin)
            self.convs.append(nn.ConvTranspose2d(1, 1, kernel, stride=(1, factor), padding=padding))

    def forward(self, mel: Tensor) -> Tensor:
        """Map (B, n_mels, frames) to (B, n_mels, samples)."""
        x = mel[:, None]
        for layer in self.convs:
            x = functional.leaky_relu(layer(x), MEL_SLOPE)
        return x[:, 0]


class ResidualLayer(nn.Module):
    """One dilated convolution with a gate, between the sum that goes on and the sum of skips (paper, figure 2).

    Parameters
    ----------
    channels : int > 0
    dilation : int > 0
        Samples between the three taps.
    step_width : int > 0
        Size of the step's vector.
    n_mels, label_width : int >= 0
        Size of the conditions; 0 for none.
    """

    def __init__(self, channels: int, dilation: int, step_width: int, n_mels: int, label_width: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.step = nn.Linear(step_width, channels)
        self.dilated = he_normal(conv(1, channels, 2 * channels, 3, dilation=dilation))
        self.mel = he_normal(conv(1, n_mels, 2 * channels, 1)) if n_mels else None
        self.label = nn.Linear(label_width, 2 * channels) if label_width else None
        self.out = he_normal(conv(1, channels, 2 * channels, 1))

    def forward(
        self, x: Tensor, step: Tensor, local: Tensor | None, label: Tensor | None, prepared: bool
    ) -> tuple[Tensor, Tensor]:
        """Refine what goes on from layer to layer; positions come before channels.

        The three taps, and the spectrogram, are one matrix product: that is faster than a convolution and another.

        Parameters
        ----------
        x : Tensor, shape (B, L, C)
        step : Tensor, shape (B, step_width)
        local : Tensor, shape (B, L, n_mels), or (B, L, 2C) where prepared, optional
            The upsampled spectrogram, or what it adds together with the layer's own constants.
        label : Tensor, shape (B, label_width), optional
        prepared : bool

        Returns
        -------
        onward, skip : Tensor, shape (B, L, C)
        """
        y = x + self.step(step)[:, None]
        bias = None if prepared else self.dilated.bias
        if self.mel is not None and local is not None and not prepared:
            weight, bias = torch.cat((self.taps, self.mel.weight[..., 0]), 1), bias + self.mel.bias  # type: ignore[operator]
            z = _product(y, local.to(y.dtype), weight, bias, self.dilation)
        else:
            z = _product(y, None, self.taps, bias, self.dilation)
        if prepared and local is not None:
            z = z + local
        if self.label is not None:
            z = z + self.label(label)[:, None]
        gate, signal = z.chunk(2, 2)
        onward, skip = functional.linear(
            gate.sigmoid() * signal.tanh(), self.out.weight[..., 0], self.out.bias
        ).chunk(2, 2)
        return (x + onward) * math.sqrt(0.5), skip

    @property
    def taps(self) -> Tensor:
        """Weights of the three taps side by side: (2C, 3C)."""
        return self.dilated.weight.permute(0, 2, 1).flatten(1)


def run_layers(
    layers: Sequence[ResidualLayer], x: Tensor, step: Tensor, local: Tensor | None, label: Tensor | None
) -> Tensor:
    """Run one layer after the other, and sum their skips.

    Parameters
    ----------
    layers : sequence of ResidualLayer
    x : Tensor, shape (B, L, C)
    step : Tensor, shape (B, step_width)
    local : Tensor, optional
        The upsampled spectrogram (B, L, n_mels), or what it adds to each layer (B, layers, L, 2C), the
        layers' own constants included.
    label : Tensor, shape (B, label_width), optional

    Returns
    -------
    Tensor, shape (B, L, C), at least float32
    """
    prepared = local is not None and local.ndim == 4
    total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for n, layer in enumerate(layers):
        own = local[:, n] if prepared and local is not None else local
        x, skip = layer(x, step, own, label, prepared)
        total = total + skip.to(total.dtype)
    return total


def _product(y: Tensor, local: Tensor | None, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Multiply three neighbours, and the spectrogram, side by side with weights (outputs, 3C + n_mels)."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return functional.linear(torch.cat(_parts(y, local, dilation), 2), weight, bias)
    product: Tensor = _Product.apply(y, local, weight, bias, dilation)
    return product


class _Product(torch.autograd.Function):
    """Its factor is four times as large as what it is made of, and therefore made again for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, local: Tensor | None, weight: Tensor, bias: Tensor | None, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(y, local, weight)
        ctx.dilation = dilation
        return functional.linear(torch.cat(_parts(y, local, dilation), 2), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        y, local, weight = ctx.saved_tensors
        _, to_local, to_weight, to_bias, _ = ctx.needs_input_grad
        rows = grad.flatten(0, 1)
        factors = _parts(y, local, ctx.dilation)
        columns = weight.to(grad.dtype).split([part.shape[2] for part in factors], 1)
        weights = None
        if to_weight:
            weights = torch.cat([rows.mT @ part.to(grad.dtype).flatten(0, 1) for part in factors], 1)
        bias = rows.sum(0) if to_bias else None
        left, middle, right = (grad @ column for column in columns[:3])
        total = _summed(left, middle, right, ctx.dilation)
        return total, grad @ columns[3] if to_local else None, weights, bias, None


def _parts(y: Tensor, local: Tensor | None, dilation: int) -> list[Tensor]:
    """Each place's neighbour to the left, itself, its neighbour to the right, and what the spectrogram says of it."""
    padded = functional.pad(y, (0, 0, dilation, dilation))
    parts = [padded[:, : -2 * dilation], y, padded[:, 2 * dilation :]]
    return parts if local is None else [*parts, local]


def _summed(left: Tensor, middle: Tensor, right: Tensor, dilation: int) -> Tensor:
    """Give back to each place what :func:`_parts` took of it to three places."""
    total, rest = middle.clone(), max(0, middle.shape[1] - dilation)
    total[:, :rest] += left[:, dilation:]
    total[:, dilation:] += right[:, :rest]
    return total


def he_normal(layer: Convolution) -> Convolution:
    """Start from He's normal weights (paper, section 5.1)."""
    nn.init.kaiming_normal_(layer.weight)
    return layer
