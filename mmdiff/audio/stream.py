"""Sound of a mel spectrogram that is still coming: samples as soon as they are final."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.check import check
from mmdiff.audio.mel.lengths import whole_length
from mmdiff.audio.sampling import item_seeds
from mmdiff.audio.vocoder_model import BlockMaker, VocoderModel
from mmdiff.errors import InputError

LOOKAHEAD, BLOCK = 4, 4
"""Frames by default: at 16 ms a frame, samples come 112 ms after the frame in whose middle they lie."""


class Latency(NamedTuple):
    """How long a sample waits, at most, after the frame in whose middle it lies has been pushed."""

    frames: int
    """Of the spectrogram pushed: so many more must come."""
    samples: int
    seconds: float
    """The same as a time, without that of computing."""


class VocoderStream:
    """Sound of a mel spectrogram that is still coming; made by :meth:`mmdiff.audio.vocoder.Vocoder.stream`.

    What is given out does not depend on how the frames were cut into pieces.

    Parameters
    ----------
    model : VocoderModel
    maker : BlockMaker
        Of this stream's own.
    spec : MelSpec
        Definition of the frames.
    seed : int or sequence of int
    chunks : iterable of Tensor, optional
        What iterating pushes.

    Attributes
    ----------
    sample_rate : int, Hz
        Of the sound.
    latency : Latency
        Between frames and samples; what computing a block takes comes on top.
    block_seconds : float
        Length of a block: what is given out together.
    notes : list of str
        What was done to frames to make them fit.
    """

    def __init__(
        self,
        model: VocoderModel,
        maker: BlockMaker,
        spec: MelSpec,
        seed: int | Sequence[int],
        chunks: Iterable[Tensor] | None = None,
    ) -> None:
        self.sample_rate, self.notes = model.sample_rate, list[str]()
        seconds, self.block_seconds = maker.delay, maker.block_seconds
        frames = math.ceil(seconds / spec.hop_seconds - 1e-6)
        self.latency = Latency(frames, round(seconds * model.sample_rate), seconds)
        self._model, self._maker, self._spec, self._seed, self._chunks = model, maker, spec, seed, chunks
        self._held: Tensor | None = None  # frames that blocks to come are made of
        self._offset = 0  # the first of them
        self._seeds: list[int] = []
        self._ended = False

    def push(self, mel: Tensor) -> Tensor:
        """Take the next frames and give out what has become final.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames) or (n_mels, frames)
            Any number of frames, none too; the same B each time. An array will do.

        Returns
        -------
        Tensor, shape (B, samples), float32 in [-1, 1]
            Often of no samples.

        Raises
        ------
        InputError
            The frames do not fit their definition or those before them, or the stream has ended. The stream
            can go on with other frames.
        """
        self._require_open()
        mel = torch.as_tensor(mel)
        if mel.dim() in (2, 3) and mel.shape[-2:] == (self._spec.n_mels, 0):
            return torch.zeros(*mel.shape[:-2] or (1,), 0, device=next(self._model.parameters()).device)
        mel = self._accepted(mel)
        self._held = mel if self._held is None else torch.cat([self._held, mel], -1)
        made = [mel.new_zeros(len(mel), 0)]
        with torch.inference_mode():
            while self._maker.span[1] <= self._offset + self._held.shape[-1]:
                first, last = (n - self._offset for n in self._maker.span)
                made.append(self._maker(self._held[..., first:last], self._seeds))
                self._drop()
        return torch.cat(made, -1).clamp(-1, 1)

    def flush(self) -> Tensor:
        """End the stream and give out the rest: all samples together are as many as the whole file's.

        Returns
        -------
        Tensor, shape (B, samples), float32 in [-1, 1]

        Raises
        ------
        InputError
            No frame was pushed, or the stream has ended before.
        """
        self._require_open()
        if self._held is None:
            raise InputError("flush() must follow at least one push(mel); no frame has come")
        self._ended = True
        frames = self._offset + self._held.shape[-1]
        samples = whole_length(self._spec, frames, self.sample_rate)
        with torch.inference_mode():
            return self._maker(self._held, self._seeds, samples).clamp(-1, 1)

    def __iter__(self) -> Iterator[Tensor]:
        """Push what :meth:`~mmdiff.audio.vocoder.Vocoder.stream` was given and yield what comes of it.

        Yields
        ------
        Tensor, shape (B, samples > 0)
        """
        if self._chunks is None:
            raise InputError(
                "chunks=None must be pieces of a spectrogram to iterate; else call push and flush"
            )
        for mel in self._chunks:
            if (wave := self.push(mel)).shape[-1]:
                yield wave
        if (wave := self.flush()).shape[-1]:
            yield wave

    def _require_open(self) -> None:
        if self._ended:
            raise InputError(
                "the stream must not have ended: flush() was called; begin another with stream()"
            )

    def _accepted(self, mel: Tensor) -> Tensor:
        checked = check(mel, self._spec, part=True)
        if self._held is None:
            self._seeds = item_seeds(self._seed, len(checked.mel))
        elif len(checked.mel) != len(self._held):
            raise InputError(
                f"mel of shape {tuple(checked.mel.shape)} must have as many items as those before, "
                f"{len(self._held)}"
            )
        device = next(self._model.parameters()).device
        accepted, _, notes = self._model.accept(checked.mel.to(device), self._spec)
        self.notes += [note for note in (*checked.notes, *notes) if note not in self.notes]
        return accepted

    def _drop(self) -> None:
        """Forget the frames that no later block needs."""
        assert self._held is not None
        first = self._maker.span[0]
        self._held, self._offset = self._held[..., first - self._offset :].clone(), first
