"""The critic of reverse steps in one, two and three dimensions, and networks that are told a latent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import gradient_penalty
from mmdiff.errors import InputError
from mmdiff.nn import LatentMapping, LatentNetwork, StepCritic

SPACES = {1: (21,), 2: (9, 14), 3: (3, 6, 1)}


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(dims: int, **options) -> StepCritic:
    with torch.random.fork_rng():
        torch.manual_seed(dims)
        return StepCritic(dims, 2, (4, 6, 8), embedding=8, **options)


@pytest.mark.parametrize("dims", SPACES)
def test_one_score_an_item_that_depends_on_all_it_is_shown_and_on_no_other_item(dims: int) -> None:
    critic = make(dims, planes=3)
    shapes = ((4, 2, *SPACES[dims]),) * 2 + ((4,), (4, 3, *SPACES[dims]))
    shown = [randn(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    scores = critic(*shown)
    assert scores.shape == (4,)
    for gradient in torch.autograd.grad(scores[1], shown):
        assert [bool(part.any()) for part in gradient] == [False, True, False, False]


def test_a_line_is_a_picture_of_one_column() -> None:
    line, picture = make(1), make(2, factors=((2, 1), (2, 1)))
    with torch.no_grad():
        for narrow, wide in zip(line.parameters(), picture.parameters(), strict=True):
            wide.zero_()
            if narrow.ndim == 3:
                wide[..., wide.shape[-1] // 2] = narrow
            else:
                wide.copy_(narrow)
        x_s, x_t, t = randn(3, 2, 21), randn(3, 2, 21, seed=1), torch.rand(3)
        torch.testing.assert_close(picture(x_s[..., None], x_t[..., None], t), line(x_s, x_t, t))


def test_its_gradient_penalty_can_be_differentiated() -> None:
    critic = make(2).double()
    x_s, x_t = randn(2, 2, 5, 6).double(), randn(2, 2, 5, 6, seed=1).double()
    t = torch.tensor([0.25, 1.0]).double()
    parameters = [p for p in critic.parameters() if p.ndim > 1]
    gradients = torch.autograd.grad(
        gradient_penalty(critic, x_s, x_t, t).sum(), parameters, allow_unused=True, materialize_grads=True
    )
    ways = [randn(*p.shape, seed=n).double() for n, p in enumerate(parameters)]

    def moved(distance: float) -> Tensor:
        with torch.no_grad():
            torch._foreach_add_(parameters, ways, alpha=distance)
            value = gradient_penalty(critic, x_s, x_t, t).sum()
            torch._foreach_sub_(parameters, ways, alpha=distance)
        return value

    slope = sum((g * way).sum() for g, way in zip(gradients, ways, strict=True))
    torch.testing.assert_close((moved(1e-6) - moved(-1e-6)) / 2e-6, slope, rtol=1e-5, atol=1e-8)


def test_factors_must_fit_the_widths() -> None:
    with pytest.raises(InputError, match="factors"):
        make(1, factors=(2,))


def test_the_mapping_knows_a_latent_by_its_direction() -> None:
    mapping, z = LatentMapping(5, 7), randn(3, 5)
    assert mapping(z).shape == (3, 7)
    torch.testing.assert_close(mapping(3 * z), mapping(z))
    assert float((mapping(-z) - mapping(z)).detach().abs().min()) > 0
    with pytest.raises(InputError, match="z="):
        mapping(randn(3, 4))


class Told(nn.Module):
    """Say what vector it was told."""

    def forward(self, x: Tensor, level: Tensor, *, vector: Tensor, **rest: object) -> Tensor:
        return vector


def test_a_network_that_is_told_a_vector_takes_z() -> None:
    x, level, z = torch.zeros(2, 3, 4), torch.ones(2), randn(2, 5)
    network = LatentNetwork(Told(), 5, 6)
    torch.testing.assert_close(network(x, level, z=z), network.mapping(z))


def test_folded_neighbours_and_a_vector_are_seen_and_judged_item_by_item() -> None:
    critic = make(2, patch=(2, 3), vector=5, factors=(1, 1))
    nn.init.normal_(critic.tell.weight)
    shapes = ((4, 2, 4, 6), (4, 2, 4, 6), (4,))
    shown = [randn(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    vector = randn(4, 5, seed=3).requires_grad_()
    scores = critic(*shown, vector=vector)
    for gradient in torch.autograd.grad(scores[1], [*shown, vector]):
        assert [bool(part.any()) for part in gradient] == [False, True, False, False]
    assert critic.read.in_channels == 2 * 2 * 6
