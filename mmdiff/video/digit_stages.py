"""Trainings of a clip model on moving digits that follow each other: single frames, thinned clips, whole ones."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmdiff.errors import InputError
from mmdiff.training import Trainer, load_weights
from mmdiff.training.lr import LearningRate
from mmdiff.video.captions import learn_vocabulary
from mmdiff.video.data import collate_clips
from mmdiff.video.digits import MovingDigits
from mmdiff.video.tasks import ClipTask
from mmdiff.video.validation import clip_validation
from mmdiff.video.with_stills import WithStills

_WARMUP = 50  # updates over which the learning rate of a stage rises


@dataclass(frozen=True)
class Stage:
    """One training.

    Args:
        name: Its folder.
        steps: Updates.
        batch: Clips per update.
        frames: Their frames.
        stride: Distance between these.
        late: Share of clips that start in the course of a longer video.
        latest: Last frame they may start at.
        stills: Single frames beside each clip.
        drop: Share of captions left out, for guidance and for clips made without a caption.
        rate: Learning rate.
        schedule: Its course, constant or linear.
        noise: Mean and deviation of the logarithm of the noise level of single frames; clips get more.

    Raises
    ------
        InputError: One breaks its rule, which is better said before the stages in front of this one are trained.
    """

    name: str
    steps: int
    batch: int
    frames: int
    stride: int = 1
    late: float = 0.2
    latest: int = 48
    stills: int = 0
    drop: float = 0.1
    rate: float = 1.5e-3
    schedule: str = "constant"
    noise: tuple[float, float] = (0.5, 1.3)

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("steps", "batch", "frames", "stride")}
        if min(counts.values()) < 1 or self.stills < 0 or not self.rate > 0:
            raise InputError(
                f"{', '.join(f'{name}={value}' for name, value in counts.items())} and rate={self.rate} of the stage "
                f"{self.name!r} must be positive, and stills={self.stills} not negative"
            )
        LearningRate(self.rate, self.schedule, _WARMUP, self.steps)


@functools.lru_cache(maxsize=4)
def digit_vocabulary(pairs: float, variety: float) -> tuple[str, ...]:
    """Word pieces of the captions of 4000 clips, which take a second to draw; for the arguments see `MovingDigits`."""
    examples = MovingDigits(frames=2, pairs=pairs, variety=variety)
    return learn_vocabulary(examples[n]["caption"] for n in range(4000))


def digit_clips(stage: Stage, seed: int, digits: dict[str, Any]) -> MovingDigits:
    """Clips of a stage; ``digits`` are settings of :class:`MovingDigits` that all stages share."""
    return MovingDigits(
        frames=stage.frames, stride=stage.stride, seed=seed, late=stage.late, latest=stage.latest, **digits
    )


def train_stages(
    task: ClipTask,
    stages: Sequence[Stage],
    run_dir: Path,
    *,
    digits: dict[str, Any],
    seed: int,
    ema: float,
    resume: bool,
    **settings: Any,
) -> None:
    """Train a task through the stages, each from the average of the one before.

    Parameters
    ----------
    task : ClipTask
        Has the weights of the last average in the end.
    stages : sequence of Stage
    run_dir : Path
        Gets a folder for each.
    digits : dict
        Settings of :class:`~mmdiff.video.digits.MovingDigits` that all share: ``size`` and others.
    seed : int
        Of data and noise.
    ema : float
        Decay of the average.
    resume : bool
        Go on from the newest checkpoints.
    **settings
        Others of the :class:`~mmdiff.training.Trainer`.

    Raises
    ------
    InputError
        Two stages have the same name.
    """
    if len({stage.name for stage in stages}) < len(stages):
        raise InputError(
            f"stages={[stage.name for stage in stages]} must have names that differ: each has a folder"
        )
    for number, stage in enumerate(stages):
        clips = digit_clips(stage, seed + number, digits)
        held_out = MovingDigits("test", frames=stage.frames, stride=stage.stride, size=digits["size"])
        task.noise, task.drop = stage.noise, stage.drop
        trainer = Trainer(
            run_dir / stage.name,
            task,
            WithStills(clips, stills=stage.stills, seed=seed + number) if stage.stills else clips,
            steps=stage.steps,
            batch_size=stage.batch,
            learning_rate=stage.rate,
            lr_schedule=stage.schedule,
            warmup_steps=_WARMUP,
            weight_decay=0.01,
            ema=(ema,),
            validate=clip_validation(held_out),
            collate=collate_clips,
            seed=seed,
            **settings,
        )
        load_weights(task, trainer.fit(resume=resume))
