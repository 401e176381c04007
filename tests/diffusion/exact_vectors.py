"""Data that are draws from a mixture of Gaussians with full covariances: denoiser and density in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from mmdiff.diffusion.schedules import Schedule


class VectorMixture:
    """Items of any shape whose D elements together are a draw from sum_k w_k N(mean_k, cov_k)."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means, self.covariances = weights, means, covariances
        self.variances, self.axes = torch.linalg.eigh(covariances)  # (K, D), (K, D, D)

    @classmethod
    def random(cls, components: int, size: int, seed: int = 0, spread: float = 0.7) -> VectorMixture:
        """Means about N(0, spread²), standard deviations along random axes from 0.4 to 1.2."""
        g = torch.Generator().manual_seed(seed)
        kind = {"generator": g, "dtype": torch.float64}
        axes, _ = torch.linalg.qr(torch.randn(components, size, size, **kind))
        variances = (0.4 + 0.8 * torch.rand(components, 1, size, **kind)) ** 2
        means = spread * torch.randn(components, size, **kind)
        return cls(torch.rand(components, **kind) + 0.5, means, axes * variances @ axes.mT)

    def distribution(self, alpha: float = 1.0, sigma: float = 0.0) -> MixtureSameFamily:
        """What alpha x0 + sigma eps is drawn from, as torch has it."""
        noise = sigma**2 * torch.eye(self.means.shape[1], dtype=torch.float64)
        parts = MultivariateNormal(alpha * self.means, alpha**2 * self.covariances + noise)
        return MixtureSameFamily(Categorical(self.weights), parts)

    def sample(self, count: int, shape: tuple[int, ...], seed: int = 1) -> Tensor:
        """Draw items (count, *shape)."""
        g = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.weights, count, True, generator=g)
        noise = torch.randn(count, self.means.shape[1], generator=g, dtype=torch.float64)
        scaled = (self.axes[which] * self.variances[which].sqrt()[:, None]) @ noise[..., None]
        return (self.means[which] + scaled[..., 0]).view(count, *shape)

    def log_density(self, x: Tensor, alpha: float = 1.0, sigma: float = 0.0) -> Tensor:
        """log p of items, (B,)."""
        return self.distribution(alpha, sigma).log_prob(x.flatten(1))

    def denoiser(self, schedule: Schedule) -> Callable[..., Tensor]:
        """E[x0 | x_t]; legal at alpha = 0."""

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            levels = schedule(t.double())
            alpha, sigma = (v[:, None, None] for v in (levels.alpha, levels.sigma))  # (B, 1, 1)
            total = alpha**2 * self.variances + sigma**2  # (B, K, D)
            centred = x.double().flatten(1)[:, None] - alpha * self.means
            along = torch.einsum("bkd,kde->bke", centred, self.axes)
            log_joint = self.weights.log() - (along**2 / total + total.log()).sum(-1) / 2
            means = self.means + torch.einsum(
                "bke,kde->bkd", alpha * self.variances / total * along, self.axes
            )
            return (log_joint.softmax(1)[..., None] * means).sum(1).view_as(x).to(x.dtype)

        return denoise
