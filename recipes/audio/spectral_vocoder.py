"""Spectral vocoder: a few-step diffusion of the magnitude spectrogram, then phase; one model for every mel preset.

Two trainings, one after the other, each resumable:

1. ``RUN/magnitude``: the denoiser at random noise levels (flow matching on standardised magnitudes).
2. ``RUN/joint``: denoiser and phase network together, through the few-step sampler as it will be used, with
   waveform losses (the sampler is unrolled in training), the denoising loss staying on as a second term.

The model folder is ``RUN/model``. Run it with one of

    mmdiff run spectral_vocoder.tiny                     # seconds; shows that everything works
    mmdiff run spectral_vocoder --fetch true             # the shipped vocoder-16k, on Debian's free speech
    mmdiff run spectral_vocoder.ljspeech --data LJSpeech-1.1
    mmdiff run spectral_vocoder --resume true            # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmdiff.audio.data import AudioCrops, find_train_valid
from mmdiff.audio.fetch import fetch_debian_speech
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.spectral import MagnitudeNet, SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.tasks import SpectralTask
from mmdiff.audio.validation import vocoder_validation
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights


def main(
    data: Path = Path("data/speech-16k"),
    run_dir: Path = Path("runs/spectral_vocoder"),
    layout: str = "auto",
    fetch: bool = False,
    resume: bool = False,
    sample_rate: int = 16_000,
    n_fft: int = 1024,
    hop_length: int = 256,
    n_mels: int = 80,
    channels: int = 96,
    depth: int = 8,
    bands: int = 16,
    iterations: int = 16,
    final_iterations: int = 32,
    final_steps: int = 2,
    crop_frames: int = 64,
    batch_size: int = 8,
    magnitude_steps: int = 5000,
    magnitude_rate: float = 2e-3,
    joint_steps: int = 4500,
    joint_batch: int = 4,
    joint_rate: float = 6e-4,
    denoising: float = 0.1,
    unrolled_steps: tuple[int, ...] = (2, 2, 2, 3, 4),
    variety: float = 0.5,
    ema: float = 0.998,
    validate_every: int = 500,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a spectral vocoder.

    Args:
        data: Folder or manifest of recordings (LJSpeech, VCTK, LibriTTS layouts, or any). Where it has no splits
            train and valid, one recording in fifty validates.
        run_dir: Gets checkpoints, logs and the finished model.
        layout: How ``data`` is laid out; see mmdiff.audio.data.find_audio.
        fetch: Build ``data`` from Debian's free speech packages first (54 MB, needs apt-get).
        resume: Go on from the newest checkpoints in ``run_dir``.
        sample_rate: Rate of the model in Hz.
        n_fft: Window of the model's STFT in samples.
        hop_length: Its hop.
        n_mels: Bands of the model's own mel definition; any other definition is served as well.
        channels: Width of both networks.
        depth: Their number of blocks.
        bands: Frequency bands that share weights.
        iterations: Griffin-Lim iterations between the networks in training.
        final_iterations: The same in the finished model; more cost little and give more.
        final_steps: Network evaluations of the finished model by default.
        crop_frames: Length of training crops in hops.
        batch_size: Crops per update of the first training.
        magnitude_steps: Updates of the first training.
        magnitude_rate: Its peak learning rate.
        joint_steps: Updates of the second.
        joint_batch: Its crops per update.
        joint_rate: Its peak learning rate.
        denoising: Weight of the denoising loss in the second.
        unrolled_steps: Numbers of network evaluations to train the sampler for.
        variety: Share of batches with another mel definition than the model's own.
        ema: Decay of the weight average that is kept.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the networks' matrix products.
        seed: Of weights, data and noise.
    """
    if fetch:
        fetch_debian_speech(data)
    torch.manual_seed(seed)
    stft = Stft(sample_rate, n_fft, hop_length)
    mel = MelSpec(sample_rate, n_fft, n_fft, hop_length, n_mels, f_max=sample_rate / 2)
    network = {"channels": channels, "depth": depth, "bands": bands}
    phase = PhaseNet(stft, **network)
    magnitude = MagnitudeNet(stft, **network)
    vocoder = SpectralVocoder(stft, mel, magnitude, phase, iterations)
    set_compute_dtype(vocoder, pick_compute_dtype(pick_device(device), dtype))

    train, valid = find_train_valid(data, layout)
    crops = AudioCrops(train, sample_rate, crop_frames * hop_length, seed=seed, align=hop_length)
    validate = vocoder_validation(valid, device=device)

    def train_stage(name: str, task: SpectralTask, **settings: Any) -> None:
        trainer = Trainer(
            run_dir / name,
            task,
            crops,
            weight_decay=0.01,
            warmup_steps=100,
            ema=(ema,),
            validate=validate,
            validate_every=validate_every,
            checkpoint_every=checkpoint_every,
            workers=workers,
            device=device,
            seed=seed,
            **settings,
        )
        load_weights(task, trainer.fit(resume=resume))

    phase.requires_grad_(False)
    task = SpectralTask(vocoder, denoising=1.0, unrolled=0.0, variety=variety)
    train_stage("magnitude", task, steps=magnitude_steps, batch_size=batch_size, learning_rate=magnitude_rate)

    phase.requires_grad_(True)
    task = SpectralTask(vocoder, denoising, 1.0, unrolled_steps, variety, share=0.5)
    crops.seed += 1  # crops not seen in this order before
    # Gradients through Griffin-Lim have a long tail: clip them sooner.
    settings = {"steps": joint_steps, "batch_size": joint_batch, "learning_rate": joint_rate}
    train_stage("joint", task, grad_clip=0.5, **settings)

    finished = SpectralVocoder(stft, mel, magnitude, phase, final_iterations, final_steps)
    folder = save_model(finished, run_dir / "model")
    print(f"saved {folder}; measure it: mmdiff evaluate RECORDINGS --model {folder}")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
