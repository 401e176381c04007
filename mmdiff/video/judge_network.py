"""The network that reads handwritten digits in frames, and measures clips for distances between many of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.nn.judge import Measuring
from mmdiff.nn.pyramid import pyramid
from mmdiff.registry import register
from mmdiff.video.digits import DIGITS
from mmdiff.video.metrics.clips import signed_values

SIDE = 32  # pixels: the frame that glyphs of 15 pixels are drawn in
LIT = 0.5  # of full brightness
CHUNK = 32  # clips at a time


@register
class DigitJudge(Measuring):
    """Classify frames as one of ten handwritten digits or none, blind to colour and place.

    Convolutions over the brightness (the greatest channel), global maximum, one hidden layer. It also measures
    clips for Fréchet and kernel distances, see :meth:`features`.

    Parameters
    ----------
    channels : tuple of int
        Width at full, half, quarter and eighth resolution.
    width : int
        Of the hidden layer.
    """

    COARSE = 4  # rows and columns of the map that tells where things move

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96), width: int = 64) -> None:
        super().__init__(2 * width + 2 * self.COARSE**2 + 3)
        self.body = pyramid(channels)
        self.hidden = nn.Linear(channels[-1], width)
        self.head = nn.Linear(width, len(DIGITS) + 1)

    def forward(self, frames: Tensor) -> Tensor:
        """Logits of frames.

        Parameters
        ----------
        frames : Tensor, shape (N, 3, H, W), in [-1, 1]
            The shorter side shows what 32 pixels show in :class:`mmdiff.video.digits.MovingDigits`.

        Returns
        -------
        Tensor, shape (N, 11)
            Ten digits, and last: none.
        """
        return self.head(functional.silu(self.embed(light_of(_resized(frames)))))

    def embed(self, brightness: Tensor) -> Tensor:
        """Hidden values (N, width), before their activation, of brightness (N, 1, 32, 32 or more) in [0, 1]."""
        return self.hidden(self.body(brightness).amax((2, 3)))

    def features(self, video: Tensor) -> Tensor:
        """Measure clips for Fréchet and kernel distances: what they show, how steadily, how it moves, its colour.

        Mean over frames of the hidden values, and of their absolute change from frame to frame; the mean
        signed (over the first half) and absolute change of a 4 × 4 map of brightness; the mean colour of lit
        pixels. Each is standardised by its mean and deviation on real training clips.

        Parameters
        ----------
        video : Tensor, shape (B, 3, F, H, W), in [-1, 1] or uint8
            At least two frames.

        Returns
        -------
        Tensor, shape (B, 163)
        """
        return self.standardised(self.raw_features(video))

    def raw_features(self, video: Tensor) -> Tensor:
        """Like :meth:`features`, not standardised."""
        video = as_video(video)
        if video.shape[2] < 2:
            raise InputError(f"frames={video.shape[2]} must be at least 2: features of a clip measure change")
        return torch.cat([self._raw_features(clips) for clips in video.split(CHUNK)])

    def _raw_features(self, video: Tensor) -> Tensor:
        frames = frames_of(video)
        clips = frames.shape[:2]
        light = light_of(frames.flatten(0, 1))
        hidden = functional.silu(self.embed(light)).unflatten(0, clips)
        change = functional.adaptive_avg_pool2d(light, self.COARSE).flatten(1).unflatten(0, clips).diff(dim=1)
        parts = (
            hidden.mean(1),
            hidden.diff(dim=1).abs().mean(1),
            change[:, : max(1, clips[1] // 2)].mean(1),
            change.abs().mean(1),
            mean_colours(frames.flatten(0, 1)).unflatten(0, clips).mean(1),
        )
        return torch.cat(parts, 1)


def as_video(video: Tensor) -> Tensor:
    """Check clips (B, 3, F, H, W) and bring them to floating point in [-1, 1]."""
    if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
        raise InputError(
            f"video of shape {tuple(video.shape)} must be (B, 3, F, H, W); give one clip as video[None]"
        )
    return signed_values(video).float()


def frames_of(video: Tensor) -> Tensor:
    """Frames (B, F, 3, 32, ...) of clips (B, 3, F, H, W)."""
    return _resized(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(video), -1))


def _resized(frames: Tensor) -> Tensor:
    height, width = frames.shape[-2:]
    shorter = min(height, width)
    if shorter == SIDE:
        return frames
    size = [round(side * SIDE / shorter) for side in (height, width)]
    return functional.interpolate(frames, size, mode="bilinear", antialias=True)


def light_of(frames: Tensor) -> Tensor:
    """Greatest channel (N, 1, H, W), black 0 and full 1."""
    return (frames.amax(1, keepdim=True) + 1) / 2


def mean_colours(frames: Tensor) -> Tensor:
    """RGB (N, 3) of the lit pixels of each frame (N, 3, H, W), scaled to a greatest channel of 1; 0 if none is lit."""
    total = ((light_of(frames) > LIT) * (frames + 1) / 2).sum((2, 3))
    return total / total.amax(1, keepdim=True).clamp_min(1e-6)
