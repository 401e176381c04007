"""What the vocoder pipeline asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec


class VocoderModel(nn.Module, ABC):
    """A network with everything that makes it a vocoder: mel definition, sampling rate, sampler defaults.

    Attributes
    ----------
    mel : MelSpec
        The model's own definition, assumed for spectrograms that come without one.
    sample_rate : int, Hz
        Of the sound it makes.
    default_steps : int
        Network evaluations if nothing else is asked for.
    default_sampler : str
        A key of :data:`mmdiff.diffusion.samplers.SAMPLERS`.
    """

    mel: MelSpec
    sample_rate: int
    default_steps: int
    default_sampler: str

    @abstractmethod
    def accept(self, mel: Tensor, spec: MelSpec) -> tuple[Tensor, MelSpec, list[str]]:
        """Convert a mel (B, n_mels, frames) of any definition to one the model reads, and say what was done."""

    @abstractmethod
    def blocks(
        self,
        mel: Tensor,
        spec: MelSpec,
        *,
        seeds: Sequence[int],
        samples: int,
        steps: int,
        sampler: str,
        temperature: float,
    ) -> Iterator[Tensor]:
        """Yield the waveform (B, samples) of a mel that :meth:`accept` gave, in consecutive blocks.

        Item i is drawn with ``seeds[i]`` and depends on nothing else; ``temperature`` scales the noise.
        """

    @abstractmethod
    def count_blocks(self, spec: MelSpec, frames: int, steps: int) -> int:
        """Count the blocks that :meth:`blocks` yields for a mel of so many frames."""
