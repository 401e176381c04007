from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import with_latents
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.schedules import BetaTable, vp_betas
from mmdiff.errors import InputError
from mmdiff.video.conditioning import ClassCondition, ConditionedNetwork, LatentCondition
from mmdiff.video.unet import SpaceTimeUNet


class Told(nn.Module):
    """Say what vector it was told."""

    def forward(self, x: Tensor, level: Tensor, *, vector: Tensor, **rest: object) -> Tensor:
        return vector


def test_a_clips_latent_is_a_vector_for_each_frame_beside_other_conditions() -> None:
    latent, label = LatentCondition(5, 6), ClassCondition(3, 6)
    network = ConditionedNetwork(Told(), (label, latent))
    x, level, z = torch.zeros(2, 3, 4, 8, 8), torch.ones(2), torch.randn(2, 5)
    said = network(x, level, z=z, label=torch.tensor([2, 0]))
    expected = latent.mapping(z) + label.embed.weight[[2, 0]]
    torch.testing.assert_close(said, expected[:, None].expand(-1, 4, -1))
    assert torch.equal(network.nulls({"z": z})["z"], z)
    with pytest.raises(InputError, match="z must be given"):
        network(x, level)


def test_a_space_time_network_is_a_generator() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    unet = SpaceTimeUNet(widths=(8,), blocks=1, mixing=("",), vector=6, embedding=16)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    network = ConditionedNetwork(unet, (LatentCondition(5, 6),))
    denoiser = with_latents(Denoiser(network, BetaTable(vp_betas(4)), "v", "log_snr"), 5, generators)
    x = torch.zeros(2, 3, 4, 8, 8)
    one, other = denoiser(x, torch.ones(2)), denoiser(x, torch.ones(2))
    assert one.shape == x.shape
    assert float((one[0] - one[1]).detach().abs().max()) > 1e-4
    assert float((one - other).detach().abs().max()) > 1e-4
