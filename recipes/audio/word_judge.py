"""Word judge: a small recogniser of spoken digits in five languages, to measure models that say them.

It is trained on variations of few recordings and knows "no digit". The model folder is ``RUN/model``. Run it with one
of

    mmdiff run word_judge.tiny                       # seconds; shows that everything works
    mmdiff run word_judge --fetch true               # the shipped word-judge, minutes on one CPU core
    mmdiff run word_judge --resume true              # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path

from mmdiff.audio.datasets.fetch_digits import fetch_spoken_digits
from mmdiff.audio.datasets.layouts import find_audio
from mmdiff.audio.evaluation.word_judge_training import real_accuracy, train_word_judge
from mmdiff.hub import save_model


def main(
    data: Path = Path("data/digits-16k"),
    run_dir: Path = Path("runs/word_judge"),
    fetch: bool = False,
    resume: bool = False,
    steps: int = 800,
    batch_size: int = 48,
    learning_rate: float = 3e-3,
    spoilt: float = 0.15,
    validate_every: int = 200,
    checkpoint_every: int = 100,
    standard: int = 500,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Train a judge of spoken digits and measure it on voices that it has not heard.

    Args:
        data: Folder of ``mmdiff fetch digits-16k``.
        run_dir: Gets checkpoints, logs and the finished model.
        fetch: Build ``data`` from Debian's telephone prompts first (76 MB, needs apt-get).
        resume: Go on from the newest checkpoint in ``run_dir``.
        steps: Updates.
        batch_size: Sounds per update.
        learning_rate: Its peak.
        spoilt: Share of training sounds that say nothing.
        validate_every: Updates between validations, on the training recordings; 0 = never.
        checkpoint_every: Updates between checkpoints.
        standard: Training items that the judge's features are standardised on.
        device: Default: the fastest there is.
        seed: Of weights, data and noise.
    """
    if fetch:
        fetch_spoken_digits(data)
    judge = train_word_judge(
        data,
        steps,
        seed,
        run_dir=run_dir,
        batch_size=batch_size,
        learning_rate=learning_rate,
        spoilt=spoilt,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        standard=standard,
        resume=resume,
        device=device,
    )
    accuracy = real_accuracy(judge, find_audio(data, split="test"))
    extra = {
        "license": "CC-BY-SA-3.0",
        "data": "Asterisk's telephone prompts as packaged by Debian: 55 recordings of digits, 457 of other words",
        "recipe": "recipes/audio/word_judge.py, word_judge.yaml",
        "held_out_accuracy": {name: share.value for name, share in accuracy.items()},
    }
    folder = save_model(judge, run_dir / "model", extra=extra)
    for name, share in accuracy.items():
        print(f"{name:8} {share}")
    print(f"saved {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
