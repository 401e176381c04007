"""Clips from your own videos: by captions, classes or actions, from given frames, or from nothing.

Two trainings, one after the other, each resumable:

1. ``RUN/stills``: single frames, and images if there are any, which teach what things look like for a fraction of
   the price.
2. ``RUN/clips``: clips, with images beside them if asked for.

The model folder is ``RUN/model``. Run it with one of

    mmdiff run folder.tiny                                # seconds, on files it makes; shows that everything works
    mmdiff run folder --data VIDEOS                       # any folder: a.mp4 with its caption in a.txt, or a manifest
    mmdiff run folder.unconditional --data VIDEOS         # no captions needed
    mmdiff run folder.prediction --data VIDEOS            # what comes after or between given frames
    mmdiff run folder.actions --data games                # frames by what is pressed: examples/record_game.py
    mmdiff run folder.ucf101 --data UCF-101               # the paper's benchmark, on one GPU
    mmdiff run folder.64x64x16 --data VIDEOS --images PICTURES    # the paper's text-to-video settings, on one GPU
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights
from mmdiff.training.data import IndexedData
from mmdiff.video.data import (
    ImageFolder,
    VideoClips,
    collate_clips,
    find_train_valid,
    leave_out_broken,
)
from mmdiff.video.digit_files import write_digits
from mmdiff.video.items import VideoItem
from mmdiff.video.model import ClipModel
from mmdiff.video.stages import WithKnown, make_conditioners, network_for, pixel_statistics
from mmdiff.video.tasks import ClipTask
from mmdiff.video.validation import clip_validation
from mmdiff.video.with_stills import WithStills


def main(
    data: Path | None = None,
    layout: str = "auto",
    images: Path | None = None,
    run_dir: Path = Path("runs/folder"),
    digits: int = 0,
    resume: bool = False,
    conditions: tuple[str, ...] = ("caption",),
    known: int = 8,
    known_share: float = 0.8,
    size: int = 32,
    frames: int = 16,
    fps: float | None = 8.0,
    stride: int = 1,
    fit: str = "crop",
    flip: bool | str = "auto",
    widths: tuple[int, ...] = (64, 96, 160),
    mixing: tuple[str, ...] = ("shift", "joint+tokens", "joint+tokens"),
    patch: int = 2,
    blocks: int = 2,
    embedding: int = 256,
    head_width: int = 32,
    words: int = 128,
    checkpointing: bool = False,
    stills_steps: int = 2000,
    stills_batch: int = 48,
    steps: int = 6000,
    batch_size: int = 6,
    accumulate: int = 1,
    stills: int = 0,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    noise: tuple[float, float] = (0.5, 1.3),
    pixels: tuple[float, float] | None = None,
    drop: float = 0.1,
    ema: float = 0.998,
    guidance: float = 1.0,
    sampler_steps: int = 20,
    cache: Path | None = None,
    validate_every: int = 1000,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a model of clips on a folder of videos.

    Args:
        data: Folder, manifest or shards of videos, which nothing is written to. Where it has no splits, one video
            in fifty validates.
        layout: How ``data`` is laid out; see mmdiff.video.data.find_videos.
        images: Folder of pictures to mix in, with captions like the videos'; default: frames of other clips.
        run_dir: Gets checkpoints, logs and the finished model.
        digits: Without ``data``, write so many videos of moving digits to ``RUN/digits`` and train on them.
        resume: Go on from the newest checkpoints in ``run_dir``.
        conditions: What clips are made from, of caption, label, actions and known (given frames); [] is nothing.
        known: Frames given at most, with the condition known: the first ones or any, half the time each.
        known_share: Share of clips that are given frames; the others are made from nothing.
        size: Height and width in pixels.
        frames: Length of clips.
        fps: Frames a second that all videos are brought to; null: each keeps its own.
        stride: Take every so many frames of these.
        fit: How videos of another shape come to that size: crop, pad or stretch.
        flip: Mirror half of the clips: auto (not if captions or actions would become wrong), true or false.
        widths: Channels of the levels, each of half the height and width of the one before; multiples of 8, and of
            ``head_width`` where there is attention.
        mixing: Attention and temporal convolutions at each level.
        patch: Pixels along each side folded into channels.
        blocks: Residual blocks at each level.
        embedding: Channels that carry noise level and conditions.
        head_width: Channels of an attention head.
        words: Channels of condition vectors and of the caption encoder, a multiple of 32.
        checkpointing: Compute blocks twice to save memory.
        stills_steps: Updates of the first training; 0 leaves it out.
        stills_batch: Frames per update of it.
        steps: Updates of the second training.
        batch_size: Clips per update of it.
        accumulate: Parts that such a batch is worked on in, to save memory.
        stills: Images beside each clip.
        learning_rate: Peak of both trainings.
        weight_decay: Of AdamW.
        noise: Mean and deviation of the logarithm of the noise level for single frames; clips get more.
        pixels: Mean and deviation that pixels in [-1, 1] are standardised by; default: measured.
        drop: Share of clips trained with nothing said of them, for guidance; each of several conditions is left out
            so often by itself, too.
        ema: Decay of the weight average that is kept.
        guidance: Of the finished model, by default.
        sampler_steps: Its network evaluations by default.
        cache: Folder for decoded frames; default: the user's cache.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    torch.manual_seed(seed)
    if data is None and not digits:
        raise InputError("data=None must be a folder, manifest or shards of videos, such as --data my_videos")
    if data is None:
        data = write_digits(run_dir / "digits", digits, size=size, fps=fps or 8.0).parent
    how: dict[str, Any] = {"size": size, "fit": fit, "cache": cache}
    train, valid = leave_out_broken(*find_train_valid(data, layout), **how, fps=fps)
    film = {**how, "fps": fps, "stride": stride}
    pictures = None if images is None else ImageFolder(images, **how, flip=flip, seed=seed)
    mean, std = pixels or pixel_statistics(VideoClips(train, 1, **film, seed=seed), 256)

    conditioners = make_conditioners(conditions, [*train, *valid], words)
    network = network_for(
        conditioners, widths=widths, blocks=blocks, mixing=mixing, patch=patch, embedding=embedding,
        span=frames - 1, clock=frames, head_width=head_width, checkpointing=checkpointing,
    )  # fmt: skip
    model = ClipModel(
        network, CosineVP(), frames=frames, size=(size, size), fps=(fps or 25.0) / stride, mean=mean, std=std,
        steps=sampler_steps, guidance=guidance,
    )  # fmt: skip
    set_compute_dtype(model, pick_compute_dtype(pick_device(device), dtype))
    model.to(memory_format=torch.channels_last)
    task = ClipTask(model, noise, drop=drop)
    shared: dict[str, Any] = {
        "learning_rate": learning_rate, "weight_decay": weight_decay, "ema": (ema,), "collate": collate_clips,
        "validate_every": validate_every, "checkpoint_every": checkpoint_every, "workers": workers,
        "device": device, "seed": seed,
    }  # fmt: skip

    def clips(items: list[VideoItem], length: int, mirror: bool | str, draw: int) -> IndexedData:
        chosen = VideoClips(items, length, **film, flip=mirror, seed=draw)
        if "known" not in conditions:
            return chosen
        return WithKnown(chosen, known, known_share, mean=mean, std=std, seed=draw)

    def fit_stage(name: str, length: int, beside: int, draw: int, **settings: Any) -> None:
        dataset, held_out = clips(train, length, flip, draw), clips(valid, length, False, seed)
        if beside:
            dataset = WithStills(dataset, pictures, beside, seed=draw)
        settings |= {"warmup_steps": min(100, settings["steps"] // 10), "validate": clip_validation(held_out)}
        trainer = Trainer(run_dir / name, task, dataset, **settings, **shared)
        load_weights(task, trainer.fit(resume=resume))

    if stills_steps:
        only = {"steps": stills_steps, "batch_size": stills_batch, "lr_schedule": "constant"}
        fit_stage("stills", 1, 1 if images else 0, seed, **only)
    fit_stage("clips", frames, stills, seed + 1, steps=steps, batch_size=batch_size, accumulate=accumulate)

    folder = save_model(model, run_dir / "model")
    print(f"saved {folder}; try it: mmdiff clip --model {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
