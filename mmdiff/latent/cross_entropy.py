"""Cross entropy of latents under a diffusion prior: what a latent model's bound has besides an autoencoder's own terms.

Let the prior's process carry z_0 to z_t = α z_0 + σ ε, with q = α²/σ², and let ẑ be its denoiser. The chain of
infinitely many steps from t = 1 to the least time t_0, followed by z_0 = z_{t_0}/α + (σ/α) noise, has

    -log p(z_0) <= KL(N(α z_0, σ²) ‖ N(0, σ²)) at t = 1  +  ½ ∫ |z_0 - ẑ(z_t, t)|² dq  +  D/2 log(2πe σ²/α²) at t_0

in expectation over ε, dq being positive from t = 1 to t_0. The last term is the entropy of the noise left at t_0, and
the integral grows as -½ D log σ²/α² there: for normal data, and the denoiser of any normal distribution, the sum is the
cross entropy of the two but for what t_0 leaves out. In time, |z_0 - ẑ|² dq = -dλ/dt |ε - ε̂|² dt with λ = log q, the
likelihood weight of :mod:`mmdiff.diffusion.importance`, whose other weights train priors whose samples look better.

References
----------
Vahdat, Kreis and Kautz 2021, arXiv:2106.05931, theorem 1 (there without the first term, with α = 1 in the last).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor

from mmdiff.diffusion.denoiser import DenoiserFunction
from mmdiff.diffusion.importance import Importance, LossWeight, loss_weight
from mmdiff.diffusion.objectives import Objective, draw_times_and_noise
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_choice
from mmdiff.diffusion.times import Times
from mmdiff.diffusion.vlb import gaussian_kl
from mmdiff.errors import InputError


@dataclass(frozen=True)
class CrossEntropy:
    """Estimate the cross entropy of latents under a prior, and the loss that trains the prior, of one evaluation each.

    Parameters
    ----------
    schedule : Schedule
        The prior's.
    prior_weight : {"likelihood", "unweighted", "reweighted"}, default "unweighted"
        Weight of the prior's own loss. The latents' is always that of the likelihood: theirs is a bound.
    times : Times, default Importance()
        Where t is drawn from; both losses are divided by its density. Best for a loss is the importance of its weight.

    Raises
    ------
    InputError
        The weight is unknown, the schedule is one of pairs, or times end before 1 or begin without noise.
    """

    schedule: Schedule
    prior_weight: str = "unweighted"
    times: Times = field(default_factory=Importance)

    def __post_init__(self) -> None:
        check_choice("prior_weight", self.prior_weight, get_args(LossWeight))
        Objective(self.schedule)  # refuses pairs
        ends = self.times.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64), self.schedule)
        first, last = ends.tolist()
        if not (float(self.schedule(first).sigma) > 0 and last > 1 - 1e-4):
            raise InputError(
                f"times={self.times} must go from a time with noise to 1, and go from {first:.4g} to {last:.4g}: "
                "the rest would be left out of the bound; try Importance()"
            )

    def __call__(
        self,
        denoiser: DenoiserFunction,
        z: Tensor,
        *,
        generator: torch.Generator | None,
        t: Tensor | float | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> Tensor:
        """Return each item's cross entropy in nats, (B,); gradients reach latents and prior alike.

        Parameters
        ----------
        denoiser : callable
            A :class:`~mmdiff.diffusion.denoiser.Denoiser`, or any function ``(z, t, **cond) -> z0``.
        z : Tensor, shape (B, C, *space)
            Latents.
        generator : torch.Generator or None
            Source of t, then of the noise.
        t, noise : Tensor, shapes (B,) and of z, optional
            Instead of drawing them.
        **cond
            Passed to the denoiser.
        """
        t, noise = draw_times_and_noise(z, z.shape, self.times, self.schedule, generator, t, noise)
        errors = self._squares(denoiser, z, t, noise, cond)
        return self._over_density("likelihood", t).to(errors) * errors + self.ends(z)

    def split(
        self,
        denoiser: DenoiserFunction,
        z: Tensor,
        *,
        generator: torch.Generator | None,
        scale: float = 1.0,
        t: Tensor | float | None = None,
        noise: Tensor | None = None,
        **cond: Any,
    ) -> tuple[Tensor, Tensor]:
        """Losses of the prior and of the latents' encoder by one evaluation; add them, and go backward once.

        The errors of the denoiser are weighted for the prior. On their way through the denoiser to the latents the
        gradients of an item are multiplied by the ratio of its weights, which makes them those of the cross entropy,
        while the prior's parameters get nothing of it.

        Parameters
        ----------
        denoiser, z, generator, t, noise, **cond
            As for a call.
        scale : float >= 0, default 1
            Weight of the latents' loss beside the prior's.

        Returns
        -------
        prior : Tensor, shape (B,)
            The prior's loss, in nats; its gradients by the latents are those of ``scale`` times the integral.
        cross_entropy : Tensor, shape (B,)
            The cross entropy in nats; of gradients by the latents only those of its first and last term.
        """
        t, noise = draw_times_and_noise(z, z.shape, self.times, self.schedule, generator, t, noise)
        own, likelihood = (self._over_density(w, t).to(z) for w in (self.prior_weight, "likelihood"))
        ratio = (scale * likelihood / own).nan_to_num(0.0).view(-1, *(1,) * (z.ndim - 1))
        errors = self._squares(denoiser, _scale_gradient(z, ratio), t, noise, cond)
        return own * errors, likelihood * errors.detach() + self.ends(z)

    def ends(self, z: Tensor) -> Tensor:
        """Return what the noise at t = 1 and at the least time costs, (B,); the latter does not depend on z."""
        start = float(self.times.quantile(torch.zeros(1, dtype=torch.float64), self.schedule)[0])
        last = self.schedule(1.0)
        alpha, variance = float(last.alpha), last.sigma.to(z) ** 2
        prior = gaussian_kl(alpha * z, variance, torch.zeros_like(variance), variance).flatten(1).sum(1)
        entropy = (math.log(2 * math.pi * math.e) - float(self.schedule.log_snr(start))) / 2
        return prior + z[0].numel() * entropy

    def _squares(
        self, denoiser: DenoiserFunction, z: Tensor, t: Tensor, noise: Tensor, cond: dict[str, Any]
    ) -> Tensor:
        """Sum of |ε - ε̂|²/α² over each item's elements, (B,): finite wherever the denoiser's own error is."""
        trial = Objective(self.schedule).attempt(denoiser, z, generator=None, t=t, noise=noise, **cond)
        squares = (trial.error / trial.gain.to(trial.error).view(-1, *(1,) * (z.ndim - 1))) ** 2
        return squares.flatten(1).sum(1)

    def _over_density(self, weight: str, t: Tensor) -> Tensor:
        """½ w α² over the density of t."""
        known = loss_weight(weight, self.schedule, t) / self.times.density(t, self.schedule)
        return known * self.schedule(t.double()).alpha ** 2 / 2


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None


def _scale_gradient(z: Tensor, factor: Tensor) -> Tensor:
    """The same tensor, of gradients times a factor."""
    scaled: Tensor = _ScaleGradient.apply(z, factor)
    return scaled
