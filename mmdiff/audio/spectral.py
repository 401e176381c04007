"""The spectral vocoder: diffusion of the magnitude at frame rate, then phase.

What is diffused is sqrt(|X| / M), standardised, where M is the magnitude prior that a mel spectrogram gives
(:mod:`mmdiff.audio.prior`): unit Gaussian noise there is noise of the mel's own spectral shape in the signal. A
few steps of a linear flow sample it; Griffin-Lim and a network that corrects phases make the waveform.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.spectral import SubBandNet
from mmdiff.audio.phase import PhaseNet, griffin_lim, single_pass_phase
from mmdiff.audio.prior import Bands, bands_on_grid
from mmdiff.audio.spectral_stream import SpectralBlocks
from mmdiff.audio.spectral_windows import count_windows, magnitude_noise, windowed_blocks
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.schedules import LinearFlow
from mmdiff.diffusion.solver_tools import DenoiserFn, Stops
from mmdiff.registry import register

# Mean and deviation of sqrt(|X| / M) over speech; with them the diffused state has about zero mean, unit variance.
ROOT_MEAN, ROOT_DEVIATION = 0.9, 0.35


@dataclass(frozen=True)
class Conditions:
    """What a mel spectrogram tells the networks.

    Attributes
    ----------
    bands : Bands
    prior : Tensor, shape (B, T, K)
    context : Tensor, shape (B, T, C)
        Log bands of the prior, about unit variance.
    """

    bands: Bands
    prior: Tensor
    context: Tensor

    def part(self, frames: slice) -> Conditions:
        """The same for a range of frames."""
        bands = self.bands.part(frames.start, frames.stop)
        return Conditions(bands, self.prior[:, frames], self.context[:, frames])


@register
class MagnitudeNet(nn.Module):
    """The denoiser's network: standardised magnitudes given prior and context.

    Parameters
    ----------
    stft : Stft
    context, channels, depth, bands, overlap : int
        As for :class:`SubBandNet`.
    """

    def __init__(
        self,
        stft: Stft,
        context: int = 80,
        channels: int = 96,
        depth: int = 8,
        bands: int = 16,
        overlap: int = 8,
    ) -> None:
        super().__init__()
        self.network = SubBandNet(2, 1, stft.bins - 1, bands, overlap, context, channels, depth=depth)

    def forward(self, x: Tensor, level: Tensor, prior: Tensor, context: Tensor) -> Tensor:
        """Evaluate on ``x`` (B, 1, T, K-1) at noise ``level`` (B,); shape of x."""
        log_prior = prior[..., :-1].log()
        shape = (log_prior - log_prior.mean(-1, keepdim=True)) / 1.5
        return self.network(torch.cat([x, shape[:, None]], 1), level, context)


@register
class SpectralVocoder(VocoderModel):
    """Waveform from a mel spectrogram of any definition, by diffusion at frame rate.

    Parameters
    ----------
    stft : Stft
        The grid the model works on; its sampling rate is the output's.
    mel : MelSpec
        Definition assumed for spectrograms that come without one.
    magnitude : MagnitudeNet
    phase : PhaseNet or None
        None: Griffin-Lim alone.
    iterations : int >= 0
        Griffin-Lim iterations before the phase network.
    steps : int > 0
        Network evaluations by default: all but the last sample the magnitude, the last corrects phases. One
        evaluation samples the magnitude and leaves phases to Griffin-Lim.
    """

    default_sampler = "ddim"
    other_evaluations = 1
    pooling: Tensor

    def __init__(
        self,
        stft: Stft,
        mel: MelSpec,
        magnitude: MagnitudeNet,
        phase: PhaseNet | None = None,
        iterations: int = 16,
        steps: int = 2,
    ) -> None:
        super().__init__()
        self.stft, self.mel, self.iterations, self.default_steps = stft, mel, iterations, steps
        self.sample_rate = stft.sample_rate
        self.denoiser = Denoiser(magnitude, LinearFlow(), prediction="edm", noise_input="t")
        self.phase = phase
        width = magnitude.network.read_context.in_channels
        pooling = MelSpec(
            stft.sample_rate, stft.n_fft, stft.n_fft, stft.hop_length, width, f_max=stft.sample_rate / 2
        )
        self.register_buffer("pooling", pooling.filterbank().T.contiguous(), persistent=False)

    def conditions(self, mel: Tensor, spec: MelSpec, frames: int | None = None) -> Conditions:
        """Read a mel spectrogram (B, n_mels, frames') of definition ``spec``."""
        return self.condition_on(bands_on_grid(mel, spec, self.stft, frames))

    def condition_on(self, bands: Bands) -> Conditions:
        """What the networks are told about bands already on the model's grid."""
        prior = bands.magnitude_prior()
        context = ((prior @ self.pooling).clamp_min(1e-5).log() + 5) / 2.5
        return Conditions(bands, prior, context)

    def to_state(self, magnitude: Tensor, prior: Tensor) -> Tensor:
        """Magnitude (B, T, K) to what is diffused (B, 1, T, K-1); the Nyquist bin is left to the prior."""
        root = (magnitude / prior).clamp_max(16.0).sqrt()
        return ((root - ROOT_MEAN) / ROOT_DEVIATION)[:, None, :, :-1]

    def from_state(self, state: Tensor, conditions: Conditions) -> Tensor:
        """Diffused state (B, 1, T, K-1) to a magnitude (B, T, K) that agrees with the mel's bands."""
        root = (state[:, 0] * ROOT_DEVIATION + ROOT_MEAN).clamp_min(0.02)
        prior = conditions.prior
        magnitude = torch.cat([root.square() * prior[..., :-1], prior[..., -1:]], -1)
        # Only a mel measured with this very window and hop is a constraint that can be met exactly.
        return conditions.bands.rescale(magnitude) if conditions.bands.native else magnitude

    def sample_magnitude(
        self, noise: Tensor, conditions: Conditions, grid: Tensor | Stops, sampler: str = "ddim"
    ) -> Tensor:
        """Draw magnitudes.

        Parameters
        ----------
        noise : Tensor, shape (B, 1, T, K-1)
            Unit Gaussian times a temperature; zeros give the one-step regression.
        conditions : Conditions
        grid : Tensor, shape (n + 1,)
            Times at which the sampler stops.
        sampler : str
            Any name in :data:`mmdiff.diffusion.samplers.SAMPLERS`.

        Returns
        -------
        Tensor, shape (B, T, K)
        """
        schedule, denoise = self.denoiser.schedule, self._denoise(conditions)
        state = SAMPLERS[sampler].fn(denoise, noise, grid.to(noise.device), schedule)
        return self.from_state(state, conditions)

    def _denoise(self, conditions: Conditions) -> DenoiserFn:
        return functools.partial(self.denoiser, prior=conditions.prior, context=conditions.context)

    def spectrum(
        self,
        magnitude: Tensor,
        start: Tensor,
        conditions: Conditions,
        samples: int,
        correct: bool = True,
        differentiable: int = 0,
    ) -> Tensor:
        """Give a magnitude its phases.

        Parameters
        ----------
        magnitude : Tensor, shape (B, T, K)
        start : Tensor, shape (B, T, K), complex
            Unit phasors to start from, as of :func:`single_pass_phase`.
        conditions : Conditions
        samples : int
        correct : bool
            Use the phase network, if there is one.
        differentiable : int
            Griffin-Lim iterations that gradients flow through.

        Returns
        -------
        Tensor, shape (B, T, K), complex
        """
        found = griffin_lim(
            magnitude, start, self.stft, samples, self.iterations, differentiable=differentiable
        )
        return self.correct(found, magnitude, conditions, samples) if correct else found

    def correct(self, found: Tensor, magnitude: Tensor, conditions: Conditions, samples: int) -> Tensor:
        """Correct the phases that Griffin-Lim found, (B, T, K), by the phase network, if there is one."""
        if self.phase is None:
            return found
        consistent = self.stft(self.stft.inverse(found, samples))
        return self.phase(consistent, magnitude, conditions.prior, conditions.context)

    def forward(
        self,
        noise: Tensor,
        conditions: Conditions,
        steps: int,
        samples: int,
        sampler: str = "ddim",
        gradient: int = 0,
        grid: Tensor | Stops | None = None,
    ) -> Tensor:
        """Noise (B, 1, T, K-1) to waveform (B, samples) by ``steps`` evaluations; see the class."""
        grid = self.grid(steps) if grid is None else grid
        magnitude = self.sample_magnitude(noise, conditions, grid, sampler)
        start, _ = single_pass_phase(magnitude.detach(), self.stft)
        spectrum = self.spectrum(
            magnitude, start, conditions, samples, correct=steps > 1, differentiable=gradient
        )
        return self.stft.inverse(spectrum, samples)

    def accept(self, mel: Tensor, spec: MelSpec) -> tuple[Tensor, MelSpec, list[str]]:
        """Take a mel of any definition as it is: the prior undoes the definition."""
        if spec == self.mel:
            return mel, spec, []
        note = (
            f"read as {spec.n_mels} bands up to {spec.f_max:g} Hz at {spec.sample_rate} Hz, hop {spec.hop_length}; "
            f"the model undoes the definition itself and answers at {self.sample_rate} Hz"
        )
        return mel, spec, [note]

    def grid(self, steps: int) -> Tensor:
        """Times of the magnitude's sampler for so many network evaluations: equal steps."""
        return make_grid("uniform", self.denoiser.schedule, max(1, steps - self.other_evaluations))

    def start(
        self, mel: Tensor, spec: MelSpec, *, seeds: Sequence[int], samples: int
    ) -> tuple[DenoiserFn, Tensor]:
        """Denoiser of a short mel's magnitude, and its noise; see :class:`VocoderModel`."""
        frames = self.stft.frames(samples)
        conditions = self.conditions(mel, spec, frames)
        return self._denoise(conditions), magnitude_noise(self, seeds, 0, frames).to(mel.device)

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
        """Yield the waveform in consecutive blocks; see :class:`VocoderModel`."""
        bands = bands_on_grid(mel, spec, self.stft, self.stft.frames(samples))
        return windowed_blocks(
            self, bands, seeds=seeds, samples=samples, steps=steps, grid=grid, sampler=sampler,
            temperature=temperature,
        )  # fmt: skip

    def block_maker(self, spec: MelSpec, **options: Any) -> SpectralBlocks:
        """Prepare for a mel that comes piece by piece; see :class:`VocoderModel`."""
        return SpectralBlocks(self, spec, **options)

    def count_blocks(self, spec: MelSpec, frames: int, steps: int) -> int:
        """Blocks that :meth:`blocks` yields, up to one."""
        seconds = spec.samples(frames) / spec.sample_rate
        return count_windows(self.stft.frames(round(seconds * self.sample_rate)))
