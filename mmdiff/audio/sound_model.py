"""A model of sound without a spectrogram: unconditional, or told what to make by a label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.waveform import WaveformDiffusion
from mmdiff.diffusion.denoiser import DenoiserFunction
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError
from mmdiff.registry import register


@register
class SoundModel(WaveformDiffusion):
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
    ) -> None:
        if network.n_mels:
            raise InputError(
                f"network with n_mels={network.n_mels} must be one without a spectrogram, n_mels=0"
            )
        if network.classes != len(labels) or len(set(labels)) != len(labels):
            raise InputError(
                f"labels={tuple(labels)} must be {network.classes} different names, one for each of the "
                "network's classes"
            )
        if not (seconds > 0 and sample_rate > 0):
            raise InputError(f"seconds={seconds} and sample_rate={sample_rate} must be positive")
        super().__init__(network, schedule, steps, inference_betas, clamp, window)
        self.sample_rate, self.seconds, self.labels = sample_rate, seconds, tuple(labels)
        self.guidance = guidance

    def conditions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Pass on ``label`` (B,) int64, which a network without classes does not want."""
        return {"label": batch["label"]} if self.labels else {}

    def guided(self, denoise: DenoiserFunction, scale: float) -> DenoiserFunction:
        """Exaggerate the label by classifier-free guidance."""
        if scale == 1 or not self.labels:
            return denoise
        return ClassifierFree(denoise, scale, {"label": self.network.classes})
