"""The WaveGrad vocoder: diffusion of the waveform itself, steered by a mel spectrogram (2009.00713)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_convert import convert
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.noise import frame_noise
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid, noise_table_grid
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.registry import register


@register
class WaveGradVocoder(VocoderModel):
    """WaveGrad as a vocoder: network, noise schedule and mel definition.

    Parameters
    ----------
    mel : MelSpec
        Its hop must be the network's; another definition's spectrograms are converted.
    network : WaveGrad
    schedule : Schedule
        Of training, such as ``BetaTable(wavegrad_betas())``.
    steps : int > 0
        Steps by default.
    inference_betas : tuple of float, optional
        Table of noise variances used when so many steps are asked for; other numbers are spaced evenly in log-SNR.
    window : int, frames
        Longer sound goes through the network in pieces of this length, with margins.
    margin : int, frames
        How far the network hears to either side, at least.
    """

    default_sampler = "ddpm"

    def __init__(
        self,
        mel: MelSpec,
        network: WaveGrad,
        schedule: Schedule,
        steps: int = 6,
        inference_betas: tuple[float, ...] = (),
        window: int = 1024,
        margin: int = 24,
    ) -> None:
        super().__init__()
        self.mel, self.sample_rate = mel, mel.sample_rate
        self.inference_betas, self.default_steps = tuple(inference_betas), steps
        self.window, self.margin = window, margin
        self.denoiser = Denoiser(
            network, schedule, prediction="eps", noise_input="sqrt_alpha_bar", clamp=(-1.0, 1.0)
        )

    def accept(self, mel: Tensor, spec: MelSpec) -> tuple[Tensor, MelSpec, list[str]]:
        """Convert a mel of another definition to the model's own."""
        if spec == self.mel:
            return mel, spec, []
        converted = convert(mel, spec, self.mel)
        return converted.mel, self.mel, list(converted.notes)

    def grid(self, steps: int) -> Tensor:
        """Times for so many steps; shape (steps + 1,), float64."""
        schedule = self.denoiser.schedule
        if steps == len(self.inference_betas):
            return noise_table_grid(schedule, self.inference_betas)
        return make_grid("log_snr", schedule, steps)

    def denoise(self, x: Tensor, t: Tensor, mel: Tensor) -> Tensor:
        """Denoise x (B, 1, samples) piece by piece: what the whole would give, in bounded memory."""
        hop, frames = self.mel.hop_length, mel.shape[-1]
        if frames <= self.window + 2 * self.margin:
            return self.denoiser(x, t, mel=mel)
        result = torch.empty_like(x)
        for first in range(0, frames, self.window):
            last = min(first + self.window, frames)
            low, high = max(0, first - self.margin), min(frames, last + self.margin)
            piece = self.denoiser(x[..., low * hop : high * hop], t, mel=mel[..., low:high])
            result[..., first * hop : last * hop] = piece[..., (first - low) * hop : (last - low) * hop]
        return result

    def start(
        self, mel: Tensor, spec: MelSpec, *, seeds: Sequence[int], samples: int
    ) -> tuple[DenoiserFn, Tensor]:
        """Denoiser of the waveform, and its noise; see :class:`VocoderModel`."""
        hop, frames = self.mel.hop_length, mel.shape[-1]
        noise = torch.stack([frame_noise(seed, 0, frames, hop).flatten() for seed in seeds])[:, None]
        return functools.partial(self.denoise, mel=mel), noise.to(mel.device)

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
        """Yield the waveform; see :class:`VocoderModel`. The state is the whole waveform."""
        denoise, noise = self.start(mel, spec, seeds=seeds, samples=samples)
        wave = sample(
            denoise,
            noise.shape,
            schedule=self.denoiser.schedule,
            sampler=sampler,
            grid=grid.to(mel.device),
            generator=[torch.Generator(mel.device).manual_seed(seed) for seed in seeds],
            noise=noise,
            temperature=temperature,
        )
        yield wave[:, 0, :samples]

    def count_blocks(self, spec: MelSpec, frames: int, steps: int) -> int:
        """One: all steps are done before the first sample is known."""
        return 1
