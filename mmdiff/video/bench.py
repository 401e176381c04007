"""Speed and memory of the factorised U-Net beside the public implementation's, with the same weights.

Times are of both in turn in one process; peak memory is of a fresh process for each number. Run as a module,
this file is such a process.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.devices import threads
from mmdiff.errors import InputError
from mmdiff.progress import track
from mmdiff.video.factorised import FactorisedUNet
from mmdiff.video.factorised_checkpoint import factorised_state

PACKAGE = "video-diffusion-pytorch"
INSTALL = f"pip install {PACKAGE}==0.7.0"
SIDES = ("mmdiff", PACKAGE)
MODES = ("forward", "training step")
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Workload:
    """What is computed.

    Attributes
    ----------
    size : int > 0, a multiple of 8
        Height and width in pixels.
    frames, batch : int > 0
    dim : int > 0, even, at least 4
        Base channels; the four resolutions have 1, 2, 4 and 8 times as many.
    threads : int, optional
        Of the processor; default: PyTorch's choice.
    """

    size: int = 32
    frames: int = 8
    dim: int = 32
    batch: int = 2
    threads: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.size, self.frames, self.batch, self.dim, self.threads or 1)
        if min(numbers) < 1 or self.size % 8 or self.dim % 2 or self.dim < 4:
            raise InputError(
                f"size={self.size} must be a multiple of 8, dim={self.dim} even and at least 4, "
                f"frames={self.frames}, batch={self.batch} and threads={self.threads} positive"
            )


@dataclass(frozen=True)
class Row:
    """One comparison; a ratio above 1 is in mmdiff's favour for time, below 1 for memory.

    Attributes
    ----------
    mode : {"forward", "training step"}
        Without gradients; or forward, mean squared error and backward.
    dtype : {"float32", "bfloat16"}
        Of the matrix products.
    seconds, megabytes : dict
        By side: median time, and peak memory beyond what weights and libraries take.
    speed_ratio : float
        Median over the repeats of the package's time over mmdiff's right beside it.
    memory_ratio : float
        mmdiff's peak over the package's.
    """

    mode: str
    dtype: str
    seconds: dict[str, float]
    megabytes: dict[str, float]
    speed_ratio: float
    memory_ratio: float


def bench(
    load: Workload,
    *,
    dtypes: Sequence[str] = DTYPES,
    modes: Sequence[str] = MODES,
    repeats: int = 5,
    progress: bool = False,
) -> list[Row]:
    """Compare the two implementations.

    Parameters
    ----------
    load : Workload
    dtypes : sequence of {"float32", "bfloat16"}
        The package computes in bfloat16 under PyTorch's autocast, as its trainer does with ``amp``.
    modes : sequence of {"forward", "training step"}
    repeats : int > 0
        Pairs of runs for each time.
    progress : bool
        Show a bar.

    Returns
    -------
    list of Row

    Raises
    ------
    InputError
        The package is not installed, or a value is out of range.
    """
    if repeats < 1 or not set(dtypes) <= set(DTYPES):
        raise InputError(
            f"repeats={repeats} must be positive, dtypes={list(dtypes)} among {', '.join(DTYPES)}"
        )
    _package()
    cases = [(mode, dtype) for dtype in dtypes for mode in modes]
    rows = []
    with threads(load.threads):
        for mode, dtype in track(cases, "measuring", show=progress):
            megabytes = {side: _fresh_process(side, mode, dtype, load) for side in SIDES}
            times = _times(mode, dtype, load, repeats)
            ratios = [theirs / ours for ours, theirs in zip(*(times[side] for side in SIDES), strict=True)]
            rows.append(
                Row(
                    mode,
                    dtype,
                    {side: statistics.median(times[side]) for side in SIDES},
                    megabytes,
                    statistics.median(ratios),
                    megabytes[SIDES[0]] / max(megabytes[SIDES[1]], 1e-3),
                )
            )
    return rows


def _package() -> Any:
    try:
        import video_diffusion_pytorch
    except ImportError as error:
        raise InputError(f"the comparison needs the package {PACKAGE} ({error}); try: {INSTALL}") from None
    return video_diffusion_pytorch


def _network(side: str, load: Workload) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if side == SIDES[0]:
            return FactorisedUNet(base=load.dim, widths=[load.dim * factor for factor in (1, 2, 4, 8)])
        theirs: nn.Module = _package().Unet3D(load.dim)
        return theirs


def _networks(load: Workload) -> dict[str, nn.Module]:
    """Both networks, with the same random weights."""
    ours, theirs = (_network(side, load) for side in SIDES)
    ours.load_state_dict(factorised_state(theirs.state_dict()))
    return dict(zip(SIDES, (ours, theirs), strict=True))


def _run(side: str, network: nn.Module, mode: str, dtype: str, x: Tensor) -> Callable[[], Tensor]:
    """Make a call without arguments that computes once."""
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


def _clips(load: Workload, frames: int | None = None, size: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    size = size or load.size
    return torch.randn(load.batch, 3, frames or load.frames, size, size, generator=generator)


def _times(mode: str, dtype: str, load: Workload, repeats: int) -> dict[str, list[float]]:
    x = _clips(load)
    calls = {side: _run(side, net, mode, dtype, x) for side, net in _networks(load).items()}
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    for n in range(-1, repeats):  # the first pair warms up
        for side, call in calls.items():
            begin = time.perf_counter()
            call()
            if n >= 0:
                times[side].append(time.perf_counter() - begin)
    return times


def _fresh_process(side: str, mode: str, dtype: str, load: Workload) -> float:
    command = [sys.executable, "-m", __name__, json.dumps([side, mode, dtype, asdict(load)])]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
        raise InputError(
            f"measuring the memory of {side} failed: {reason}; try a smaller size or fewer frames"
        )
    return float(done.stdout)


def _peak_memory(side: str, mode: str, dtype: str, load: Workload) -> float:
    """Megabytes that computing once adds to the peak of this process."""
    with threads(load.threads):
        network = _network(side, load)
        _run(side, network, mode, dtype, _clips(load, 1, 8))()  # libraries load, and set aside what they keep
        before = _peak()
        _run(side, network, mode, dtype, _clips(load))()
        return _peak() - before


def _peak() -> float:
    """Most memory this process has had, in megabytes."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux that of a new process begins with that of the process that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    side_, mode_, dtype_, load_ = json.loads(sys.argv[1])
    print(_peak_memory(side_, mode_, dtype_, Workload(**load_)))
