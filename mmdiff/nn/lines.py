"""Signals as pictures of one row, channels last in memory: what a processor convolves fastest."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional


def as_line(x: Tensor) -> Tensor:
    """Make a signal (B, C, L) a line: (B, C, 1, L), in whose memory the channels of a place lie side by side.

    PyTorch has no such layout of three dimensions, and in the ordinary one most convolutions on a processor first
    copy what they are given, and then their result.
    """
    return _line(x.mT.contiguous())


class LineConv(nn.Conv1d):
    """A convolution of signals that also takes lines, and gives lines then; see :func:`as_line`.

    Of lines it computes in their dtype, whatever that of the weights. Weights that :func:`keep_as_lines` has laid
    out need not be copied for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, L)`` to ``(B, outputs, ceil(L / stride))``, or a line to a line."""
        if x.ndim == 3:
            return super().forward(x)
        weight, bias = self._parameters_for(x)
        if self.kernel_size == (1,) and self.stride == (1,):
            return _line(functional.linear(_rows(x), weight[..., 0], bias))
        weight = weight[:, :, None].contiguous(memory_format=torch.channels_last)
        (stride,), (padding,), (dilation,) = self.stride, cast("tuple[int]", self.padding), self.dilation
        y = functional.conv2d(x, weight, bias, (1, stride), (0, padding), (1, dilation))
        return y.contiguous(memory_format=torch.channels_last)  # it is, but where x has one channel

    def of_repeated(self, x: Tensor, factor: int) -> Tensor:
        """Convolve a line of whose values each is repeated, with the products at the line's own rate.

        A tap's product with a repeated value is the product repeated: each is computed once, and those that meet at
        a place are added.

        Parameters
        ----------
        x : Tensor, shape (B, inputs, 1, L)
        factor : int > 0

        Returns
        -------
        Tensor, shape (B, outputs, 1, factor · L)
        """
        assert self.stride == (1,), f"stride={self.stride} must be 1"
        if factor == 1:
            return self(x)
        weight, bias = self._parameters_for(x)
        taps = weight.shape[2]
        products = functional.linear(_rows(x), weight.permute(2, 0, 1).flatten(0, 1)).chunk(taps, 2)
        (padding,), (dilation,) = cast("tuple[int]", self.padding), self.dilation
        sources = [
            tuple((phase + tap * dilation - padding) // factor for tap in range(taps))
            for phase in range(factor)
        ]
        sums = {places: sum(map(_moved, products, places), bias) for places in set(sources)}
        return _line(torch.stack([sums[places] for places in sources], 2).flatten(1, 2))

    def _parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and constants in a line's dtype, where PyTorch's autocast does not choose it."""
        assert self.bias is not None
        if torch.is_autocast_enabled(x.device.type):
            return self.weight, self.bias
        return self.weight.to(x.dtype), self.bias.to(x.dtype)


def keep_as_lines(module: nn.Module) -> None:
    """Lay out a module's weights in memory as convolutions of lines take them; their values and shapes stay."""
    for layer in module.modules():
        if isinstance(layer, LineConv):
            layer.weight.data = layer.weight.data.mT.contiguous().mT


def _rows(x: Tensor) -> Tensor:
    """Make a line (B, L, C)."""
    return x[:, :, 0].mT


def _line(rows: Tensor) -> Tensor:
    """Make (B, L, C) a line."""
    return rows.mT[:, :, None]


def _moved(rows: Tensor, by: int) -> Tensor:
    """Return y with ``y[:, n] = rows[:, n + by]``, zero beyond the ends."""
    if by == 0:
        return rows
    by = max(-rows.shape[1], min(by, rows.shape[1]))
    return functional.pad(rows, (0, 0, -by, by))  # by less than nothing: cut
