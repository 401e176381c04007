"""Digit judge: a small classifier of moving handwritten digits, for caption accuracy and video distances.

It reads single frames, is blind to colour and place, and knows "no digit". The model folder is ``RUN/model``. Run it
with one of

    mmdiff run digit_judge.tiny                  # seconds; shows that everything works
    mmdiff run digit_judge                       # the shipped digit-judge, minutes on one CPU core
    mmdiff run digit_judge --resume true         # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path

from mmdiff.hub import save_model
from mmdiff.video.judge_training import real_accuracy, train_judge


def main(
    run_dir: Path = Path("runs/digit_judge"),
    resume: bool = False,
    steps: int = 1500,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    spoilt: float = 0.25,
    validate_every: int = 500,
    checkpoint_every: int = 500,
    real: int = 1200,
    test_rounds: int = 10,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Train a judge of moving digits and measure it on held-out handwriting.

    Args:
        run_dir: Gets checkpoints, logs and the finished model.
        resume: Go on from the newest checkpoint in ``run_dir``.
        steps: Updates.
        batch_size: Frames per update.
        learning_rate: Its peak.
        spoilt: Share of training frames that show no digit.
        validate_every: Updates between validations, on the training handwriting; 0 = never.
        checkpoint_every: Updates between checkpoints.
        real: Real clips that the judge's features are standardised on.
        test_rounds: How often to render the 300 labels with held-out handwriting for the final figures.
        device: Default: the fastest there is.
        seed: Of weights, data and noise.
    """
    judge = train_judge(
        steps,
        seed,
        run_dir=run_dir,
        batch_size=batch_size,
        learning_rate=learning_rate,
        spoilt=spoilt,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        real=real,
        resume=resume,
        device=device,
    )
    accuracy = real_accuracy(judge, "test", test_rounds)
    extra = {
        "license": "CC-BY-4.0",
        "data": "UCI Optical Recognition of Handwritten Digits (scikit-learn's copy), 1500 of 1797 images",
        "recipe": "recipes/video/digit_judge.py, digit_judge.yaml",
        "held_out_accuracy": {name: share.value for name, share in accuracy.items()},
    }
    folder = save_model(judge, run_dir / "model", extra=extra)
    for name, share in accuracy.items():
        print(f"{name:8} {share}")
    print(f"saved {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
