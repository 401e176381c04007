"""Convolutions in any number of dimensions that keep the size, or divide it by the stride."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from mmdiff.nn.lines import LineConv

_CONVOLUTIONS: dict[int, Callable[..., nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: LineConv,
    2: nn.Conv2d,
    3: nn.Conv3d,
}


def conv(
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int | Sequence[int],
    *,
    dilation: int = 1,
    stride: int = 1,
) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """Build a zero-padded convolution whose output is as large as its input, over the stride.

    Parameters
    ----------
    dims : {1, 2, 3}
        Number of spatial dimensions.
    inputs, outputs : int > 0
        Channels.
    kernel : int > 0, odd, or dims of them
        Taps along each dimension.
    dilation : int > 0
        Distance between taps.
    stride : int > 0
        Step of the output. A size that is a multiple of it is divided by it exactly.

    Returns
    -------
    nn.Module
        ``(B, inputs, *space) -> (B, outputs, *ceil(space / stride))``.

    Examples
    --------
    >>> conv(1, 4, 8, 3, dilation=2)
    LineConv(4, 8, kernel_size=(3,), stride=(1,), padding=(2,), dilation=(2,))
    """
    assert dims in _CONVOLUTIONS, f"dims={dims} must be 1, 2 or 3"
    taps = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    assert len(taps) == dims, f"kernel={kernel} must have an entry for each of dims={dims}"
    assert all(n % 2 == 1 for n in taps), f"kernel={kernel} must be odd: an even one cannot be centred"
    padding = tuple(dilation * (n - 1) // 2 for n in taps)
    return _CONVOLUTIONS[dims](inputs, outputs, taps, stride=stride, padding=padding, dilation=dilation)
