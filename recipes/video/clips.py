"""Text to clip: a small space-time U-Net and its caption encoder, trained on single frames, then on clips.

Four trainings, one after the other, each resumable:

1. ``RUN/stills``: single frames, which teach shapes and colours for a sixteenth of the price.
2. ``RUN/short``: a few consecutive frames from anywhere in a clip.
3. ``RUN/clips``: whole clips.
4. ``RUN/finish``: whole clips with a falling learning rate.

The model folder is ``RUN/model``. Run it with one of

    mmdiff run clips.tiny                     # seconds; shows that everything works
    mmdiff run clips                          # the shipped clips-32: captioned moving digits
    mmdiff run clips --resume true            # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.conditioning import ConditionedNetwork
from mmdiff.video.digits import MovingDigits
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet


def main(
    run_dir: Path = Path("runs/clips"),
    resume: bool = False,
    size: int = 32,
    frames: int = 16,
    fps: float = 8.0,
    widths: tuple[int, ...] = (64, 96, 160),
    mixing: tuple[str, ...] = ("shift", "joint+tokens", "joint+tokens"),
    patch: int = 2,
    words: int = 128,
    short_frames: int = 6,
    stills_steps: int = 1800,
    stills_batch: int = 48,
    short_steps: int = 1500,
    short_batch: int = 12,
    clips_steps: int = 3000,
    clips_batch: int = 6,
    finish_steps: int = 1500,
    learning_rate: float = 1.5e-3,
    clip_rate: float = 1e-3,
    noise: tuple[float, float] = (0.5, 1.3),
    drop: float = 0.1,
    pairs: float = 0.08,
    variety: float = 0.3,
    late: float = 0.2,
    ema: float = 0.998,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a model of captioned moving digits.

    Args:
        run_dir: Gets checkpoints, logs and the finished model.
        resume: Go on from the newest checkpoints in ``run_dir``.
        size: Height and width in pixels, a multiple of 32.
        frames: Length of clips.
        fps: Frames a second of the clips made.
        widths: Channels of the network's levels.
        mixing: Attention at each level.
        patch: Pixels along each side folded into channels.
        words: Channels of the caption encoder.
        short_frames: Length of the second training's clips.
        stills_steps: Updates of the first training.
        stills_batch: Frames per update of the first training.
        short_steps: Updates of the second.
        short_batch: Its clips per update.
        clips_steps: Updates of the third.
        clips_batch: Its clips per update, and the fourth's.
        finish_steps: Updates of the fourth.
        learning_rate: Of the first two trainings.
        clip_rate: Of the others.
        noise: Mean and deviation of the logarithm of the noise level for single frames; clips get more.
        drop: Share of captions left out, for guidance.
        pairs: Share of clips with two digits.
        variety: Share of captions in other words.
        late: Share of clips that start in the course of a longer video.
        ema: Decay of the weight average that is kept.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    torch.manual_seed(seed)
    digits: dict[str, Any] = {"size": size, "pairs": pairs, "variety": variety}
    examples = MovingDigits(frames=2, **digits)
    vocabulary = learn_vocabulary(examples[n]["caption"] for n in range(4000))
    span = frames - 1
    network = SpaceTimeUNet(3, widths, mixing=mixing, patch=patch, vector=words, tokens=words, span=span)
    conditioned = ConditionedNetwork(network, (CaptionEncoder(vocabulary, words),))
    # Mean and deviation of the pixels of such clips, most of which are black.
    model = ClipModel(conditioned, CosineVP(), frames=frames, size=(size, size), fps=fps, mean=-0.9, std=0.37)
    set_compute_dtype(model, pick_compute_dtype(pick_device(device), dtype))
    model.to(memory_format=torch.channels_last)
    task = ClipTask(model, noise, drop=drop)

    def train(name: str, steps: int, data: MovingDigits, schedule: str = "constant", **settings: Any) -> None:
        trainer = Trainer(
            run_dir / name,
            task,
            data,
            steps=steps,
            lr_schedule=schedule,
            warmup_steps=50,
            weight_decay=0.01,
            ema=(ema,),
            checkpoint_every=checkpoint_every,
            workers=workers,
            device=device,
            seed=seed,
            **settings,
        )
        load_weights(task, trainer.fit(resume=resume))

    stills = MovingDigits(frames=1, seed=seed, late=1.0, latest=frames, **digits)
    train("stills", stills_steps, stills, batch_size=stills_batch, learning_rate=learning_rate)
    short = MovingDigits(
        frames=short_frames, seed=seed + 1, late=0.6, latest=max(1, frames - short_frames), **digits
    )
    train("short", short_steps, short, batch_size=short_batch, learning_rate=learning_rate)
    clips = MovingDigits(frames=frames, seed=seed + 2, late=late, **digits)
    train("clips", clips_steps, clips, batch_size=clips_batch, learning_rate=clip_rate)
    last = MovingDigits(frames=frames, seed=seed + 3, late=late, **digits)
    train("finish", finish_steps, last, "linear", batch_size=clips_batch, learning_rate=clip_rate)

    folder = save_model(model, run_dir / "model")
    print(f"saved {folder}; try it: mmdiff clip 'a blue seven moving left' --model {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
