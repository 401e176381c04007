"""Spectral regularisation: a price on how much each convolution of an autoencoder can magnify its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class SpectralPenalty(nn.Module):
    """Sum of the largest singular values of a network's convolutions, by power iteration.

    A convolution's matrix is its weight (outputs, inputs · taps). The singular vectors are buffers, which follow the
    weights by an iteration at each call in training: the value is never above the truth, and tends to it.

    Parameters
    ----------
    network : nn.Module
        With convolutions; it is not kept.
    iterations : int > 0
        At each call.

    References
    ----------
    Vahdat and Kautz 2020, arXiv:2007.03898, section 3.2; power iteration: Miyato et al. 2018, arXiv:1802.05957.

    Examples
    --------
    >>> layer = nn.Conv1d(4, 4, 1, bias=False)
    >>> nn.init.eye_(layer.weight[:, :, 0].data)
    tensor([[1., 0., 0., 0.],
            [0., 1., 0., 0.],
            [0., 0., 1., 0.],
            [0., 0., 0., 1.]])
    >>> round(float(SpectralPenalty(layer)(layer).detach()), 4)
    1.0
    """

    def __init__(self, network: nn.Module, iterations: int = 1) -> None:
        super().__init__()
        self.iterations = iterations
        generator = torch.Generator().manual_seed(0)
        for number, weight in enumerate(_matrices(network)):
            start = torch.randn(weight.shape[1], generator=generator)
            self.register_buffer(f"right{number}", functional.normalize(start, dim=0).to(weight))

    def forward(self, network: nn.Module) -> Tensor:
        """Return the sum, which gradients reach the network's weights of."""
        values = []
        for weight, right in zip(_matrices(network), self.buffers(), strict=True):
            with torch.no_grad():
                for _ in range(self.iterations if self.training else 0):
                    back = functional.normalize(weight.T @ (weight @ right), dim=0)
                    right.copy_(torch.where(back.any(), back, right))  # of a weight of 0 any vector will do
                left = functional.normalize(weight @ right, dim=0)
            values.append(left @ weight @ right.clone())
        return torch.stack(values).sum()


def _matrices(network: nn.Module) -> list[Tensor]:
    return [layer.weight.flatten(1) for layer in network.modules() if isinstance(layer, _CONVOLUTIONS)]
