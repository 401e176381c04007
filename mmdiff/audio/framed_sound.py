"""Models of short sounds as frames of numbers: spectrograms, or an autoencoder's latents; and their training."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.noise import frame_noise
from mmdiff.audio.sampling import Sampling, item_generators
from mmdiff.audio.sound_model import SoundMaker, checked_labels
from mmdiff.diffusion.building import build_denoiser, build_objective, usual_grid, usual_sampler, usual_times
from mmdiff.diffusion.conditions import drop_condition
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.diffusion.times import Stratified
from mmdiff.errors import InputError


class FramedSoundModel(nn.Module, SoundMaker):
    """Diffusion of frames of numbers that stand for sound: what such models share.

    Parameters
    ----------
    network : LabelledMelNet
    schedule : Schedule
    width : int > 0
        Numbers in a frame.
    sample_rate : int, Hz
    seconds : float > 0
        Length of the sounds it was trained on.
    labels : sequence of str
        Names of the network's classes.
    steps : int > 0
        Network evaluations by default, guidance not counted.
    guidance : float
        Scale of classifier-free guidance by default; 1 is none.
    mixed : bool, default False
        Let the network correct a normal distribution, number by number of a frame: see
        :class:`~mmdiff.diffusion.mixed_denoiser.MixedDenoiser`.

    Raises
    ------
    InputError
        The network has another number of classes, or a number makes no sense.
    """

    def __init__(
        self,
        network: LabelledMelNet,
        schedule: Schedule,
        width: int,
        sample_rate: int,
        seconds: float,
        labels: Sequence[str],
        steps: int,
        guidance: float,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        if not (seconds > 0 and sample_rate > 0 and steps > 0):
            raise InputError(
                f"seconds={seconds}, sample_rate={sample_rate} and steps={steps} must be positive"
            )
        self.denoiser = build_denoiser(network, schedule, "v", "t", mixed=width if mixed else 0, axis=-1)
        self.default_sampler = usual_sampler(schedule, "deis")
        self.width, self.sample_rate, self.seconds = width, sample_rate, seconds
        self.labels = checked_labels(labels, network.classes)
        self.default_steps, self.guidance = steps, guidance

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Frames of a sound."""

    @abstractmethod
    def to_model(self, wave: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sound (B, samples) to what is diffused (B, 1, frames, width); the generator is for what is drawn there."""

    @abstractmethod
    def from_model(self, state: Tensor) -> Tensor:
        """What is diffused (B, 1, frames, width) to what the model makes."""

    def grid(self, steps: int) -> Tensor:
        """Times for so many network evaluations: equal steps, for pairs of the square root of time."""
        return make_grid(usual_grid(self.denoiser.schedule, "uniform"), self.denoiser.schedule, steps)

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
        """Make what :meth:`from_model` returns of labels (B,)."""
        return self.draw(
            self.told(label, guidance),
            seeds=seeds,
            frames=self.frames(samples),
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
        """Draw as many as there are seeds by a denoiser of what is diffused, and return them from it."""
        device = next(self.parameters()).device
        noise = torch.stack([frame_noise(seed, 0, frames, self.width) for seed in seeds])[:, None]
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


class FramedSoundTask(nn.Module):
    """Train a :class:`FramedSoundModel` by its error in v at levels spread evenly over time.

    Parameters
    ----------
    model : FramedSoundModel
    drop : float in [0, 1]
        Share of items trained without their label, for classifier-free guidance.
    """

    def __init__(self, model: FramedSoundModel, drop: float = 0.1) -> None:
        super().__init__()
        self.model, self.drop = model, drop
        schedule = model.denoiser.schedule
        self.objective = build_objective(schedule, times=Stratified(usual_times(schedule)))

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch with ``wave`` (B, samples), and ``label`` (B,) for a model of labels."""
        cond = self.told(batch, generator)
        x0 = self.model.to_model(batch["wave"], generator)
        losses = self.objective(self.model.denoiser, x0, generator=generator, **cond)
        return {"loss": losses.mean()}

    def told(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """What the network is told of a batch: labels, a share of them left out."""
        cond = self.model.conditions(batch)
        if not cond or not self.drop:
            return cond
        return drop_condition(cond, {"label": len(self.model.labels)}, self.drop, generator=generator)
