"""The spectral vocoder: diffusion of the magnitude at frame rate, then phase.

What is diffused is sqrt(|X| / M), standardised, where M is the magnitude prior that a mel spectrogram gives
(:mod:`mmdiff.audio.prior`): unit Gaussian noise there is noise of the mel's own spectral shape in the signal. A
few steps of a linear flow sample it; Griffin-Lim and a network that corrects phases make the waveform.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor

from mmdiff.audio.magnitude import Conditions, MagnitudeNet, from_state
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.lengths import resampled_length
from mmdiff.audio.phase import PhaseNet, begun_by, griffin_lim, single_pass_phase
from mmdiff.audio.prior import Bands, bands_on_grid, context_filters, context_of
from mmdiff.audio.spectral_stream import SpectralBlocks
from mmdiff.audio.spectral_windows import count_windows, magnitude_noise, windowed_blocks
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.schedules import LinearFlow
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, Stops
from mmdiff.errors import InputError
from mmdiff.registry import register


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
        Network evaluations by default: the first sample the magnitude, the rest correct the spectrum.
    corrections : tuple of int
        How many evaluations of the phase network are among one, two ... evaluations, the last number for all
        more. (0, 1): one samples the magnitude and leaves phases to Griffin-Lim. (1, 1, 2): one corrects what
        Griffin-Lim makes of the prior, and nothing is sampled; of three, two correct.
    sketch : MagnitudeNet or None
        A shallow network that says the magnitude where nothing is sampled, in the place of the prior: what
        :class:`mmdiff.audio.tasks.SketchTask` teaches it. It runs beside the evaluations that are counted.

    Raises
    ------
    InputError
        ``corrections`` are more than there are evaluations, or of two and more leave none to sample; or one evaluation
        samples, so that there is nothing to sketch.
    """

    default_sampler = "ddim"
    pooling: Tensor

    def __init__(
        self,
        stft: Stft,
        mel: MelSpec,
        magnitude: MagnitudeNet,
        phase: PhaseNet | None = None,
        iterations: int = 16,
        steps: int = 2,
        corrections: tuple[int, ...] = (0, 1),
        sketch: MagnitudeNet | None = None,
    ) -> None:
        super().__init__()
        self.corrections = _check_corrections(corrections, sketched=sketch is not None)
        self.other_evaluations = corrections[-1]
        self.stft, self.mel, self.iterations, self.default_steps = stft, mel, iterations, steps
        self.sample_rate = stft.sample_rate
        self.denoiser = Denoiser(magnitude, LinearFlow(), prediction="edm", noise_input="t")
        self.phase, self.sketch = phase, sketch
        # frames to either side that an evaluation hears
        self.magnitude_reach, self.phase_reach = magnitude.network.reach, phase.network.reach if phase else 0
        self.register_buffer("pooling", context_filters(stft, magnitude.network.context), persistent=False)

    def conditions(self, mel: Tensor, spec: MelSpec, frames: int | None = None) -> Conditions:
        """Read a mel spectrogram (B, n_mels, frames') of definition ``spec``."""
        return self.condition_on(bands_on_grid(mel, spec, self.stft, frames))

    def condition_on(self, bands: Bands) -> Conditions:
        """What the networks are told about bands already on the model's grid."""
        prior = bands.magnitude_prior()
        context = context_of(prior, self.pooling)
        return Conditions(bands, prior, context)

    def draw_magnitude(
        self,
        source: Callable[[], Tensor],
        conditions: Conditions,
        grid: Tensor | Stops,
        sampler: str,
        temperature: float,
    ) -> Tensor:
        """Draw magnitudes (B, T, K) with all noise, a sampler's own too, from one source of (B, 1, T, K-1)."""
        noise = temperature * source().to(conditions.prior)
        return self.sample_magnitude(noise, conditions, grid, sampler, source, temperature)

    def sample_magnitude(
        self,
        noise: Tensor,
        conditions: Conditions,
        grid: Tensor | Stops,
        sampler: str = "ddim",
        generator: Generators = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw magnitudes.

        Parameters
        ----------
        noise : Tensor, shape (B, 1, T, K-1)
            Unit Gaussian times a temperature; zeros give the one-step regression.
        conditions : Conditions
        grid : Tensor, shape (n + 1,)
            Times at which the sampler stops; with n = 0 the magnitude is the sketch, or else the prior's.
        sampler : str
            Any name in :data:`mmdiff.diffusion.samplers.SAMPLERS`.
        generator : Generators
            Source of the noise that stochastic samplers add.
        temperature : float >= 0
            Standard deviation of that noise, over the right one.

        Returns
        -------
        Tensor, shape (B, T, K)
        """
        if len(grid) == 1:
            return self._unsampled(conditions)
        schedule, denoise = self.denoiser.schedule, self._denoise(conditions)
        info = SAMPLERS[sampler]
        options = info.noise_options(temperature)
        state = info.fn(denoise, noise, grid.to(noise.device), schedule, generator=generator, **options)
        return from_state(state, conditions)

    def _unsampled(self, conditions: Conditions) -> Tensor:
        if self.sketch is None:
            return conditions.agreeing(conditions.prior)
        return from_state(self.sketch.regress(conditions.prior, conditions.context), conditions)

    def hearing(self, grid: Tensor | Stops, sampler: str) -> int:
        """Frames to either side that a drawn magnitude depends on."""
        if len(grid) == 1:
            return self.sketch.network.reach if self.sketch else 0
        return self.magnitude_reach * SAMPLERS[sampler].evaluations_per_step * (len(grid) - 1)

    def _denoise(self, conditions: Conditions) -> DenoiserFn:
        return functools.partial(self.denoiser, prior=conditions.prior, context=conditions.context)

    def spectrum(
        self,
        magnitude: Tensor,
        start: Tensor,
        conditions: Conditions,
        samples: int,
        levels: Sequence[float] = (),
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
        levels : sequence of float
            Of the phase network's evaluations, see :meth:`phase_levels`.
        differentiable : int
            Griffin-Lim iterations that gradients flow through.

        Returns
        -------
        Tensor, shape (B, T, K), complex
        """
        found = griffin_lim(
            magnitude, start, self.stft, samples, self.iterations, differentiable=differentiable
        )
        return self.correct(found, magnitude, conditions, samples, levels)

    def correct(
        self,
        found: Tensor,
        magnitude: Tensor,
        conditions: Conditions,
        samples: int,
        levels: Sequence[float],
        held: Tensor | None = None,
    ) -> Tensor:
        """Correct the spectrum (B, T, K) that Griffin-Lim found once for each of ``levels``, if there is a network.

        Corrected spectra are scaled band by band towards a mel that was measured with the model's own window and hop.
        The first frames are those of ``held``, if it is given.
        """
        if self.phase is None:
            return begun_by(held, found)
        for number, level in enumerate(levels):
            consistent = self.stft(self.stft.inverse(found, samples))
            wanted = found.abs() if number else magnitude
            found = self.phase(consistent, wanted, conditions.prior, conditions.context, level)
        found = begun_by(held, found)
        return begun_by(held, self._scaled_to_mel(found, conditions, samples)) if levels else found

    def _scaled_to_mel(self, spectrum: Tensor, conditions: Conditions, samples: int) -> Tensor:
        """Bring what will be heard of a spectrum (B, T, K) nearer to the mel's bands, which are known."""
        if not conditions.bands.native:
            return spectrum  # nothing to transform for
        heard = self.stft(self.stft.inverse(spectrum, samples))
        magnitude = (heard.abs().square() + 1e-12).sqrt()  # gradients stay finite
        return heard * (conditions.agreeing(magnitude, iterations=1) / magnitude)

    def phase_levels(self, steps: int) -> tuple[float, ...]:
        """What the phase network is told at its evaluations among ``steps``: what it is to correct.

        0 is Griffin-Lim's result for a sampled or sketched magnitude, 1 that for the prior, and 0.5 its own.
        """
        count = self.corrections[min(steps, len(self.corrections)) - 1]
        of_prior = count == steps and self.sketch is None
        return tuple(0.5 if number else float(of_prior) for number in range(count))

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
        gradient = gradient if magnitude.requires_grad else 0
        spectrum = self.spectrum(magnitude, start, conditions, samples, self.phase_levels(steps), gradient)
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
        count = steps - len(self.phase_levels(steps))
        return make_grid("uniform", self.denoiser.schedule, max(1, count))[: count + 1]

    def start(
        self, mel: Tensor, spec: MelSpec, *, seeds: Sequence[int], samples: int
    ) -> tuple[DenoiserFn, Tensor]:
        """Denoiser of a short mel's magnitude, and its noise; see :class:`VocoderModel`."""
        frames = self.stft.frames(samples)
        conditions = self.conditions(mel, spec, frames)
        return self._denoise(conditions), magnitude_noise(self, seeds, 0, frames)().to(conditions.prior)

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
        return count_windows(self.stft.frames(resampled_length(spec, frames, self.sample_rate)))


def _check_corrections(corrections: tuple[int, ...], sketched: bool) -> tuple[int, ...]:
    counts = tuple(corrections)
    if sketched and counts[:1] == (0,):
        raise InputError(
            f"corrections={counts} with a sketch must begin with 1, or nothing is left unsampled; try (1, 1, 2)"
        )
    if not counts or any(not 0 <= n <= max(1, steps - 1) for steps, n in enumerate(counts, start=1)):
        raise InputError(
            f"corrections={counts} must be 0 or 1 of one evaluation, and fewer than there are of more; try (0, 1)"
        )
    return counts
