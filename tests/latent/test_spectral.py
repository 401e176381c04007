"""Largest singular values of convolutions, against the singular value decomposition."""

from __future__ import annotations

import torch
from torch import nn

from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.spectral import SpectralPenalty
from mmdiff.latent.tasks import AutoencoderTask


def network() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(2, 1, 4, widths=(8, 8), factors=(2, 2)).double()


def layers(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def test_values_and_gradients_are_those_of_the_decomposition() -> None:
    net = network()
    penalty = SpectralPenalty(net, iterations=500)
    found = penalty(net)
    found.backward()
    truth = sum(torch.linalg.svdvals(layer.weight.detach().flatten(1))[0] for layer in layers(net))
    torch.testing.assert_close(found.detach(), truth, rtol=1e-4, atol=0)
    left, _, right = torch.linalg.svd(net.code.weight.detach().flatten(1))
    by_weight = torch.outer(left[:, 0], right[0])
    torch.testing.assert_close(net.code.weight.grad.flatten(1), by_weight, rtol=0, atol=1e-2)
    again = penalty.eval()(net)  # does not move
    torch.testing.assert_close(again, found, rtol=1e-6, atol=0)


def test_iterations_add_up_over_calls_and_resume() -> None:
    net = network()
    one = SpectralPenalty(net)
    course = [float(one(net).detach()) for _ in range(6)]
    assert course == sorted(course)  # from below
    torch.testing.assert_close(one(net), _after(net, 7))
    resumed = SpectralPenalty(net)
    resumed.load_state_dict(one.state_dict())
    torch.testing.assert_close(resumed(net), one(net), rtol=0, atol=0)


def _after(net: nn.Module, iterations: int) -> torch.Tensor:
    return SpectralPenalty(net, iterations)(net)


def test_a_layer_of_zeros_waits_until_it_has_weights() -> None:
    torch.manual_seed(0)
    layer = nn.Conv1d(3, 5, 3).double()
    nn.init.zeros_(layer.weight)
    penalty = SpectralPenalty(layer, iterations=400)
    assert float(penalty(layer).detach()) == 0
    nn.init.normal_(layer.weight)
    truth = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
    torch.testing.assert_close(penalty(layer).detach(), truth)


def test_tasks_add_it_to_their_loss() -> None:
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    plain, priced = (AutoencoderTask(network(), nn.Identity(), spectral=weight) for weight in (0.0, 0.1))
    first, second = (task(x, torch.Generator().manual_seed(1)) for task in (plain, priced))
    expected = first["loss"] + 0.1 * _after(network(), 1)
    torch.testing.assert_close(second["loss"], expected)
    assert any(name.startswith("added.penalty") for name in priced.state_dict())
    assert not any(name.startswith("added.penalty") for name in plain.state_dict())
