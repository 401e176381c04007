"""What the trainer optimises in the first stage: an autoencoder's bound, with what else a modality asks of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate

from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder, crop
from mmdiff.latent.posterior import Posterior
from mmdiff.latent.spectral import SpectralPenalty
from mmdiff.training import Validation
from mmdiff.training.adversarial import critic_hinge, frozen, generator_hinge
from mmdiff.training.data import IndexedData

Judge = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``judge(critic, estimate, data) -> (loss of who made the estimate, loss of the critic)``."""

_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


class Additions(nn.Module):
    """What is asked of an autoencoder beside its bound: a small distance, and small singular values.

    Parameters
    ----------
    autoencoder : nn.Module
    distance : callable, optional
        ``distance(decoded, x) -> scalar``, such as one of spectra.
    weight : float >= 0
        Of the distance.
    spectral : float >= 0
        Weight of the convolutions' largest singular values, see :class:`~mmdiff.latent.spectral.SpectralPenalty`.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        distance: Callable[[Tensor, Tensor], Tensor] | None,
        weight: float,
        spectral: float,
    ) -> None:
        super().__init__()
        self.distance, self.weight, self.spectral = distance, weight, spectral
        self.penalty = SpectralPenalty(autoencoder) if spectral else None

    def forward(
        self, autoencoder: nn.Module, decoded: Tensor, x: Tensor, losses: dict[str, Tensor]
    ) -> Tensor:
        """Note each value among the losses; return their weighted sum."""
        total = decoded.new_zeros(())
        if self.distance is not None:
            losses["distance"] = self.distance(decoded, x)
            total = total + self.weight * losses["distance"]
        if self.penalty is not None:
            losses["spectral"] = self.penalty(autoencoder)
            total = total + self.spectral * losses["spectral"]
        return total


class AutoencoderTask(nn.Module):
    """Train an :class:`Autoencoder` by its evidence bound, in nats for each element of data.

    The loss is -log p(x | z) + kl · KL(q(z | x) ‖ N(0, 1)), both over the number of data's elements, and what a
    distance and a critic add. With kl = 1 and nothing added it is the bound.

    Parameters
    ----------
    autoencoder : Autoencoder
        Not standardised yet.
    read : callable
        ``read(batch) -> x`` (B, C, *space), the data of a batch.
    kl : float >= 0
        Weight of the divergence (β of Higgins et al. 2017). With little of
        it latents keep all, and a prior has much to learn.
    distance : callable, optional
        ``distance(decoded, x) -> scalar``, such as one of spectra.
    weight : float >= 0
        Of the distance.
    critic : nn.Module, optional
        Learns beside the autoencoder, as a part of the trainer with a rate of its own.
    judge : callable, optional
        What the critic says; default: :func:`judged_beside_coarse`, for a :class:`~mmdiff.nn.StepCritic`.
    adversarial : float >= 0
        Weight of what the critic says of the decoded.
    spectral : float >= 0
        Weight of the convolutions' largest singular values, see :class:`~mmdiff.latent.spectral.SpectralPenalty`.

    Raises
    ------
    InputError
        A weight is negative.
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        read: Callable[[Any], Tensor],
        kl: float = 1.0,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        weight: float = 1.0,
        critic: nn.Module | None = None,
        judge: Judge | None = None,
        adversarial: float = 0.1,
        spectral: float = 0.0,
    ) -> None:
        super().__init__()
        if min(kl, weight, adversarial, spectral) < 0:
            raise InputError(
                f"kl={kl}, weight={weight}, adversarial={adversarial} and spectral={spectral} must not be negative"
            )
        self.autoencoder, self.read = autoencoder, read
        self.kl, self.adversarial, self.critic = kl, adversarial, critic
        self.added = Additions(autoencoder, distance, weight, spectral)
        self.judge: Judge = judge or judged_beside_coarse(autoencoder)

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch: "loss" and, of each element, "likelihood" and "divergence" in nats, "error" squared."""
        x = self.read(batch)
        posterior = self.autoencoder.encode(x)
        decoded = crop(self.autoencoder.decode(posterior.sample(generator)), x.shape[2:])
        likelihood, divergence = self._terms(x, posterior, decoded)
        losses = {"likelihood": likelihood, "divergence": divergence}
        total = likelihood + self.kl * divergence + self.added(self.autoencoder, decoded, x, losses)
        if self.critic is not None:
            losses["deceived"], losses["critical"] = self.judge(self.critic, decoded, x)
            total = total + self.adversarial * losses["deceived"] + losses["critical"]
        losses["error"] = (decoded - x).square().mean()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def bound(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Of each element of data: "bits" of the bound, "divergence" among them, and "error" squared."""
        posterior = self.autoencoder.encode(x)
        decoded = crop(self.autoencoder.decode(posterior.sample(generator)), x.shape[2:])
        likelihood, divergence = (term / math.log(2) for term in self._terms(x, posterior, decoded))
        error = (decoded - x).square().mean()
        return {"bits": likelihood + divergence, "divergence": divergence, "error": error}

    def _terms(self, x: Tensor, posterior: Posterior, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """-log p(x | z) and the divergence, in nats for each element."""
        elements = x[0].numel()
        likelihood = self.autoencoder.nll(x, decoded).mean() / elements
        return likelihood, posterior.kl_standard().mean() / elements


def judged_beside_coarse(autoencoder: Autoencoder) -> Judge:
    """Let a :class:`~mmdiff.nn.StepCritic` judge data beside their means over the latents' cells."""

    def judge(critic: Any, estimate: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
        coarse, now = _coarse(data, autoencoder.factor), data.new_zeros(len(data))
        deceived = generator_hinge([frozen(critic)(estimate, coarse, now)])
        scores = [critic(x, coarse, now) for x in (data, estimate.detach())]
        return deceived, critic_hinge(scores[:1], scores[1:])

    return judge


def _coarse(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Means over cells, as large as x."""
    kernel = [min(factor, size) for factor, size in zip(factors, x.shape[2:], strict=True)]
    means = _POOLS[x.ndim - 2](x, kernel, ceil_mode=True)
    for dim, factor in enumerate(kernel, 2):
        means = means.repeat_interleave(factor, dim)
    return crop(means, x.shape[2:])


def autoencoder_validation(
    data: IndexedData, count: int = 32, batch: int = 8, collate: Callable[[list[Any]], Any] | None = None
) -> Callable[[nn.Module, int], Validation]:
    """Make the ``validate`` function of a trainer whose task is an :class:`AutoencoderTask`.

    Parameters
    ----------
    data : IndexedData
        Held-out items; the first ``count`` are taken, ``batch`` at a time.
    count, batch : int > 0
    collate : callable, optional
        As for the trainer.

    Returns
    -------
    callable
        ``validate(task, step) -> Validation`` with "bits", of the bound for each element, "divergence" of these, and
        "error", squared.
    """

    @torch.no_grad()
    def validate(task: nn.Module, step: int) -> Validation:
        assert isinstance(task, AutoencoderTask)
        totals: dict[str, float] = {}
        device = next(task.parameters()).device
        generator = torch.Generator(device).manual_seed(0)
        for first in range(0, count, batch):
            numbers = range(first, min(first + batch, count))
            x = task.read((collate or default_collate)([data[n] for n in numbers])).to(device)
            for name, value in task.bound(x, generator).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(numbers) / count
        return Validation(totals)

    return validate
