"""PriorGrad's prior: noise as loud as the frame that it becomes (Lee et al. 2022, arXiv:2106.06406)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.diffusion.process import Prior
from mmdiff.errors import InputError
from mmdiff.registry import register


@register
@dataclass(frozen=True)
class EnergyPrior:
    """Standard deviation of the waveform's prior, from the energy of each frame of its spectrogram.

    The energy of a frame is the square root of the sum of its bands; the standard deviation is where it lies
    between ``lowest`` (0) and ``highest`` (1).

    Parameters
    ----------
    lowest, highest : float, lowest < highest
        Energies of the training data's quietest and loudest frames.
    floor : float in (0, 1]
        Smallest standard deviation.
    ceiling : float, optional
        Largest; default: none.

    Raises
    ------
    InputError
        A number is out of range.
    """

    lowest: float
    highest: float
    floor: float = 0.1
    ceiling: float | None = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.lowest < self.highest < float("inf"):
            raise InputError(
                f"lowest={self.lowest}, highest={self.highest} must satisfy 0 <= lowest < highest; they are "
                "energies of frames"
            )
        if not 0 < self.floor <= (1.0 if self.ceiling is None else self.ceiling) < float("inf"):
            raise InputError(f"floor={self.floor} must be above 0 and at most ceiling={self.ceiling}")

    def __call__(self, mel: Tensor, spec: MelSpec) -> Prior:
        """Prior of the waveform of a spectrogram.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames)
        spec : MelSpec
            Definition of ``mel``.

        Returns
        -------
        Prior
            Mean 0, standard deviation of shape (B, 1, frames * hop).
        """
        energy = spec.expand(mel.float()).sum(1, keepdim=True).sqrt()
        std = (energy - self.lowest) / (self.highest - self.lowest)
        if self.ceiling is not None:
            std = std.clamp(max=self.ceiling)
        std = std.repeat_interleave(spec.hop_length, -1)
        return Prior.floored(torch.zeros((), device=mel.device), std, self.floor)
