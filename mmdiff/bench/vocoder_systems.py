"""Our vocoders, and Griffin-Lim of two libraries, for :mod:`mmdiff.bench.worker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn

import mmdiff
from mmdiff.audio.evaluation.baselines import griffin_lim_of_mel
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.networks.diffwave_presets import diffwave_base
from mmdiff.audio.networks.wavegrad_presets import wavegrad_lmnt
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas, wavegrad_betas
from mmdiff.training.optim import make_adamw

ITERATIONS = 60
"""Of Griffin-Lim."""
_FEW_FRAMES = 8

Synthesis = Callable[[Tensor, int], Tensor]
"""``(mel (B, n_mels, frames), samples) -> wave (B, samples)``."""


def build(task: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """Make the calls of a system.

    Parameters
    ----------
    task : dict
        "system" is wavegrad, diffwave, vocoder, griffin-lim-torchaudio or griffin-lim-librosa; "sound" an .npz file
        with "mel" (B, n_mels, frames) of the preset "mel" and "wave" (B, samples); "mode" is inference or training
        step; "dtype" that of matrix products. "betas" are the noise variances of inference with a network of
        waveforms, "model" and "steps" a vocoder's folder and evaluations.
    """
    torch.manual_seed(0)
    mel, wave = _read(task["sound"])
    hop = preset(task["mel"]).hop_length
    if task["mode"] == "inference":
        synthesise = torch.inference_mode()(_synthesis(task))

        def make(source: str, target: str) -> None:
            heard, real = _read(source)
            np.save(target, synthesise(heard, real.shape[-1]).numpy())

        return {
            "warm": lambda: synthesise(mel[..., :_FEW_FRAMES], (_FEW_FRAMES - 1) * hop),
            "full": lambda: synthesise(mel, wave.shape[-1]),
            "make": make,
        }
    step = training_step(waveform_model(task), task["dtype"])
    return {"warm": lambda: step(wave[..., : _FEW_FRAMES * hop]), "full": lambda: step(wave)}


def waveform_model(task: dict[str, Any]) -> WaveformVocoder:
    """Build WaveGrad or DiffWave in the size of the packages by LMNT, sampling as they do."""
    wavegrad = task["system"] == "wavegrad"
    network = wavegrad_lmnt() if wavegrad else diffwave_base()
    nn.init.normal_(network.out.weight, std=0.1)  # DiffWave's are zero before training
    schedule = BetaTable(wavegrad_betas() if wavegrad else diffwave_betas())
    betas = task.get("betas", ())
    return WaveformVocoder(preset(task["mel"]), network, schedule, len(betas) or 6, betas, clamp="state")


def training_step(model: WaveformVocoder, dtype: str) -> Callable[[Tensor], None]:
    """Make a training step of waves (B, samples), whole frames long: what our trainer does, less its averages."""
    task = WaveformTask(model.train(), "l1")
    optimizer = make_adamw(task, learning_rate=2e-4, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    half = torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16")

    def step(wave: Tensor) -> None:
        optimizer.zero_grad()
        with half:
            loss = task({"wave": wave}, generator)["loss"]
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()

    return step


def _synthesis(task: dict[str, Any]) -> Synthesis:
    spec = preset(task["mel"])
    if task["system"] == "griffin-lim-torchaudio":
        return _griffin_lim(spec)
    if task["system"] == "griffin-lim-librosa":
        return lambda mel, samples: griffin_lim_of_mel(mel[0], spec, ITERATIONS)[None, :samples]
    if task["system"] == "vocoder":
        voc = mmdiff.load(task["model"], "cpu", task["dtype"])
    else:
        voc = Vocoder(waveform_model(task), "cpu", task["dtype"])
    steps = task.get("steps")
    return lambda mel, samples: voc(mel, mel_spec=spec, steps=steps, samples=samples)


def _griffin_lim(spec: MelSpec) -> Synthesis:
    """Invert mel spectrograms by torchaudio: least squares, then fast Griffin-Lim."""
    linear = torchaudio.transforms.InverseMelScale(
        spec.n_fft // 2 + 1, spec.n_mels, spec.sample_rate, spec.f_min, spec.f_max, spec.norm, spec.mel_scale
    )
    invert = torchaudio.transforms.GriffinLim(
        spec.n_fft, ITERATIONS, spec.win_length, spec.hop_length, power=spec.power
    )

    def synthesise(mel: Tensor, samples: int) -> Tensor:
        wave: Tensor = invert(linear(spec.expand(mel)))
        return wave[..., :samples]

    return synthesise


def _read(file: str) -> tuple[Tensor, Tensor]:
    data = np.load(file)
    return torch.from_numpy(data["mel"]), torch.from_numpy(data["wave"])
