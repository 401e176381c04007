"""Train an autoencoder and the diffusion prior of its latents together: latent score-based generative models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import crop
from mmdiff.latent.cross_entropy import CrossEntropy
from mmdiff.latent.tasks import Additions


class JointTask(nn.Module):
    """Lower the evidence bound of an autoencoder whose prior is a diffusion model, and train that prior.

    Encoder and decoder lower -log p(x | z) + kl (-H(q(z | x)) + CE(q(z | x) ‖ p)), the prior its own loss of the same
    latents, times and noise, in one evaluation and one backward pass; see :meth:`CrossEntropy.split`. Give the
    autoencoder a rate of its own by ``Trainer(parts={"autoencoder": Part(rate)})``.

    Parameters
    ----------
    autoencoder : nn.Module
        With ``encode(x) -> Posterior``, ``decode(z)`` and ``nll(x, decoded) -> nats`` (B,), such as
        :class:`mmdiff.latent.autoencoder.Autoencoder`; train it by itself first.
    denoiser : nn.Module
        The prior: a :class:`~mmdiff.diffusion.mixed_denoiser.MixedDenoiser`, or any other denoiser.
    cross_entropy : CrossEntropy
        Of the denoiser's schedule.
    read : callable, optional
        ``read(batch, generator) -> (x, cond)``: data (B, C, *space) and what the prior is told, as keywords. By
        default the batch is x.
    kl : float > 0, default 1
        Weight of the latents' divergence; 1 is the bound.
    distance, weight, spectral
        As for :class:`~mmdiff.latent.tasks.AutoencoderTask`, what else it was trained by. Small singular values keep
        the encoder from moving latents far for small changes of data.

    Raises
    ------
    InputError
        A weight is not positive.

    References
    ----------
    Vahdat, Kreis and Kautz 2021, arXiv:2106.05931, equations 8-9 and algorithm 2.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        denoiser: nn.Module,
        cross_entropy: CrossEntropy,
        read: Callable[[Any, torch.Generator], tuple[Tensor, Mapping[str, Any]]] | None = None,
        kl: float = 1.0,
        distance: Callable[[Tensor, Tensor], Tensor] | None = None,
        weight: float = 1.0,
        spectral: float = 0.0,
    ) -> None:
        super().__init__()
        if not kl > 0 or min(weight, spectral) < 0:
            raise InputError(
                f"kl={kl} must be positive; 1 gives the bound, weight={weight} and spectral={spectral} not negative"
            )
        self.autoencoder, self.denoiser = autoencoder, denoiser
        self.cross_entropy, self.read, self.kl = cross_entropy, read, kl
        self.added = Additions(autoencoder, distance, weight, spectral)

    def forward(self, batch: Any, generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch in nats: of each element of data "likelihood", "divergence" and "bound", and "prior".

        "prior" is of each element of the latents; "distance" where there is one. "loss" is what gradients are taken of;
        its value is no bound.
        """
        x, cond = (batch, {}) if self.read is None else self.read(batch, generator)
        posterior = self.autoencoder.encode(x)  # type: ignore[operator]
        z = posterior.sample(generator)
        decoded = crop(self.autoencoder.decode(z), x.shape[2:])  # type: ignore[operator]
        size, latents = x[0].numel(), z[0].numel()
        # The prior's loss counts for each latent, the encoder's for each element of data.
        scale = self.kl * latents / size
        prior, entropy = self.cross_entropy.split(self.denoiser, z, generator=generator, scale=scale, **cond)
        prior = prior.mean() / latents
        likelihood = self.autoencoder.nll(x, decoded).mean() / size  # type: ignore[operator]
        divergence = (entropy - posterior.entropy()).mean() / size
        losses = {"likelihood": likelihood, "divergence": divergence, "bound": likelihood + divergence}
        total = likelihood + self.kl * divergence + prior
        total = total + self.added(self.autoencoder, decoded, x, losses)
        told = {name: value.detach() for name, value in {**losses, "prior": prior}.items()}
        return {"loss": total, **told}
