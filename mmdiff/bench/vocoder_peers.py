"""Other people's vocoders as their packages have them, with random weights: for :mod:`mmdiff.bench.worker`.

This file imports nothing of mmdiff: it runs in the environment of those packages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Calls = dict[str, Callable[..., Any]]
_FEW_FRAMES = 8


def build(task: dict[str, Any]) -> Calls:
    """Make the calls of a system.

    Parameters
    ----------
    task : dict
        "system" is lmnt-wavegrad, lmnt-diffwave or vocos; "sound" an .npz file with "mel" (B, n_mels, frames) and
        "wave" (B, samples); "mode" is inference or training step; "betas" are the noise variances of inference.
    """
    torch.manual_seed(0)
    data = np.load(task["sound"])
    mel, wave = (torch.from_numpy(data[name]) for name in ("mel", "wave"))
    makers = {"lmnt-wavegrad": _wavegrad, "lmnt-diffwave": _diffwave, "vocos": _vocos}
    synthesise, step = makers[task["system"]](task)
    if task["mode"] == "inference":
        return {"warm": lambda: synthesise(mel[..., :_FEW_FRAMES]), "full": lambda: synthesise(mel)}
    hop = wave.shape[-1] // mel.shape[-1]
    few = (mel[..., :_FEW_FRAMES], wave[..., : _FEW_FRAMES * hop])
    return {"warm": lambda: step(*few), "full": lambda: step(mel, wave)}


def _wavegrad(task: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The ``wavegrad`` package: its sampling loop, and what a step of its trainer computes."""
    from wavegrad import inference
    from wavegrad.model import WaveGrad
    from wavegrad.params import AttrDict, params

    with torch.device("meta"):  # its own way of drawing weights takes long
        model = WaveGrad(AttrDict(params))
    model = _randomised(model.to_empty(device="cpu"))
    inference.models["ours"] = model
    schedule = {"noise_schedule": np.array(task["betas"])}

    def synthesise(mel: Tensor) -> Tensor:
        wave: Tensor = inference.predict(mel, "ours", schedule, torch.device("cpu"))[0]
        return wave

    levels = torch.tensor(np.cumprod(1 - np.array(params.noise_schedule)) ** 0.5, dtype=torch.float32)
    levels = torch.cat([torch.ones(1), levels])

    def draw(batch: int) -> tuple[Tensor, Tensor]:
        n = torch.randint(1, len(levels), [batch])
        level = levels[n - 1] + torch.rand(batch) * (levels[n] - levels[n - 1])
        return level, level

    return synthesise, _trainer(model, draw, params)


def _diffwave(task: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The ``diffwave`` package: its fast sampling, and what a step of its trainer computes."""
    from diffwave import inference
    from diffwave.model import DiffWave
    from diffwave.params import AttrDict, params

    model = _randomised(DiffWave(AttrDict(params)))
    inference.models["ours"] = model
    schedule = {"inference_noise_schedule": list(task["betas"])}

    def synthesise(mel: Tensor) -> Tensor:
        options = {"device": torch.device("cpu"), "fast_sampling": True}
        wave: Tensor = inference.predict(mel, "ours", schedule, **options)[0]
        return wave

    levels = torch.tensor(np.cumprod(1 - np.array(params.noise_schedule)) ** 0.5, dtype=torch.float32)

    def draw(batch: int) -> tuple[Tensor, Tensor]:
        n = torch.randint(0, len(levels), [batch])
        return levels[n], n

    return synthesise, _trainer(model, draw, params)


def _vocos(task: dict[str, Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The network of ``vocos`` in the size of its mel model for 24 kHz, for inference only."""
    from vocos.heads import ISTFTHead
    from vocos.models import VocosBackbone

    backbone = VocosBackbone(input_channels=100, dim=512, intermediate_dim=1536, num_layers=8)
    model = nn.Sequential(backbone, ISTFTHead(dim=512, n_fft=1024, hop_length=256, padding="center")).eval()
    return torch.inference_mode()(model), lambda: None


def _randomised(model: nn.Module) -> nn.Module:
    """Give every weight a random value that keeps signals near unit size."""
    for weight in model.parameters():
        nn.init.normal_(weight, 0.0, weight[0].numel() ** -0.5)
    return model.eval()


def _trainer(
    model: nn.Module, draw: Callable[[int], tuple[Tensor, Tensor]], params: Any
) -> Callable[[Tensor, Tensor], None]:
    """Make a training step of mel (B, n_mels, frames) and wave (B, samples), as both packages' learners do it."""
    optimizer = torch.optim.Adam(model.parameters(), params.learning_rate)

    def step(mel: Tensor, wave: Tensor) -> None:
        for weight in model.parameters():
            weight.grad = None
        level, told = draw(len(wave))
        noise = torch.randn_like(wave)
        noisy = level[:, None] * wave + (1 - level[:, None] ** 2) ** 0.5 * noise
        loss = nn.functional.l1_loss(model(noisy, mel, told).squeeze(1), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), params.max_grad_norm or 1e9)
        optimizer.step()

    return step
