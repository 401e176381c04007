"""The parts of DiffWave: its step embedding, the upsampling of its spectrogram, and its residual layer (2009.09761)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

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

    def forward(self, x: Tensor, step: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Refine x (B, C, L), given the step's vector and what conditions add (B, 2C, L or 1): x and skip."""
        y = self.dilated(x + self.step(step)[..., None])
        gate, signal = (y if bias is None else y + bias).chunk(2, 1)
        onward, skip = self.out(gate.sigmoid() * signal.tanh()).chunk(2, 1)
        return (x + onward) * math.sqrt(0.5), skip


def he_normal(layer: Convolution) -> Convolution:
    """Start from He's normal weights (paper, section 5.1)."""
    nn.init.kaiming_normal_(layer.weight)
    return layer
