"""WaveGrad and DiffWave: diffusion of the waveform itself from a mel spectrogram (Chen et al., Kong et al. 2020).

The classics to compare with: every network evaluation works at the full sampling rate. The model folder is
``RUN/model``. Run it with one of

    mmdiff run waveform_vocoder.tiny                        # seconds; shows that everything works
    mmdiff run waveform_vocoder --fetch true                # a small DiffWave on Debian's free speech
    mmdiff run waveform_vocoder.priorgrad                   # the same with noise as loud as the frames: PriorGrad
    mmdiff run waveform_vocoder.specgrad                    # the same with the spectrum that is expected: SpecGrad
    mmdiff run waveform_vocoder.wavegrad --fetch true       # a small WaveGrad
    mmdiff run waveform_vocoder.frames                      # a network at frame rate, for a processor
    mmdiff run waveform_vocoder.langevin                    # specgrad in critically damped Langevin diffusion
    mmdiff run waveform_vocoder.ljspeech --data LJSpeech-1.1
    mmdiff run waveform_vocoder --resume true               # go on after an interruption
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from mmdiff.audio.datasets.crops import AudioCrops
from mmdiff.audio.datasets.fetch import fetch_debian_speech
from mmdiff.audio.datasets.layouts import find_train_valid
from mmdiff.audio.energy_prior import EnergyPrior
from mmdiff.audio.evaluation.validation import vocoder_validation
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.networks.diffwave_presets import diffwave_base, diffwave_large, diffwave_small
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.networks.wavegrad_presets import wavegrad_base, wavegrad_large, wavegrad_small
from mmdiff.audio.spectral_prior import SpectralPrior
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.objectives import Norm
from mmdiff.diffusion.schedules import (
    BetaTable,
    diffwave_betas,
    diffwave_fast_betas,
    log_snr_betas,
    wavegrad_betas,
)
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.training import Trainer, load_weights

Size = Literal["small", "base", "large"]
Process = Literal["vp", "langevin"]
Noise = EnergyPrior | SpectralPrior | None
LOUDNESS = 0.1  # standard deviation of speech


def main(
    data: Path = Path("data/speech-16k"),
    run_dir: Path = Path("runs/waveform_vocoder"),
    layout: str = "auto",
    fetch: bool = False,
    resume: bool = False,
    mel: str = "mmdiff-16k",
    network: Literal["diffwave", "wavegrad", "frames"] = "diffwave",
    process: Process = "vp",
    prior: Literal["standard", "energy", "spectral"] = "standard",
    size: Size = "small",
    crop_frames: int = 30,
    batch_size: int = 8,
    steps: int = 2500,
    learning_rate: float = 1e-3,
    distance: float = 0.0,
    ema: float = 0.998,
    sampling_steps: int = 6,
    precision: Literal["no", "bf16", "fp16"] = "bf16",
    validate_every: int = 1000,
    checkpoint_every: int = 250,
    workers: int = 0,
    device: str | None = None,
    seed: int = 0,
) -> None:
    """Train a vocoder that diffuses the waveform.

    Args:
        data: Folder or manifest of recordings (LJSpeech, VCTK, LibriTTS layouts, or any). Where it has no splits
            train and valid, one recording in fifty validates.
        run_dir: Gets checkpoints, logs and the finished model.
        layout: How ``data`` is laid out; see mmdiff.audio.datasets.layouts.find_audio.
        fetch: Build ``data`` from Debian's free speech packages first (54 MB, needs apt-get).
        resume: Go on from the newest checkpoint in ``run_dir``.
        mel: Name of the mel preset; WaveGrad's "base" and "large" need a hop of 300.
        network: Whose network, noise levels and loss.
        process: "vp", the papers' table of noise levels, or "langevin": the waveform is coupled to a velocity, and
            noise enters that alone (2112.07068).
        prior: What sampling starts from: standard normal noise, noise as loud as the spectrogram's frames
            (PriorGrad, 2106.06406), or noise with the spectrum that these make expect (after SpecGrad, 2203.16749).
        size: The papers' two sizes (DiffWave 2.6 M and 6.9 M parameters, WaveGrad 15.9 M and 23.4 M), or a small
            one (0.4 M and 1.2 M).
        crop_frames: Length of training crops in hops; the papers' are 62 of 256 samples, and 24 of 300.
        batch_size: Crops per update; the papers' are 16, and 256.
        steps: Updates; the papers' are a million.
        learning_rate: Its peak.
        distance: Weight of the spectral distance of the clean waveform that is found, beside the error in the noise.
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
    hop, rate = spec.hop_length, spec.sample_rate
    train, valid = find_train_valid(data, layout)
    crops = AudioCrops(train, rate, crop_frames * hop, seed=seed, align=hop)
    build = {"diffwave": build_diffwave, "wavegrad": build_wavegrad, "frames": build_frames}[network]
    noises = {
        "standard": lambda: None,
        "energy": lambda: measure_prior(spec, crops),
        "spectral": SpectralPrior,
    }
    vocoder = build(spec, size, sampling_steps, process, noises[prior]())
    norm: Norm = "l1" if network == "wavegrad" else "l2"
    task = WaveformTask(vocoder, norm, distance=distance, balanced=prior == "spectral")
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


def build_diffwave(spec: MelSpec, size: Size, steps: int, process: Process, prior: Noise) -> WaveformVocoder:
    """Build a DiffWave: the large one is trained at 200 noise levels, the others at 50; with a velocity, at all."""
    sizes = {"small": diffwave_small, "base": diffwave_base, "large": diffwave_large}
    if process == "langevin":
        inputs = 1 if prior else 2  # what the pair says of whitened sound, or the pair
        network = sizes[size](spec.n_mels, spec.hop_length, inputs=inputs, noise_input="log_snr")
        said = options_of(prior) if prior else {"prediction": "mixed", "sigma_data": LOUDNESS}
        return WaveformVocoder(spec, network, CriticallyDamped(), steps, **said)
    table = 200 if size == "large" else 50
    network = sizes[size](spec.n_mels, spec.hop_length)
    schedule = BetaTable(levels_of(prior, diffwave_betas(table)))
    return WaveformVocoder(spec, network, schedule, steps, diffwave_fast_betas(table), **options_of(prior))


def build_wavegrad(spec: MelSpec, size: Size, steps: int, process: Process, prior: Noise) -> WaveformVocoder:
    """Build a WaveGrad: the papers' sizes have a hop of their own. Of a velocity it sees what it says of the sound."""
    sizes = {"base": wavegrad_base, "large": wavegrad_large}
    network = sizes[size](spec.n_mels) if size in sizes else wavegrad_small(spec.n_mels, spec.hop_length)
    if process == "langevin":
        said = options_of(prior) if prior else {"prediction": "edm", "sigma_data": LOUDNESS}
        return WaveformVocoder(spec, network, CriticallyDamped(), steps, **said)
    schedule = BetaTable(levels_of(prior, wavegrad_betas()))
    return WaveformVocoder(spec, network, schedule, steps, **options_of(prior))


def options_of(prior: Noise) -> dict[str, Any]:
    """Say what goes with a prior: whitened sound has a known deviation, and the network says what no filter can."""
    if not isinstance(prior, SpectralPrior):
        return {"prior": prior}
    return {"prior": prior, "clamp": "deviations", "prediction": "edm", "sigma_data": 1 / prior.gain}


def levels_of(prior: Noise, betas: Sequence[float]) -> Sequence[float]:
    """Make the table for a prior: where noise has the sound's spectrum even in log-SNR, 22 dB to -23 dB.

    At more than half of the levels in the papers' tables nothing but its spectrum would be known of the sound.
    """
    if not isinstance(prior, SpectralPrior):
        return betas
    louder = 2 * math.log(prior.gain)
    return log_snr_betas(5.0 + louder, -5.2 + louder, len(betas))


def build_frames(spec: MelSpec, size: Size, steps: int, process: Process, prior: Noise) -> WaveformVocoder:
    """Build a network at frame rate: its 50 noise levels are even in log-SNR, down to noise of a thousandth."""
    if process == "langevin" or prior is not None:
        raise InputError(
            f"process={process!r} and prior must be 'vp' and 'standard' for network='frames', which weighs noise "
            "against the spectrogram itself; leave both out"
        )
    channels, depth = {"small": (96, 8), "base": (160, 12), "large": (256, 16)}[size]
    network = FrameNet(spec, channels, depth)
    table = BetaTable(log_snr_betas(14.0, -7.0, 50))
    return WaveformVocoder(spec, network, table, steps, prediction="x0", sigma_data=LOUDNESS)


def measure_prior(spec: MelSpec, crops: AudioCrops, count: int = 500) -> EnergyPrior:
    """Find the energies of the quietest and the loudest frames in some crops as they are trained on."""
    bands = torch.cat([spec.expand(spec(crops[n]["wave"][None])) for n in range(count)], -1)
    energy = bands.sum(1).sqrt()
    return EnergyPrior(float(energy.min()), float(energy.max()))


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
