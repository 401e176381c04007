"""What an encoder says of data: a normal distribution of latents, independent element by element."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.diffusion.solver_tools import Generators, draw_noise
from mmdiff.diffusion.vlb import gaussian_kl, gaussian_nll


class Posterior(NamedTuple):
    """q(z | x) = N(mean, exp(2 log_std)), each element by itself.

    Its logarithms are in nats, summed over an item's elements: of shape (B,).

    Examples
    --------
    >>> q = Posterior(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))
    >>> q.sample(torch.Generator().manual_seed(0)).shape
    torch.Size([2, 4, 8])
    >>> q.kl_standard()
    tensor([0., 0.])
    """

    mean: Tensor
    """Shape (B, C, *space)."""
    log_std: Tensor
    """Natural logarithm of the standard deviation, broadcastable to the mean."""

    @property
    def std(self) -> Tensor:
        """Standard deviation, shape of the mean."""
        return self.log_std.exp().expand_as(self.mean)

    def sample(self, generator: Generators = None, *, noise: Tensor | None = None) -> Tensor:
        """Draw latents, through which gradients reach mean and deviation.

        Parameters
        ----------
        generator : torch.Generator or list of B of them, optional
            Source of the noise; None takes torch's own.
        noise : Tensor, shape of the mean, optional
            Standard normal noise, instead of drawing it.

        Returns
        -------
        Tensor, shape of the mean
        """
        if noise is None:
            noise = draw_noise(self.mean.shape, self.mean, generator)
        return self.mean + self.std * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Logarithm of q(z | x) of latents z, (B, C, *space)."""
        return -_per_item(gaussian_nll(z, self.mean, self.std**2))

    def entropy(self) -> Tensor:
        """-E log q(z | x) = Σ (log std + ½ log 2πe)."""
        return _per_item(self.log_std.expand_as(self.mean) + (1 + math.log(2 * math.pi)) / 2)

    def kl_standard(self) -> Tensor:
        """KL divergence from the standard normal distribution."""
        one = torch.ones((), dtype=self.mean.dtype, device=self.mean.device)
        return _per_item(gaussian_kl(self.mean, self.std**2, torch.zeros_like(one), one))


def _per_item(elements: Tensor) -> Tensor:
    return elements.flatten(1).sum(1)
