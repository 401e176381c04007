"""Text to clip: a small space-time U-Net and its caption encoder, trained on single frames, then on clips.

The trainings follow each other, each resumable, as the variant's list of stages says: single frames first, which
teach shapes and colours for a sixteenth of the price, then clips thinned out in time, which teach motion, then
whole clips, at last with a falling learning rate. Each stage has its folder ``RUN/NAME``.

The model folder is ``RUN/model``. Run it with one of

    mmdiff run clips.tiny                     # seconds; shows that everything works
    mmdiff run clips                          # the shipped clips-32: captioned moving digits
    mmdiff run clips.langevin                 # the same by critically damped Langevin diffusion
    mmdiff run clips --resume true            # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.hub import save_model
from mmdiff.video.captions import CaptionEncoder
from mmdiff.video.conditioning import ConditionedNetwork
from mmdiff.video.digit_stages import Stage, digit_vocabulary, train_stages
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet


def main(
    stages: list[Stage],
    run_dir: Path = Path("runs/clips"),
    resume: bool = False,
    size: int = 32,
    frames: int = 16,
    fps: float = 8.0,
    widths: tuple[int, ...] = (64, 96, 160),
    mixing: tuple[str, ...] = ("shift+shift", "joint+tokens+shift", "joint+tokens+shift"),
    patch: int = 2,
    words: int = 128,
    pairs: float = 0.08,
    variety: float = 0.3,
    process: Literal["vp", "langevin"] = "vp",
    prediction: str = "x0",
    balance: float | None = 1.35,
    ema: float = 0.998,
    steps: int = 15,
    sampler: str = "euler_ancestral",
    guidance: float = 3.0,
    guidance_interval: tuple[float, float] = (0.93, 0.99),
    log_snr_range: tuple[float, float] = (-10.0, 1.0),
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a model of captioned moving digits.

    Args:
        stages: Trainings, one after the other.
        run_dir: Gets checkpoints, logs and the finished model.
        resume: Go on from the newest checkpoints in ``run_dir``.
        size: Height and width in pixels, a multiple of 32.
        frames: Length of clips.
        fps: Frames a second of the clips made.
        widths: Channels of the network's levels.
        mixing: Attention at each level.
        patch: Pixels along each side folded into channels.
        words: Channels of the caption encoder.
        pairs: Share of clips with two digits.
        variety: Share of captions in other words.
        process: "vp", plain diffusion, or "langevin": frames coupled to a velocity, which alone gets noise.
        prediction: What the network says, x0 or v. A picture that is black but for a figure is easy to say, the
            noise upon it is not. With a velocity, v is the paper's mixture, for a network that sees both.
        balance: Exponent by which the error grows with the noise, here, and its weight falls; see ClipTask. Without
            it, the loss is that in v.
        ema: Decay of the weight average that is kept.
        steps: Of the finished model's sampler by default.
        sampler: Fresh noise at each step mends ways whose halves do not meet; solvers without noise keep them.
        guidance: Its guidance by default.
        guidance_interval: Times between which it is guided: where figures take shape. Guidance in the very first
            steps makes ways longer than figures go.
        log_snr_range: Log-SNR of the first and last step but the very ends. Sixteen frames that agree show their
            figure through much noise; steps of equal length in time would pass by where it takes shape.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    torch.manual_seed(seed)
    digits = {"size": size, "pairs": pairs, "variety": variety}
    span = frames - 1
    langevin = process == "langevin"
    mixed = langevin and prediction == "v"
    network = SpaceTimeUNet(
        3, widths, mixing=mixing, patch=patch, vector=words, tokens=words, span=span, inputs=6 if mixed else 3
    )
    conditioned = ConditionedNetwork(network, (CaptionEncoder(digit_vocabulary(pairs, variety), words),))
    # Mean and deviation of the pixels of such clips, most of which are black.
    pixels = {"size": (size, size), "mean": -0.9, "std": 0.37}
    model = ClipModel(
        conditioned,
        CriticallyDamped() if langevin else CosineVP(),
        "mixed" if mixed else prediction,
        frames=frames,
        fps=fps,
        steps=steps,
        sampler=sampler,
        grid="log_snr",
        log_snr_range=log_snr_range,
        guidance=guidance,
        guidance_interval=guidance_interval,
        **pixels,
    )
    set_compute_dtype(model, pick_compute_dtype(pick_device(device), dtype))
    model.to(memory_format=torch.channels_last)
    task = ClipTask(model, balance=balance)

    train_stages(
        task,
        stages,
        run_dir,
        digits=digits,
        seed=seed,
        ema=ema,
        resume=resume,
        checkpoint_every=checkpoint_every,
        workers=workers,
        device=device,
    )

    folder = save_model(model, run_dir / "model")
    print(f"saved {folder}; try it: mmdiff clip 'a blue seven moving left' --model {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
