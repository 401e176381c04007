"""Two tasks small enough to train every method on in minutes: spoken digits, and moving handwritten digits.

Both are 8-bit pictures of one channel, so that one network family, one loader and one evaluation serve both, and bits
per dimension are those of whole numbers: clips of 8 frames of 16 x 16 pixels; and spectrograms of a second, 64 frames
of 80 mel bands, whose decibels are the grey levels, made sound by a shipped vocoder. Shipped judges look and listen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio.datasets.words import Variation, Words
from mmdiff.audio.evaluation.digits import labelled_digits
from mmdiff.audio.evaluation.word_judge import WordJudge
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.vocoder import Vocoder
from mmdiff.bench.small_judges import WIDTH, Examined, Hearing, look, save_clips
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.errors import InputError
from mmdiff.hub import load_as
from mmdiff.media.coverage import precision_and_coverage
from mmdiff.media.distances import feature_distances
from mmdiff.media.draws import item_rng
from mmdiff.media.estimates import Estimate, wilson
from mmdiff.media.tables import SHARE, Measure
from mmdiff.nn.critic import StepCritic
from mmdiff.progress import track
from mmdiff.video.digits import MovingDigits
from mmdiff.video.judge import DigitJudge
from mmdiff.video.unet import SpaceTimeUNet

FRAMES, SIDE = 8, 16  # of clips
MEASURES = {
    "recognised": Measure("recognised", SHARE, True, note="share that the judge takes for a digit"),
    "frechet": Measure(
        "Fréchet distance", higher_is_better=False, note="in the judge's features, extrapolated"
    ),
    "kernel": Measure("kernel distance", higher_is_better=False),
    "precision": Measure("precision", SHARE, True),
    "coverage": Measure("coverage", SHARE, True),
}
"""What :meth:`SmallTask.measure` says."""


@dataclass(frozen=True)
class SmallTask:
    """Data, the network that all methods have, and a judge.

    Attributes
    ----------
    name : str
    train, reference, real : Tensor of uint8, shape (N, 1, *space)
        Items to learn from; others of the same distribution to compare with; and again others, for a row of real ones.
    network_settings, critic_settings, autoencoder_settings : mapping
        Of :class:`SpaceTimeUNet`, :class:`StepCritic` and :class:`~mmdiff.latent.autoencoder.Autoencoder`, the last
        of which leaves one place of latents.
    judge : callable
        ``judge(pixels) -> Examined``, pixels (B, 1, *space) uint8.
    save : callable
        ``save(pixels, path) -> Path`` writes some items to look at or listen to; the suffix is its own.
    """

    name: str
    train: Tensor
    reference: Tensor
    real: Tensor
    network_settings: Mapping[str, Any]
    critic_settings: Mapping[str, Any]
    autoencoder_settings: Mapping[str, Any]
    judge: Callable[[Tensor], Examined] = field(repr=False)
    save: Callable[[Tensor, Path], Path] = field(repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an item, (1, *space)."""
        return tuple(self.train.shape[1:])

    @cached_property
    def _scale(self) -> tuple[float, float]:
        values = self.train.double() / 127.5 - 1
        return float(values.mean()), float(values.std())

    @property
    def quantised(self) -> Quantisation:
        """Which values states take."""
        return Quantisation.of_pictures().scaled(*self._scale)

    def to_state(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 1, *space) uint8 to what is learned, of mean 0 and variance 1."""
        mean, std = self._scale
        return (pixels.float() / 127.5 - 1 - mean) / std

    def to_pixels(self, state: Tensor) -> Tensor:
        """Nearest pixels uint8 of a state."""
        mean, std = self._scale
        return ((state * std + mean + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    def network(self, channels: int = 1, **told: Any) -> nn.Module:
        """Make the network of all methods, of other data or told more where asked, such as ``vector=64``."""
        network = SpaceTimeUNet(channels, **{**self.network_settings, **told})
        return network if len(self.shape) == 4 else OnePicture(network)

    def critic(self) -> StepCritic:
        """Make the critic of all methods that have one."""
        return StepCritic(len(self.shape) - 1, 1, **self.critic_settings)

    def measure(self, pixels: Tensor) -> dict[str, Estimate]:
        """Compare items (B, 1, *space) uint8 with the reference; see :data:`MEASURES`."""
        found, real = self.judge(pixels), self._reference.features
        near = precision_and_coverage(real, found.features)
        share = wilson(float(found.recognised.double().mean()), len(pixels))
        distances = feature_distances(real, found.features)
        return {
            "recognised": share,
            **{name: distances[name] for name in ("frechet", "kernel") if name in distances},
            "precision": near.precision,
            "coverage": near.coverage,
        }

    @cached_property
    def _reference(self) -> Examined:
        return self.judge(self.reference)


class OnePicture(nn.Module):
    """A space-time network on pictures: x (B, C, H, W) is a clip of one frame."""

    def __init__(self, network: SpaceTimeUNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, level: Tensor, **told: Any) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        result: Tensor = self.network(x[:, :, None], level, **told)
        return result[:, :, 0]


class States:
    """Endless items of a task: item n is one of its training items, put somewhere in its bins of pixels.

    Parameters
    ----------
    task : SmallTask
    seed : int
    """

    def __init__(self, task: SmallTask, seed: int = 0) -> None:
        self.task, self.seed = task, seed

    def __getitem__(self, index: int) -> Tensor:
        """State (1, *space) of item ``index`` >= 0."""
        rng = item_rng(self.seed, index)
        pixels = self.task.train[int(rng.integers(len(self.task.train)))]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        return self.task.quantised.dequantise(self.task.to_state(pixels[None]), generator)[0]


def moving_digits(items: int = 4096, examined: int = 400, *, widths: tuple[int, ...] = (32, 64)) -> SmallTask:
    """Clips (1, 8, 16, 16): a handwritten digit that moves by a pixel a frame, turning back at walls.

    Parameters
    ----------
    items, examined : int > 0
        Clips to learn from, and of each of the other sets.
    widths : tuple of int
        Of the network.
    """

    def clips(seed: int, count: int) -> Tensor:
        digits = MovingDigits(frames=FRAMES, stride=2, seed=seed)
        return torch.stack([_small_clip(digits[n]["video"]) for n in track(range(count), "drawing digits")])

    judge = load_as(DigitJudge, "digit-judge", "cpu")
    network = {
        "widths": widths,
        "mixing": _mixing(widths, "shift", "joint+shift"),
        "patch": 2,
        "span": FRAMES,
    }
    critic = {"widths": (16, 32, 64, 96), "factors": ((1, 2, 2), 2, 2)}
    code = {"widths": (32, 48, 64, 64), "factors": ((1, 2, 2), 2, 2, 2)}
    return SmallTask(
        "video",
        clips(0, items),
        clips(1, examined),
        clips(2, examined),
        {**_SMALL, **network},
        critic,
        code,
        partial(look, judge),
        save_clips,
    )


def spoken_digits(
    data: str | Path, items: int = 4096, examined: int = 400, *, widths: tuple[int, ...] = (40, 96)
) -> SmallTask:
    """Spectrograms (1, 64, 80) of a second of sound: a digit spoken in one of five languages, variously.

    Parameters
    ----------
    data : str or Path
        Folder of ``mmdiff fetch digits-16k``.
    items, examined : int > 0
        Sounds to learn from, and of each of the other sets: variations of the same recordings.
    widths : tuple of int
        Of the network.
    """
    voice = load_as(SpectralVocoder, "vocoder-16k")
    hearing = Hearing(Vocoder(voice, "cpu"), load_as(WordJudge, "word-judge", "cpu"))
    clips, numbers, _ = labelled_digits(data)
    seconds = hearing.vocoder.mel_spec.samples(WIDTH) / hearing.vocoder.sample_rate

    def sounds(seed: int, count: int) -> Tensor:
        rate = hearing.vocoder.sample_rate
        words = Words(clips, numbers, rate, seconds, seed=seed, variation=Variation())
        numbered = track(range(count), "varying recordings")
        return torch.stack([hearing.pixels(words[n]["wave"]) for n in numbered])

    network = {"widths": widths, "mixing": _mixing(widths, "", "joint"), "patch": 4}
    critic = {"widths": (16, 32, 64, 96), "factors": (4, 2, 2)}
    code = {"widths": (48, 96, 128), "factors": (4, 4, (4, 5))}
    return SmallTask(
        "audio",
        sounds(0, items),
        sounds(1, examined),
        sounds(2, examined),
        {**_SMALL, **network},
        critic,
        code,
        hearing,
        hearing.save,
    )


_SMALL = {"blocks": 1, "embedding": 128}


def _mixing(widths: tuple[int, ...], fine: str, coarse: str) -> tuple[str, ...]:
    if not widths:
        raise InputError("widths=() must have a level at least; try 32,64")
    return (*(fine,) * (len(widths) - 1), coarse)


def _small_clip(video: Tensor) -> Tensor:
    """Brightness (1, F, 16, 16) of a clip (3, F, 32, 32)."""
    grey = video.amax(0, keepdim=True).float()
    return functional.avg_pool2d(grey, grey.shape[-1] // SIDE).round().to(torch.uint8)
