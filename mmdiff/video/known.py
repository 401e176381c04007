"""What is known of a few consecutive frames, as the measurement that guidance and replacement work with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.diffusion.measurement import Measurement, observed


@dataclass(frozen=True)
class Known:
    """What is known of consecutive frames; N is 1 or the number of clips.

    Attributes
    ----------
    video : Tensor, shape (N, C, F, H, W), in [-1, 1]
        Pixels, 0 where unknown.
    mask : Tensor of bool, shape (N or 1, 1, F, H, W)
        Where they are known.
    small : Tensor, shape (N, C, f, h, w), in [-1, 1], optional
        Means over squares of ``factor`` x ``factor`` pixels of the frames ``places``.
    places : tuple of int
    factor : int
    """

    video: Tensor
    mask: Tensor
    small: Tensor | None = None
    places: tuple[int, ...] = ()
    factor: int = 1

    def with_frames(self, frames: Tensor, at: int) -> Known:
        """Add frames (B, C, f, H, W), of which the first is frame ``at``."""
        video = self.video.expand(len(frames), -1, -1, -1, -1).clone()
        mask = self.mask.clone()
        video[:, :, at : at + frames.shape[2]] = frames
        mask[:, :, at : at + frames.shape[2]] = True
        return dataclasses.replace(self, video=video, mask=mask)

    @property
    def whole(self) -> list[bool]:
        """Which frames are known in every pixel."""
        return self.mask.all(4).all(3).all(1).all(0).tolist()

    def measurement(self, means: bool = True) -> Measurement | None:
        """Known pixels, and unless ``means`` is false known means, as a measurement; None where there is nothing."""
        if self.small is None or not means:
            return observed(self.video, self.mask) if bool(self.mask.any()) else None
        whole = self.whole
        exact = [n for n, known in enumerate(whole) if known]
        rest = [i for i, n in enumerate(self.places) if not whole[n]]
        return _frames_and_means(
            self.video[:, :, exact], self.small[:, :, rest], exact, [self.places[i] for i in rest], self
        )


def _frames_and_means(
    frames: Tensor, small: Tensor, exact: list[int], measured: list[int], known: Known
) -> Measurement:
    """Measure some frames pixel by pixel and others by means, scaled so that A A^T is the identity."""
    factor, length = known.factor, known.video.shape[2]
    clips = max(len(frames), len(small))

    def flat(pixels: Tensor, means: Tensor) -> Tensor:
        return torch.cat((pixels.flatten(1), factor * means.flatten(1)), 1)

    def forward(x: Tensor) -> Tensor:
        shrunk = functional.avg_pool3d(x[:, :, measured], (1, factor, factor)) if measured else x[:, :, :0]
        return flat(x[:, :, exact], shrunk)

    def adjoint(y: Tensor) -> Tensor:
        height, width = known.video.shape[3:]
        channels = known.video.shape[1]
        x = y.new_zeros(len(y), channels, length, height, width)
        here = channels * len(exact) * height * width
        x[:, :, exact] = y[:, :here].view(len(y), channels, len(exact), height, width)
        means = y[:, here:].view(len(y), channels, len(measured), height // factor, width // factor)
        x[:, :, measured] = means.repeat_interleave(factor, 3).repeat_interleave(factor, 4) / factor
        return x

    y = flat(*(part.expand(clips, -1, -1, -1, -1) for part in (frames, small)))
    return Measurement(y, forward, adjoint, gram=1.0)
