"""DiffWave's layers without gradients: in place, positions before channels, in pieces that fit a cache.

A convolution of three taps is one matrix product of the three neighbours side by side. Piece by piece that product,
the gate and the next product stay in the processor's cache, where layer after layer of whole tensors would go
through memory eight times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.nn.pieces import piece_size

if TYPE_CHECKING:
    from mmdiff.audio.networks.diffwave import ResidualLayer


def run_layers(
    layers: Sequence[ResidualLayer],
    x: Tensor,
    step: Tensor,
    local: Tensor | None,
    labels: Sequence[Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """Run :class:`~mmdiff.audio.networks.diffwave.ResidualLayer` after another, and sum their skips.

    Parameters
    ----------
    layers : sequence of ResidualLayer
    x : Tensor, shape (B, L, C)
        Overwritten; rounding does not add up where it is float32.
    step : Tensor, shape (B, step_width)
    local : Tensor, optional
        The upsampled spectrogram (B, L, n_mels), or what it adds to each layer (B, layers, L, 2C), the
        convolution's own bias included.
    labels : sequence of Tensor, each (B, 2C)
        What a label adds to each layer, or nothing.
    dtype : torch.dtype
        Of the matrix products.

    Returns
    -------
    Tensor, shape (B, L, C)
    """
    batch, length, channels = x.shape
    margin = max(layer.dilation for layer in layers)
    padded = torch.zeros(batch, length + 2 * margin, channels, dtype=dtype, device=x.device)
    total = torch.zeros_like(x)
    rows = piece_size(8 * batch * channels, x.device)
    if local is not None:
        local = local.to(dtype)
    for n, layer in enumerate(layers):
        torch.add(x, layer.step(step)[:, None], out=padded[:, margin : margin + length])
        run = _Layer(layer, local, n, labels[n] if labels else None, dtype)
        for first in range(0, length, rows):
            last = min(first + rows, length)
            onward, skip = run(padded, margin, first, last)
            here = x[:, first:last]
            torch.add(onward, here, alpha=math.sqrt(0.5), out=here)
            total[:, first:last] += skip
    return total


class _Layer:
    """One layer with its weights as the products want them."""

    def __init__(
        self, layer: ResidualLayer, local: Tensor | None, n: int, label: Tensor | None, dtype: torch.dtype
    ) -> None:
        assert layer.out.bias is not None
        self.channels, self.dilation = layer.out.in_channels, layer.dilation
        self.taps = layer.dilated.weight.permute(2, 1, 0).flatten(0, 1).to(dtype)
        self.mel: Tensor | None = None
        biases = [] if label is None else [label[:, None]]
        if local is not None and local.ndim == 4:  # with all the layer's constants in it
            self.local: Tensor | None = local[:, n]
        else:
            self.local = local
            biases.append(layer.dilated.bias)  # type: ignore[arg-type]
            if layer.mel is not None:
                self.mel = layer.mel.weight[..., 0].mT.to(dtype)
                biases.append(layer.mel.bias)  # type: ignore[arg-type]
        self.bias = sum(biases[1:], biases[0]).to(dtype) if biases else None
        scale = torch.ones_like(layer.out.bias)
        scale[: self.channels] = math.sqrt(0.5)  # of the sum that goes on
        self.out = (layer.out.weight[..., 0] * scale[:, None]).to(dtype)
        self.out_bias = (layer.out.bias * scale).to(dtype)

    def __call__(self, padded: Tensor, margin: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """What positions first ... last - 1 hand on, and their skip."""
        shifts = (margin - self.dilation, margin, margin + self.dilation)
        neighbours = torch.cat([padded[:, first + shift : last + shift] for shift in shifts], 2)
        y = neighbours @ self.taps
        if self.local is not None:
            piece = self.local[:, first:last]
            y += piece if self.mel is None else piece @ self.mel
        if self.bias is not None:
            y += self.bias
        gate, signal = y[..., : self.channels].sigmoid_(), y[..., self.channels :].tanh_()
        result = functional.linear(gate * signal, self.out, self.out_bias)
        return result[..., : self.channels], result[..., self.channels :]
