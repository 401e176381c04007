"""Networks that correct a normal distribution: the mixed score of latent score-based models."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.diffusion.conversions import from_x0
from mmdiff.diffusion.denoiser import Denoiser, per_item_time
from mmdiff.diffusion.scalings import edm_scalings
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError
from mmdiff.registry import register


@register
class MixedDenoiser(Denoiser):
    """Mix the denoiser of a normal distribution with a network's, channel by channel.

    x0-hat = (1 - a) x0-hat of N(0, sigma_data²) + a x0-hat of the network, with a = sigmoid(``mixing``) learned. All
    parameterisations are affine in x0 at a given x, so that the same mixture holds of eps, v and score. With a = 0 the
    distribution is the normal one, from which it begins when an encoder is trained with it.

    Parameters
    ----------
    network, schedule, prediction, noise_input, sigma_data, clamp, dynamic_threshold
        As for :class:`~mmdiff.diffusion.denoiser.Denoiser`; ``sigma_data`` is the normal distribution's too.
    channels : int > 0
        C of the data, each with a share of its own.
    share : float in (0, 1), default 0.1
        What a is before training.
    axis : int, default 1
        Where data have their channels: 1 in (B, C, *space), -1 in (B, *space, C).

    Raises
    ------
    InputError
        An argument is out of range.

    References
    ----------
    Vahdat, Kreis and Kautz 2021, arXiv:2106.05931, section 3.2.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import GeometricVP
    >>> class Zero(nn.Module):
    ...     def forward(self, x, level):
    ...         return torch.zeros_like(x)
    >>> denoiser = MixedDenoiser(Zero(), GeometricVP(), channels=3)
    >>> denoiser(torch.ones(1, 3, 8), torch.tensor(0.5)).shape
    torch.Size([1, 3, 8])
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        channels: int,
        prediction: str = "eps",
        noise_input: str = "t",
        sigma_data: float = 1.0,
        share: float = 0.1,
        axis: int = 1,
        clamp: tuple[float, float] | None = None,
        dynamic_threshold: float | None = None,
    ) -> None:
        super().__init__(
            network,
            schedule,
            prediction,
            noise_input,
            sigma_data,
            clamp=clamp,
            dynamic_threshold=dynamic_threshold,
        )
        if channels < 1 or not 0 < share < 1:
            raise InputError(f"channels={channels} must be positive and share={share} lie in (0, 1); try 0.1")
        self.axis = axis
        self.mixing = nn.Parameter(torch.full((channels,), math.log(share / (1 - share))))

    def raw(self, x: Tensor, t: Tensor | float, *, told: Tensor | None = None, **cond: Any) -> Tensor:
        """Return the mixture in the network's own parameterisation; see :class:`Denoiser`."""
        output = super().raw(x, t, told=told, **cond)
        along = [1] * output.ndim
        along[self.axis] = -1
        share = self.mixing.sigmoid().to(output.dtype).view(along)
        return torch.lerp(self._normal(x.to(output.dtype), per_item_time(t, x)), output, share)

    def _normal(self, x: Tensor, t: Tensor) -> Tensor:
        """What the network would say of normal data."""
        levels = self._levels(x, t)
        power = levels.alpha**2 * self.sigma_data**2 + levels.sigma**2
        if self.prediction == "edm":
            return torch.zeros_like(x)
        if self.prediction == "eps":
            return levels.sigma / power * x
        if self.prediction == "v":
            return levels.alpha * levels.sigma * (1 - self.sigma_data**2) / power * x
        if self.prediction == "score":
            return -x / power
        c_skip, _, _ = edm_scalings(levels, self.sigma_data)
        return from_x0(c_skip * x, self.prediction, x, levels)  # type: ignore[arg-type]
