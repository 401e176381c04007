"""Spectral vocoder: a few-step diffusion of the magnitude spectrogram, then phase; one model for every mel preset.

Trainings, one after the other, each resumable:

1. ``RUN/magnitude``: the denoiser at random noise levels (flow matching on standardised magnitudes).
2. ``RUN/joint``: denoiser and phase network together, through the few-step sampler as it will be used, with
   waveform losses (the sampler is unrolled in training), the denoising loss staying on as a second term. One
   evaluation is trained beside two and three: the phase network learns to do without a sampled magnitude too.
3. ``RUN/adversarial``, if ``adversarial_steps`` says so: as 2, with a critic of spectra that learns beside them.
4. ``RUN/sketch``, if ``sketch_steps`` says so: while the others stay as they are, a shallow network learns what the
   denoiser makes of no noise, for use where one evaluation leaves none to sample.

With ``init`` the first is left out and the second goes on from a model's weights, whose mean with what it comes to can
be better than either (``average``). The model folder is ``RUN/model``.
Run it with one of

    mmdiff run spectral_vocoder.tiny                     # seconds; shows that everything works
    mmdiff run spectral_vocoder --fetch true             # the shipped vocoder-16k, on Debian's free speech
    mmdiff run spectral_vocoder.continued                # go on training what is shipped
    mmdiff run spectral_vocoder.deeper                   # the same with a deeper phase network
    mmdiff run spectral_vocoder.averaged                 # go on, and take the mean of both ends
    mmdiff run spectral_vocoder.sketched                 # go on with a sketch of the magnitude for one evaluation
    mmdiff run spectral_vocoder.unseen                   # the same with two speakers held out
    mmdiff run spectral_vocoder.ljspeech --data LJSpeech-1.1
    mmdiff run spectral_vocoder --resume true            # go on after an interruption
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mmdiff.audio.datasets.crops import AudioCrops
from mmdiff.audio.datasets.fetch import fetch_debian_speech
from mmdiff.audio.datasets.layouts import Clip, find_train_valid
from mmdiff.audio.evaluation.validation import vocoder_validation
from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.spectral import deepened, thinned
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.tasks import SketchTask, SpectralTask
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.errors import InputError
from mmdiff.hub import load_as, save_model
from mmdiff.training import Part, Trainer, load_weights
from mmdiff.weights import assign_tensors, named_tensors


def main(
    data: Path = Path("data/speech-16k"),
    run_dir: Path = Path("runs/spectral_vocoder"),
    layout: str = "auto",
    leave_out: tuple[str, ...] = (),
    fetch: bool = False,
    init: str | None = None,
    resume: bool = False,
    sample_rate: int = 16_000,
    n_fft: int = 1024,
    hop_length: int = 256,
    n_mels: int = 80,
    channels: int = 96,
    depth: int = 8,
    phase_depth: int | None = None,
    bands: int = 16,
    iterations: int = 16,
    final_iterations: int = 32,
    final_steps: int = 2,
    corrections: tuple[int, ...] = (1, 1, 2),
    crop_frames: int = 64,
    batch_size: int = 8,
    magnitude_steps: int = 5000,
    magnitude_rate: float = 2e-3,
    joint_steps: int = 4500,
    joint_batch: int = 4,
    joint_rate: float = 6e-4,
    denoising: float = 0.1,
    hearing: float = 0.1,
    unrolled_steps: tuple[int, ...] = (1, 1, 2, 2, 3),
    adversarial_steps: int = 0,
    adversarial_rate: float = 1e-4,
    adversarial: float = 0.02,
    critic_rate: float = 4e-4,
    sketch_steps: int = 0,
    sketch_rate: float = 1.5e-3,
    sketch_depth: int = 2,
    variety: float = 0.5,
    average: float = 0.0,
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
        layout: How ``data`` is laid out; see mmdiff.audio.datasets.layouts.find_audio.
        leave_out: Speakers whose recordings are neither trained nor validated on.
        fetch: Build ``data`` from Debian's free speech packages first (54 MB, needs apt-get).
        init: Model to go on from, instead of the first training: a folder, a shipped name or a hub id. Its networks
            and STFT must be as large as asked for here, or its networks less deep: further blocks begin by changing
            nothing.
        resume: Go on from the newest checkpoints in ``run_dir``.
        sample_rate: Rate of the model in Hz.
        n_fft: Window of the model's STFT in samples.
        hop_length: Its hop.
        n_mels: Bands of the model's own mel definition; any other definition is served as well.
        channels: Width of both networks.
        depth: Their number of blocks.
        phase_depth: That of the phase network; default: that of ``init``, else ``depth``. All evaluations but those
            that sample are its own.
        bands: Frequency bands that share weights.
        iterations: Griffin-Lim iterations between the networks in training.
        final_iterations: The same in the finished model; more cost little and give more.
        final_steps: Network evaluations of the finished model by default.
        corrections: How many evaluations of the phase network are among one, two ... evaluations; see
            mmdiff.audio.spectral.SpectralVocoder.
        crop_frames: Length of training crops in hops.
        batch_size: Crops per update of the first training.
        magnitude_steps: Updates of the first training.
        magnitude_rate: Its peak learning rate.
        joint_steps: Updates of the second; 0 leaves it out.
        joint_batch: Its crops per update.
        joint_rate: Its peak learning rate.
        denoising: Weight of the denoising loss in the second.
        hearing: Weight of the disturbance as PESQ hears it.
        unrolled_steps: Numbers of network evaluations to train the sampler for.
        adversarial_steps: Updates of the third training; 0 leaves it out.
        adversarial_rate: Its peak learning rate.
        adversarial: Weight of the critic's judgement in it.
        critic_rate: Peak learning rate of the critic.
        sketch_steps: Updates of a sketch of the magnitude; 0 leaves them out.
        sketch_rate: Their peak learning rate.
        sketch_depth: Its blocks, where ``init`` has no sketch to go on from. They begin as blocks of the denoiser.
        variety: Share of batches with another mel definition than the model's own.
        average: Share of the weights of ``init`` in those of the finished model: 0.5 takes the mean of where trainings
            began and ended (Wortsman et al. 2022, arXiv:2203.05482).
        ema: Decay of the weight average that is kept.
        validate_every: Updates between validations.
        checkpoint_every: Updates between checkpoints.
        workers: Data-loading processes.
        device: Default: the fastest there is.
        dtype: Of the networks' matrix products.
        seed: Of weights, data and noise.
    """
    if not 0 <= average < 1 or (average and init is None):
        raise InputError(
            f"average={average} must be at least 0 and below 1, and 0 without a model to go on from; try --average 0.5 "
            "--init vocoder-16k"
        )
    if fetch:
        fetch_debian_speech(data)
    torch.manual_seed(seed)
    stft = Stft(sample_rate, n_fft, hop_length)
    mel = MelSpec(sample_rate, n_fft, n_fft, hop_length, n_mels, f_max=sample_rate / 2)
    network = {"channels": channels, "depth": depth, "bands": bands}
    magnitude = MagnitudeNet(stft, **network)
    begun = load_as(SpectralVocoder, init) if init else None
    if phase_depth is None:
        phase_depth = depth if begun is None else len(begun.phase.network.blocks)
    phase = PhaseNet(stft, **{**network, "depth": phase_depth})
    sketch = begun.sketch if begun is not None else None
    vocoder = SpectralVocoder(stft, mel, magnitude, phase, iterations, final_steps, corrections, sketch)
    if begun is not None:
        tensors = deepened(named_tensors(vocoder), named_tensors(begun))
        tensors = {
            name: tensor.detach().clone() for name, tensor in tensors.items()
        }  # some are the vocoder's own
        assign_tensors(vocoder, tensors, source=init)
    compute_dtype = pick_compute_dtype(pick_device(device), dtype)
    set_compute_dtype(vocoder, compute_dtype)

    train, valid = (without_speakers(clips, leave_out) for clips in find_train_valid(data, layout))
    crops = AudioCrops(train, sample_rate, crop_frames * hop_length, seed=seed, align=hop_length)
    validate = vocoder_validation(
        valid, other_steps=sorted({1, *unrolled_steps} - {final_steps}), device=device, dtype=dtype
    )

    def train_stage(name: str, task: SpectralTask | SketchTask, **settings: Any) -> None:
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

    if begun is None:
        phase.requires_grad_(False)
        task = SpectralTask(vocoder, denoising=1.0, unrolled=0.0, variety=variety)
        first = {"steps": magnitude_steps, "batch_size": batch_size, "learning_rate": magnitude_rate}
        train_stage("magnitude", task, **first)
        phase.requires_grad_(True)

    # Gradients through Griffin-Lim have a long tail: clip them sooner.
    settings: dict[str, Any] = {"batch_size": joint_batch, "grad_clip": 0.5}
    unrolled: dict[str, Any] = {"steps": unrolled_steps, "variety": variety, "share": 0.5, "hearing": hearing}
    crops.seed += 1  # crops not seen in this order before
    if joint_steps:
        task = SpectralTask(vocoder, denoising, 1.0, **unrolled)
        train_stage("joint", task, steps=joint_steps, learning_rate=joint_rate, **settings)

    crops.seed += 1
    if adversarial_steps:
        task = SpectralTask(vocoder, denoising, 1.0, adversarial=adversarial, **unrolled)
        settings["parts"] = {"critic": Part(critic_rate, (0.8, 0.99))}
        train_stage("adversarial", task, steps=adversarial_steps, learning_rate=adversarial_rate, **settings)

    if average:
        with torch.no_grad():
            for name, tensor in named_tensors(vocoder).items():
                tensor.lerp_(tensors[name].to(tensor), average)

    if sketch_steps:
        vocoder.requires_grad_(False)
        if vocoder.sketch is None:
            vocoder.sketch = MagnitudeNet(stft, **{**network, "depth": sketch_depth})
            kept = thinned(named_tensors(vocoder.sketch), named_tensors(magnitude))
            assign_tensors(vocoder.sketch, kept, source="the denoiser")
            set_compute_dtype(vocoder.sketch, compute_dtype)
        vocoder.sketch.requires_grad_(True)
        distilled = {"steps": sketch_steps, "batch_size": batch_size, "learning_rate": sketch_rate}
        train_stage("sketch", SketchTask(vocoder, variety), **distilled)
    finished = SpectralVocoder(
        stft, mel, magnitude, phase, final_iterations, final_steps, corrections, vocoder.sketch
    )
    folder = save_model(finished, run_dir / "model")
    print(f"saved {folder}; measure it: mmdiff evaluate RECORDINGS --model {folder}")


def without_speakers(clips: list[Clip], names: tuple[str, ...]) -> list[Clip]:
    """Leave out what some speakers say."""
    known = {clip.speaker for clip in clips}
    if unknown := set(names) - known:
        raise InputError(
            f"leave_out={sorted(unknown)} must be speakers of the data: {', '.join(sorted(known))}"
        )
    return [clip for clip in clips if clip.speaker not in names]


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
