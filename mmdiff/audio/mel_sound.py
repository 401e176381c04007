"""A model of sound that diffuses mel spectrograms, of which a vocoder makes the waveform."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmdiff.audio.framed_sound import FramedSoundModel
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError
from mmdiff.registry import register


@register
class MelSoundModel(FramedSoundModel):
    """Diffusion of mel spectrograms of short sounds, with what its users need to know.

    Parameters
    ----------
    network : LabelledMelNet
    schedule : Schedule
    mel : MelSpec
        The vocoder's own definition.
    vocoder : str
        Shipped model, folder or hub id of the vocoder.
    seconds : float > 0
        Length of the sounds it was trained on.
    labels : sequence of str
        Names of the network's classes.
    mean, std : float
        Of the spectrograms' values.
    steps : int > 0
        Network evaluations by default, guidance not counted.
    guidance : float
        Scale of classifier-free guidance by default; 1 is none.

    Raises
    ------
    InputError
        The network has another number of classes, or a number makes no sense.
    """

    def __init__(
        self,
        network: LabelledMelNet,
        schedule: Schedule,
        mel: MelSpec,
        vocoder: str = "vocoder-16k",
        seconds: float = 1.0,
        labels: Sequence[str] = (),
        mean: float = -6.0,
        std: float = 2.0,
        steps: int = 20,
        guidance: float = 1.0,
    ) -> None:
        if not (std > 0 and vocoder):
            raise InputError(f"std={std} must be positive, and vocoder={vocoder!r} named")
        super().__init__(network, schedule, mel.n_mels, mel.sample_rate, seconds, labels, steps, guidance)
        self.mel, self.vocoder, self.mean, self.std = mel, vocoder, mean, std

    def frames(self, samples: int) -> int:
        """Frames of a sound's spectrogram."""
        return self.mel.frames(samples)

    def to_model(self, wave: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sound (B, samples) to what is diffused (B, 1, frames, n_mels); nothing is drawn."""
        return self.to_state(self.mel(wave))

    def to_state(self, mel: Tensor) -> Tensor:
        """Spectrograms (B, n_mels, frames) to what is diffused (B, 1, frames, n_mels)."""
        return ((mel - self.mean) / self.std).transpose(1, 2)[:, None]

    def from_model(self, state: Tensor) -> Tensor:
        """What is diffused (B, 1, frames, n_mels) to spectrograms (B, n_mels, frames) of values that sounds have."""
        mel = state[:, 0].transpose(1, 2) * self.std + self.mean
        return mel.clamp(self.mel.lowest_value, self.mel.highest_value)
