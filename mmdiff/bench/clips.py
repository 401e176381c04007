"""Speed and memory of the factorised U-Net beside the public implementation's, with the same weights."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors.torch import save_file

from mmdiff.bench.clip_networks import DTYPES, MODES, PACKAGE, SIDES, same_weights
from mmdiff.bench.race import Contender, measured, race, race_measures
from mmdiff.errors import InputError
from mmdiff.media.tables import Score, ScoreTable
from mmdiff.progress import track

_NETWORKS = Path(__file__).with_name("clip_networks.py")


@dataclass(frozen=True)
class ClipLoad:
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


def bench_clips(
    load: ClipLoad,
    *,
    dtypes: Sequence[str] = DTYPES,
    modes: Sequence[str] = MODES,
    repeats: int = 5,
    progress: bool = False,
) -> ScoreTable:
    """Compare the two implementations.

    Parameters
    ----------
    load : ClipLoad
    dtypes : sequence of {"float32", "bfloat16"}
        The package computes in bfloat16 under PyTorch's autocast, as its trainer does with ``amp``.
    modes : sequence of {"forward", "training step"}
        Without gradients; or forward, mean squared error and backward.
    repeats : int > 0
        Pairs of runs for each time.
    progress : bool
        Show a bar.

    Returns
    -------
    ScoreTable
        A score for each side, mode and dtype, about its "work"; ratios are of ours to the package's.

    Raises
    ------
    InputError
        The package is not installed, memory is too short, or a value is out of range.
    """
    if not set(dtypes) <= set(DTYPES):
        raise InputError(f"dtypes={list(dtypes)} must be among {', '.join(DTYPES)}")
    cases = [(mode, dtype) for dtype in dtypes for mode in modes]
    scores = []
    with tempfile.TemporaryDirectory() as folder:
        states = {side: Path(folder) / f"{side}.safetensors" for side in SIDES}
        for side, state in same_weights(load.dim).items():
            save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, states[side])
        for mode, dtype in track(cases, "measuring", show=progress):
            task = {**asdict(load), "mode": mode, "dtype": dtype}
            contenders = [
                Contender(side, _NETWORKS, {**task, "side": side, "weights": str(states[side])})
                for side in SIDES
            ]
            scores += _scores(contenders, repeats, load.threads, f"{mode}, {dtype}")
    return ScoreTable(scores, race_measures(repeats, load.threads), group="work", shared=asdict(load))


def _scores(contenders: Sequence[Contender], repeats: int, threads: int | None, work: str) -> list[Score]:
    runs = race(contenders, repeats=repeats, threads=threads)
    for side, run in runs.items():
        if run.error:
            raise InputError(f"measuring {side} failed: {run.error}; try a smaller size or fewer frames")
    return [Score(side, measured(run, runs[PACKAGE]), {"work": work}) for side, run in runs.items()]
