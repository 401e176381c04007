"""Vocoders that diffuse the waveform itself, steered by a mel spectrogram: WaveGrad and DiffWave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.audio.energy_prior import EnergyPrior
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.check import describe
from mmdiff.audio.mel.convert import convert
from mmdiff.audio.networks.frames import FrameDenoiser
from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.sampling import item_generators
from mmdiff.audio.spectral_prior import SpectralPrior
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.audio.waveform import RANGE, WaveformDiffusion
from mmdiff.audio.waveform_stream import WaveformBlocks
from mmdiff.diffusion.process import Prior
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, Stops
from mmdiff.errors import InputError
from mmdiff.registry import register


@register
class WaveformVocoder(WaveformDiffusion, VocoderModel):
    """A waveform network as a vocoder: with its noise schedule and mel definition.

    Parameters
    ----------
    mel : MelSpec
        Its bands and hop must be the network's; another definition's spectrograms are converted.
    network : WaveformNetwork
        Such as :class:`mmdiff.audio.networks.wavegrad.WaveGrad` or :class:`mmdiff.audio.networks.diffwave.DiffWave`.
    schedule, steps, inference_betas, clamp, window
        As for :class:`WaveformDiffusion`.
    prior : EnergyPrior or SpectralPrior, optional
        The noise is as loud as the spectrogram's frames, instead of standard normal (PriorGrad), or at each frequency
        as loud as the spectrogram says (SpecGrad); for the latter ``clamp`` must be "deviations", since the network
        sees and says whitened sound.
    level_ahead : bool
        In a step the network is told the noise level that the step reaches, not the one it leaves, as
        ivanvovk's WaveGrad is used.
    prediction, sigma_data
        As for :class:`WaveformDiffusion`.

    Raises
    ------
    InputError
        The network is not for such spectrograms; an EnergyPrior or a level ahead is asked of Langevin diffusion, or
        clamping with a SpectralPrior.
    """

    def __init__(
        self,
        mel: MelSpec,
        network: WaveformNetwork,
        schedule: Schedule,
        steps: int = 6,
        inference_betas: Sequence[float] = (),
        clamp: str = "data",
        window: int = 1024,
        prior: EnergyPrior | SpectralPrior | None = None,
        level_ahead: bool = False,
        prediction: str = "eps",
        sigma_data: float = 1.0,
    ) -> None:
        if (network.n_mels, network.hop_length) != (mel.n_mels, mel.hop_length):
            raise InputError(
                f"network with n_mels={network.n_mels}, hop_length={network.hop_length} must be for the mel's "
                f"{mel.n_mels} bands and hop of {mel.hop_length}"
            )
        if schedule.paired and (isinstance(prior, EnergyPrior) or level_ahead):
            what = f"level_ahead={level_ahead}" if level_ahead else f"prior={prior}"
            raise InputError(
                f"{what} must be left out with a schedule of pairs, {type(schedule).__name__}: it is of plain diffusion"
            )
        if isinstance(prior, SpectralPrior):
            _check_whitened(network, clamp)
        super().__init__(network, schedule, steps, inference_betas, clamp, window, prediction, sigma_data)
        self.mel, self.sample_rate = mel, mel.sample_rate
        self.prior, self.level_ahead = prior, level_ahead

    def accept(self, mel: Tensor, spec: MelSpec) -> tuple[Tensor, MelSpec, list[str]]:
        """Convert a mel of another definition to the model's own."""
        if spec == self.mel:
            return mel, spec, []
        converted = convert(mel, spec, self.mel)
        return converted.mel, self.mel, list(converted.notes)

    def conditions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Measure the spectrogram of ``wave`` (B, samples), whole frames long."""
        wave: Tensor = batch["wave"]
        with torch.no_grad():
            return {"mel": self.mel(wave)[..., : wave.shape[1] // self.mel.hop_length]}

    def noise_prior(self, cond: Mapping[str, Tensor]) -> Prior | None:
        """Noise that suits ``mel`` (B, n_mels, frames), where the model has such a prior."""
        return None if self.prior is None else self.prior(cond["mel"], self.mel)

    def start(
        self, mel: Tensor, spec: MelSpec, *, seeds: Sequence[int], samples: int
    ) -> tuple[DenoiserFn, Tensor]:
        """Denoiser of the waveform, whitened by its prior, and its noise; see :class:`VocoderModel`."""
        return self._denoise(mel)[0], self.starting_noise(seeds, mel.shape[-1], self.mel.hop_length)

    def _denoise(self, mel: Tensor) -> tuple[DenoiserFn, Prior | None]:
        denoise, prior = self.denoise_windows(mel.shape[-1], mel), self.noise_prior({"mel": mel})
        return denoise if prior is None else prior.whitened(denoise), prior

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
        """Yield the waveform; see :class:`VocoderModel`. The state is the whole waveform.

        Frames past the end, which a mel of another definition can lack, repeat the last.
        """
        missing = -(-samples // self.mel.hop_length) - mel.shape[-1]
        mel = functional.pad(mel, (0, max(0, missing)), mode="replicate")
        noise = self.starting_noise(seeds, mel.shape[-1], self.mel.hop_length)
        fresh = item_generators(seeds, noise.device)
        wave = self.sample_window(mel, noise, fresh, grid=grid, sampler=sampler, temperature=temperature)
        yield wave[:, :samples]

    def sample_window(
        self,
        mel: Tensor,
        noise: Tensor,
        generator: Generators,
        *,
        grid: Tensor | Stops,
        sampler: str,
        temperature: float,
        latents: Generators = None,
    ) -> Tensor:
        """Sample the waveform (B, frames * hop) of a mel of the model's own definition.

        From :meth:`starting_noise`; the generator draws the fresh noise, and ``latents`` is as for :meth:`run_sampler`.
        """
        denoise, prior = self._denoise(mel)
        wave = self.run_sampler(
            _told_ahead(denoise, grid) if self.level_ahead else denoise,
            noise,
            generator=generator,
            grid=grid,
            sampler=sampler,
            temperature=temperature,
            limit=RANGE[1] if prior is None else RANGE[1] / prior.std,
            latents=latents,
        )
        return (wave if prior is None else prior.unwhiten(wave))[:, 0]

    def block_maker(self, spec: MelSpec, *, steps: int, **options: Any) -> WaveformBlocks:
        """Prepare for a mel that comes piece by piece; see :class:`VocoderModel`."""
        if spec != self.mel:
            raise InputError(
                f"mel_spec must be {describe(self.mel)}, the model's own definition, in a stream: frames of another "
                "cannot be converted before those after them have come; convert the whole with mel.convert.convert"
            )
        return WaveformBlocks(self, **options)

    def count_blocks(self, spec: MelSpec, frames: int, steps: int) -> int:
        """One: all steps are done before the first sample is known."""
        return 1


def _check_whitened(network: WaveformNetwork, clamp: str) -> None:
    if isinstance(network, FrameDenoiser):
        raise InputError(
            f"network={type(network).__name__} must see the sound, which it whitens itself; leave the SpectralPrior out"
        )
    if clamp != "deviations":
        raise InputError(
            f"clamp={clamp!r} must be 'deviations' with a SpectralPrior, whose chain is on whitened sound"
        )


def _told_ahead(denoise: DenoiserFn, grid: Tensor | Stops) -> DenoiserFn:
    """Tell the network the level of the grid's next time."""

    def denoise_told_ahead(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        times = (grid.times if isinstance(grid, Stops) else grid).flip(0).to(t.device)
        before = torch.searchsorted(times, t.double() * (1 - 1e-6)) - 1  # t was rounded to float32
        return denoise(x, t, told=times[before.clamp_min(0)], **cond)

    return denoise_told_ahead
