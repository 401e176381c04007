"""A model of sound that diffuses an autoencoder's latents of the waveform, and what the autoencoder is trained by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.framed_sound import FramedSoundModel
from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.networks.critic import judged_sound
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.sampling import Sampling
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder, crop
from mmdiff.latent.posterior import Posterior
from mmdiff.registry import register


@register
class LatentSoundModel(FramedSoundModel):
    """Diffusion of latents of short sounds, which the model itself decodes to waveforms.

    Parameters
    ----------
    network : LabelledMelNet
        Of ``n_mels`` numbers a frame, as many as the autoencoder has latents at a place.
    schedule : Schedule
    autoencoder : Autoencoder
        Of dims=1 for one channel, trained and standardised already, and not trained further.
    sample_rate, seconds, labels, steps, guidance, mixed
        As for :class:`FramedSoundModel`.

    Raises
    ------
    InputError
        It is an autoencoder of something else, the network has another number of classes, or a number makes no sense.
    """

    def __init__(
        self,
        network: LabelledMelNet,
        schedule: Schedule,
        autoencoder: Autoencoder,
        sample_rate: int,
        seconds: float = 1.0,
        labels: Sequence[str] = (),
        steps: int = 20,
        guidance: float = 1.0,
        mixed: bool = False,
    ) -> None:
        if autoencoder.dims != 1 or autoencoder.channels != 1:
            raise InputError(
                f"autoencoder must be one of dims=1 for channels=1, but has dims={autoencoder.dims} and "
                f"channels={autoencoder.channels}"
            )
        super().__init__(
            network, schedule, autoencoder.latents, sample_rate, seconds, labels, steps, guidance, mixed
        )
        self.autoencoder = autoencoder.requires_grad_(False)

    @property
    def framed(self) -> FramedAutoencoder:
        """Its autoencoder, of the same weights, with latents as its network sees them."""
        return FramedAutoencoder(self.autoencoder)

    def frames(self, samples: int) -> int:
        """Places of a sound's latents."""
        return -(-samples // self.autoencoder.factor[0])

    def to_model(self, wave: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sound (B, samples) to its latents (B, 1, frames, latents): drawn, or without a generator their means."""
        with torch.no_grad():
            posterior = self.framed.encode(wave[:, None])
            return posterior.mean if generator is None else posterior.sample(generator)

    def from_model(self, state: Tensor) -> Tensor:
        """Latents (B, 1, frames, latents) to sound (B, frames · factor) in [-1, 1]."""
        return self.framed.decode(state)[:, 0].clamp(-1, 1)

    def make(
        self,
        label: Tensor,
        *,
        seeds: Sequence[int],
        samples: int,
        sampling: Sampling,
        guidance: float,
        temperature: float,
    ) -> Tensor:
        """Make sounds (B, samples) of labels (B,)."""
        options = {"sampling": sampling, "guidance": guidance, "temperature": temperature}
        made = super().make(label, seeds=seeds, samples=samples, **options)  # type: ignore[arg-type]
        return crop(made[:, None], (samples,))[:, 0]


class FramedAutoencoder(nn.Module):
    """An autoencoder of sound whose latents are frames (B, 1, frames, latents) instead of (B, latents, frames).

    Parameters
    ----------
    own : Autoencoder
    """

    def __init__(self, own: Autoencoder) -> None:
        super().__init__()
        self.own = own

    def encode(self, x: Tensor) -> Posterior:
        """Distribution of the latents of sound (B, 1, samples)."""
        mean, log_std = self.own.encode(x)
        return Posterior(mean.transpose(1, 2)[:, None], log_std.transpose(1, 2)[:, None])

    def decode(self, z: Tensor) -> Tensor:
        """Sound (B, 1, frames · factor) of latents (B, 1, frames, latents)."""
        return self.own.decode(z[:, 0].transpose(1, 2))

    def nll(self, x: Tensor, decoded: Tensor) -> Tensor:
        """-log p(x | z), as :meth:`Autoencoder.nll`."""
        return self.own.nll(x, decoded)


class SoundDistance(nn.Module):
    """Distance of sounds (B, 1, samples) by their spectra of several resolutions: what an autoencoder is trained by.

    Parameters
    ----------
    sample_rate : int, Hz
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.spectra = MultiResolutionLoss(sample_rate)

    def forward(self, decoded: Tensor, wave: Tensor) -> Tensor:
        """Compare two batches; a scalar."""
        result: Tensor = self.spectra(decoded[:, 0], wave[:, 0])
        return result


def waves_of(batch: dict[str, Any]) -> Tensor:
    """Sound (B, 1, samples) of a batch with ``wave`` (B, samples)."""
    wave: Tensor = batch["wave"]
    return wave[:, None]


def judged_by_spectra(critic: Any, estimate: Tensor, data: Tensor) -> tuple[Tensor, Tensor]:
    """Let a :class:`~mmdiff.audio.networks.critic.Critic` judge sounds (B, 1, samples)."""
    return judged_sound(critic, estimate[:, 0], data[:, 0])
