"""``mmdiff bench``: speed and memory beside other implementations."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from mmdiff.commands.report import say, say_json
from mmdiff.media.tables import markdown_table

if TYPE_CHECKING:
    from mmdiff.video.bench import Row


def bench(
    what: Literal["video"],
    *,
    size: int = 32,
    frames: int = 8,
    dim: int = 32,
    batch: int = 2,
    repeats: int = 5,
    threads: int | None = None,
    dtype: list[Literal["float32", "bfloat16"]] = ["float32", "bfloat16"],  # noqa: B006, read only
    json: bool = False,
) -> None:
    """Measure speed and peak memory beside the public implementation, with the same weights.

    "video" compares the factorised space-time U-Net with that of video-diffusion-pytorch, which must be
    installed. Both run in turn, so that whatever else the machine does meets both; the ratio is the median
    over pairs. A training step is forward, loss and backward. Peak memory is what one run adds to weights and
    libraries, each measured in a process of its own.

    Parameters
    ----------
    what : str
        video.
    size : int
        Height and width in pixels, a multiple of 8.
    frames : int
        Of each clip.
    dim : int
        Base channels of the network.
    batch : int
        Clips at once.
    repeats : int
        Pairs of runs.
    threads : int, optional
        Processor threads. Default: as many as PyTorch takes.
    dtype : list of str
        Of the matrix products.
    json : bool
        Print one JSON object per row instead of a table.

    Examples
    --------
    mmdiff bench video
    mmdiff bench video --size 64 --frames 16 --dim 64 --batch 1 --repeats 3 --dtype float32
    """
    from mmdiff.video.bench import Workload
    from mmdiff.video.bench import bench as measure

    load = Workload(size, frames, dim, batch, threads)
    rows = measure(load, dtypes=list(dtype), repeats=repeats, progress=not json)
    if json:
        for row in rows:
            say_json({**asdict(row), **asdict(load)})
    else:
        say(_table(rows))


def _table(rows: list[Row]) -> str:
    sides = list(rows[0].seconds)
    header = ["", *(f"{side}, s" for side in sides), "times as fast", *(f"{s}, MB" for s in sides), "memory"]
    return markdown_table(
        header,
        [
            [
                f"{row.mode}, {row.dtype}",
                *(f"{row.seconds[side]:.3f}" for side in sides),
                f"{row.speed_ratio:.2f}",
                *(f"{row.megabytes[side]:.0f}" for side in sides),
                f"{row.memory_ratio:.2f}",
            ]
            for row in rows
        ],
    )
