"""A model of sound that diffuses mel spectrograms, of which a vocoder makes the waveform."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.noise import frame_noise
from mmdiff.audio.sampling import Sampling, item_generators
from mmdiff.audio.sound_model import SoundMaker, checked_labels
from mmdiff.diffusion.building import build_denoiser, build_objective, usual_sampler
from mmdiff.diffusion.conditions import drop_condition
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.diffusion.times import Stratified, Uniform
from mmdiff.errors import InputError
from mmdiff.registry import register


@register
class MelSoundModel(nn.Module, SoundMaker):
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

    other_evaluations = 0

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
        super().__init__()
        if not (seconds > 0 and std > 0 and steps > 0 and vocoder):
            raise InputError(
                f"seconds={seconds}, std={std} and steps={steps} must be positive, and vocoder={vocoder!r} named"
            )
        self.denoiser = build_denoiser(network, schedule, "v", "t")
        self.default_sampler = usual_sampler(schedule, "deis")
        self.mel, self.vocoder, self.sample_rate, self.seconds = mel, vocoder, mel.sample_rate, seconds
        self.labels = checked_labels(labels, network.classes)
        self.mean, self.std = mean, std
        self.default_steps, self.guidance = steps, guidance

    def grid(self, steps: int) -> Tensor:
        """Times for so many network evaluations: equal steps."""
        return make_grid("uniform", self.denoiser.schedule, steps)

    def to_model(self, wave: Tensor) -> Tensor:
        """Sound (B, samples) to what is diffused (B, 1, frames, n_mels)."""
        return self.to_state(self.mel(wave))

    def to_state(self, mel: Tensor) -> Tensor:
        """Spectrograms (B, n_mels, frames) to what is diffused (B, 1, frames, n_mels)."""
        return ((mel - self.mean) / self.std).transpose(1, 2)[:, None]

    def from_model(self, state: Tensor) -> Tensor:
        """What is diffused (B, 1, frames, n_mels) to spectrograms (B, n_mels, frames) of values that sounds have."""
        mel = state[:, 0].transpose(1, 2) * self.std + self.mean
        return mel.clamp(self.mel.lowest_value, self.mel.highest_value)

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
        """Make spectrograms (B, n_mels, frames) of labels (B,)."""
        return self.draw(
            self.told(label, guidance),
            seeds=seeds,
            frames=self.mel.frames(samples),
            sampling=sampling,
            temperature=temperature,
        )

    def told(self, label: Tensor, guidance: float) -> DenoiserFn:
        """Denoiser that knows the labels (B,), exaggerated by guidance."""
        return functools.partial(self.guided(self.denoiser, guidance), **self.conditions({"label": label}))

    def draw(
        self,
        denoise: DenoiserFn,
        *,
        seeds: Sequence[int],
        frames: int,
        sampling: Sampling,
        temperature: float,
    ) -> Tensor:
        """Draw spectrograms (B, n_mels, frames), one for each seed, by a denoiser of what is diffused."""
        device = next(self.parameters()).device
        noise = torch.stack([frame_noise(seed, 0, frames, self.mel.n_mels) for seed in seeds])[:, None]
        state = sample(
            denoise,
            noise.shape,
            schedule=self.denoiser.schedule,
            sampler=sampling.sampler,
            grid=sampling.grid.to(device),
            generator=item_generators(seeds, device),
            noise=noise.to(device),
            temperature=temperature,
        )
        return self.from_model(state)


class MelSoundTask(nn.Module):
    """Train a :class:`MelSoundModel` by its error in v, or a velocity's noise, at levels spread evenly over time.

    Parameters
    ----------
    model : MelSoundModel
    drop : float in [0, 1]
        Share of items trained without their label, for classifier-free guidance.
    """

    def __init__(self, model: MelSoundModel, drop: float = 0.1) -> None:
        super().__init__()
        self.model, self.drop = model, drop
        self.objective = build_objective(model.denoiser.schedule, times=Stratified(Uniform()))

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch with ``wave`` (B, samples), and ``label`` (B,) for a model of labels."""
        cond = self.model.conditions(batch)
        if cond and self.drop:
            cond = drop_condition(cond, {"label": len(self.model.labels)}, self.drop, generator=generator)
        losses = self.objective(
            self.model.denoiser, self.model.to_model(batch["wave"]), generator=generator, **cond
        )
        return {"loss": losses.mean()}
