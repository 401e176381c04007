"""Spoken digits by way of latents: an autoencoder of the waveform, then a network that diffuses its latents.

What the recipe spoken_digits has mel spectrograms and a vocoder for is here learned from the recordings themselves:
the autoencoder makes 62.5 frames of 64 numbers of a second of sound, and sound of these, and the prior makes such
frames of a label. The trainings follow each other, each resumable: ``RUN/autoencoder``, then ``RUN/prior``, and with
``--joint_steps`` ``RUN/joint``, where both go on together, each by its own part of the evidence bound of sound (latent
score-based generative models).

The model folder ``RUN/model`` holds both. Run it with one of

    mmdiff run latent_speech.tiny                     # seconds; shows that everything works
    mmdiff run latent_speech --fetch true
    mmdiff run latent_speech.joint                    # the same, then autoencoder and prior together
    mmdiff run latent_speech --resume true            # go on after an interruption
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdiff.audio.datasets.fetch_digits import fetch_spoken_digits
from mmdiff.audio.datasets.words import Variation, Words
from mmdiff.audio.evaluation.digits import digit_validation, labelled_digits
from mmdiff.audio.evaluation.word_judge import WordJudge
from mmdiff.audio.framed_sound import FramedSoundTask
from mmdiff.audio.latent_sound import LatentSoundModel, SoundDistance, judged_by_spectra, waves_of
from mmdiff.audio.networks.critic import Critic
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.importance import Importance, time_of_noise
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import load_as, save_model
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.cross_entropy import CrossEntropy
from mmdiff.latent.joint import JointTask
from mmdiff.latent.tasks import AutoencoderTask, autoencoder_validation
from mmdiff.training import Part, Trainer, load_weights


def main(
    data: Path = Path("data/digits-16k"),
    run_dir: Path = Path("runs/latent_speech"),
    fetch: bool = False,
    resume: bool = False,
    judge: str = "word-judge",
    sample_rate: int = 16_000,
    seconds: float = 1.0,
    latents: int = 64,
    code_widths: tuple[int, ...] = (48, 96, 192),
    code_factors: tuple[int, ...] = (16, 4, 4),
    code_blocks: int = 2,
    code_steps: int = 2000,
    code_rate: float = 1e-3,
    kl: float = 0.03,
    deviation: float = 0.05,
    spectra: float = 1.0,
    adversarial: float = 0.0,
    channels: int = 192,
    depth: int = 8,
    speed: tuple[float, float] = (0.92, 1.09),
    tilt_db: float = 1.0,
    steps: int = 3500,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    drop: float = 0.1,
    joint_steps: int = 0,
    joint_rate: float = 5e-4,
    joint_code_rate: float = 1e-4,
    joint_noise: float = 0.02,
    ema: float = 0.998,
    sampling_steps: int = 20,
    guidance: float = 1.5,
    validate_every: int = 1000,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train an autoencoder of speech, and a model of spoken digits in its latents.

    Args:
        data: Folder of ``mmdiff fetch digits-16k``.
        run_dir: Gets checkpoints, logs and the finished model.
        fetch: Build ``data`` from Debian's telephone prompts first (76 MB, needs apt-get).
        resume: Go on from the newest checkpoints in ``run_dir``.
        judge: Recogniser of spoken digits that validates: a shipped model, or a folder of the recipe word_judge.
        sample_rate: Of the sounds, in Hz; the judge wants 16000.
        seconds: Their length.
        latents: Numbers in a frame of latents.
        code_widths: Channels of the autoencoder's levels.
        code_factors: Samples, or places of the level before, that a place of each level stands for.
        code_blocks: Residual blocks of a level.
        code_steps: Updates of the autoencoder.
        code_rate: Its learning rate.
        kl: Weight of the divergence from the standard normal distribution.
        deviation: Mean absolute deviation of samples from what is decoded.
        spectra: Weight of the distance between spectra.
        adversarial: Weight of a critic that learns beside the autoencoder; 0 is none.
        channels: Width of the network that diffuses latents.
        depth: Its number of blocks.
        speed: Range of factors on the speed, and the pitch, of recordings.
        tilt_db: Greatest tilt of their spectra either way, in dB an octave.
        steps: Updates of the prior.
        batch_size: Sounds per update.
        learning_rate: Of the prior, its peak.
        drop: Share of sounds trained without their label, for guidance.
        joint_steps: Updates of both together in the end; without any the prior is a plain denoiser, else a mixed one.
        joint_rate: Learning rate of the prior there.
        joint_code_rate: Of the autoencoder.
        joint_noise: Least noise of latents, over their own deviation, that the bound knows.
        ema: Decay of the weight averages that are kept.
        sampling_steps: Network evaluations by default.
        guidance: Guidance by default.
        validate_every: Updates between validations by the judge; 0 = never.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the networks' matrix products.
        seed: Of weights, data and noise.
    """
    if min(code_steps, steps) < 1 or joint_steps < 0 or (joint_steps and not kl > 0):
        raise InputError(
            f"code_steps={code_steps} and steps={steps} must be at least 1, joint_steps={joint_steps} 0, and kl={kl} "
            "positive for joint steps"
        )
    # What is needed only after a training, or two, is made before: a slip is told at once.
    times = Importance(first=time_of_noise(CosineVP(), joint_noise))
    recogniser = load_as(WordJudge, judge) if validate_every else None
    if fetch:
        fetch_spoken_digits(data)
    torch.manual_seed(seed)
    clips, numbers, labels = labelled_digits(data)
    others, their_numbers, _ = labelled_digits(data, "test")
    variation = Variation(speed, tilt_db=tilt_db)
    words = Words(clips, numbers, sample_rate, seconds, seed=seed, variation=variation)
    held_out = Words(others, their_numbers, sample_rate, seconds, seed=seed, variation=Variation())
    compute = pick_compute_dtype(pick_device(device), dtype)
    common: dict[str, Any] = {
        "batch_size": batch_size, "warmup_steps": 100, "ema": (ema,), "checkpoint_every": checkpoint_every,
        "workers": workers, "device": device, "seed": seed,
    }  # fmt: skip

    autoencoder = Autoencoder(
        1, 1, latents, code_widths, code_factors, code_blocks, kernel=5, norm="l1", deviation=deviation
    )
    # Both networks are built before either is trained: a run that is resumed has trained none.
    network = LabelledMelNet(latents, len(labels), 1, channels, depth)
    set_compute_dtype(autoencoder, compute)
    critic = Critic(sample_rate) if adversarial else None
    first = AutoencoderTask(
        autoencoder, waves_of, kl, SoundDistance(sample_rate), spectra, critic, judged_by_spectra, adversarial
    )
    trainer = Trainer(
        run_dir / "autoencoder",
        first,
        words,
        steps=code_steps,
        learning_rate=code_rate,
        parts={"critic": Part(code_rate, (0.5, 0.9))} if adversarial else None,
        validate=autoencoder_validation(held_out),
        validate_every=validate_every,
        **common,
    )
    load_weights(first, trainer.fit(resume=resume))
    autoencoder.standardise(seen(words, 256, pick_device(device)))

    model = LatentSoundModel(
        network,
        CosineVP(),
        autoencoder,
        sample_rate,
        seconds,
        labels,
        sampling_steps,
        guidance,
        mixed=joint_steps > 0,
    )
    set_compute_dtype(model, compute)
    second = FramedSoundTask(model, drop)
    trainer = Trainer(
        run_dir / "prior",
        second,
        words,
        steps=steps,
        learning_rate=learning_rate,
        weight_decay=0.01,
        validate=None
        if recogniser is None
        else digit_validation(recogniser, None, device=device, dtype=dtype),
        validate_every=validate_every,
        **common,
    )
    load_weights(second, trainer.fit(resume=resume))

    if joint_steps:
        autoencoder.requires_grad_(True).log_deviation.requires_grad_(False)  # that is given
        both = JointTask(
            model.framed,
            model.denoiser,
            CrossEntropy(model.denoiser.schedule, times=times),
            lambda batch, generator: (waves_of(batch), second.told(batch, generator)),
            kl,
            SoundDistance(sample_rate),
            spectra,
        )
        trainer = Trainer(
            run_dir / "joint",
            both,
            words,
            steps=joint_steps,
            learning_rate=joint_rate,
            weight_decay=0.01,
            parts={"autoencoder": Part(joint_code_rate)},
            **common,
        )
        load_weights(both, trainer.fit(resume=resume))

    extra = {
        "license": "CC-BY-SA-3.0",
        "data": f"{len(clips)} recordings of digits in Asterisk's telephone prompts as packaged by Debian",
        "recipe": "recipes/audio/latent_speech.py",
    }
    folder = save_model(model, run_dir / "model", extra=extra)
    print(f"saved {folder}; try it: mmdiff sound {labels[0]} --model {folder}")


def seen(words: Words, count: int, device: torch.device, batch: int = 32) -> Iterator[Tensor]:
    """The first sounds of a data set, in batches (batch, 1, samples)."""
    for n in range(0, count, batch):
        yield torch.stack([words[k]["wave"] for k in range(n, n + batch)])[:, None].to(device)


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
