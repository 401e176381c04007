"""The factorised U-Net and the public implementation's, for :mod:`mmdiff.bench.worker`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmdiff.errors import InputError
from mmdiff.video.factorised import FactorisedUNet
from mmdiff.video.factorised_checkpoint import factorised_state

PACKAGE = "video-diffusion-pytorch"
SIDES = ("mmdiff", PACKAGE)
MODES = ("forward", "training step")
DTYPES = ("float32", "bfloat16")


def build(task: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Make the calls of one side.

    Parameters
    ----------
    task : dict
        The fields of :class:`mmdiff.bench.clips.ClipLoad`, "side", "mode" and "dtype", and "weights", a safetensors
        file of that side's network.
    """
    network = make_network(task["side"], task["dim"])
    network.load_state_dict(load_file(task["weights"]))
    batch, frames, size = task["batch"], task["frames"], task["size"]
    settings = (task["side"], network, task["mode"], task["dtype"])
    return {
        "warm": computation(*settings, noise_clips(batch, 1, 8)),
        "full": computation(*settings, noise_clips(batch, frames, size)),
    }


def make_network(side: str, dim: int) -> nn.Module:
    """Build the network of a side with its own random weights."""
    if side == SIDES[0]:
        return FactorisedUNet(base=dim, widths=[dim * factor for factor in (1, 2, 4, 8)])
    theirs: nn.Module = _package().Unet3D(dim)
    return theirs


def same_weights(dim: int) -> dict[str, dict[str, Tensor]]:
    """State dictionaries by side, with which both networks compute the same.

    Raises
    ------
    InputError
        The package is not installed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = make_network(PACKAGE, dim).state_dict()
    return dict(zip(SIDES, (factorised_state(theirs), theirs), strict=True))


def noise_clips(batch: int, frames: int, size: int) -> Tensor:
    """Draw clips (batch, 3, frames, size, size), the same each time."""
    return torch.randn(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1))


def computation(side: str, network: nn.Module, mode: str, dtype: str, x: Tensor) -> Callable[[], Tensor]:
    """Make a call without arguments that computes once: a prediction, or a loss and its gradients."""
    half = torch.bfloat16 if dtype == "bfloat16" else None
    level = torch.linspace(0, 999, len(x)).round()
    if side == SIDES[0]:
        network.compute_dtype = half  # type: ignore[assignment]
    else:
        level = level.long()

    def forward() -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half is not None and side != SIDES[0]):
            predicted: Tensor = network(x, level)
        return predicted.float()

    def step() -> Tensor:
        loss = nn.functional.mse_loss(forward(), x)
        loss.backward()
        network.zero_grad()
        return loss.detach()

    return step if mode == MODES[1] else torch.no_grad()(forward)


def _package() -> Any:
    try:
        import video_diffusion_pytorch
    except ImportError as error:
        install = f"pip install {PACKAGE}==0.7.0"
        raise InputError(f"the comparison needs the package {PACKAGE} ({error}); try: {install}") from None
    return video_diffusion_pytorch
