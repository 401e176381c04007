"""Posteriors of latents against torch.distributions, and by what they draw."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from mmdiff.latent.posterior import Posterior

SHAPE = (3, 2, 5)


def random_posterior(shape: tuple[int, ...] = SHAPE) -> Posterior:
    source = torch.Generator().manual_seed(0)
    mean, log_std = (torch.randn(shape, generator=source, dtype=torch.float64) for _ in range(2))
    return Posterior(mean, log_std)


def reference(q: Posterior) -> Independent:
    return Independent(Normal(q.mean, q.log_std.exp()), q.mean.ndim - 1)


def test_logarithms_agree_with_torch_distributions() -> None:
    q, z = random_posterior(), torch.linspace(-2, 2, 30, dtype=torch.float64).view(SHAPE)
    standard = Independent(Normal(torch.zeros_like(z), torch.ones_like(z)), 2)
    torch.testing.assert_close(q.log_prob(z), reference(q).log_prob(z))
    torch.testing.assert_close(q.entropy(), reference(q).entropy())
    torch.testing.assert_close(q.kl_standard(), kl_divergence(reference(q), standard))


def test_a_shared_deviation_counts_for_each_element() -> None:
    mean = torch.zeros(2, 3, 4)
    shared = Posterior(mean, torch.full((1, 3, 1), 0.3))
    whole = Posterior(mean, torch.full_like(mean, 0.3))
    for name in ("entropy", "kl_standard"):
        torch.testing.assert_close(getattr(shared, name)(), getattr(whole, name)())


def test_samples_have_mean_and_deviation_and_pass_gradients() -> None:
    mean, log_std = (torch.full((1, 1, 40_000), value).requires_grad_() for value in (0.5, -1.0))
    z = Posterior(mean, log_std).sample(torch.Generator().manual_seed(1))
    assert float(z.detach().mean()) == pytest.approx(0.5, abs=0.01)
    assert float(z.detach().std().log()) == pytest.approx(-1, abs=0.02)
    by_mean, by_log_std = torch.autograd.grad(z.sum(), (mean, log_std))
    torch.testing.assert_close(by_mean, torch.ones_like(mean))
    torch.testing.assert_close(by_log_std, (z - mean).detach())  # dz/dlog_std = std * noise


def test_an_item_depends_on_its_own_generator() -> None:
    q = random_posterior()
    seeds = [torch.Generator().manual_seed(n) for n in range(3)]
    alone = Posterior(q.mean[2:], q.log_std[2:]).sample([torch.Generator().manual_seed(2)])
    torch.testing.assert_close(q.sample(seeds)[2:], alone)
    noise = torch.ones(SHAPE, dtype=torch.float64)
    torch.testing.assert_close(q.sample(noise=noise), q.mean + q.log_std.exp())
