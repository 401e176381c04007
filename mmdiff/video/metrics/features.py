"""Networks that turn clips into features for distances between distributions."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdiff.errors import InputError
from mmdiff.progress import track
from mmdiff.video.metrics.clips import signed_values

FeatureNetwork: TypeAlias = Callable[[Tensor], Tensor]
"""``(B, C, F, H, W) in [-1, 1] -> (B, D)``: ``judge.features``, a network below, or any other callable."""

TORCHVISION = ("r3d_18", "mc3_18", "r2plus1d_18")
"""Video networks of torchvision whose features can be taken: 512 values before the classifier."""
_I3D_FLAGS = {"rescale": False, "resize": False, "return_features": True}


@torch.no_grad()
def clip_features(
    network: FeatureNetwork,
    clips: Tensor | Iterable[Tensor],
    *,
    batch_size: int = 16,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> Tensor:
    """Features of many clips, a batch at a time.

    Parameters
    ----------
    network : callable
        ``(B, C, F, H, W) in [-1, 1] -> (B, D)``.
    clips : Tensor, shape (N, C, F, H, W), or iterable of Tensor, shape (C, F, H, W)
        In [-1, 1], or uint8. An iterable is read only as fast as it is measured.
    batch_size : int > 0
    device : torch.device or str, optional
        Where to compute; default: where a module's parameters are, or the clips.
    progress : bool
        Show a bar.

    Returns
    -------
    Tensor, shape (N, D), float64, on the host

    Raises
    ------
    InputError
        There is no clip, values are out of range, or the network returns something else.
    """
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be positive")
    where = _device_of(network) if device is None else torch.device(device)
    rows = []
    for batch in _batches(track(clips, "features", show=progress), batch_size):
        features = network(batch if where is None else batch.to(where))
        if features.ndim != 2 or len(features) != len(batch):
            raise InputError(
                f"the feature network returned {tuple(features.shape)} for {len(batch)} clips: it must be "
                "(clips, values); average over what is left of time and space"
            )
        rows.append(features.to("cpu").double())
    if not rows:
        raise InputError("clips is empty: there is nothing to measure")
    return torch.cat(rows)


def torchscript_network(path: str | Path, size: int = 224, device: str | None = None) -> nn.Module:
    """Load a feature network from a TorchScript file, such as the I3D that published Fréchet video distances use.

    Clips are resized to ``size`` x ``size`` (bilinear, corners not aligned, no antialiasing: as the published
    evaluation does) and passed on in [-1, 1]. Where the file's ``forward`` has the I3D file's switches ``rescale``,
    ``resize`` and ``return_features``, they are set to False, False and True: its own preprocessing is not repeated,
    and features come before the softmax. That I3D wants ten frames at least and gives 400 values.

    A TorchScript file contains a program, and this runs it. Load only files that you trust: check the checksum its
    publisher states.

    Parameters
    ----------
    path : str or Path
        What ``torch.jit.save`` wrote.
    size : int > 0, pixels
        Height and width that the network wants.
    device : str, optional
        Default: PyTorch's.

    Returns
    -------
    nn.Module
        A :data:`FeatureNetwork`.

    Raises
    ------
    InputError
        The file is missing or is no TorchScript.
    """
    if not Path(path).is_file():
        raise InputError(f"path={str(path)!r} must be a TorchScript file; check the name")
    try:
        script = torch.jit.load(str(path), map_location=device or "cpu").eval()
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"path={str(path)!r} is no TorchScript file: {reason}; save it with torch.jit.save"
        ) from None
    names = {argument.name for argument in script.forward.schema.arguments}
    return _Scripted(script, size, _I3D_FLAGS if names.issuperset(_I3D_FLAGS) else {})


def torchvision_network(name: str = "r3d_18", device: str | None = None) -> nn.Module:
    """Load a video network of torchvision, trained on Kinetics-400, whose weights are already here.

    Nothing is downloaded. Clips go through the preprocessing that belongs to the weights (resize to 128 x 171, crop
    to 112 x 112, normalise), and features are the 512 values before the classifier.

    Parameters
    ----------
    name : {"r3d_18", "mc3_18", "r2plus1d_18"}
    device : str, optional
        Default: PyTorch's.

    Returns
    -------
    nn.Module
        A :data:`FeatureNetwork`.

    Raises
    ------
    InputError
        The name is unknown, torchvision is not installed, or the weights are not in PyTorch's cache; the message says
        where to put which file.
    """
    if name not in TORCHVISION:
        raise InputError(f"name={name!r} must be one of {', '.join(TORCHVISION)}")
    models = _torchvision_models()
    weights = models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if not file.is_file():
        raise InputError(f"name={name!r} needs its weights in {file}: fetch them there from {weights.url}")
    network = models.get_model(name, weights=None)
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    network.fc = nn.Identity()
    return _Torchvision(network, weights.transforms()).to(device).eval()


class _Scripted(nn.Module):
    def __init__(self, script: Any, size: int, flags: dict[str, bool]) -> None:
        super().__init__()
        self.script, self.size, self.flags = script, size, flags

    def forward(self, video: Tensor) -> Tensor:
        frames = video.transpose(1, 2).flatten(0, 1)
        frames = functional.interpolate(frames, (self.size, self.size), mode="bilinear", align_corners=False)
        resized = frames.unflatten(0, (len(video), -1)).transpose(1, 2).contiguous()
        return self.script(resized, **self.flags)


class _Torchvision(nn.Module):
    def __init__(self, network: nn.Module, transforms: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.transforms = network, transforms

    def forward(self, video: Tensor) -> Tensor:
        return self.network(self.transforms(((video + 1) / 2).transpose(1, 2)))


def _torchvision_models() -> ModuleType:
    try:
        return importlib.import_module("torchvision.models")
    except ImportError:
        raise InputError(
            "torchvision is not installed: pip install torchvision (the version that fits your torch), or use "
            "another feature network"
        ) from None


def _device_of(network: FeatureNetwork) -> torch.device | None:
    owner = getattr(network, "__self__", network)  # `judge.features` belongs to its judge
    parameter = next(owner.parameters(), None) if isinstance(owner, nn.Module) else None
    return None if parameter is None else parameter.device


def _batches(clips: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    clips = iter(clips)
    while batch := list(itertools.islice(clips, size)):
        if any(clip.ndim != 4 or clip.shape != batch[0].shape for clip in batch):
            shapes = sorted({tuple(clip.shape) for clip in batch})
            raise InputError(f"clips of shapes {shapes} must be alike, (C, F, H, W): cut and resize them")
        yield signed_values(torch.stack(batch), "clips").float()
