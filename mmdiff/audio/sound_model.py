"""Models of sound of their own: unconditional, or told what to make by a label."""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.sampling import SampledModel, Sampling, item_generators
from mmdiff.audio.waveform import WaveformDiffusion
from mmdiff.diffusion.denoiser import DenoiserFunction
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError
from mmdiff.registry import register

NOISE_BLOCK = 256
"""Samples that :func:`mmdiff.audio.noise.frame_noise` draws as one frame."""


class SoundMaker(SampledModel):
    """What the sound pipeline asks of a model.

    Attributes
    ----------
    sample_rate : int, Hz
    seconds : float
        Length of the sounds it was trained on.
    labels : tuple of str
        What it can be told to make.
    guidance : float
        Scale of classifier-free guidance by default.
    vocoder : str
        Model that makes sound of the spectrograms this one makes; empty if it makes sound itself.
    default_steps, default_sampler, other_evaluations, latents, denoiser
        As for :class:`~mmdiff.audio.sampling.SampledModel`.
    """

    sample_rate: int
    seconds: float
    labels: tuple[str, ...]
    guidance: float
    vocoder: str = ""

    @abstractmethod
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
        """Make sounds (B, samples), or their spectrograms (B, n_mels, frames) for the vocoder, of labels (B,)."""

    def conditions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pass on ``label`` (B,) int64, which a network without classes does not want."""
        return {"label": batch["label"]} if self.labels else {}

    def guided(self, denoise: DenoiserFunction, scale: float) -> DenoiserFunction:
        """Exaggerate the label by classifier-free guidance."""
        if scale == 1 or not self.labels:
            return denoise
        return ClassifierFree(denoise, scale, {"label": len(self.labels)})


def checked_labels(labels: Sequence[str], classes: int) -> tuple[str, ...]:
    """Return the labels of a network of so many classes, or raise InputError."""
    if classes != len(labels) or len(set(labels)) != len(labels):
        raise InputError(
            f"labels={tuple(labels)} must be {classes} different names, one for each of the network's classes"
        )
    return tuple(labels)


@register
class SoundModel(WaveformDiffusion, SoundMaker):
    """A waveform network that needs no spectrogram, with what its users need to know.

    Parameters
    ----------
    network : WaveformNetwork
        Such as :func:`mmdiff.audio.networks.diffwave_presets.diffwave_sound`.
    schedule : Schedule
        Of training, such as ``BetaTable(diffwave_betas(200))``.
    sample_rate : int, Hz
    seconds : float > 0
        Length of the sounds it was trained on.
    labels : sequence of str
        Names of the network's classes.
    steps, inference_betas, clamp
        As for :class:`WaveformDiffusion`.
    guidance : float
        Scale of classifier-free guidance if nothing else is asked for; 1 is none.
    window : int > 0, samples
        Longer sound goes through the network in pieces of this length, with margins.
    prediction, sigma_data
        As for :class:`WaveformDiffusion`.

    Raises
    ------
    InputError
        The network wants a spectrogram, or has another number of classes.
    """

    def __init__(
        self,
        network: WaveformNetwork,
        schedule: Schedule,
        sample_rate: int,
        seconds: float = 1.0,
        labels: Sequence[str] = (),
        steps: int = 50,
        inference_betas: Sequence[float] = (),
        clamp: str = "data",
        guidance: float = 1.0,
        window: int = 2**18,
        prediction: str = "eps",
        sigma_data: float = 1.0,
    ) -> None:
        if network.n_mels:
            raise InputError(
                f"network with n_mels={network.n_mels} must be one without a spectrogram, n_mels=0"
            )
        labels = checked_labels(labels, network.classes)
        if not (seconds > 0 and sample_rate > 0):
            raise InputError(f"seconds={seconds} and sample_rate={sample_rate} must be positive")
        super().__init__(network, schedule, steps, inference_betas, clamp, window, prediction, sigma_data)
        self.sample_rate, self.seconds, self.labels = sample_rate, seconds, labels
        self.guidance = guidance

    def conditions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pass on ``label`` (B,) int64, which a network without classes does not want."""
        return SoundMaker.conditions(self, batch)

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
        denoise = self.guided(self.denoise_windows(samples), guidance)
        noise = self.starting_noise(seeds, math.ceil(samples / NOISE_BLOCK), NOISE_BLOCK)
        wave = self.run_sampler(
            functools.partial(denoise, **self.conditions({"label": label})),
            noise[..., :samples],
            generator=item_generators(seeds, label.device),
            grid=sampling.grid,
            sampler=sampling.sampler,
            temperature=temperature,
        )
        return wave[:, 0].clamp(-1, 1)
