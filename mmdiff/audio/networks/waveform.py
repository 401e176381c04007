"""What networks that denoise a waveform have in common, and how a hop length is split between their layers."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from mmdiff.errors import InputError


class WaveformNetwork(nn.Module, ABC):
    """A network that finds the noise in a waveform: ``network(x, level, mel=mel) -> eps``, eps (B, 1, samples).

    Attributes
    ----------
    noise_input : str
        What the network is told of the noise; see :class:`mmdiff.diffusion.denoiser.Denoiser`.
    inputs : int
        Channels of x: 1 for a waveform, 2 for one with its velocity.
    n_mels : int
        Bands of the spectrogram that steers it; 0 for none.
    hop_length : int
        Samples per frame of the spectrogram; 1 for none.
    classes : int
        Labels it can be told as ``label=`` (B,) int64; the number itself stands for none of them.
    latents : int
        Size of the random vectors that a generator is told as ``z=`` (B, latents); 0 for a denoiser.
    reach : int, frames
        How far to either side of a sample its output may depend on its input.
    shortest : int, frames
        What a graph made of it takes at least; see :mod:`mmdiff.audio.graphs`.
    compute_dtype : torch.dtype or None
        Of the matrix products in calls without gradients; None is that of the weights.
    """

    noise_input: str
    inputs: int = 1
    n_mels: int
    hop_length: int
    classes: int = 0
    latents: int = 0
    shortest: int = 2
    compute_dtype: torch.dtype | None = None

    @property
    @abstractmethod
    def reach(self) -> int:
        """Frames to either side that a sample of the output may depend on."""

    def prepare(self, mel: Tensor) -> dict[str, Tensor]:
        """Do once what all steps of a generation share; the result replaces ``mel=mel`` in calls without gradients.

        Parameters
        ----------
        mel : Tensor, shape (B, n_mels, frames)

        Returns
        -------
        dict of str to Tensor
            Each with the batch dimension first.
        """
        return {"mel": mel}

    def prepared_bytes(self, batch: int, frames: int) -> int:
        """Memory that the result of :meth:`prepare` takes, beyond the spectrogram itself."""
        return 0

    def check_inputs(self, x: Tensor, level: Tensor, mel: Tensor | None) -> None:
        """Compare the shapes of a call's arguments.

        Raises
        ------
        InputError
            They do not fit together.
        """
        if mel is None:
            batch, samples = x.shape[0], x.shape[-1]
            rule = "at least one sample"
        else:
            batch, samples = mel.shape[0], mel.shape[-1] * self.hop_length
            rule = f"{mel.shape[-1]} mel frames times hop_length={self.hop_length}; pad or cut one of the two"
            if mel.ndim != 3 or mel.shape[1] != self.n_mels:
                raise InputError(
                    f"mel of shape {tuple(mel.shape)} must be (batch, n_mels={self.n_mels}, frames); "
                    "compute it with the model's own mel definition"
                )
        if samples == 0 or x.shape != (batch, self.inputs, samples):
            raise InputError(
                f"x of shape {tuple(x.shape)} must be (batch={batch}, {self.inputs}, samples={samples}): {rule}"
            )
        if level.shape != (batch,):
            raise InputError(
                f"level of shape {tuple(level.shape)} must be (batch={batch},): one noise level per item"
            )

    def check_latent(self, z: Tensor | None) -> None:
        """Complain of random vectors that are missing, or that the network does not take."""
        if (z is not None) != (self.latents > 0):
            state = "needs" if self.latents else "takes no"
            raise InputError(f"z: this network, with latents={self.latents}, {state} random vectors")

    def check_label(self, label: Tensor | None, x: Tensor) -> None:
        """Complain of labels of a wrong shape, or that the network does not have."""
        # len(x) alone would make the batch of a traced graph a constant
        if label is not None and (self.classes == 0 or label.shape != x.shape[:1]):
            raise InputError(
                f"label of shape {tuple(label.shape)} must be (batch={len(x)},), for a network with classes; "
                f"this one has {self.classes}"
            )


def upsampling_factors(hop_length: int, levels: int = 5) -> tuple[int, ...]:
    """Split a hop length into upsampling factors, largest first: the coarse end costs least.

    Parameters
    ----------
    hop_length : int > 1
        Samples per spectrogram frame.
    levels : int > 0
        Most factors to split into.

    Returns
    -------
    tuple of int
        At most ``levels`` integers above 1 whose product is ``hop_length``.

    Raises
    ------
    InputError
        The hop length is below 2.

    Examples
    --------
    >>> upsampling_factors(300), upsampling_factors(256), upsampling_factors(256, 2)
    ((5, 5, 3, 2, 2), (4, 4, 4, 2, 2), (16, 16))
    """
    if hop_length < 2:
        raise InputError(f"hop_length={hop_length} must be at least 2 samples; take the spectrogram's own")
    factors: list[int] = []
    rest, prime = hop_length, 2
    while rest > 1:
        if rest % prime:
            prime += 1
        else:
            factors.append(prime)
            rest //= prime
    while len(factors) > levels:
        smallest, second, *others = sorted(factors)
        factors = [smallest * second, *others]
    return tuple(sorted(factors, reverse=True))
