"""What the vocoder pipeline asks of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.sampling import SampledModel
from mmdiff.diffusion.solver_tools import DenoiserFn


class BlockMaker(ABC):
    """Makes the sound of a mel that is still coming, one block after the other.

    Attributes
    ----------
    delay : float, seconds
        From the frame in the middle of which a sample lies to the last frame, at most, that it is made of.
    block_seconds : float
        Length of a block.
    """

    delay: float
    block_seconds: float

    @property
    @abstractmethod
    def span(self) -> tuple[int, int]:
        """Frames of the mel, from and up to, that the next block is made of; neither number ever falls."""

    @abstractmethod
    def __call__(self, mel: Tensor, seeds: Sequence[int], samples: int | None = None) -> Tensor:
        """Make the next block.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames)
            The frames of :attr:`span`; at the end those of them that there are.
        seeds : sequence of int
            One per item.
        samples : int, optional
            At the end: length of the whole. All that is left is made.

        Returns
        -------
        Tensor, shape (B, samples of the block)
        """


class VocoderModel(nn.Module, SampledModel):
    """A network with everything that makes it a vocoder: mel definition, sampling rate, sampler defaults.

    Attributes
    ----------
    mel : MelSpec
        The model's own definition, assumed for spectrograms that come without one.
    sample_rate : int, Hz
        Of the sound it makes.
    default_steps, default_sampler, other_evaluations, latents, denoiser
        As for :class:`~mmdiff.audio.sampling.SampledModel`.
    """

    mel: MelSpec
    sample_rate: int

    @abstractmethod
    def accept(self, mel: Tensor, spec: MelSpec) -> tuple[Tensor, MelSpec, list[str]]:
        """Convert a mel (B, n_mels, frames) of any definition to one the model reads, and say what was done."""

    @abstractmethod
    def start(
        self, mel: Tensor, spec: MelSpec, *, seeds: Sequence[int], samples: int
    ) -> tuple[DenoiserFn, Tensor]:
        """Denoiser of a mel that :meth:`accept` gave and that is short enough for one piece, and the unit noise.

        The denoiser is called as ``denoise(x, t)``; a run of a sampler begins with the noise times the
        schedule's ``prior_std``.
        """

    @abstractmethod
    def blocks(
        self,
        mel: Tensor,
        spec: MelSpec,
        *,
        seeds: Sequence[int],
        samples: int,
        steps: int,
        grid: Tensor,
        sampler: str,
        temperature: float,
    ) -> Iterator[Tensor]:
        """Yield the waveform (B, samples) of a mel that :meth:`accept` gave, in consecutive blocks.

        Item i is drawn with ``seeds[i]`` and depends on nothing else; ``grid`` are the sampler's times, as many
        as :meth:`grid` has for ``steps``; ``temperature`` scales the noise.
        """

    @abstractmethod
    def count_blocks(self, spec: MelSpec, frames: int, steps: int) -> int:
        """Count the blocks that :meth:`blocks` yields for a mel of so many frames."""

    @abstractmethod
    def block_maker(
        self,
        spec: MelSpec,
        *,
        steps: int,
        grid: Tensor,
        sampler: str,
        temperature: float,
        lookahead: int,
        block: int,
    ) -> BlockMaker:
        """Prepare for a mel of definition ``spec`` that comes piece by piece.

        Blocks are ``block`` frames of the model long and hear ``lookahead`` frames beyond themselves; the rest
        is as for :meth:`blocks`.

        Raises
        ------
        InputError
            The model cannot do so with such a mel.
        """
