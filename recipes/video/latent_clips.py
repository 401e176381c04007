"""Text to clip by way of latents: an autoencoder of frames, then a space-time U-Net that diffuses its latents.

Captioned moving digits at 64x64 are seen by the U-Net as 16x16 latents, no more than what clips at 32x32 are to it when
it folds two pixels along each side, so that an update costs the same. The trainings follow each other, each resumable:
the autoencoder in ``RUN/autoencoder``, on single frames, then the prior in stages, as for the recipe clips, and if
asked both together, each by its own part of the evidence bound of clips (latent score-based generative models).

The model folder ``RUN/model`` holds both. Run it with one of

    mmdiff run latent_clips.tiny                  # seconds; shows that everything works
    mmdiff run latent_clips                       # captioned moving digits, 64x64, 16 frames
    mmdiff run latent_clips.joint                 # the same, then autoencoder and prior together
    mmdiff run latent_clips --resume true         # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.importance import Importance, time_of_noise
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.cross_entropy import CrossEntropy
from mmdiff.latent.joint import JointTask
from mmdiff.latent.tasks import AutoencoderTask, autoencoder_validation
from mmdiff.nn import StepCritic
from mmdiff.training import Part, Trainer, load_weights
from mmdiff.video.captions import CaptionEncoder
from mmdiff.video.conditioning import ConditionedNetwork
from mmdiff.video.data import collate_clips
from mmdiff.video.digit_stages import Stage, digit_clips, digit_vocabulary, train_stages
from mmdiff.video.digits import MovingDigits
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet


def main(
    stages: list[Stage],
    run_dir: Path = Path("runs/latent_clips"),
    resume: bool = False,
    size: int = 64,
    frames: int = 16,
    fps: float = 8.0,
    latents: int = 4,
    code_widths: tuple[int, ...] = (48, 96),
    code_blocks: int = 2,
    code_steps: int = 1500,
    code_batch: int = 32,
    code_rate: float = 2e-3,
    kl: float = 0.1,
    deviation: float = 0.1,
    joint: Stage | None = None,
    joint_rate: float = 1e-4,
    joint_noise: float = 0.02,
    adversarial: float = 0.0,
    widths: tuple[int, ...] = (64, 96, 160),
    mixing: tuple[str, ...] = ("shift+shift", "joint+tokens+shift", "joint+tokens+shift"),
    words: int = 128,
    pairs: float = 0.08,
    variety: float = 0.3,
    prediction: str = "x0",
    balance: float = 1.35,
    ema: float = 0.998,
    steps: int = 15,
    sampler: str = "euler_ancestral",
    guidance: float = 3.0,
    guidance_interval: tuple[float, float] = (0.88, 0.985),
    log_snr_range: tuple[float, float] = (-9.0, 2.5),
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train an autoencoder of frames, and a model of captioned moving digits in its latents.

    Args:
        stages: Trainings of the prior, one after the other.
        run_dir: Gets checkpoints, logs and the finished model.
        resume: Go on from the newest checkpoints in ``run_dir``.
        size: Height and width in pixels, a multiple of 32.
        frames: Length of clips.
        fps: Frames a second of the clips made.
        latents: Channels of the latents, each place of which stands for 4x4 pixels.
        code_widths: Channels of the autoencoder's levels, each of which halves height and width.
        code_blocks: Residual blocks of a level.
        code_steps: Updates of the autoencoder.
        code_batch: Frames per update.
        code_rate: Learning rate.
        kl: Weight of the divergence from the standard normal distribution.
        deviation: Of pixels, whose range is 2, about what is decoded.
        joint: Training of both together, after all others; its rate is the prior's, its stills and noise are unused.
        joint_rate: Learning rate of the autoencoder there.
        joint_noise: Least noise of latents, over their own deviation, that it knows.
        adversarial: Weight of a critic that learns beside the autoencoder; 0 is none.
        widths: Channels of the levels of the network that diffuses latents.
        mixing: Attention at each level.
        words: Channels of the caption encoder.
        pairs: Share of clips with two digits.
        variety: Share of captions in other words.
        prediction: What the network says, x0 or v.
        balance: Exponent by which the error grows with the noise, here, and its weight falls; see ClipTask.
        ema: Decay of the weight averages that are kept.
        steps: Of the finished model's sampler by default.
        sampler: Its sampler by default.
        guidance: Its guidance by default.
        guidance_interval: Times between which it is guided.
        log_snr_range: Log-SNR of the first and last step but the very ends. Latents of 64x64 pixels are a third as many
            numbers as 32x32 pixels are, and say each thing less often: they bear less noise than the clips of clips.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the networks' matrix products.
        seed: Of weights, data and noise.
    """
    if code_steps < 1 or (joint is not None and not kl > 0):
        raise InputError(
            f"code_steps={code_steps} must be at least 1, and kl={kl} positive for a joint training"
        )
    times = Importance(
        first=time_of_noise(CosineVP(), joint_noise)
    )  # asked for before the trainings that it ends
    torch.manual_seed(seed)
    digits: dict[str, Any] = {"size": size, "pairs": pairs, "variety": variety}
    common = {
        "checkpoint_every": checkpoint_every, "workers": workers, "device": device, "seed": seed
    }  # fmt: skip
    compute = pick_compute_dtype(pick_device(device), dtype)

    autoencoder = Autoencoder(
        3,
        3,
        latents,
        code_widths,
        ((1, 2, 2),) * len(code_widths),
        code_blocks,
        (1, 3, 3),
        deviation=deviation,
    )
    # Both networks are built before either is trained: a run that is resumed has trained none.
    network = SpaceTimeUNet(latents, widths, mixing=mixing, vector=words, tokens=words, span=frames - 1)
    conditioned = ConditionedNetwork(network, (CaptionEncoder(digit_vocabulary(pairs, variety), words),))

    set_compute_dtype(autoencoder, compute)
    autoencoder.to(memory_format=torch.channels_last_3d)
    critic = StepCritic(3, 3, (16, 32, 64), ((1, 2, 2), (1, 2, 2))) if adversarial else None
    first = AutoencoderTask(autoencoder, pixels, kl, critic=critic, adversarial=adversarial)
    stills = MovingDigits(frames=1, seed=seed, late=1.0, **digits)
    trainer = Trainer(
        run_dir / "autoencoder",
        first,
        stills,
        steps=code_steps,
        batch_size=code_batch,
        learning_rate=code_rate,
        warmup_steps=50,
        parts={"critic": Part(code_rate, (0.5, 0.9))} if adversarial else None,
        ema=(ema,),
        validate=autoencoder_validation(MovingDigits("test", frames=1, size=size), collate=collate_clips),
        collate=collate_clips,
        **common,
    )
    load_weights(first, trainer.fit(resume=resume))
    autoencoder.standardise(seen(stills, 256, pick_device(device)))

    model = ClipModel(
        conditioned,
        CosineVP(),
        prediction,
        frames=frames,
        size=(size, size),
        fps=fps,
        steps=steps,
        sampler=sampler,
        grid="log_snr",
        log_snr_range=log_snr_range,
        guidance=guidance,
        guidance_interval=guidance_interval,
        autoencoder=autoencoder,
        mixed=joint is not None,
    )
    set_compute_dtype(model, compute)
    network.to(memory_format=torch.channels_last)
    task = ClipTask(model, balance=balance)
    train_stages(task, stages, run_dir, digits=digits, ema=ema, resume=resume, **common)
    if joint is not None:
        autoencoder.requires_grad_(True).log_deviation.requires_grad_(False)  # that is given
        task.drop = joint.drop
        both = JointTask(
            autoencoder,
            model.denoiser,
            CrossEntropy(model.denoiser.schedule, times=times),
            lambda batch, generator: (model.normalised(batch["video"]), task.told(batch, generator)),
            kl,
        )
        trainer = Trainer(
            run_dir / joint.name,
            both,
            digit_clips(joint, seed, digits),
            steps=joint.steps,
            batch_size=joint.batch,
            learning_rate=joint.rate,
            lr_schedule=joint.schedule,
            warmup_steps=50,
            parts={"autoencoder": Part(joint_rate)},
            ema=(ema,),
            collate=collate_clips,
            **common,
        )
        load_weights(both, trainer.fit(resume=resume))

    folder = save_model(model, run_dir / "model")
    print(f"saved {folder}; try it: mmdiff clip 'a blue seven moving left' --model {folder}")


def pixels(batch: dict[str, Any]) -> Tensor:
    """Frames of a batch in [-1, 1]."""
    video: Tensor = batch["video"]
    return video.float() / 127.5 - 1


def seen(stills: MovingDigits, count: int, device: torch.device, batch: int = 32) -> Any:
    """The first frames of a data set, in batches of pixels."""
    for n in range(0, count, batch):
        yield pixels(collate_clips([stills[k] for k in range(n, n + batch)])).to(device)


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
