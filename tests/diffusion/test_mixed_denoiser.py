"""Mixed scores against the exact denoisers that they mix."""

from __future__ import annotations

import pytest
import torch
from oracles import gaussian
from torch import nn

from mmdiff.diffusion.conversions import expand, from_x0
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.mixed_denoiser import MixedDenoiser
from mmdiff.diffusion.objectives import Objective
from mmdiff.diffusion.schedules import CosineVP, GeometricVP, LinearFlow, VarianceExploding
from mmdiff.errors import InputError


class Sine(nn.Module):
    """Any function of the state."""

    def forward(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x + level.view(-1, *(1,) * (x.ndim - 1)))


def random_state(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("schedule", [GeometricVP(), CosineVP(), LinearFlow(), VarianceExploding()])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "velocity", "score", "edm"])
def test_estimates_are_mixed_channel_by_channel(schedule, prediction) -> None:
    if prediction in ("eps", "score") and isinstance(schedule, (CosineVP, LinearFlow)):
        return  # end without signal
    shares = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    mixed = MixedDenoiser(Sine(), schedule, 3, prediction, sigma_data=0.7).double()
    mixed.mixing.data = torch.logit(shares)
    x, t = random_state(4, 3, 5), torch.linspace(0.1, 0.9, 4).double()
    normal = gaussian(std=0.7).denoise(schedule, x, t)
    network = Denoiser(Sine(), schedule, prediction, sigma_data=0.7)(x, t)
    share = shares[:, None]
    torch.testing.assert_close(mixed(x, t), (1 - share) * normal + share * network, rtol=1e-8, atol=1e-8)


def test_channels_may_come_last() -> None:
    mixed, last = (MixedDenoiser(Sine(), GeometricVP(), 3, axis=axis).double() for axis in (1, -1))
    for denoiser in (mixed, last):
        denoiser.mixing.data = torch.tensor([-2.0, 0.0, 1.0]).double()
    x, t = random_state(4, 3, 5), torch.linspace(0.1, 0.9, 4).double()
    torch.testing.assert_close(last(x.mT, t).mT, mixed(x, t))


def test_no_network_leaves_the_normal_distribution_whatever_it_says() -> None:
    schedule = GeometricVP()
    mixed = MixedDenoiser(Sine(), schedule, 2).double()
    nn.init.constant_(mixed.mixing, -torch.inf)
    x, t = random_state(3, 2, 4, 4), torch.tensor([0.01, 0.5, 1.0]).double()
    levels = expand(schedule(t), x)
    score = from_x0(mixed(x, t), "score", x, levels)
    torch.testing.assert_close(score, -x, rtol=1e-9, atol=1e-7)  # of N(0, 1), at all times


def test_objectives_train_network_and_mixing() -> None:
    """The loss is that of the mixture, and its gradient by the logits that of finite differences."""
    schedule = GeometricVP()
    mixed = MixedDenoiser(Sine(), schedule, 2, share=0.3).double()
    x0, t, noise = (
        random_state(3, 2, 6),
        torch.tensor([0.2, 0.5, 0.8]).double(),
        random_state(3, 2, 6).flip(0),
    )

    def loss() -> torch.Tensor:
        how = {"generator": None, "t": t, "noise": noise}
        return Objective(schedule, target="eps")(mixed, x0, **how).sum()

    levels = expand(schedule(t), x0)
    x = levels.alpha * x0 + levels.sigma * noise
    eps = (x - levels.alpha * mixed(x, t)) / levels.sigma
    torch.testing.assert_close(loss(), ((eps - noise) ** 2).flatten(1).mean(1).sum())
    assert torch.autograd.gradcheck(lambda _: loss(), (mixed.mixing,))


def test_bad_shares_are_refused() -> None:
    with pytest.raises(InputError, match=r"share=1 lie in \(0, 1\)"):
        MixedDenoiser(Sine(), GeometricVP(), 2, share=1)
