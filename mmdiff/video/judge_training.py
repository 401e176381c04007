"""How the judge of moving digits is trained and measured on real handwriting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.media.estimates import Estimate
from mmdiff.training import Trainer, Validation, load_weights
from mmdiff.video.digits import DIGITS, Figure, MovingDigits, handwriting
from mmdiff.video.judge import SIDE, DigitJudge, caption_accuracy, crossed_captions

_GLYPH = 0.6  # of a frame's side: the canvas on which digits come out 15 of 32 pixels high
_FINE = 3  # samples a pixel along each axis


class Glyphs:
    """Item n >= 0 of an endless shuffle of the handwriting: one glyph and its digit, and another to spoil it with."""

    def __init__(self, split: str = "train", seed: int = 0) -> None:
        self.glyphs, self.digits = handwriting(split)
        self.seed = seed

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        """``glyph`` and ``other`` (1, 60, 60) of two digits, ``digit`` of the first."""
        random = np.random.default_rng((self.seed, n))
        digit = int(random.integers(len(DIGITS)))
        another = (digit + int(random.integers(1, len(DIGITS)))) % len(DIGITS)
        one, other = (int(random.choice(np.flatnonzero(self.digits == d))) for d in (digit, another))
        return {"glyph": self.glyphs[one], "other": self.glyphs[other], "digit": self.digits[one]}


class JudgeTask(nn.Module):
    """Cross-entropy of a judge on glyphs drawn with deformations, noise and blur, some of them spoilt.

    Parameters
    ----------
    judge : DigitJudge
    spoilt : float in [0, 1]
        Share of frames that show no digit: two digits in one place, a digit cut in quarters that change places,
        soft blobs, or nothing.
    """

    def __init__(self, judge: DigitJudge, spoilt: float = 0.25) -> None:
        super().__init__()
        self.judge, self.spoilt = judge, spoilt

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch of :class:`Glyphs`."""
        with torch.no_grad():
            glyph, digit = spoil(batch["glyph"], batch["other"], batch["digit"], self.spoilt, generator)
            light = degrade(draw(glyph, generator), generator)
        logits = self.judge((2 * light - 1).expand(-1, 3, -1, -1))
        right = (logits.argmax(1) == digit).float().mean()
        return {"loss": functional.cross_entropy(logits, digit), "right": right}


def spoil(
    glyph: Tensor, other: Tensor, digit: Tensor, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Replace some glyphs by what is no digit; returns glyphs (N, 1, h, w) and digits (N,), 10 for none."""
    count, device = len(glyph), glyph.device
    kind = (torch.rand(count, generator=generator, device=device) / (share + 1e-9) * 4).long()
    pick = kind[:, None, None, None]
    # laid over each other in one place, two digits may look like a third (6 and 9 like 8): move one, or dim both
    crossed = torch.where(
        torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5,
        torch.maximum(glyph, other.roll((5, -10), (2, 3))),
        (glyph + other) / 2,
    )
    quartered = glyph.clone()
    quartered[..., 6:54, 14:46] = glyph[..., 6:54, 14:46].roll((24, 16), (2, 3))
    blob = functional.interpolate(
        torch.randn(count, 1, 5, 5, generator=generator, device=device), glyph.shape[-2:], mode="bicubic"
    )
    height = torch.rand(count, 1, 1, 1, generator=generator, device=device)
    blob = torch.sigmoid((blob - 0.6) * 8) * _window(glyph) * height
    blank = torch.zeros_like(glyph)
    result = glyph
    for number, spoilt in enumerate((crossed, quartered, blob, blank)):
        result = torch.where(pick == number, spoilt, result)
    return result, torch.where(kind < 4, len(DIGITS), digit)


def _window(glyph: Tensor) -> Tensor:
    edge = torch.linspace(-1, 1, glyph.shape[-1]).to(glyph)
    fall = torch.sigmoid((0.7 - edge.abs()) * 15)
    return fall[:, None] * fall


def draw(glyph: Tensor, generator: torch.Generator) -> Tensor:
    """Draw glyphs (N, 1, h, w) anywhere in frames (N, 1, 32, 32), rotated, sheared, scaled and bent a little."""
    count, device = len(glyph), glyph.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    angle, shear = uniform(-0.22, 0.22), uniform(-0.22, 0.22)
    wide, high = uniform(0.85, 1.2) / _GLYPH, uniform(0.85, 1.2) / _GLYPH
    matrix = torch.stack(
        (wide * angle.cos(), -high * angle.sin() + shear, wide * angle.sin(), high * angle.cos()), 1
    ).view(count, 2, 2)
    place = uniform(-0.5, 0.5, 2, 1)
    affine = torch.cat((matrix, -matrix @ place), 2)
    fine = _FINE * SIDE
    grid = functional.affine_grid(affine, [count, 1, fine, fine], align_corners=False)
    bend = functional.interpolate(uniform(-0.06, 0.06, 2, 7, 7), (fine, fine), mode="bicubic")
    drawn = functional.grid_sample(glyph, grid + bend.permute(0, 2, 3, 1), align_corners=False)
    return functional.avg_pool2d(drawn, _FINE)


def degrade(light: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the frames (N, 1, H, W), dim and roughen all of them by random amounts."""
    count, device = len(light), light.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator, device=device)

    soft = functional.avg_pool2d(functional.pad(light, (1, 1, 1, 1)), 3, 1)
    light = light.lerp(soft, uniform(-0.8, 0.8).clamp_min(0))
    noise = torch.randn(light.shape, generator=generator, device=device)
    return (light * uniform(0.7, 1.05) + uniform(0, 0.15).square() / 0.15 * noise).clamp(0, 1)


def real_clips(
    labels: Tensor, split: str = "test", seed: int = 0, frames: int = 16, size: int = 32
) -> Tensor:
    """Render real clips of given labels.

    Parameters
    ----------
    labels : Tensor of int, shape (B, 3)
        Digit, motion and colour of each.
    split : {"train", "test"}
        Whose handwriting.
    seed : int
        Of handwriting, places and deformation.
    frames, size : int

    Returns
    -------
    Tensor, shape (B, 3, F, H, W), uint8
    """
    clips, random = MovingDigits(split, frames, size), np.random.default_rng(seed)
    return torch.stack([clips.item([Figure(*label)], random)["video"] for label in labels.tolist()])


def real_accuracy(
    judge: DigitJudge, split: str = "test", rounds: int = 1, seed: int = 0
) -> dict[str, Estimate]:
    """:func:`mmdiff.video.judge.caption_accuracy` of real clips: ``rounds`` times the 300 crossed labels."""
    labels = crossed_captions()[1].repeat(rounds, 1)
    return caption_accuracy(real_clips(labels, split, seed), labels, judge)


def standardise_features(judge: DigitJudge, count: int, seed: int = 0) -> None:
    """Set the mean and deviation by which ``judge.features`` are standardised, from real training clips."""
    every = crossed_captions()[1]
    labels = every.repeat(-(-count // len(every)), 1)[:count]
    device = judge.feature_mean.device
    parts = real_clips(labels, "train", seed).split(50)
    with torch.no_grad():
        judge.standardise_by(torch.cat([judge.raw_features(part.to(device)) for part in parts]))


def train_judge(
    steps: int = 1500,
    seed: int = 0,
    *,
    run_dir: str | Path = "runs/digit_judge",
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    spoilt: float = 0.25,
    validate_every: int = 0,
    checkpoint_every: int = 500,
    real: int = 1200,
    resume: bool = False,
    device: str | None = None,
) -> DigitJudge:
    """Train a judge on the training handwriting.

    Parameters
    ----------
    steps : int > 0
        Updates.
    seed : int
        Of weights, data and noise.
    run_dir : str or Path
        Gets checkpoints and logs.
    batch_size, learning_rate
        See :class:`mmdiff.training.Trainer`.
    spoilt : float in [0, 1]
        See :class:`JudgeTask`.
    validate_every : int
        Updates between measurements on crossed clips of the training handwriting; 0 = never.
    checkpoint_every : int
        Updates between checkpoints.
    real : int > 1
        Real clips that the features are standardised on.
    resume : bool
        Go on from the newest checkpoint.
    device : str, optional

    Returns
    -------
    DigitJudge
        In evaluation mode, features standardised.
    """
    torch.manual_seed(seed)
    judge = DigitJudge()
    task = JudgeTask(judge, spoilt)

    def validate(task: nn.Module, step: int) -> Validation:
        shares = real_accuracy(task.judge, "train", seed=step)  # type: ignore[arg-type]
        return Validation({name: share.value for name, share in shares.items()})

    trainer = Trainer(
        run_dir,
        task,
        Glyphs("train", seed),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.02,
        warmup_steps=100,
        ema=(0.995,),
        validate=validate if validate_every else None,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        device=device,
        seed=seed,
    )
    load_weights(task, trainer.fit(resume=resume))
    standardise_features(judge, real)
    return judge.eval()
