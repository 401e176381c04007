"""DiffWave's layers without gradients: in place, positions before channels, in pieces that fit a cache.

A convolution of three taps is one matrix product of the three neighbours side by side. Piece by piece that product,
the gate and the next product stay in the processor's cache, where layer after layer of whole tensors would go
through memory eight times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmdiff.audio.networks.diffwave_layers import ResidualLayer
from mmdiff.nn.pieces import piece_size

KEEP = math.sqrt(0.5)
"""Share of the sum that goes on from layer to layer."""


def run_in_place(
    layers: Sequence[ResidualLayer],
    x: Tensor,
    step: Tensor,
    local: Tensor | None,
    label: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Compute what :func:`~mmdiff.audio.networks.diffwave_layers.run_layers` does, without gradients.

    Parameters
    ----------
    layers, step, local, label
        As for that function.
    x : Tensor, shape (B, L, C)
        Overwritten; rounding does not add up where it is float32.
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
    # The layers' last constants, (2C,), are the same at all positions: carried beside both sums, not added to them.
    beside = x.new_zeros(2 * channels)
    rows = piece_size(8 * batch * channels, x.device)
    if local is not None:
        local = local.to(dtype)
    for n, layer in enumerate(layers):
        constant = layer.step(step) + beside[:channels]
        torch.add(x, constant[:, None], out=padded[:, margin : margin + length])
        run = _Layer(layer, local, n, label, dtype, batch)
        for first in range(0, length, rows):
            last = min(first + rows, length)
            run(padded, margin, first, last, x[:, first:last], total[:, first:last])
        assert layer.out.bias is not None
        beside += layer.out.bias
        beside[:channels] *= KEEP
    return total.add_(beside[channels:])


class _Layer:
    """One layer with its weights as the products want them."""

    def __init__(
        self,
        layer: ResidualLayer,
        local: Tensor | None,
        n: int,
        label: Tensor | None,
        dtype: torch.dtype,
        batch: int,
    ) -> None:
        self.channels, self.dilation = layer.out.in_channels, layer.dilation
        self.taps = _repeated(layer.taps.mT, dtype, batch)
        self.mel: Tensor | None = None
        biases = [] if layer.label is None else [layer.label(label)[:, None]]
        if local is not None and local.ndim == 4:  # with all the layer's constants in it
            self.local: Tensor | None = local[:, n]
        else:
            self.local = local
            biases.append(layer.dilated.bias)
            if layer.mel is not None:
                self.mel = _repeated(layer.mel.weight[..., 0].mT, dtype, batch)
                biases.append(layer.mel.bias)
        self.bias = sum(biases[1:], biases[0]).to(dtype) if biases else None
        onward, skip = layer.out.weight[..., 0].mT.split(self.channels, 1)
        self.onward, self.skip = _repeated(onward * KEEP, dtype, batch), _repeated(skip, dtype, batch)

    def __call__(self, padded: Tensor, margin: int, first: int, last: int, x: Tensor, total: Tensor) -> None:
        """Refine positions first ... last - 1, of which x and total are the parts of both sums."""
        shifts = (margin - self.dilation, margin, margin + self.dilation)
        neighbours = torch.cat([padded[:, first + shift : last + shift] for shift in shifts], 2)
        local = None if self.local is None else self.local[:, first:last]
        if local is not None and self.mel is None:
            y = torch.baddbmm(local, neighbours, self.taps)
        else:
            y = neighbours @ self.taps
        if local is not None and self.mel is not None:
            y.baddbmm_(local, self.mel)
        if self.bias is not None:
            y += self.bias
        gate, signal = y[..., : self.channels].sigmoid_(), y[..., self.channels :].tanh_()
        gated = gate * signal
        _add_product(x, gated, self.onward, KEEP)
        _add_product(total, gated, self.skip, 1.0)


def _repeated(weight: Tensor, dtype: torch.dtype, batch: int) -> Tensor:
    return weight.to(dtype).contiguous().expand(batch, -1, -1)


def _add_product(result: Tensor, factor: Tensor, weight: Tensor, keep: float) -> None:
    """Make the result ``keep * result + factor @ weight``, whose products may be less exact than the sum."""
    if factor.dtype == result.dtype:
        result.baddbmm_(factor, weight, beta=keep)
    else:
        torch.add((factor @ weight).to(result.dtype), result, alpha=keep, out=result)
