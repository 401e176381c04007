"""Random vectors that a generator makes something of, brought into networks that know nothing of them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.registry import register


class LatentMapping(nn.Module):
    """Map standard normal z to a vector w: pixel norm, then layers with leaky ReLU.

    Parameters
    ----------
    latents : int > 0
        Size of z.
    width : int > 0
        Size of w, and of the layers between.
    depth : int > 0
        Layers.

    References
    ----------
    Karras et al. 2019, arXiv:1812.04948, section 2; Xiao et al. 2022, arXiv:2112.07804, appendix C.
    """

    def __init__(self, latents: int, width: int, depth: int = 3) -> None:
        super().__init__()
        if min(latents, width, depth) < 1:
            raise InputError(f"latents={latents}, width={width} and depth={depth} must be positive")
        self.latents = latents
        layers = [nn.Linear(*sizes) for sizes in pairwise((latents, *(width,) * depth))]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(*(m for layer in layers for m in (layer, nn.LeakyReLU(0.2))))

    def forward(self, z: Tensor) -> Tensor:
        """Map z (B, latents) to w (B, width).

        Raises
        ------
        InputError
            z has another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.latents:
            raise InputError(f"z={tuple(z.shape)} must be (B, {self.latents}), standard normal numbers")
        w: Tensor = self.layers(functional.rms_norm(z, z.shape[1:], eps=1e-8).to(next(self.parameters())))
        return w


@register
class LatentNetwork(nn.Module):
    """A network that is told a vector, made one that takes z: the generator of a denoising diffusion GAN.

    The vector goes where the network's own conditions go; networks of this package add those to what they make of
    the noise level.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(x, level, vector=w, **cond)``, w (B, width).
    latents : int > 0
        Size of z.
    width : int > 0
        Size of w.
    depth : int > 0
        Layers from z to w; see :class:`LatentMapping`.
    name : str
        Keyword under which the network takes its vector.

    Examples
    --------
    >>> import torch
    >>> class Shift(nn.Module):
    ...     def forward(self, x, level, *, vector):
    ...         return x + vector[..., None]
    >>> generator = LatentNetwork(Shift(), latents=8, width=2)
    >>> generator(torch.zeros(3, 2, 5), torch.ones(3), z=torch.randn(3, 8)).shape
    torch.Size([3, 2, 5])
    """

    def __init__(
        self, network: nn.Module, latents: int, width: int, depth: int = 3, name: str = "vector"
    ) -> None:
        super().__init__()
        self.network, self.name = network, name
        self.mapping = LatentMapping(latents, width, depth)

    @property
    def latents(self) -> int:
        """Size of z."""
        return self.mapping.latents

    def forward(self, x: Tensor, level: Tensor, *, z: Tensor, **cond: Any) -> Tensor:
        """Evaluate on x (B, C, *space) at level (B,), given z (B, latents) and what else the network is told."""
        return self.network(x, level, **{self.name: self.mapping(z)}, **cond)
