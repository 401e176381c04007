"""Sound of nothing but itself: unconditional diffusion of waveforms, to be edited with.

What such a model knows is what recordings sound like. Asked for sound it makes some of that kind; its use is that it
fills gaps, goes on, repairs what was clipped and adds frequencies that are missing, by what is known of a recording
(``mmdiff edit``). The model folder is ``RUN/model``. Run it with one of

    mmdiff run sound.tiny                             # seconds; shows that everything works
    mmdiff run sound --fetch true                     # speech of four people, on one CPU core
    mmdiff run sound --data my_recordings --sample_rate 22050
    mmdiff run sound --resume true                    # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mmdiff.audio.datasets.crops import AudioCrops
from mmdiff.audio.datasets.fetch import fetch_debian_speech
from mmdiff.audio.datasets.layouts import find_train_valid
from mmdiff.audio.evaluation.validation import sound_validation
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.frames import SoundFrameNet
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.stft import Stft
from mmdiff.audio.tasks import WaveformTask
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas, log_snr_betas
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights


def main(
    data: Path = Path("data/speech-16k"),
    run_dir: Path = Path("runs/sound"),
    layout: str = "auto",
    fetch: bool = False,
    resume: bool = False,
    sample_rate: int = 16_000,
    seconds: float = 1.0,
    network: Literal["frames", "diffwave"] = "frames",
    n_fft: int = 1024,
    channels: int = 96,
    depth: int = 8,
    steps: int = 4000,
    batch_size: int = 8,
    learning_rate: float = 1e-3,
    ema: float = 0.998,
    sampling_steps: int = 25,
    validate_every: int = 1000,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Train a model of sound that is told nothing.

    Args:
        data: Folder or manifest of recordings. Where it has no splits train and valid, one recording in fifty
            validates.
        run_dir: Gets checkpoints, logs and the finished model.
        layout: How ``data`` is laid out; see mmdiff.audio.datasets.layouts.find_audio.
        fetch: Build ``data`` from Debian's free speech packages first (54 MB, needs apt-get).
        resume: Go on from the newest checkpoint in ``run_dir``.
        sample_rate: Rate of the model in Hz.
        seconds: Length of training crops, and how much an edit hears of what surrounds it.
        network: One at frame rate, or DiffWave, which works at the sampling rate and wants a GPU.
        n_fft: Window of the first in samples, four hops long.
        channels: Width of the network.
        depth: Its number of blocks; of DiffWave's layers, whose dilations go from 1 to 2048 and begin again.
        steps: Updates.
        batch_size: Crops per update.
        learning_rate: Its peak.
        ema: Decay of the weight average that is kept.
        sampling_steps: Network evaluations by default.
        validate_every: Updates between validations; 0 = never.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    if fetch:
        fetch_debian_speech(data)
    torch.manual_seed(seed)
    train, valid = find_train_valid(data, layout)
    samples = round(seconds * sample_rate)
    crops = AudioCrops(train, sample_rate, samples, seed=seed)
    if network == "frames":
        frames = SoundFrameNet(Stft(sample_rate, n_fft, n_fft // 4), channels, depth)
        frames.listen(torch.stack([crops[n]["wave"] for n in range(200)]))
        table = BetaTable(log_snr_betas(14.0, -7.0, 50))
        model = SoundModel(frames, table, sample_rate, seconds, steps=sampling_steps, prediction="x0")
    else:
        waves = DiffWave(0, channels, depth, min(depth, 12), step_width=128)
        model = SoundModel(waves, BetaTable(diffwave_betas()), sample_rate, seconds, steps=sampling_steps)
    set_compute_dtype(model, pick_compute_dtype(pick_device(device), dtype))
    task = WaveformTask(model, "l2")
    held = AudioCrops(valid, sample_rate, samples, seed=seed)
    trainer = Trainer(
        run_dir,
        task,
        crops,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=100,
        ema=(ema,),
        validate=sound_validation(held, device=device, dtype=dtype) if validate_every else None,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        workers=workers,
        device=device,
        seed=seed,
    )
    load_weights(task, trainer.fit(resume=resume))
    folder = save_model(model, run_dir / "model")
    print(f"saved {folder}; try it: mmdiff edit RECORDING --fill 0.4:0.6 --model {folder}")


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
