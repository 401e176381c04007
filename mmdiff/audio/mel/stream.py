"""Mel spectrograms of sound that comes in blocks: the same frames as of the whole, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec


def stream_mel(blocks: Iterable[Tensor], spec: MelSpec) -> Iterator[Tensor]:
    """Analyse a stream of sound.

    Every piece is analysed with enough past before it that the padding of its ends reaches no frame that is
    kept; the last piece also keeps what its reflected end needs.

    Parameters
    ----------
    blocks : iterable of Tensor, shape (B, any number of samples)
        Consecutive sound at ``spec.sample_rate``.
    spec : MelSpec

    Yields
    ------
    Tensor, shape (B, n_mels, frames)
        Consecutive frames; joined, they are ``spec(whole)``.

    Raises
    ------
    InputError
        The sound is too short for a definition without centring.
    """
    hop, padding = spec.hop_length, spec.padding
    margin = (math.ceil(2 * padding / hop) + 1) * hop  # past to keep, in samples
    held: Tensor | None = None
    origin, done = 0, 0  # first sample held; frames given out
    for block in blocks:
        held = block if held is None else torch.cat([held, block], -1)
        complete = (origin + held.shape[-1] + padding - spec.n_fft) // hop + 1
        if held.shape[-1] <= spec.n_fft + margin or complete <= done:
            continue
        yield spec(held)[..., done - origin // hop : complete - origin // hop]
        done = complete
        cut = max(0, done * hop - margin - origin)
        held, origin = held[..., cut:], origin + cut
    if held is not None:
        tail = spec(held)[..., done - origin // hop :]
        if tail.shape[-1]:
            yield tail
