"""What looks at clips of the small tasks and listens to their spectrograms, and writes some of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.audio import io
from mmdiff.audio.evaluation.word_judge import NONE as NO_WORD
from mmdiff.audio.evaluation.word_judge import WordJudge
from mmdiff.audio.vocoder import Vocoder
from mmdiff.progress import track
from mmdiff.video.judge import NONE as NO_DIGIT
from mmdiff.video.judge import DigitJudge, judge_clips
from mmdiff.video.sheet import save_sheet

WIDTH = 64  # frames of spectrograms
LOUDEST = 2.0  # logarithm of the magnitude that the greatest grey level stands for
_STEADY = 7 / 8  # of a clip's frames must show one digit, and the same


class Examined(NamedTuple):
    """What a judge says about B items."""

    features: Tensor
    """(B, D)."""
    recognised: Tensor
    """(B,) of bool."""


@torch.no_grad()
def look(judge: DigitJudge, pixels: Tensor) -> Examined:
    """Show the judge clips (B, 1, F, 16, 16) at the size it was trained at, with edges of bicubic filters.

    Of its features two kinds are kept: what frames show on average, and which way the light moves. By how much they
    flicker, all that is learned in minutes would be far from every real clip.
    """
    frames = pixels.float().transpose(1, 2).flatten(0, 1)
    large = functional.interpolate(frames, scale_factor=2, mode="bicubic").round().clamp(0, 255)
    video = large.to(torch.uint8).unflatten(0, (len(pixels), -1)).transpose(1, 2).expand(-1, 3, -1, -1, -1)
    said = judge_clips(video, judge)
    features, shown = judge.features(video), judge.hidden.out_features
    moved = features[:, 2 * shown : 2 * shown + judge.COARSE**2]
    return Examined(
        torch.cat((features[:, :shown], moved), 1), (said.digit != NO_DIGIT) & (said.agreement >= _STEADY)
    )


def save_clips(pixels: Tensor, path: Path) -> Path:
    """Write two dozen clips as a picture of their frames."""
    return save_sheet(path.with_suffix(".png"), pixels[:24].expand(-1, 3, -1, -1, -1), columns=3, zoom=3)


@dataclass(frozen=True)
class Hearing:
    """Between grey levels, spectrograms and sound."""

    vocoder: Vocoder
    judge: WordJudge

    def pixels(self, wave: Tensor) -> Tensor:
        """Grey levels (1, frames, bands) of sound (samples,)."""
        spec = self.vocoder.mel_spec
        mel = spec(wave[None])[0, :, :WIDTH].T
        share = (mel - spec.lowest_value) / (LOUDEST - spec.lowest_value)
        return (255 * share).round().clamp(0, 255).to(torch.uint8)[None]

    def waves(self, pixels: Tensor) -> Tensor:
        """Sound (B, samples) of grey levels (B, 1, frames, bands)."""
        low = self.vocoder.mel_spec.lowest_value
        mel = low + pixels[:, 0].transpose(1, 2).float() / 255 * (LOUDEST - low)
        made = [self.vocoder(part, seed=range(len(part))) for part in track(mel.split(16), "vocoding")]
        return torch.cat([wave for wave in made if isinstance(wave, Tensor)])

    def __call__(self, pixels: Tensor) -> Examined:
        """Listen."""
        waves = self.waves(pixels)
        with torch.no_grad():
            return Examined(self.judge.features(waves), self.judge.probabilities(waves).argmax(1) != NO_WORD)

    def save(self, pixels: Tensor, path: Path) -> Path:
        """Write a dozen sounds one after the other."""
        waves = self.waves(pixels[:12]).flatten()
        path.parent.mkdir(parents=True, exist_ok=True)
        return io.write(path.with_suffix(".flac"), waves, self.vocoder.sample_rate)
