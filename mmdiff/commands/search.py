"""``mmdiff search``: where a sampler of few steps should stop, found on validation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mmdiff
from mmdiff.commands.report import remark, say, say_json
from mmdiff.errors import InputError
from mmdiff.files import sha256

if TYPE_CHECKING:
    from mmdiff.audio.vocoder import Vocoder
    from mmdiff.diffusion.search import Ledger
    from mmdiff.media.grid_search import GridProblem
    from mmdiff.media.searched_grids import GridTable
    from mmdiff.video.generator import ClipGenerator


def search(
    model: str,
    *,
    data: str | None = None,
    split: str | None = None,
    steps: list[int] = [6],  # noqa: B006, read only
    out: str | None = None,
    measure: str | None = None,
    sampler: str | None = None,
    limit: int = 8,
    seconds: float = 4.0,
    evaluations: int = 60,
    seed: int = 0,
    plot: bool = False,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    json: bool = False,
) -> None:
    """Search the times at which a model's sampler of few steps should stop, and write them to a file.

    The file is for --schedule of "mmdiff vocode" and "mmdiff clip". The model's own times, published
    tables, the named grids, and the best by dynamic programming over the errors of single steps are tried first;
    from the best of these, one noise level after the other is moved to where the results are best.

    Results are those of vocoders' copy-synthesis of recordings, by any measure, and of models of clips the
    distance from what 100 steps make of the same noise. An interrupted search goes on where it was when the
    command is given again: each grid's score is kept beside the file, in NAME.scores.jsonl.

    Parameters
    ----------
    model : str
        Shipped model (see "mmdiff info"), model folder, or Hugging Face hub id owner/name.
    data : str, optional
        Recordings that the model was not trained on: a file, a folder, or a manifest. For a model of clips a
        text file with one prompt a line, or a folder of videos with captions; not needed without captions.
    split : str, optional
        Part of the data that is named so in the folder: valid, for valid.txt or valid/.
    steps : list of int
        Numbers of steps, as --steps of the other commands counts them, to search times for.
    out : str, optional
        JSON file to write. Default: MODEL.grids.json here.
    measure : str, optional
        Vocoders: log_mel_l1 (default), mr_stft, pesq, stoi, mcd, lsd, ...
    sampler : str, optional
        Sampler by name; default: the model's. For clips it must be a deterministic one.
    limit : int
        Recordings or clips used, evenly spaced in the list.
    seconds : float
        Of each recording, from its beginning.
    evaluations : int
        Grids tried for each number of steps, at most.
    seed : int
        Of the first result's noise; the next has the next number.
    plot : bool
        Draw quality against steps and against grids tried, beside the file.
    device : str, optional
        cpu, cuda, cuda:1, ...; default: a GPU if there is one.
    dtype : str
        Precision of the networks' matrix products.
    json : bool
        Print one JSON object for each number of steps instead of a table.

    Examples
    --------
    mmdiff search vocoder-16k --data data/speech-16k --split valid --steps 4 6 8 -o searched.json --plot
    mmdiff vocode speech.wav --schedule searched.json --steps 6
    mmdiff search runs/wavegrad/model --data recordings/ --measure mr_stft --limit 4 --evaluations 100
    mmdiff search clips-32 --data captions.txt --steps 10 --limit 4 -o clips.json
    mmdiff clip "a blue seven moving left" --schedule clips.json
    """
    if min(limit, evaluations, *steps) < 1 or not seconds > 0 or len(set(steps)) < len(steps):
        raise InputError(
            f"steps={steps}, limit={limit}, evaluations={evaluations} and seconds={seconds:g} must be positive, and "
            "the steps differ"
        )
    from mmdiff.hub import find_model
    from mmdiff.media.grid_tables import write_table

    folder = find_model(model)
    name = Path(model).name
    target = Path(out or f"{name}.grids.json").expanduser()
    if target.suffix.lower() != ".json" or target.is_dir():
        raise InputError(f"out={str(target)!r} must be a file that ends in .json")
    pipeline = mmdiff.load(folder, device, dtype)
    about: dict[str, Any] = {"model": name, "weights": _digest(folder), "seed": seed, "dtype": dtype}
    kind = type(pipeline).__name__
    if kind == "ClipGenerator":
        if measure is not None:
            raise InputError(f"measure={measure!r} must be left out: clips are measured by their distance")
        problem, used = _clips(pipeline, data, split, limit, sampler, seed)
    elif kind != "Vocoder":
        raise InputError(f"model={model!r} must be a vocoder or a model of clips; it is one for {kind}")
    else:
        problem, used = _sound(pipeline, data, split, limit, seconds, measure, sampler, seed)
    about |= {"sampler": problem.sampler, "measure": problem.measure, **used}
    table = _found(problem, steps, evaluations, target, about)
    write_table(target, table)
    _tell(table, target, plot, json)


def _digest(folder: Path) -> str:
    """Name of a model's weights: scores of others are of no use."""
    return sha256(folder / "model.safetensors")[:16]


def _sound(
    voc: Vocoder,
    data: str | None,
    split: str | None,
    limit: int,
    seconds: float,
    measure: str | None,
    sampler: str | None,
    seed: int,
) -> tuple[GridProblem, dict[str, Any]]:
    from mmdiff.audio.datasets.layouts import pick_recordings
    from mmdiff.audio.search import VocoderProblem, read_recordings

    if data is None:
        raise InputError("data must be given: recordings that the model was not trained on")
    files = pick_recordings(data, split, limit)
    waves = read_recordings(voc, files, seconds)
    problem = VocoderProblem(voc, waves, measure or "log_mel_l1", sampler, seed)
    named = [[path.name, path.stat().st_size] for path in files]
    return problem, {"data": named, "seconds": seconds}


def _clips(
    gen: ClipGenerator, data: str | None, split: str | None, limit: int, sampler: str | None, seed: int
) -> tuple[GridProblem, dict[str, Any]]:
    from mmdiff.video.search import ClipProblem

    prompts = _prompts(data, split, limit) if gen.model.takes_prompts else [None] * limit
    return ClipProblem(gen, prompts, sampler=sampler, seed=seed), {"data": prompts}


def _prompts(data: str | None, split: str | None, limit: int) -> Sequence[str | None]:
    from mmdiff.commands.clip_options import read_prompts
    from mmdiff.video.layouts import find_videos

    if data is None:
        raise InputError("data must be given: a text file of prompts, or a folder of videos with captions")
    if Path(data).is_file() and Path(data).suffix.lower() == ".txt":
        found = read_prompts(None, data)
    else:
        found = [item.caption or None for item in find_videos(data, split=split)]
    return [found[i * len(found) // limit] for i in range(limit)]


def _found(
    problem: GridProblem, steps: list[int], evaluations: int, target: Path, about: Mapping[str, Any]
) -> GridTable:
    from mmdiff.media.grid_search import search_table
    from mmdiff.media.scores import ScoreFile
    from mmdiff.progress import track

    scores = ScoreFile(target.with_name(f"{target.stem}.scores.jsonl"), about)
    if len(scores):
        remark(f"{len(scores)} grids are known from {scores.path}")
    ticks = track(range(len(steps) * evaluations), "searching")

    def tick(count: int, ledger: Ledger) -> None:
        next(ticks, None)

    table = search_table(
        problem, steps, evaluations=evaluations, scores=scores, tick=tick, model=about["model"], data=about
    )
    ticks.close()  # type: ignore[attr-defined]
    return table


def _tell(table: GridTable, target: Path, plot: bool, json: bool) -> None:
    from mmdiff.media.grid_report import grid_markdown, plot_table

    if json:
        for grid in table.grids:
            say_json({"output": str(target), "steps": grid.asked, "times": list(grid.times), "score": grid.score,
                      "others": dict(grid.others), "history": list(grid.history)})  # fmt: skip
    else:
        say(grid_markdown(table))
    if plot:
        remark(f"picture in {plot_table(target.with_suffix('.png'), table)}")
    remark(f"table in {target}; use it with --schedule {target}")
