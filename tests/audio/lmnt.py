"""Models of the packages by LMNT, in sizes of our choice, and their sampling with noise of our choice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffwave import inference as diffwave_inference
from diffwave.model import DiffWave as LmntDiffWave
from diffwave.params import params as diffwave_params
from torch import Tensor, nn
from wavegrad import inference as wavegrad_inference
from wavegrad.model import DBlock, UBlock
from wavegrad.model import FiLM as LmntFiLM
from wavegrad.model import WaveGrad as LmntWaveGrad
from wavegrad.params import AttrDict
from wavegrad.params import params as wavegrad_params

from mmdiff.audio.noise import frame_noise

OTHER_FACTORS = (7, 2, 3)
OTHER_DILATIONS = ((1, 2, 4, 8), (1, 3, 1, 3), (2, 1, 2, 1))


def wavegrad_default() -> LmntWaveGrad:
    """The released network, its weights yet to be drawn: the package's own way of doing so takes long."""
    with torch.device("meta"):
        model = LmntWaveGrad(AttrDict(wavegrad_params))
    return model.to_empty(device="cpu")


def wavegrad_other_sizes() -> LmntWaveGrad:
    """The package's network has no size arguments: put other blocks of its own into it."""
    model = wavegrad_default()
    model.params["hop_samples"] = 42
    first, last = type(model.first_conv), type(model.last_conv)
    model.downsample = nn.ModuleList([first(1, 4, 5, padding=2), DBlock(4, 8, 3), DBlock(8, 6, 2)])
    model.film = nn.ModuleList([LmntFiLM(4, 10), LmntFiLM(8, 12), LmntFiLM(6, 14)])
    widths = (20, 14, 12, 10)
    model.upsample = nn.ModuleList(
        UBlock(widths[n], widths[n + 1], OTHER_FACTORS[n], list(OTHER_DILATIONS[n])) for n in range(3)
    )
    model.first_conv, model.last_conv = first(9, 20, 3, padding=1), last(10, 1, 3, padding=1)
    return model


def randomise(model: nn.Module, rng: torch.Generator) -> None:
    """Give every weight, biases included, a random value that keeps signals near unit size."""
    for p in model.parameters():
        fan_in = p[0].numel()
        p.data.normal_(0.0, fan_in**-0.5 if p.ndim > 1 else 0.3, generator=rng)


def quieten(layer: nn.Conv1d) -> None:
    """Shrink what a network's last layer says, so that not all samples end at the limits."""
    layer.weight.data.mul_(0.05)
    layer.bias.data.zero_()


def save(model: nn.Module, path: Path, /, **changes: Any) -> Path:
    """Write what the packages' trainers save; ``changes`` replace entries, None removes them."""
    content = {
        "step": 1234,
        "model": model.state_dict(),
        "optimizer": torch.optim.Adam(model.parameters(), 2e-4).state_dict(),
        "params": dict(model.params),
        "scaler": {},
        **changes,
    }
    torch.save({name: value for name, value in content.items() if value is not None}, path)
    return path


def wavegrad_predict(model: LmntWaveGrad, mel: Tensor, betas: Sequence[float] | None = None) -> Tensor:
    """Run the package's own sampling loop."""
    params = {} if betas is None else {"noise_schedule": np.array(betas)}
    with mock.patch.dict(wavegrad_inference.models, {"ours": model.eval()}):
        return wavegrad_inference.predict(mel, "ours", params=params, device=torch.device("cpu"))[0]


@contextlib.contextmanager
def noise_of(seeds: Sequence[int], frames: int, hop: int) -> Iterator[None]:
    """Make the packages draw the noise that a vocoder of ours draws for these seeds."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    start = torch.stack([frame_noise(seed, 0, frames, hop).flatten() for seed in seeds])
    normal = torch.randn

    def further(like: Tensor) -> Tensor:
        return torch.cat([normal((1, like.shape[-1]), generator=g) for g in generators])

    with mock.patch("torch.randn", return_value=start), mock.patch("torch.randn_like", further):
        yield


def diffwave(**sizes: Any) -> LmntDiffWave:
    """A network of the diffwave package, with other hyper-parameters than the released ones."""
    params = AttrDict(diffwave_params, **sizes)
    return LmntDiffWave(params)


def diffwave_predict(model: LmntDiffWave, mel: Tensor, fast: bool) -> Tensor:
    """Run the package's own sampling loop."""
    with mock.patch.dict(diffwave_inference.models, {"ours": model.eval()}):
        return diffwave_inference.predict(mel, "ours", device=torch.device("cpu"), fast_sampling=fast)[0]
