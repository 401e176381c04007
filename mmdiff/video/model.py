"""A model of clips: network, schedule and everything needed to go from pixels to its space and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdiff.diffusion.building import build_denoiser, usual_sampler
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.schedules import Schedule
from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.nn.latents import LatentMapping
from mmdiff.registry import register
from mmdiff.video.captions import CaptionEncoder
from mmdiff.video.conditioning import ConditionedNetwork, LatentCondition
from mmdiff.video.text import text_features


@register
class ClipModel(nn.Module):
    """A denoiser of clips with what its users need to know.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(x, level, **conditions)``; a :class:`ConditionedNetwork` takes conditions by name.
    schedule : Schedule
    prediction, noise_input, dynamic_threshold
        See :class:`mmdiff.diffusion.denoiser.Denoiser`, and :func:`mmdiff.diffusion.building.build_denoiser` for
        schedules of pairs, which make it Langevin diffusion.
    channels, frames, size, fps
        Of the clips it was trained on: colours, frames, (height, width) in pixels, frames a second.
    mean, std : float
        Of pixels in [-1, 1]: the network sees (pixel - mean) / std.
    clamp : bool
        Keep denoised pixels within [-1, 1].
    steps, sampler, grid, guidance, guidance_interval
        Used if nothing else is asked for; guidance 1 is none, and outside the interval of times it is not applied.
    log_snr_range : (float, float), optional
        First and last finite log-SNR of the grids "log_snr" and "karras": what clips show is decided between some
        levels of noise, and steps elsewhere are wasted. Default: those of the grids.
    autoencoder : Autoencoder, optional
        Trained and standardised already, and not trained further: its latents of normalised pixels are diffused.
    mixed : bool
        Let the network correct a normal distribution, channel by channel of what is diffused: see
        :class:`~mmdiff.diffusion.mixed_denoiser.MixedDenoiser`.

    Attributes
    ----------
    denoiser : Denoiser
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "v",
        noise_input: str = "log_snr",
        channels: int = 3,
        frames: int = 16,
        size: tuple[int, int] = (32, 32),
        fps: float = 8.0,
        mean: float = 0.0,
        std: float = 1.0,
        clamp: bool = True,
        dynamic_threshold: float | None = None,
        steps: int = 20,
        sampler: str = "deis",
        grid: str = "uniform",
        guidance: float = 1.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        log_snr_range: tuple[float, float] | None = None,
        autoencoder: Autoencoder | None = None,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        limits = ((-1 - mean) / std, (1 - mean) / std) if clamp and autoencoder is None else None
        diffused = channels if autoencoder is None else autoencoder.latents
        self.denoiser = build_denoiser(
            network,
            schedule,
            prediction,
            noise_input,
            clamp=limits,
            dynamic_threshold=dynamic_threshold,
            mixed=diffused if mixed else 0,
        )
        self.channels, self.frames, self.size, self.fps = channels, frames, tuple(size), fps
        self.mean, self.std = mean, std
        self.steps, self.sampler, self.grid = steps, usual_sampler(schedule, sampler), grid
        self.guidance, self.guidance_interval = guidance, guidance_interval
        self.log_snr_range = log_snr_range
        self.autoencoder = None if autoencoder is None else _frozen(autoencoder, channels)

    @property
    def network(self) -> nn.Module:
        """The network."""
        return self.denoiser.network

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions it can be given; a generator's z, which is drawn, is none."""
        if not isinstance(self.network, ConditionedNetwork):
            return ()
        own = self.network.conditioners.items()
        return tuple(name for name, each in own if not isinstance(each, LatentCondition))

    @property
    def latents(self) -> int:
        """Size of the random vector z that its network is told at each step; 0 for denoisers."""
        found = [m.latents for m in self.network.modules() if isinstance(m, LatentMapping)]
        return found[0] if found else 0

    @property
    def captions(self) -> CaptionEncoder | None:
        """Its own text encoder, if it has one."""
        found = [m for m in self.network.modules() if isinstance(m, CaptionEncoder)]
        return found[0] if found else None

    @property
    def takes_prompts(self) -> bool:
        """Whether it can be told in words what a clip shows."""
        return self.captions is not None or text_features(self) is not None

    def times(self, steps: int) -> Tensor:
        """Where its sampler stops unless told otherwise: (steps + 1,), falling from 1 to 0."""
        ends = dict(zip(("lambda_min", "lambda_max"), self.log_snr_range or (), strict=False))
        return make_grid(self.grid, self.denoiser.schedule, steps, **ends)

    def state_shape(self, video: Sequence[int]) -> tuple[int, ...]:
        """Shape of what is diffused for clips of a shape (B, C, F, H, W)."""
        if self.autoencoder is None:
            return tuple(video)
        space = (size // factor for size, factor in zip(video[2:], self.autoencoder.factor, strict=True))
        return (video[0], self.autoencoder.latents, *space)

    def normalised(self, video: Tensor) -> Tensor:
        """Pixels, uint8 or in [-1, 1], less their mean over their deviation; any shape."""
        pixels = video if video.is_floating_point() else video.float() / 127.5 - 1
        return (pixels - self.mean) / self.std

    def to_model(self, video: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels, uint8 or in [-1, 1], to what is diffused.

        Parameters
        ----------
        video : Tensor
            Of any shape; for a model of latents (B, C, F, H, W).
        generator : torch.Generator, optional
            Source of the noise of latents; without it they are their means.
        """
        pixels = self.normalised(video)
        if self.autoencoder is None:
            return pixels
        with torch.no_grad():
            posterior = self.autoencoder.encode(pixels)
            return posterior.mean if generator is None else posterior.sample(generator)

    def from_model(self, state: Tensor) -> Tensor:
        """What is diffused to pixels, clamped to [-1, 1]; any shape, or for a model of latents (B, C, F, H, W)."""
        pixels = state if self.autoencoder is None else self.autoencoder.decode(state)
        return (pixels * self.std + self.mean).clamp(-1, 1)

    def caption_ids(self, captions: Sequence[str | None]) -> Tensor:
        """Ids of captions for the condition of its text encoder."""
        assert self.captions is not None
        return self.captions.ids(captions)


def _frozen(autoencoder: Autoencoder, channels: int) -> Autoencoder:
    alone = autoencoder.dims == 3 and autoencoder.factor[0] == 1 and autoencoder.reach[0] == 0
    if not alone or autoencoder.channels != channels:
        raise InputError(
            f"autoencoder must be one of dims=3 for channels={channels} that sees frames one by one, its factors and "
            f"kernel 1 along time, but has dims={autoencoder.dims}, channels={autoencoder.channels}, "
            f"factor={autoencoder.factor} and reach={autoencoder.reach}: videos of any length are made block by block"
        )
    return autoencoder.requires_grad_(False)
