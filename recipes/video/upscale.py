"""Super-resolution in space and time: a cascade's second stage, which makes a small clip large.

It is given the clip at a fraction of its size and of its frames, with noise added in training, so that it bears
with what the stage before it does wrong. At the end it is measured on held-out clips beside linear
interpolation. The model folder is ``RUN/model``. Run it with one of

    mmdiff run upscale.tiny                      # seconds; shows that everything works
    mmdiff run upscale                           # moving digits, 16x16 and 8 frames to 32x32 and 16, on one core
    mmdiff run upscale.folder --data VIDEOS      # your own, 64x64 and 8 frames to 128x128 and 16, on one GPU
    mmdiff run upscale --resume true             # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path

import torch

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights
from mmdiff.video.conditioning import ConditionedNetwork, SmallClip
from mmdiff.video.data import VideoClips, collate_clips, find_train_valid, leave_out_broken
from mmdiff.video.digits import MovingDigits
from mmdiff.video.model import ClipModel
from mmdiff.video.stages import WithSmall, pixel_statistics
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.video.validation import clip_validation, upscaling_quality


def main(
    data: Path | None = None,
    layout: str = "auto",
    run_dir: Path = Path("runs/upscale"),
    resume: bool = False,
    size: int = 32,
    frames: int = 16,
    fps: float = 8.0,
    fit: str = "crop",
    shrink: int = 2,
    thin: int = 2,
    augmentation: float = 0.5,
    widths: tuple[int, ...] = (48, 64, 96),
    mixing: tuple[str, ...] = ("shift", "shift", "joint"),
    patch: int = 2,
    blocks: int = 1,
    embedding: int = 128,
    checkpointing: bool = False,
    steps: int = 1500,
    batch_size: int = 2,
    learning_rate: float = 1e-3,
    prediction: str = "x0",
    noise: tuple[float, float] = (-0.4, 1.2),
    ema: float = 0.995,
    sampler_steps: int = 4,
    test_clips: int = 32,
    validate_every: int = 500,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a stage that sharpens, and measure it.

    Args:
        data: Folder, manifest or shards of videos; default: endless moving digits.
        layout: How ``data`` is laid out; see mmdiff.video.data.find_videos.
        run_dir: Gets checkpoints, logs and the finished model.
        resume: Go on from the newest checkpoint in ``run_dir``.
        size: Height and width of the large clips in pixels; for digits a multiple of 32.
        frames: Their length.
        fps: Their frames a second.
        fit: How videos of another shape come to that size: crop, pad or stretch.
        shrink: How much smaller the given clips are, in height and width.
        thin: They hold every so many frames.
        augmentation: Greatest noise level in [0, 1] that is added to them in training.
        widths: Channels of the network's levels.
        mixing: Attention and temporal convolutions at each level.
        patch: Pixels along each side folded into channels.
        blocks: Residual blocks at each level.
        embedding: Channels that carry noise levels.
        checkpointing: Compute blocks twice to save memory.
        steps: Updates.
        batch_size: Clips per update.
        learning_rate: Its peak.
        prediction: What the network says, x0 or v. The clip itself is nearly what it is given, which a small
            network learns at once; in v it would have to say the noise as well, to every pixel.
        noise: Mean and deviation of the logarithm of the noise level for single frames; clips get more.
        ema: Decay of the weight average that is kept.
        sampler_steps: Network evaluations of the finished model by default.
        test_clips: Held-out clips that the end result is measured on.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    torch.manual_seed(seed)
    train: MovingDigits | VideoClips
    valid: MovingDigits | VideoClips
    if data is None:
        train, valid = (MovingDigits(split, frames, size, seed=seed) for split in ("train", "test"))
    else:
        items, held_out = leave_out_broken(*find_train_valid(data, layout), size, fps=fps, fit=fit)
        train = VideoClips(items, frames, size, fps=fps, fit=fit, seed=seed)
        valid = VideoClips(held_out, frames, size, fps=fps, fit=fit, seed=seed, flip=False)
    mean, std = pixel_statistics(train)
    pixels = {"mean": mean, "std": std, "seed": seed}

    network = SpaceTimeUNet(
        widths=widths,
        blocks=blocks,
        mixing=mixing,
        patch=patch,
        embedding=embedding,
        vector=embedding,
        planes=3,
        span=frames - 1,
        clock=frames,
        checkpointing=checkpointing,
    )
    conditioned = ConditionedNetwork(network, (SmallClip(width=embedding),))
    model = ClipModel(
        conditioned, CosineVP(), prediction, frames=frames, size=(size, size), fps=fps, mean=mean, std=std,
        steps=sampler_steps, sampler="dpmpp_2m", grid="log_snr",
    )  # fmt: skip
    set_compute_dtype(model, pick_compute_dtype(pick_device(device), dtype))
    model.to(memory_format=torch.channels_last)
    task = ClipTask(model, noise, drop=0.0)
    held_out_small = WithSmall(valid, shrink, thin, 0.0, **pixels)
    trainer = Trainer(
        run_dir / "train",
        task,
        WithSmall(train, shrink, thin, augmentation, **pixels),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=0.01,
        warmup_steps=min(100, steps // 10),
        ema=(ema,),
        validate=clip_validation(held_out_small, count=8, time=thin),
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        workers=workers,
        device=device,
        seed=seed,
        collate=collate_clips,
    )
    load_weights(task, trainer.fit(resume=resume))

    quality = upscaling_quality(model, held_out_small, test_clips, time=thin)
    for name, figures in quality.items():
        print(f"{name:8}", "  ".join(f"{measure} {value:.4g}" for measure, value in figures.items()))
    given = {"shrink": shrink, "thin": thin, "augmentation": augmentation}
    folder = save_model(model, run_dir / "model", extra={"given": given, "held_out": quality})
    print(f"saved {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
