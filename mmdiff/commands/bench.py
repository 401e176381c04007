"""``mmdiff bench``: speed and memory beside other implementations."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdiff.commands.report import check_report, failed, refuse_options, remark, report
from mmdiff.errors import InputError

if TYPE_CHECKING:
    from mmdiff.bench.vocoders import VocoderLoad


def bench(
    what: Literal["video", "vocoder"],
    *,
    audio: str | None = None,
    limit: int | None = None,
    seconds: float | None = None,
    only: list[Literal["wavegrad", "diffwave", "vocoder-16k", "vocos", "griffin-lim"]] = [],  # noqa: B006, read only
    env: str | None = None,
    plot: str | None = None,
    results: str | None = None,
    size: int | None = None,
    frames: int | None = None,
    dim: int | None = None,
    batch: int | None = None,
    repeats: int | None = None,
    threads: int | None = None,
    dtype: list[Literal["float32", "bfloat16"]] = ["float32", "bfloat16"],  # noqa: B006
    out: str | None = None,
    json: bool = False,
) -> int:
    """Measure speed and peak memory beside other implementations, on the CPU.

    Each system has a process of its own, and they compute in turn, A B C A B C, so that whatever else the machine
    does meets all of them; times and ratios are medians, with 95 % intervals of the ratios. Peak memory is what one
    run adds to weights and libraries.

    "vocoder" compares our WaveGrad and DiffWave with the packages by LMNT, at the same sizes and steps and with
    random weights, and vocoder-16k with LMNT's WaveGrad, the network of Vocos, and Griffin-Lim by torchaudio and
    librosa. The packages are installed from PyPI into an environment of their own; what cannot be had is left out.
    Given recordings, vocoder-16k and Griffin-Lim are measured for quality too.

    "video" compares the factorised space-time U-Net with that of video-diffusion-pytorch, which must be installed,
    with the same weights.

    Parameters
    ----------
    what : str
        video or vocoder.
    audio : str, optional
        Vocoders: recordings, a file, a folder, or a manifest. Times are of the first, quality is measured on all.
        Default: a synthetic tone, and no quality.
    limit : int, optional
        Vocoders: use only so many recordings, evenly spaced in the list.
    seconds : float, optional
        Vocoders: of each recording, from its beginning. Default: 1.
    only : list of str, optional
        Vocoders: measure these families alone; ratios need both sides of one.
    env : str, optional
        Vocoders: folder of the environment for the packages, made if it does not exist. Default: in the user's
        cache folder.
    plot : str, optional
        Vocoders: PNG file for a picture of quality against real-time factor.
    results : str, optional
        Vocoders: draw the picture of what an earlier run wrote, a .json file, instead of measuring.
    size : int, optional
        Video: height and width in pixels, a multiple of 8. Default: 32.
    frames : int, optional
        Video: of each clip. Default: 8.
    dim : int, optional
        Video: base channels of the network. Default: 32.
    batch : int, optional
        Clips at once, by default 2; vocoders: crops of a training step, by default 1.
    repeats : int, optional
        Runs of each system, after a first one that does not count. Default: 5; 3 for vocoders.
    threads : int, optional
        Processor threads. Default: as many as PyTorch takes.
    dtype : list of str
        Of our networks' matrix products, and of the other one's for video.
    out : str, optional
        File for the results: .json for all numbers, or .md for the table.
    json : bool
        Print one JSON object for each system and kind of work instead of a table.

    Examples
    --------
    mmdiff bench vocoder
    mmdiff bench vocoder --audio examples/speech.flac --seconds 2 --plot bench.png -o bench.json
    mmdiff bench vocoder --results bench.json --plot bench.png
    mmdiff bench vocoder --only wavegrad diffwave --threads 1 --repeats 5 -o bench.json
    mmdiff bench video
    mmdiff bench video --size 64 --frames 16 --dim 64 --batch 1 --repeats 3 --dtype float32
    """
    check_report(out)
    of_clips = {"size": size, "frames": frames, "dim": dim}
    of_sound = {"audio": audio, "limit": limit, "seconds": seconds, "only": only, "env": env}
    repeated: dict[str, Any] = {"progress": not json, **_given(repeats=repeats)}
    dtypes = list(dict.fromkeys(dtype))
    if what == "video":
        from mmdiff.bench.clips import ClipLoad, bench_clips

        refuse_options({**of_sound, "plot": plot, "results": results}, "vocoders")
        clips = ClipLoad(**_given(**of_clips, batch=batch, threads=threads))
        report(bench_clips(clips, dtypes=dtypes, **repeated), out, json)
        return 0
    refuse_options(of_clips, "video")
    if results is not None:
        measuring = {
            **of_sound,
            "batch": batch,
            "repeats": repeats,
            "threads": threads,
            "out": out,
            "json": json,
        }
        refuse_options(measuring, "measuring, and --results is measured already")
        _draw_results(results, plot)
        return 0
    from mmdiff.bench.vocoders import VocoderLoad

    load = VocoderLoad(
        dtypes=dtypes, **_given(seconds=seconds, batch=batch, threads=threads, families=only or None)
    )
    return _bench_vocoders(load, _recordings(audio, limit, plot), env, plot, out, json, repeated)


def _bench_vocoders(
    load: VocoderLoad,
    files: list[Path],
    env: str | None,
    plot: str | None,
    out: str | None,
    json: bool,
    repeated: dict[str, Any],
) -> int:
    from mmdiff.bench.vocoders import bench_vocoders

    peers = _peers(env) if {"wavegrad", "diffwave", "vocos"} & set(load.families) else ""
    table, failures = bench_vocoders(load, files, peers=peers or None, **repeated)
    report(table, out, json)
    for name, reason in failures.items():
        failed(f"{name}: {reason}")
    if plot is not None:
        from mmdiff.bench.plot import plot_quality

        remark(f"picture in {plot_quality(plot, table)}")
    return 1 if failures or peers is None else 0


def _draw_results(results: str, plot: str | None) -> None:
    from mmdiff.bench.plot import plot_quality, read_results

    if plot is None or not _is_png(plot):
        raise InputError(f"plot={plot!r} must be a .png file with --results, which are drawn there")
    remark(f"picture in {plot_quality(plot, read_results(results))}")


def _is_png(plot: str) -> bool:
    return Path(plot).suffix.lower() == ".png"


def _recordings(audio: str | None, limit: int | None, plot: str | None) -> list[Path]:
    from mmdiff.audio.datasets.layouts import pick_recordings

    if plot is not None and (audio is None or not _is_png(plot)):
        raise InputError(f"plot={plot!r} must end in .png, and needs recordings: --audio")
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit} must be positive")
    return [] if audio is None else pick_recordings(audio, None, limit)


def _peers(env: str | None) -> str | None:
    """Interpreter that has the packages; None, with a remark, where they cannot be had."""
    from mmdiff.bench.environment import default_folder, peers_python
    from mmdiff.bench.vocoders import PACKAGES

    try:
        return peers_python(Path(env).expanduser() if env else default_folder(), PACKAGES)
    except InputError as error:
        failed(f"{error}; rows of other people's packages are left out")
        return None


def _given(**options: Any) -> dict[str, Any]:
    """Options that the user has given; the others have their defaults where they are used."""
    return {name: value for name, value in options.items() if value is not None}
