"""Spoken digits: sound of a label, by diffusion of mel spectrograms and a vocoder, or of the waveform (DiffWave).

A label says which digit in which language, such as seven-en. The data are few recordings, which training varies in
speed, pitch, place, loudness and tilt: the model learns what these sound like, not how people speak. The model folder
is ``RUN/model``. Run it with one of

    mmdiff run spoken_digits.tiny                     # seconds; shows that everything works
    mmdiff run spoken_digits --fetch true             # spectrograms, for the shipped vocoder-16k
    mmdiff run spoken_digits.waveform                 # DiffWave without a vocoder
    mmdiff run spoken_digits.langevin                 # spectrograms by critically damped Langevin diffusion
    mmdiff run spoken_digits --resume true            # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from mmdiff.audio.datasets.fetch_digits import fetch_spoken_digits
from mmdiff.audio.datasets.words import Variation, Words
from mmdiff.audio.evaluation.digits import digit_validation, labelled_digits
from mmdiff.audio.evaluation.word_judge import WordJudge
from mmdiff.audio.framed_sound import FramedSoundTask
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.schedules import BetaTable, CosineVP, diffwave_betas
from mmdiff.hub import load_as, save_model
from mmdiff.training import Trainer, load_weights


def main(
    data: Path = Path("data/digits-16k"),
    run_dir: Path = Path("runs/spoken_digits"),
    fetch: bool = False,
    resume: bool = False,
    network: Literal["mel", "diffwave"] = "mel",
    process: Literal["vp", "langevin"] = "vp",
    vocoder: str = "vocoder-16k",
    judge: str = "word-judge",
    seconds: float = 1.0,
    bands: int = 5,
    channels: int = 96,
    depth: int = 8,
    table: int = 50,
    speed: tuple[float, float] = (0.92, 1.09),
    tilt_db: float = 1.0,
    steps: int = 8000,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    drop: float = 0.1,
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
    """Train a model of spoken digits.

    Args:
        data: Folder of ``mmdiff fetch digits-16k``.
        run_dir: Gets checkpoints, logs and the finished model.
        fetch: Build ``data`` from Debian's telephone prompts first (76 MB, needs apt-get).
        resume: Go on from the newest checkpoint in ``run_dir``.
        network: What is diffused: mel spectrograms, or the waveform itself by DiffWave.
        process: "vp", plain diffusion, or "langevin": data coupled to a velocity, which alone gets noise (2112.07068).
        vocoder: Makes sound of the spectrograms; its sampling rate is the model's.
        judge: Recogniser of spoken digits that validates: a shipped model, or a folder of the recipe word_judge.
        seconds: Length of the sounds.
        bands: Groups of mel bands that share weights.
        channels: Width of the network.
        depth: Its number of blocks; of DiffWave's layers, whose dilations go from 1 to 2048 and begin again.
        table: Noise levels that DiffWave is trained at.
        speed: Range of factors on the speed, and the pitch, of recordings.
        tilt_db: Greatest tilt of their spectra either way, in dB an octave.
        steps: Updates.
        batch_size: Sounds per update.
        learning_rate: Its peak.
        drop: Share of sounds trained without their label, for guidance.
        ema: Decay of the weight average that is kept.
        sampling_steps: Network evaluations by default.
        guidance: Guidance by default.
        validate_every: Updates between validations by the judge; 0 = never.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the network's matrix products.
        seed: Of weights, data and noise.
    """
    if fetch:
        fetch_spoken_digits(data)
    torch.manual_seed(seed)
    clips, numbers, labels = labelled_digits(data)
    voice = load_as(VocoderModel, vocoder) if network == "mel" else None
    recogniser = load_as(WordJudge, judge) if validate_every else None
    rate = 16_000 if voice is None else voice.sample_rate
    variation = Variation(speed, tilt_db=tilt_db)
    words = Words(clips, numbers, rate, seconds, seed=seed, variation=variation)

    common: dict[str, Any] = {
        "seconds": seconds, "labels": labels, "steps": sampling_steps, "guidance": guidance
    }  # fmt: skip
    model: MelSoundModel | SoundModel
    task: FramedSoundTask | WaveformTask
    langevin = process == "langevin"
    if voice is not None:
        common |= scale_of(words, voice.mel)
        net = LabelledMelNet(voice.mel.n_mels, len(labels), bands, channels, depth)
        model = MelSoundModel(
            net, CriticallyDamped() if langevin else CosineVP(), voice.mel, vocoder, **common
        )
        task = FramedSoundTask(model, drop)
    else:
        seen: dict[str, Any] = {"inputs": 2, "noise_input": "log_snr"} if langevin else {}
        wave_net = DiffWave(0, channels, depth, min(depth, 12), classes=len(labels), step_width=128, **seen)
        said: dict[str, Any] = {"prediction": "mixed", "sigma_data": 0.1} if langevin else {}
        schedule = CriticallyDamped() if langevin else BetaTable(diffwave_betas(table))
        model = SoundModel(wave_net, schedule, rate, **common, **said)
        task = WaveformTask(model, "l2", drop)
    set_compute_dtype(model, pick_compute_dtype(pick_device(device), dtype))

    trainer = Trainer(
        run_dir,
        task,
        words,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_steps=100,
        weight_decay=0.01,
        ema=(ema,),
        validate=digit_validation(recogniser, voice, device=device, dtype=dtype) if recogniser else None,
        validate_every=validate_every,
        checkpoint_every=checkpoint_every,
        workers=workers,
        device=device,
        seed=seed,
    )
    load_weights(task, trainer.fit(resume=resume))
    extra = {
        "license": "CC-BY-SA-3.0",
        "data": f"{len(clips)} recordings of digits in Asterisk's telephone prompts as packaged by Debian",
        "recipe": "recipes/audio/spoken_digits.py",
    }
    folder = save_model(model, run_dir / "model", extra=extra)
    print(f"saved {folder}; try it: mmdiff sound {labels[0]} --model {folder}")


def scale_of(words: Words, mel: MelSpec, count: int = 200) -> dict[str, float]:
    """Mean and deviation of the values of spectrograms."""
    values = mel(torch.stack([words[n]["wave"] for n in range(count)]))
    return {"mean": round(float(values.mean()), 2), "std": round(float(values.std()), 2)}


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
