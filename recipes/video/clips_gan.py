"""Text to clip in four steps: a space-time U-Net as the generator of a denoising diffusion GAN, or plain.

The generator of Xiao et al. 2022 draws a clip at each of four large steps, and a critic that reads the caption judges
the step. ``--plain true`` trains the same network for the same time by least squares, at the same four steps. The model
folder is ``RUN/model``. Run it with one of

    mmdiff run clips_gan.tiny                         # seconds; shows that everything works
    mmdiff run clips_gan                              # half an hour of one thread; again, to go on if interrupted
    mmdiff run clips_gan --plain true --run_dir runs/clips_gan.plain
    mmdiff run clips_gan.continued                    # goes on from that plain model, which guides the critic too
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.schedules import BetaTable, vp_betas
from mmdiff.diffusion.times import TablePoints
from mmdiff.hub import load_as, load_model, save_model
from mmdiff.nn.critic import StepCritic
from mmdiff.training import Part, Trainer, load_weights
from mmdiff.training.budget import Stopwatch, train_for
from mmdiff.video.captions import CaptionEncoder, learn_vocabulary
from mmdiff.video.clip_gan import CaptionCritic, ClipGAN
from mmdiff.video.conditioning import ConditionedNetwork, LatentCondition
from mmdiff.video.data import collate_clips
from mmdiff.video.digits import MovingDigits
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.weights import assign_tensors, named_tensors


def main(
    run_dir: Path = Path("runs/clips_gan"),
    plain: bool = False,
    init: str | None = None,
    guide: str | None = None,
    steps: int = 4,
    size: int = 32,
    frames: int = 8,
    fps: float = 8.0,
    widths: tuple[int, ...] = (48, 96),
    mixing: tuple[str, ...] = ("shift", "joint+shift"),
    patch: int = 4,
    words: int = 64,
    latents: int = 64,
    critic_widths: tuple[int, ...] = (48, 64, 96),
    penalty: float = 0.05,
    every: int = 16,
    distance: float = 0.0,
    begin: int = 1000,
    drop: float = 0.1,
    minutes: float = 30.0,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    critic_rate: float = 5e-4,
    ema: float = 0.998,
    checkpoint_every: int = 500,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a model of captioned moving digits that takes a few large steps.

    Args:
        run_dir: Gets checkpoints, logs and the finished model. A run there goes on until it had its time.
        plain: No generator and no critic: the network learns the mean of the clips at the same steps.
        init: Model to begin from, trained with ``plain`` or without: a folder. What a random vector does is learned
            anew where it had none.
        guide: Model trained with ``plain`` whose estimates of clean clips the critic is shown: a folder.
        steps: From noise to clips.
        size: Height and width in pixels, a multiple of 32.
        frames: Length of clips.
        fps: Frames a second of the clips made.
        widths: Channels of the network's levels.
        mixing: Attention at each level.
        patch: Pixels along each side folded into channels, by the critic too.
        words: Channels of the caption encoders.
        latents: Size of the random vector that the generator is told.
        critic_widths: Channels of the critic.
        penalty: Of the critic's gradient at data, γ.
        every: Updates of which one computes the penalty, as many times stronger.
        distance: Weight of the squared error where the clip can be seen through the noise; much of it silences the
            critic.
        begin: Updates by this error alone, before there is a critic.
        drop: Share of captions left out.
        minutes: Time of the processor that is trained: two threads use it up twice as fast.
        batch_size: Clips per update.
        learning_rate: Of the network.
        critic_rate: Of the critic.
        ema: Decay of the weight average that is kept.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    free = ("run_dir", "minutes", "checkpoint_every", "workers", "device", "dtype")
    settings = {name: value for name, value in locals().items() if name not in free}
    torch.manual_seed(seed)
    clips = MovingDigits(frames=frames, size=size, seed=seed)
    vocabulary = learn_vocabulary(clips[n]["caption"] for n in range(2000))
    captions = CaptionEncoder(vocabulary, words)
    told = (captions,) if plain else (captions, LatentCondition(latents, words))
    network = SpaceTimeUNet(
        3, widths, mixing=mixing, patch=patch, vector=words, tokens=words, span=frames - 1
    )
    model = ClipModel(
        ConditionedNetwork(network, told),
        BetaTable(vp_betas(steps)),
        "x0",
        frames=frames,
        fps=fps,
        steps=steps,
        sampler="ddpm",
        size=(size, size),
        mean=-0.9,  # of the pixels of such clips, most of which are black, and their deviation
        std=0.37,
        clamp=False,
    )
    if init:
        assign_tensors(model, named_tensors(model) | named_tensors(load_model(init)), source=init)
    compute_dtype = pick_compute_dtype(pick_device(device), dtype)
    set_compute_dtype(model, compute_dtype)
    task: ClipTask | ClipGAN
    if plain:
        task = ClipTask(model, drop=drop, times=TablePoints(steps))
    else:
        rules: dict[str, Any] = {"penalty": penalty, "every": every, "distance": distance, "begin": begin}
        if guide:
            rules["guide"] = load_as(ClipModel, guide)
            set_compute_dtype(rules["guide"], compute_dtype)
        judge = StepCritic(3, 3, critic_widths, planes=3 * bool(guide), vector=words, patch=(1, patch, patch))
        task = ClipGAN(model, CaptionCritic(judge, CaptionEncoder(vocabulary, words)), drop, **rules)
    watch = Stopwatch(task)

    def make_trainer(updates: int) -> Trainer:
        return Trainer(
            run_dir,
            watch,
            clips,
            steps=updates,
            batch_size=batch_size,
            learning_rate=learning_rate,
            betas=(0.9, 0.99) if plain else (0.5, 0.9),
            lr_schedule="constant",
            warmup_steps=100,
            parts=None if plain else {"task.critic": Part(critic_rate, (0.5, 0.9))},
            ema=(ema,),
            checkpoint_every=checkpoint_every,
            workers=workers,
            collate=collate_clips,
            device=device,
            seed=seed,
        )

    train_for(60 * minutes, watch, run_dir, make_trainer, settings)
    load_weights(watch, run_dir, ema=0)
    folder = save_model(model, run_dir / "model")
    print(f"saved {folder}; try it: mmdiff clip 'a blue seven moving left' --model {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
