"""DiffWave: a waveform denoiser of dilated convolutions, for vocoding and for sound of its own (2009.09761)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio.networks.diffwave_layers import (
    CODE,
    Convolution,
    MelUpsampler,
    ResidualLayer,
    StepEmbedding,
    he_normal,
    run_layers,
)
from mmdiff.audio.networks.diffwave_tiles import run_in_place
from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.devices import full_precision
from mmdiff.errors import InputError
from mmdiff.nn import conv
from mmdiff.nn.latents import LatentMapping
from mmdiff.registry import register


@register
class DiffWave(WaveformNetwork):
    """Predict the noise in a waveform, given the step and, if it has them, a spectrogram and a label.

    Layers of bidirectional dilated convolutions see further and further; each hands part of its result to the next
    and adds the rest to a sum, which two more layers turn into the noise. It is the network of
    ``Denoiser(..., prediction="eps", noise_input="aligned_index")``.

    Without gradients, as in sampling, the layers run in place over pieces that fit the processor's cache
    (:mod:`mmdiff.audio.networks.diffwave_tiles`), and what a spectrogram adds to each layer, the same in
    all steps, may be computed once by :meth:`prepare`.

    Parameters
    ----------
    n_mels : int >= 0
        Bands of the spectrogram; 0 for generation without one.
    channels : int > 0
        Width C of the layers: 64 and 128 in the paper's vocoders, 256 for sound without a spectrogram.
    layers : int > 0
        Number of dilated convolutions.
    cycle : int > 0
        Dilations are 1, 2, 4 ... 2^(cycle - 1), again and again.
    factors : sequence of int > 0
        Upsampling of the spectrogram; their product is the hop length. Not used without one.
    classes : int >= 0
        Labels 0 ... classes - 1, with an embedding each and one for none of them; 0 for no labels.
    step_width : int > 0
        Size of the step's vector.
    latents : int >= 0
        Size of random vectors z that make the network a generator; they go where labels go. 0 for none.
    inputs : int > 0
        Channels of what it sees: 2 for a waveform with its velocity, as a denoiser of pairs shows it.
    noise_input : str
        Of the denoiser: "log_snr" where there is no table of steps. Between whole numbers the code is interpolated.

    Raises
    ------
    InputError
        A size is out of range.
    """

    def __init__(
        self,
        n_mels: int = 80,
        channels: int = 64,
        layers: int = 30,
        cycle: int = 10,
        factors: Sequence[int] = (16, 16),
        classes: int = 0,
        step_width: int = 512,
        latents: int = 0,
        inputs: int = 1,
        noise_input: str = "aligned_index",
    ) -> None:
        super().__init__()
        if (
            min(channels, layers, cycle, step_width, inputs, *factors) < 1
            or min(n_mels, classes, latents) < 0
        ):
            raise InputError(
                f"channels={channels}, layers={layers}, cycle={cycle}, factors={tuple(factors)}, inputs={inputs} and "
                f"step_width={step_width} must be at least 1, n_mels={n_mels}, classes={classes} and "
                f"latents={latents} at least 0"
            )
        self.n_mels, self.channels, self.classes, self.latents = n_mels, channels, classes, latents
        self.hop_length = math.prod(factors) if n_mels else 1
        self.inputs, self.noise_input = inputs, noise_input
        self.wave_in = he_normal(conv(1, inputs, channels, 1))
        self.embed_step = StepEmbedding(step_width)
        self.upsample = MelUpsampler(factors) if n_mels else None
        self.embed_label = nn.Embedding(classes + 1, CODE) if classes else None
        self.embed_latent = LatentMapping(latents, CODE) if latents else None
        self.layers = nn.ModuleList(
            ResidualLayer(channels, 2 ** (n % cycle), step_width, n_mels, CODE if classes or latents else 0)
            for n in range(layers)
        )
        self.skip_out = he_normal(conv(1, channels, channels, 1))
        self.out = conv(1, channels, 1, 1)
        nn.init.zeros_(self.out.weight)

    @property
    def residuals(self) -> Sequence[ResidualLayer]:
        """The layers, by their own class."""
        return cast("Sequence[ResidualLayer]", self.layers)

    @property
    def reach(self) -> int:
        """Frames to either side: of all dilations, and of the upsampling, which hears the next two frames."""
        samples = sum(layer.dilation for layer in self.residuals)
        return math.ceil(samples / self.hop_length) + (2 if self.n_mels else 0)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        mel: Tensor | None = None,
        label: Tensor | None = None,
        prepared: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        """Predict the noise in x.

        Parameters
        ----------
        x : Tensor, shape (B, inputs, samples)
            Noisy waveform.
        level : Tensor, shape (B,)
            Step of the training table, counted from 0 and possibly between two, or the log-SNR.
        mel : Tensor, shape (B, n_mels, frames), for a network that has n_mels
            Spectrogram of ``samples = frames * hop_length``.
        label : Tensor, shape (B,), int64, for a network that has classes
            Default: ``classes``, none of them.
        prepared : Tensor, optional
            What :meth:`prepare` made of the spectrogram, instead of it.
        z : Tensor, shape (B, latents), for a network that has latents
            Standard normal numbers; :func:`mmdiff.diffusion.adversarial.with_latents` draws them.

        Returns
        -------
        Tensor, shape (B, 1, samples)

        Raises
        ------
        InputError
            A condition is missing, or of another shape than the network's.
        """
        self._check(x, level, mel, label, prepared)
        vector = self._vector(label, z, x)
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self._evaluate(run_layers, x, level, mel, vector, prepared)
        with full_precision(x.device):
            dtype = self.compute_dtype or self.out.weight.dtype
            run = functools.partial(run_in_place, dtype=dtype)
            return self._evaluate(run, x, level, mel, vector, prepared)

    @torch.no_grad()
    def prepare(self, mel: Tensor) -> dict[str, Tensor]:
        """Compute what the spectrogram adds to each layer: ``prepared`` (B, layers, samples, 2C) of the calls."""
        local = self._upsampled(mel)
        dtype = self.compute_dtype or local.dtype
        shape = (len(local), len(self.layers), local.shape[1], 2 * self.channels)
        prepared = torch.empty(shape, dtype=dtype, device=local.device)
        local = local.to(dtype)
        for n, layer in enumerate(self.residuals):
            assert layer.mel is not None
            assert layer.mel.bias is not None
            assert layer.dilated.bias is not None
            bias = (layer.mel.bias + layer.dilated.bias).to(dtype)
            prepared[:, n] = functional.linear(local, layer.mel.weight[..., 0].to(dtype), bias)
        return {"prepared": prepared}

    def prepared_bytes(self, batch: int, frames: int) -> int:
        """Memory that the result of :meth:`prepare` takes."""
        values = batch * frames * self.hop_length * len(self.layers) * 2 * self.channels
        return values * (self.compute_dtype or self.out.weight.dtype).itemsize if self.n_mels else 0

    def _evaluate(
        self,
        run: Callable[..., Tensor],
        x: Tensor,
        level: Tensor,
        mel: Tensor | None,
        vector: Tensor | None,
        prepared: Tensor | None,
    ) -> Tensor:
        """Predict with the layers run in one of two ways; positions come before channels on the way."""
        with full_precision(x.device):
            step = self.embed_step(level)
        local = prepared if mel is None else self._upsampled(mel)
        h = functional.relu(_one_tap(x.mT, self.wave_in))
        total = run(self.residuals, h, step, local, vector)
        h = functional.relu(_one_tap(total * len(self.layers) ** -0.5, self.skip_out))
        return _one_tap(h, self.out).mT

    def _upsampled(self, mel: Tensor) -> Tensor:
        """Spectrogram at the waveform's rate, channels last: (B, samples, n_mels)."""
        assert self.upsample is not None
        with full_precision(mel.device):
            local: Tensor = self.upsample(mel.to(self.out.weight.dtype))
        return local.mT.contiguous()

    def _vector(self, label: Tensor | None, z: Tensor | None, x: Tensor) -> Tensor | None:
        """What is the same for all positions of an item: (B, CODE), of its label and z."""
        self.check_latent(z)
        if self.embed_latent is None and self.embed_label is None:
            return None  # before the context: torch.export fails on one around nothing
        vectors: list[Tensor] = []
        with full_precision(x.device):
            if self.embed_latent is not None:
                vectors.append(self.embed_latent(z))
            if self.embed_label is not None:
                if label is None:
                    label = torch.full((len(x),), self.classes, device=self.out.weight.device)
                vectors.append(self.embed_label(label))
        return sum(vectors[1:], vectors[0])

    def _check(
        self, x: Tensor, level: Tensor, mel: Tensor | None, label: Tensor | None, prepared: Tensor | None
    ) -> None:
        if (mel is not None or prepared is not None) != (self.n_mels > 0):
            state = "needs a" if self.n_mels else "takes no"
            raise InputError(f"mel: this network, with n_mels={self.n_mels}, {state} spectrogram")
        self.check_inputs(x, level, mel)
        self.check_label(label, x)


def _one_tap(x: Tensor, layer: Convolution) -> Tensor:
    """Apply a convolution of one tap to (B, L, channels)."""
    return functional.linear(x, layer.weight[..., 0], layer.bias)
