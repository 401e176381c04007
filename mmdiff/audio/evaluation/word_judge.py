"""The judge of spoken digits: which digit a sound says, or none; and measures of many sounds for distances."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio.datasets.fetch_digits import DIGITS
from mmdiff.audio.mel import MelSpec
from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, wilson
from mmdiff.nn.judge import Measuring
from mmdiff.nn.pyramid import pyramid
from mmdiff.registry import register

NONE = len(DIGITS)
"""Number of "no digit"."""
SPEC = MelSpec(16_000, 512, 400, 200, 40, 60.0, 3_800.0, floor=1e-4)
"""What is looked at; telephones have nothing above."""
CHUNK = 64  # sounds at a time


@register
class WordJudge(Measuring):
    """Classify sounds as one of ten spoken digits, in any of five languages, or none.

    Convolutions over a log-mel spectrogram up to 3.8 kHz, off which each band's mean is taken as microphones and
    telephones colour it, their greatest and mean values over time, one hidden layer.

    Parameters
    ----------
    channels : tuple of int
        Width at full, half and quarter resolution.
    width : int
        Of the hidden layer, which is also what sounds are measured by.
    dropout : float in [0, 1)
        Of the hidden layer's inputs, in training.
    """

    sample_rate = SPEC.sample_rate
    FRAMES = SPEC.frames(SPEC.sample_rate)  # of a second

    def __init__(
        self, channels: tuple[int, ...] = (8, 16, 32, 64), width: int = 48, dropout: float = 0.3
    ) -> None:
        super().__init__(width)
        self.body = pyramid(channels)
        height = -(-SPEC.n_mels // 2 ** (len(channels) - 1))
        self.dropout = nn.Dropout(dropout)
        self.hidden = nn.Linear(2 * height * channels[-1], width)
        self.head = nn.Linear(width, len(DIGITS) + 1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """Logits (B, 11) of spectrograms (B, 1, bands, frames) of :meth:`look`: ten digits, and last: none."""
        return self.head(functional.silu(self.embed(spectrogram)))

    def embed(self, spectrogram: Tensor) -> Tensor:
        """Hidden values (B, width), before their activation."""
        found = self.body(spectrogram)
        pooled = torch.cat((found.amax(3), found.mean(3)), 1).flatten(1)
        return self.hidden(self.dropout(pooled))

    def look(self, wave: Tensor) -> Tensor:
        """Spectrogram (B, 1, bands, frames), of about unit variance, of sounds (B, samples), on any device."""
        if wave.ndim != 2:
            raise InputError(
                f"wave of shape {tuple(wave.shape)} must be (B, samples) at {SPEC.sample_rate} Hz"
            )
        mel = SPEC(wave.to(self.feature_mean.device))
        return ((mel - mel.mean(2, keepdim=True)) / 2)[:, None]

    @torch.no_grad()
    def probabilities(self, wave: Tensor) -> Tensor:
        """Probability (B, 11) of each digit, and of none, in sounds (B, samples) at 16 kHz."""
        return torch.cat([self(self.look(part)).softmax(1) for part in wave.split(CHUNK)])

    @torch.no_grad()
    def raw_features(self, wave: Tensor) -> Tensor:
        """Hidden values (B, width), not standardised."""
        parts = [functional.silu(self.embed(self.look(part))) for part in wave.split(CHUNK)]
        return torch.cat(parts)

    def features(self, wave: Tensor) -> Tensor:
        """Measure sounds (B, samples) for distances: hidden values (B, width), standardised on real training words."""
        return self.standardised(self.raw_features(wave))


def digit_accuracy(probabilities: Tensor, digits: Tensor) -> Estimate:
    """Share of sounds whose digit is the most probable one of ten, with Wilson's interval; guessing finds a tenth.

    Parameters
    ----------
    probabilities : Tensor, shape (B, 11)
    digits : Tensor of int, shape (B,), 0 to 9
    """
    return wilson(float((probabilities[:, :NONE].argmax(1) == digits).double().mean()), len(digits))


def none_share(probabilities: Tensor) -> Estimate:
    """Share of sounds (B, 11) that more probably say none of the digits than any of them, with Wilson's interval."""
    return wilson(float((probabilities.argmax(1) == NONE).double().mean()), len(probabilities))
