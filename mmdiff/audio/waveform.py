"""Diffusion of the waveform itself, as in WaveGrad and DiffWave, for vocoders and for sound of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.noise import frame_noise
from mmdiff.audio.sampling import SampledModel
from mmdiff.diffusion.adversarial import with_latents
from mmdiff.diffusion.building import build_denoiser, usual_grid, usual_sampler
from mmdiff.diffusion.grids import make_grid, noise_table_grid
from mmdiff.diffusion.process import Prior
from mmdiff.diffusion.samplers import SAMPLERS, sample
from mmdiff.diffusion.schedules import BetaTable, Schedule
from mmdiff.diffusion.solver_tools import DenoiserFn, Generators, Stops
from mmdiff.errors import InputError

Clamp = Literal["data", "state", "deviations"]
RANGE = (-1.0, 1.0)
_MOST_DEVIATIONS = 32.0
KEEP_BYTES = 2**31
"""What a network prepares of a spectrogram is kept through all steps up to this size."""


class WaveformDiffusion(nn.Module, SampledModel):
    """A network that finds the noise in waveforms, with its schedule and sampler defaults.

    Parameters
    ----------
    network : WaveformNetwork
    schedule : Schedule
        Of training, such as ``BetaTable(wavegrad_betas())``; one of pairs makes it Langevin diffusion, see
        :func:`mmdiff.diffusion.building.build_denoiser`.
    steps : int > 0
        Steps by default.
    inference_betas : sequence of float
        Table of noise variances used when so many steps are asked for. As many steps as the schedule's own table
        has are its points; other numbers are spaced evenly in log-SNR, in time for a network with latents, in the
        root of time for pairs.
    clamp : {"data", "state", "deviations"}
        What is kept within [-1, 1]: each estimate of the clean waveform, or the sampler's state after each step,
        as the packages ``wavegrad`` and ``diffwave`` by LMNT do ("ddpm" only; other samplers keep to nothing). With
        "deviations" each estimate is kept within 32 ``sigma_data``, twice what whitened speech reaches, so that a
        network that is not trained yet cannot run away.
    window : int > 0, frames
        Longer sound goes through the network in pieces of this length, with margins.
    prediction : str
        What the network says of noisy waveforms; see :class:`mmdiff.diffusion.denoiser.Denoiser`. "x0" for the
        generator of a denoising diffusion GAN.
    sigma_data : float > 0
        Standard deviation of waveforms, where the denoiser or a sampler wants to know.

    Raises
    ------
    InputError
        ``steps``, ``window`` or ``clamp`` make no sense.
    """

    sample_rate: int

    def __init__(
        self,
        network: WaveformNetwork,
        schedule: Schedule,
        steps: int,
        inference_betas: Sequence[float],
        clamp: str,
        window: int,
        prediction: str = "eps",
        sigma_data: float = 1.0,
    ) -> None:
        super().__init__()
        if clamp not in get_args(Clamp):
            raise InputError(f"clamp={clamp!r} must be one of {', '.join(get_args(Clamp))}")
        if min(steps, window) < 1:
            raise InputError(f"steps={steps} and window={window} must be at least 1")
        self.default_steps, self.inference_betas = steps, tuple(inference_betas)
        self.clamp, self.window = clamp, window
        most = _MOST_DEVIATIONS * sigma_data
        limits = {"data": RANGE, "state": None, "deviations": (-most, most)}[clamp]
        self.denoiser = build_denoiser(
            network, schedule, prediction, network.noise_input, sigma_data=sigma_data, clamp=limits
        )
        self.default_sampler = usual_sampler(schedule, "ddpm")
        self.latents = network.latents

    @property
    def network(self) -> WaveformNetwork:
        """The network."""
        network = self.denoiser.network
        assert isinstance(network, WaveformNetwork)
        return network

    def grid(self, steps: int) -> Tensor:
        """Times for so many steps; shape (steps + 1,), float64."""
        schedule = self.denoiser.schedule
        if steps == len(self.inference_betas):
            return noise_table_grid(schedule, self.inference_betas)
        if self.latents or (isinstance(schedule, BetaTable) and steps == schedule.steps):
            return make_grid("uniform", schedule, steps)
        return make_grid(usual_grid(schedule, "log_snr"), schedule, steps)

    def denoise_windows(self, frames: int, mel: Tensor | None = None) -> DenoiserFn:
        """Make the denoiser of sound of any length: what the whole would give, in bounded memory.

        What a network does with the spectrogram is the same in all steps; it is done once, if there is room for
        the result.

        Parameters
        ----------
        frames : int > 0
            Length; samples for a network without a spectrogram.
        mel : Tensor, shape (B, n_mels, frames), optional

        Returns
        -------
        callable
            ``denoise(x, t, **cond) -> x0`` of x (B, 1, frames * hop).
        """
        network, hop = self.network, self.network.hop_length
        pieces = _pieces(frames, self.window, network.reach)
        known: list[dict[str, Tensor]] = [{} for _ in pieces]
        if mel is not None:
            heard = sum(high - low for *_, low, high in pieces)
            # while a graph is traced lengths are unknown, and there is nothing to keep
            traced = torch.compiler.is_compiling()
            keep = not traced and network.prepared_bytes(len(mel), heard) <= KEEP_BYTES
            parts = [mel[..., low:high] for *_, low, high in pieces]
            known = [network.prepare(part) if keep else {"mel": part} for part in parts]

        def denoise(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            if len(pieces) == 1:
                return self.denoiser(x, t, **known[0], **cond)
            result = []
            for (first, last, low, high), told in zip(pieces, known, strict=True):
                piece = self.denoiser(x[..., low * hop : high * hop], t, **told, **cond)
                result.append(piece[..., (first - low) * hop : (last - low) * hop])
            return torch.cat(result, -1)

        return denoise

    def starting_noise(self, seeds: Sequence[int], frames: int, width: int) -> Tensor:
        """Noise (B, 1, frames * width) for :meth:`run_sampler`, the same for every length but for its end.

        It is standard normal over the schedule's ``prior_std``, by which samplers multiply: whatever signal a
        table leaves at its end, both papers start from standard normal noise.
        """
        noise = torch.stack([frame_noise(seed, 0, frames, width).flatten() for seed in seeds])[:, None]
        return noise.to(next(self.parameters()).device) / self.denoiser.schedule.prior_std

    def run_sampler(
        self,
        denoise: DenoiserFn,
        noise: Tensor,
        *,
        generator: Generators,
        grid: Tensor | Stops,
        sampler: str,
        temperature: float = 1.0,
        limit: Tensor | float = RANGE[1],
        latents: Generators = None,
    ) -> Tensor:
        """Sample waveforms (B, 1, samples) from :meth:`starting_noise`; the generators draw the fresh noise.

        Where the state is clamped, ``limit`` is its largest absolute value. Random vectors, for a network that is told
        some, are drawn from ``latents``, by default from the same generators.
        """
        own = SAMPLERS[sampler].options
        told = {"sigma_data": self.denoiser.sigma_data} if "sigma_data" in own else {}
        clamps = self.clamp == "state" and "limit" in own
        return sample(
            with_latents(denoise, self.latents, generator if latents is None else latents),
            noise.shape,
            schedule=self.denoiser.schedule,
            sampler=sampler,
            grid=grid.to(noise.device),
            options={"limit": limit} if clamps else told,
            generator=generator,
            noise=noise,
            temperature=temperature,
        )

    @abstractmethod
    def conditions(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """What of a training batch, ``wave`` (B, samples) and more, the network is told."""

    def noise_prior(self, cond: Mapping[str, Tensor]) -> Prior | None:
        """Say what noise becomes sound under these conditions; None is standard normal noise."""
        return None


def _pieces(frames: int, window: int, reach: int) -> list[tuple[int, int, int, int]]:
    """First and last frame of each window, without and with its margins."""
    if frames <= window + 2 * reach:
        return [(0, frames, 0, frames)]
    firsts = range(0, frames, window)
    lasts = [min(first + window, frames) for first in firsts]
    return [
        (first, last, max(0, first - reach), min(frames, last + reach))
        for first, last in zip(firsts, lasts, strict=True)
    ]
