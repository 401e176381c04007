"""A vocoder of four steps: the generator of a denoising diffusion GAN (Xiao et al. 2022), or a plain denoiser.

Four steps are so large that what a network finds as a mean is no sound; a generator draws one, by its spectral distance
to the recording at first, and then a critic that sees the spectrogram judges the step as well. ``--plain true`` trains
the same network for the same time by the error in the noise, as DiffWave is, at the same four steps. The model folder
is ``RUN/model``. Run it with one of

    mmdiff run vocoder_gan.tiny                       # seconds; shows that everything works
    mmdiff run vocoder_gan --fetch true               # 20 minutes of one thread; again, to go on if interrupted
    mmdiff run vocoder_gan --plain true --run_dir runs/vocoder_gan.plain
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mmdiff.audio.datasets.crops import AudioCrops
from mmdiff.audio.datasets.fetch import fetch_debian_speech
from mmdiff.audio.datasets.layouts import find_train_valid
from mmdiff.audio.mel import preset
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.networks.waveform import upsampling_factors
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder_gan import SpectrumCritic, VocoderGAN
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.hub import save_model
from mmdiff.training import Part, Trainer, load_weights
from mmdiff.training.budget import Stopwatch, train_for


def main(
    data: Path = Path("data/speech-16k"),
    run_dir: Path = Path("runs/vocoder_gan"),
    layout: str = "auto",
    fetch: bool = False,
    mel: str = "mmdiff-16k",
    plain: bool = False,
    betas: tuple[float, ...] = (0.001, 0.01, 0.1, 0.9),
    sigma_data: float = 0.08,
    network: Literal["frames", "diffwave"] = "frames",
    channels: int = 96,
    layers: int = 8,
    latents: int = 64,
    distance: float = 30.0,
    begin: int = 2000,
    penalty: float = 0.05,
    every: int = 16,
    minutes: float = 20.0,
    crop_frames: int = 30,
    batch_size: int = 4,
    learning_rate: float = 1e-3,
    critic_rate: float = 5e-4,
    ema: float = 0.998,
    precision: Literal["no", "bf16", "fp16"] = "bf16",
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Train a vocoder that takes a few large steps.

    Args:
        data: Folder or manifest of recordings. Where it has no splits train and valid, one recording in fifty is left
            out.
        run_dir: Gets checkpoints, logs and the finished model. A run there goes on until it had its time.
        layout: How ``data`` is laid out; see mmdiff.audio.datasets.layouts.find_audio.
        fetch: Build ``data`` from Debian's free speech packages first (54 MB, needs apt-get).
        mel: Name of the mel preset.
        plain: No generator and no critic: the network learns the mean of the noise at the same steps.
        betas: Noise variances of the steps, from the data on. Sound is quiet beside noise of deviation 1, so that steps
            of clips, whose first has a beta of 0.5, would leave all to the last.
        sigma_data: Deviation of the recordings.
        network: One at frame rate, or DiffWave, whose evaluations take many times as long.
        channels: Its width.
        layers: Its blocks, or of DiffWave the layers, whose dilations go from 1 to 512 and begin again.
        latents: Size of the random vector that the generator is told.
        distance: Weight of the spectral distance between what the generator draws and the recording.
        begin: Updates by this distance alone, before there is a critic.
        penalty: Of the critic's gradient at recordings, γ.
        every: Updates of which one computes the penalty, as many times stronger.
        minutes: Time of the processor that is trained: two threads use it up twice as fast.
        crop_frames: Length of training crops in hops.
        batch_size: Crops per update.
        learning_rate: Of the network.
        critic_rate: Of the critic.
        ema: Decay of the weight average that is kept.
        precision: Of the training.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        seed: Of weights, data and noise.
    """
    free = ("run_dir", "minutes", "checkpoint_every", "workers", "device", "data", "fetch", "layout")
    settings = {name: value for name, value in locals().items() if name not in free}
    if fetch:
        fetch_debian_speech(data)
    torch.manual_seed(seed)
    spec = preset(mel)
    random = 0 if plain else latents
    net: DiffWave | FrameNet
    if network == "frames":
        net, prediction = FrameNet(spec, channels, layers, latents=random), "x0"
    else:
        factors = upsampling_factors(spec.hop_length, 2)
        net = DiffWave(spec.n_mels, channels, layers, 10, factors, step_width=128, latents=random)
        prediction = "edm"
    vocoder = WaveformVocoder(
        spec, net, BetaTable(betas), len(betas), prediction=prediction, sigma_data=sigma_data
    )
    task: WaveformTask | VocoderGAN
    if plain:
        task = WaveformTask(vocoder, "l2")
    else:
        task = VocoderGAN(vocoder, SpectrumCritic(spec), penalty, distance, every=every, begin=begin)

    train, _ = find_train_valid(data, layout)
    crops = AudioCrops(
        train, spec.sample_rate, crop_frames * spec.hop_length, seed=seed, align=spec.hop_length
    )
    watch = Stopwatch(task)

    def make_trainer(steps: int) -> Trainer:
        return Trainer(
            run_dir,
            watch,
            crops,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            betas=(0.9, 0.99) if plain else (0.5, 0.9),
            lr_schedule="constant",
            warmup_steps=100,
            parts=None if plain else {"task.critic": Part(critic_rate, (0.5, 0.9))},
            ema=(ema,),
            precision=precision,
            checkpoint_every=checkpoint_every,
            workers=workers,
            device=device,
            seed=seed,
        )

    train_for(60 * minutes, watch, run_dir, make_trainer, settings)
    load_weights(watch, run_dir, ema=0)
    folder = save_model(vocoder, run_dir / "model")
    print(f"saved {folder}; measure it: mmdiff evaluate {data} --steps {len(betas)} --model {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
