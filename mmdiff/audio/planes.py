"""Complex arithmetic on pairs of real tensors, for runtimes that know neither complex numbers nor transforms.

While a graph is traced under :class:`RealArithmetic`, the formulas of this room work on :class:`Planes` wherever
they meet a complex spectrum: they are written once, and what comes out of them has real operators only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmdiff.audio.stft import Stft, hann, synthesise, transform


class Planes:
    """A complex tensor as its real and its imaginary part, with the operators that spectra meet.

    Parameters
    ----------
    real, imag : Tensor, of one shape
    """

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real, self.imag = real, imag

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute a function of torch, if it is one that spectra are given to."""
        own = _OF_PLANES.get(function)
        return NotImplemented if own is None else own(*args, **(kwargs or {}))

    @property
    def shape(self) -> torch.Size:
        """Shape as a complex tensor."""
        return self.real.shape

    @property
    def device(self) -> torch.device:
        """Of both parts."""
        return self.real.device

    def __len__(self) -> int:
        return len(self.real)

    def __getitem__(self, index: Any) -> Planes:
        return Planes(self.real[index], self.imag[index])

    def __add__(self, other: Planes) -> Planes:
        return Planes(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other: Planes) -> Planes:
        return Planes(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other: Planes | Tensor | float) -> Planes:
        if not isinstance(other, Planes):
            return Planes(self.real * other, self.imag * other)
        real = self.real * other.real - self.imag * other.imag
        return Planes(real, self.real * other.imag + self.imag * other.real)

    __rmul__ = __mul__

    def __truediv__(self, other: Tensor | float) -> Planes:
        return Planes(self.real / other, self.imag / other)

    def clone(self) -> Planes:
        """Itself: nothing here is changed in place."""
        return self

    def conj(self) -> Planes:
        """Complex conjugate."""
        return Planes(self.real, -self.imag)

    def abs(self) -> Tensor:
        """Modulus."""
        return (self.real.square() + self.imag.square()).sqrt()


@functools.lru_cache(maxsize=8)
def _kernels(n_fft: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Windowed Fourier matrices of a transform and its inverse, (2 K, 1, n_fft): real parts, then imaginary ones."""
    turns = torch.arange(n_fft // 2 + 1)[:, None] * torch.arange(n_fft) % n_fft
    angle = turns.double() * (2 * math.pi / n_fft)
    matrix = torch.cat([angle.cos(), -angle.sin()]) * torch.hann_window(n_fft, dtype=torch.float64)
    weights = torch.full((n_fft // 2 + 1, 1), 2 / n_fft, dtype=torch.float64)
    weights[[0, -1]] /= 2  # these two stand for one frequency each, the others for a pair
    return matrix[:, None].to(dtype), (matrix * weights.repeat(2, 1))[:, None].to(dtype)


class RealArithmetic(TorchFunctionMode):
    """In this context, spectra are :class:`Planes`, transforms convolutions, and running maxima doublings."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Take the place of functions that make spectra of real tensors."""
        return _IN_PLACE_OF.get(func, func)(*args, **(kwargs or {}))


def _transform(padded: Tensor, stft: Stft) -> Planes:
    """As :func:`mmdiff.audio.stft.transform`, by a convolution."""
    spectrum = F.conv1d(padded[:, None], _kernels(stft.n_fft, padded.dtype)[0], stride=stft.hop_length)
    return Planes(*spectrum.mT.chunk(2, -1))


def _synthesise(spectrum: Planes, stft: Stft) -> Tensor:
    """As :func:`mmdiff.audio.stft.synthesise`, by transposed convolutions."""
    parts = torch.cat([spectrum.real, spectrum.imag], -1).mT
    wave = F.conv_transpose1d(parts, _kernels(stft.n_fft, parts.dtype)[1], stride=stft.hop_length)
    squared = hann(stft.n_fft, spectrum.device, parts.dtype).square()[None, None]
    envelope = F.conv_transpose1d(torch.ones_like(parts[:1, :1]), squared, stride=stft.hop_length)
    return (wave / envelope.clamp_min(1e-8))[:, 0]


def _polar(modulus: Tensor, angle: Tensor) -> Planes:
    return Planes(modulus * angle.cos(), modulus * angle.sin())


def _sgn(x: Planes) -> Planes:
    return x / x.abs().clamp_min(torch.finfo(x.real.dtype).tiny)


def _pad(x: Planes, *args: Any, **kwargs: Any) -> Planes:
    return Planes(F.pad(x.real, *args, **kwargs), F.pad(x.imag, *args, **kwargs))


def _cat(parts: Sequence[Planes], dim: int = 0) -> Planes:
    return Planes(torch.cat([p.real for p in parts], dim), torch.cat([p.imag for p in parts], dim))


class _Running(NamedTuple):
    values: Tensor


def _cummax(x: Tensor, dim: int) -> _Running:
    """Largest value so far, along the last axis: of 2, then 4, then 8 neighbours ..."""
    assert dim == -1
    reach = 1
    while reach < x.shape[-1]:
        x = torch.cat([x[..., :reach], torch.maximum(x[..., reach:], x[..., :-reach])], -1)
        reach *= 2
    return _Running(x)


def _cummin(x: Tensor, dim: int) -> _Running:
    return _Running(-_cummax(-x, dim).values)


_OF_PLANES: dict[Any, Callable[..., Any]] = {
    torch.Tensor.mul: lambda x, planes: planes * x,
    torch.sgn: _sgn,
    torch.lerp: lambda start, end, weight: start + (end - start) * weight,
    torch.cat: _cat,
    F.pad: _pad,
    synthesise: _synthesise,
}
_IN_PLACE_OF: dict[Any, Callable[..., Any]] = {
    torch.complex: Planes,
    torch.polar: _polar,
    transform: _transform,
    torch.Tensor.cummax: _cummax,
    torch.Tensor.cummin: _cummin,
}
