"""Vocoders as graphs: functions of tensors alone, with the noise as an input, that can be traced and exported."""

from __future__ import annotations

import contextlib
import functools
from abc import ABC
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mmdiff.audio.phase import LONGEST_TRACED
from mmdiff.audio.planes import RealArithmetic
from mmdiff.audio.prior import bands_on_grid
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.solver_tools import Stops
from mmdiff.errors import InputError

Shape = tuple[int | str, ...]
"""Of an input: sizes, and names of those that are free."""


class Graph(nn.Module, ABC):
    """What is exported.

    Attributes
    ----------
    shapes : dict of str to Shape
        Of the inputs, in order.
    output : str
        Name of the result.
    output_shape : Shape
    shortest, longest : int
        Bounds of the axis "frames".
    real : bool
        Compute complex spectra as pairs of real tensors, for runtimes that have no complex numbers.
    """

    shapes: dict[str, Shape]
    output = "samples"
    output_shape: Shape
    shortest, longest = 2, LONGEST_TRACED

    def __init__(self, model: VocoderModel, real: bool) -> None:
        super().__init__()
        self.model, self.real = model.eval(), real

    def arithmetic(self) -> AbstractContextManager[object]:
        """Context to compute in."""
        return RealArithmetic() if self.real else contextlib.nullcontext()

    def example(self, batch: int, frames: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Inputs of a batch and a length: the spectrogram of a sound with a pitch, and Gaussian noise."""
        generator = torch.Generator().manual_seed(seed)
        free = {"batch": batch, "frames": frames}
        make = {"mel": self._sound, "level": lambda size, generator: torch.rand(size, generator=generator)}
        made = []
        for name, shape in self.shapes.items():
            size = [free[n] if isinstance(n, str) else n for n in shape]
            made.append(make.get(name, _gaussian)(size, generator))
        return tuple(made)

    def _sound(self, size: Sequence[int], generator: torch.Generator) -> Tensor:
        """Spectrogram (B, n_mels, frames) of a rising tone with overtones in a little noise."""
        spec, (batch, _, frames) = self.model.mel, size
        seconds = torch.arange(frames * spec.hop_length) / spec.sample_rate
        pitch = 120 + 60 * torch.rand(batch, 1, generator=generator) + 40 * seconds
        turns = (pitch / spec.sample_rate).cumsum(-1)
        number = torch.arange(1, 12)[:, None, None]
        wave = (torch.sin(2 * torch.pi * number * turns) / number).sum(0) / 10
        wave = wave + 0.01 * torch.randn(wave.shape, generator=generator)
        return spec(wave)[..., :frames].contiguous()  # strides would be taken for a property of the input


def _gaussian(size: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(size, generator=generator)


class SpectralGraph(Graph):
    """The spectral vocoder at a fixed number of evaluations, with its Griffin-Lim iterations unrolled.

    Parameters
    ----------
    model : SpectralVocoder
        Its mel definition must be on its own grid.
    steps : int > 0
    real : bool
        See :class:`Graph`.

    Raises
    ------
    InputError
        The model's mel has another hop or window than its STFT.
    """

    def __init__(self, model: SpectralVocoder, steps: int, real: bool) -> None:
        super().__init__(model, real)
        stft, mel = model.stft, model.mel
        if not bands_on_grid(torch.zeros(1, mel.n_mels, 2), mel, stft, 2).native:
            raise InputError(
                f"model with hop_length={mel.hop_length} in its mel and {stft.hop_length} in its STFT must have "
                "the same grid in both to be exported; vocode with PyTorch instead"
            )
        grid = model.grid(steps)
        self.steps = steps
        self.stops = Stops(model.denoiser.schedule, grid) if len(grid) > 1 else grid
        self.shortest = stft.n_fft // 2 // stft.hop_length + 2  # the padding reflects half a window
        self.shapes = {"mel": ("batch", mel.n_mels, "frames"), "noise": ("batch", "frames", stft.bins - 1)}
        self.output_shape = ("batch", f"(frames - 1) * {stft.hop_length}")

    def forward(self, mel: Tensor, noise: Tensor) -> Tensor:
        """Map a mel (B, n_mels, T) and unit noise (B, T, K - 1) to samples (B, (T - 1) hop) in [-1, 1]."""
        model = self.model
        assert isinstance(model, SpectralVocoder)
        frames = mel.shape[-1]
        with self.arithmetic():
            conditions = model.conditions(mel, model.mel, frames)
            samples = (frames - 1) * model.stft.hop_length
            return model(noise[:, None], conditions, self.steps, samples, grid=self.stops).clamp(-1, 1)


class WaveformGraph(Graph):
    """WaveGrad or DiffWave with its few steps unrolled; a draw of noise for each is an input.

    Parameters
    ----------
    model : WaveformVocoder
    steps : int > 0
    real : bool
        See :class:`Graph`.

    Raises
    ------
    InputError
        The model is used with noise levels told ahead.
    """

    def __init__(self, model: WaveformVocoder, steps: int, real: bool) -> None:
        super().__init__(model, real)
        if model.level_ahead:
            raise InputError(
                "model with level_ahead=True must have its network exported alone; try --part network"
            )
        self.steps, self.stops = steps, Stops(model.denoiser.schedule, model.grid(steps))
        self.longest = model.window + 2 * model.network.reach  # what goes through the network in one piece
        self.shortest = model.network.shortest
        draws = 1 + sum(point.sigma > 0 for point in self.stops.points[1:])
        mel = model.mel
        self.shapes = {
            "mel": ("batch", mel.n_mels, "frames"),
            "noise": ("batch", draws, "frames", mel.hop_length),
        }
        self.output_shape = ("batch", f"frames * {mel.hop_length}")

    def forward(self, mel: Tensor, noise: Tensor) -> Tensor:
        """Map a mel (B, n_mels, T) and unit noise (B, draws, T, hop) to samples (B, T hop) in [-1, 1]."""
        model = self.model
        assert isinstance(model, WaveformVocoder)
        first, *fresh = noise.flatten(2)[:, :, None].unbind(1)
        with self.arithmetic():
            wave = model.sample_window(
                mel,
                first / model.denoiser.schedule.prior_std,
                functools.partial(next, iter(fresh)),
                grid=self.stops,
                sampler=model.default_sampler,
                temperature=1.0,
            )
        return wave.clamp(-1, 1)


class NetworkGraph(Graph):
    """The denoising network alone, for samplers of one's own; it hears the mel as in the pipeline.

    Parameters
    ----------
    model : VocoderModel
        SpectralVocoder or WaveformVocoder.
    steps : int
        Not used.
    real : bool
        See :class:`Graph`.
    """

    output = "prediction"

    def __init__(self, model: SpectralVocoder | WaveformVocoder, steps: int, real: bool) -> None:
        super().__init__(model, real)
        width = model.stft.bins - 1 if isinstance(model, SpectralVocoder) else model.mel.hop_length
        if isinstance(model, WaveformVocoder):
            self.shortest = model.network.shortest
        self.shapes = {
            "x": ("batch", "frames", width),
            "level": ("batch",),
            "mel": ("batch", model.mel.n_mels, "frames"),
        }
        self.output_shape = ("batch", "frames", width)

    def forward(self, x: Tensor, level: Tensor, mel: Tensor) -> Tensor:
        """Map a state (B, T, width), the level (B,) the network is told and a mel to its prediction, of x's shape."""
        model = self.model
        network, conditions = model.denoiser.network, {"mel": mel}
        state = x[:, None] if isinstance(model, SpectralVocoder) else x.flatten(1)[:, None]
        if isinstance(model, SpectralVocoder):
            told = model.conditions(mel, model.mel, mel.shape[-1])
            conditions = {"prior": told.prior, "context": told.context}
        with self.arithmetic():
            prediction: Tensor = network(state, level, **conditions)
        return prediction.reshape(x.shape)


Part = Literal["all", "network"]
_GRAPHS: dict[tuple[type, Part], Callable[..., Graph]] = {
    (SpectralVocoder, "all"): SpectralGraph,
    (WaveformVocoder, "all"): WaveformGraph,
    (SpectralVocoder, "network"): NetworkGraph,
    (WaveformVocoder, "network"): NetworkGraph,
}


def make_graph(model: VocoderModel, steps: int, part: Part = "all", real: bool = True) -> Graph:
    """Make the graph of a vocoder, or of its network alone.

    Raises
    ------
    InputError
        The model is of a kind, or of sizes, that cannot be one.
    """
    if part not in get_args(Part):
        raise InputError(f"part={part!r} must be one of {', '.join(get_args(Part))}")
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1; {model.default_steps} is usual")
    if model.latents:
        raise InputError(
            f"model with latents={model.latents} must be run by mmdiff: a graph has no input for what it draws"
        )
    if model.denoiser.schedule.paired:
        raise InputError(
            f"model with schedule={type(model.denoiser.schedule).__name__} must be run by mmdiff: a graph has no input "
            "for its velocity"
        )
    for (kind, what), graph in _GRAPHS.items():
        if isinstance(model, kind) and what == part:
            return graph(model, steps, real)
    raise InputError(
        f"model of class {type(model).__name__} must be a vocoder: SpectralVocoder or WaveformVocoder"
    )
