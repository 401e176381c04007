"""Convolutions that halve a picture level by level: the body of small classifiers."""

from __future__ import annotations

import itertools

from torch import nn


def pyramid(channels: tuple[int, ...]) -> nn.Sequential:
    """Map (B, 1, H, W) to (B, channels[-1], H / 2^n, W / 2^n), n levels below the first.

    Parameters
    ----------
    channels : tuple of int
        Width at full, half, quarter, ... resolution; multiples of 8.
    """
    layers: list[nn.Module] = [*_convolution(1, channels[0])]
    for narrow, wide in itertools.pairwise(channels):
        layers += [*_convolution(narrow, wide, stride=2), *_convolution(wide, wide)]
    return nn.Sequential(*layers)


def _convolution(narrow: int, wide: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, 3, stride, 1, bias=False), nn.GroupNorm(8, wide), nn.SiLU()]
