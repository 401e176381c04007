"""Latents of long media and back, part by part: the same numbers as of the whole, in memory that does not grow."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.posterior import Posterior


def encode_stream(
    autoencoder: Autoencoder, pieces: Iterable[Tensor], *, block: int = 64
) -> Iterator[Posterior]:
    """Encode data that come in pieces.

    Parameters
    ----------
    autoencoder : Autoencoder
    pieces : iterable of Tensor, shape (B, C, n, *space)
        Consecutive samples or frames, any number of them each.
    block : int > 0
        Latents of a part along the first dimension of space.

    Yields
    ------
    Posterior
        Of shape (B, latents, block, *space / factor), the last one shorter: those of the whole, up to rounding.
    """

    def encode(x: Tensor) -> Tensor:
        q = autoencoder.encode(x)
        return torch.cat((q.mean, q.log_std), 1)

    unit, margin = autoencoder.factor[0], autoencoder.reach[0]
    for part in _in_parts(encode, pieces, block, margin, unit, 1):
        yield Posterior(*part.chunk(2, 1))


def decode_stream(autoencoder: Autoencoder, pieces: Iterable[Tensor], *, block: int = 64) -> Iterator[Tensor]:
    """Decode latents that come in pieces (B, latents, n, *space); see :func:`encode_stream`.

    Yields
    ------
    Tensor, shape (B, C, block · factor, *space · factor)
        The last one shorter.
    """
    unit, margin = autoencoder.factor[0], autoencoder.reach[0]
    yield from _in_parts(autoencoder.decode, pieces, block, margin, 1, unit)


def _in_parts(
    function: Callable[[Tensor], Tensor],
    pieces: Iterable[Tensor],
    block: int,
    margin: int,
    unit: int,
    made: int,
) -> Iterator[Tensor]:
    """Apply a function that maps cells of ``unit`` places to ``made`` and sees ``margin`` cells to either side."""
    if block < 1:
        raise InputError(f"block={block} must be at least 1")
    held, before = None, 0  # cells of what is held that were done already
    for piece in itertools.chain(pieces, (None,)):
        if piece is not None:
            held = piece if held is None else torch.cat((held, piece), 2)
        ahead = 0 if piece is None else (block + margin) * unit - 1
        while held is not None and held.shape[2] > before * unit + ahead:
            window = held[:, :, : (before + block + margin) * unit]
            yield function(window)[:, :, before * made : (before + block) * made].clone()
            done = before + block
            before = min(margin, done)
            held = held[:, :, (done - before) * unit :]
