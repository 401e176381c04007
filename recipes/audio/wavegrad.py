"""WaveGrad: diffusion of the waveform itself from a mel spectrogram (Chen et al. 2020).

The classic to compare with: every network evaluation works at the full sampling rate. The model folder is
``RUN/model``. Run it with one of

    mmdiff run wavegrad.tiny                     # seconds; shows that everything works
    mmdiff run wavegrad --fetch true             # a small one on Debian's free speech
    mmdiff run wavegrad.ljspeech --data LJSpeech-1.1
    mmdiff run wavegrad --resume true            # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from mmdiff.audio.data import AudioCrops, find_train_valid
from mmdiff.audio.fetch import fetch_debian_speech
from mmdiff.audio.mel import preset
from mmdiff.audio.networks.wavegrad_presets import wavegrad_base, wavegrad_large, wavegrad_small
from mmdiff.audio.tasks import WaveGradTask
from mmdiff.audio.validation import vocoder_validation
from mmdiff.audio.wavegrad import WaveGradVocoder
from mmdiff.diffusion.schedules import BetaTable, wavegrad_betas
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights


def main(
    data: Path = Path("data/speech-16k"),
    run_dir: Path = Path("runs/wavegrad"),
    layout: str = "auto",
    fetch: bool = False,
    resume: bool = False,
    mel: str = "mmdiff-16k",
    size: Literal["small", "base", "large"] = "small",
    crop_frames: int = 30,
    batch_size: int = 8,
    steps: int = 2500,
    learning_rate: float = 1e-3,
    ema: float = 0.998,
    sampling_steps: int = 6,
    precision: Literal["no", "bf16", "fp16"] = "bf16",
    validate_every: int = 1000,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Train a WaveGrad vocoder.

    Args:
        data: Folder or manifest of recordings (LJSpeech, VCTK, LibriTTS layouts, or any). Where it has no splits
            train and valid, one recording in fifty validates.
        run_dir: Gets checkpoints, logs and the finished model.
        layout: How ``data`` is laid out; see mmdiff.audio.data.find_audio.
        fetch: Build ``data`` from Debian's free speech packages first (54 MB, needs apt-get).
        resume: Go on from the newest checkpoint in ``run_dir``.
        mel: Name of the mel preset; "base" and "large" need a hop of 300, "small" fits itself to any.
        size: The paper's two sizes (15.9 M and 23.4 M parameters), or a small one (1.2 M).
        crop_frames: Length of training crops in hops; the paper's is 24 of 300 samples.
        batch_size: Crops per update; the paper's is 256.
        steps: Updates; the paper's is a million.
        learning_rate: Its peak.
        ema: Decay of the weight average that is kept.
        sampling_steps: Network evaluations by default.
        precision: Of the training.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        seed: Of weights, data and noise.
    """
    if fetch:
        fetch_debian_speech(data)
    torch.manual_seed(seed)
    spec = preset(mel)
    network = {
        "small": lambda: wavegrad_small(spec.n_mels, spec.hop_length),
        "base": lambda: wavegrad_base(spec.n_mels),
        "large": lambda: wavegrad_large(spec.n_mels),
    }[size]()
    vocoder = WaveGradVocoder(spec, network, BetaTable(wavegrad_betas()), sampling_steps)

    hop, rate = spec.hop_length, spec.sample_rate
    train, valid = find_train_valid(data, layout)
    crops = AudioCrops(train, rate, crop_frames * hop, seed=seed, align=hop)
    task = WaveGradTask(vocoder)
    trainer = Trainer(
        run_dir,
        task,
        crops,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=100,
        ema=(ema,),
        precision=precision,
        validate=vocoder_validation(valid, device=device),
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        workers=workers,
        device=device,
        seed=seed,
    )
    load_weights(task, trainer.fit(resume=resume))
    save_model(vocoder, run_dir / "model")


if __name__ == "__main__":
    from jsonargparse import auto_cli

    auto_cli(main)
