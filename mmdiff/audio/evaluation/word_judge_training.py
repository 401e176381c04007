"""How the judge of spoken digits is trained and measured on real recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.audio.datasets.fetch_digits import DIGITS
from mmdiff.audio.datasets.layouts import Clip, find_audio
from mmdiff.audio.datasets.words import Variation, Words
from mmdiff.audio.evaluation.word_judge import NONE, WordJudge, digit_accuracy, none_share
from mmdiff.media.estimates import Estimate
from mmdiff.training import Trainer, Validation, load_weights

WIDE = Variation((0.78, 1.28), 0.12, (-12.0, 4.0), 3.0, (-75.0, -38.0))
"""Other voices and other microphones, as far as variations of a few recordings can be that."""


def digit_number(clip: Clip) -> int:
    """Number of the digit that a clip says, 10 if it says another word."""
    return DIGITS.index(clip.text) if clip.text in DIGITS else NONE


class WordTask(nn.Module):
    """Cross-entropy of a judge on varied words, some of them spoilt, at other tempi, bands and times blotted out.

    Parameters
    ----------
    judge : WordJudge
    spoilt : float in [0, 1]
        Share of sounds that say nothing: a word backwards, its halves exchanged, two words at once, or noise.
    blots : int
        Greatest width of what is blotted out, in bands, and twice that in frames.
    stretch : (float, float)
        Range of factors on the duration, the pitch staying as it is.
    """

    def __init__(
        self,
        judge: WordJudge,
        spoilt: float = 0.15,
        blots: int = 8,
        stretch: tuple[float, float] = (0.75, 1.3),
    ) -> None:
        super().__init__()
        self.judge, self.spoilt, self.blots, self.stretch = judge, spoilt, blots, stretch

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch of :class:`mmdiff.audio.datasets.words.Words`."""
        with torch.no_grad():
            wave, label = spoil(batch["wave"], batch["label"], self.spoilt, generator)
            looked = stretched(self.judge.look(wave), self.stretch, generator)
            looked = blot(blot(looked, self.blots, 2, generator), 2 * self.blots, 3, generator)
        logits = self.judge(looked)
        right = (logits.argmax(1) == label).float().mean()
        return {"loss": functional.cross_entropy(logits, label, label_smoothing=0.05), "right": right}


def spoil(wave: Tensor, label: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Replace some sounds (B, samples) by what says nothing; returns sounds and labels, 10 for none."""
    kind = (torch.rand(len(wave), generator=generator, device=wave.device) / (share + 1e-9) * 4).long()
    level = wave.square().mean(1, keepdim=True).sqrt()
    hiss = torch.randn(wave.shape, generator=generator, device=wave.device)
    spoilt = (wave.flip(1), wave.roll(wave.shape[1] // 2, 1), wave + wave.roll(1, 0), level * hiss)
    for number, other in enumerate(spoilt):
        wave = torch.where((kind == number)[:, None], other, wave)
    return wave, torch.where(kind < len(spoilt), NONE, label)


def stretched(looked: Tensor, factors: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Stretch a batch of spectrograms (B, 1, bands, frames) in time, all by one random factor."""
    low, high = factors
    factor = low + (high - low) * float(torch.rand((), generator=generator, device=looked.device))
    size = (looked.shape[2], max(1, round(factor * looked.shape[3])))
    return functional.interpolate(looked, size, mode="bilinear")


def blot(looked: Tensor, widest: int, axis: int, generator: torch.Generator) -> Tensor:
    """Blot out a stripe of random width and place in each spectrogram (SpecAugment, 1904.08779)."""
    count, length = len(looked), looked.shape[axis]
    width, place = torch.rand(2, count, 1, 1, 1, generator=generator, device=looked.device)
    width = width * widest
    start = place * (length - width)
    shape = [1, 1, 1, 1]
    shape[axis] = length
    index = torch.arange(length, device=looked.device).view(shape)
    return looked.masked_fill((index >= start) & (index < start + width), 0.0)


def real_accuracy(judge: WordJudge, clips: Sequence[Clip]) -> dict[str, Estimate]:
    """How often the judge is right about recordings.

    Returns
    -------
    dict from str to Estimate
        ``digits``: share of digits that it tells from the other nine. ``missed``: share of digits that it takes for
        none. ``others``: share of words that are no digits, and that it takes for none. Of what there is.
    """
    some = [clip for clip in clips if digit_number(clip) != NONE]
    rest = [clip for clip in clips if digit_number(clip) == NONE]
    found = {}
    if some:
        chances = _heard(judge, some)
        found["digits"] = digit_accuracy(chances, torch.tensor([digit_number(clip) for clip in some]))
        found["missed"] = none_share(chances)
    if rest:
        found["others"] = none_share(_heard(judge, rest))
    return found


def _heard(judge: WordJudge, clips: Sequence[Clip]) -> Tensor:
    words = Words(clips, [0] * len(clips))
    waves = [words.varied(n, np.random.default_rng(n))["wave"] for n in range(len(words))]
    return judge.probabilities(torch.stack(waves)).cpu()


def standardise_features(judge: WordJudge, words: Words, count: int) -> None:
    """Set the mean and deviation by which ``judge.features`` are standardised, from training items."""
    waves = torch.stack([words[n]["wave"] for n in range(count)])
    judge.standardise_by(judge.raw_features(waves))


def train_word_judge(
    data: str | Path,
    steps: int = 800,
    seed: int = 0,
    *,
    run_dir: str | Path = "runs/word_judge",
    batch_size: int = 48,
    learning_rate: float = 3e-3,
    spoilt: float = 0.15,
    validate_every: int = 0,
    checkpoint_every: int = 300,
    standard: int = 500,
    resume: bool = False,
    device: str | None = None,
) -> WordJudge:
    """Train a judge on the training recordings of a folder of spoken digits.

    Parameters
    ----------
    data : str or Path
        See :func:`mmdiff.audio.datasets.fetch_digits.fetch_spoken_digits`.
    steps : int > 0
        Updates.
    seed : int
        Of weights, data and noise.
    run_dir : str or Path
        Gets checkpoints and logs.
    batch_size, learning_rate
        See :class:`mmdiff.training.Trainer`.
    spoilt : float in [0, 1]
        See :class:`WordTask`.
    validate_every : int
        Updates between measurements on the training recordings; 0 = never.
    checkpoint_every : int
        Updates between checkpoints.
    standard : int > 1
        Training items that the features are standardised on.
    resume : bool
        Go on from the newest checkpoint.
    device : str, optional

    Returns
    -------
    WordJudge
        In evaluation mode, features standardised.
    """
    torch.manual_seed(seed)
    clips = find_audio(data, split="train")
    digits = [clip for clip in clips if digit_number(clip) != NONE]
    judge = WordJudge()
    task = WordTask(judge, spoilt)

    def validate(task: nn.Module, step: int) -> Validation:
        found = real_accuracy(task.judge, digits)  # type: ignore[arg-type]
        return Validation({name: share.value for name, share in found.items()})

    trainer = Trainer(
        run_dir,
        task,
        Words(clips, [digit_number(clip) for clip in clips], seed=seed, variation=WIDE),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.02,
        warmup_steps=50,
        ema=(0.99,),
        validate=validate if validate_every else None,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        device=device,
        seed=seed,
    )
    load_weights(task, trainer.fit(resume=resume))
    judge.eval()
    standardise_features(
        judge, Words(digits, [digit_number(c) for c in digits], variation=Variation()), standard
    )
    return judge
