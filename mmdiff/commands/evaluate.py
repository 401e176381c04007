"""``mmdiff evaluate``: measures of quality, of a model or of files."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdiff.commands.report import failed, finite, say, say_json, table
from mmdiff.errors import InputError

if TYPE_CHECKING:
    from mmdiff.audio.evaluate import Score


def evaluate(
    reference: str,
    estimate: str | None = None,
    *,
    model: str = "vocoder-16k",
    split: str | None = None,
    steps: list[int] = [1, 2, 4, 8],  # noqa: B006, read only
    mel_presets: list[str] = [],  # noqa: B006
    seeds: int = 2,
    measures: list[str] = ["pesq", "stoi", "log_mel_l1", "mcd", "lsd", "mr_stft"],  # noqa: B006
    limit: int | None = None,
    no_baselines: bool = False,
    device: str | None = None,
    dtype: str = "auto",
    out: str | None = None,
    json: bool = False,
) -> int:
    """Measure how close sound is to recordings: a model's copy-synthesis of them, or given files.

    A model is compared with what needs no model: Griffin-Lim from the same spectrogram, the model's pipeline
    without its network, and with zero noise. It runs on one thread. The table has the mean of each measure,
    the real-time factor (RTF) and the diversity: the log-spectral distance in dB between two seeds' results.

    Parameters
    ----------
    reference : str
        Recordings: a file, a folder, or a manifest (one path per line).
    estimate : str, optional
        File or folder of the same names to measure, instead of a model.
    model : str
        Shipped model, model folder, or Hugging Face hub id.
    split : str, optional
        Part of the recordings that is named so in the folder: test, for test.txt or test/.
    steps : list of int
        Numbers of network evaluations to try.
    mel_presets : list of str, optional
        Also give the model spectrograms of these definitions, at its default number of steps; "all" for all.
    seeds : int
        How many seeds (0, 1, ...) to average over.
    measures : list of str
        Also known: si_sdr, f0_error, voicing_error.
    limit : int, optional
        Use only so many recordings, evenly spaced in the list.
    no_baselines : bool
        Leave out what needs no model.
    device : str, optional
        As for "mmdiff vocode".
    dtype : str
        As for "mmdiff vocode".
    out : str, optional
        JSON file for all results, those of each file among them.
    json : bool
        Print one JSON object per row instead of a table.

    Examples
    --------
    mmdiff evaluate recordings/ --limit 20
    mmdiff evaluate data/speech-16k --split test --mel-presets all -o results.json
    mmdiff evaluate recordings/ recordings.vocoded/
    """
    _check_measures(measures)
    if estimate is not None:
        _evaluate_files(reference, estimate, measures, out, json)
        return 0
    if seeds < 1 or not steps or min(steps) < 1 or (limit is not None and limit < 1):
        raise InputError(f"seeds={seeds}, steps={steps} and limit={limit} must be positive")
    from mmdiff.audio.evaluate import evaluate_vocoder
    from mmdiff.audio.mel import PRESETS, preset
    from mmdiff.audio.vocoder import Vocoder
    from mmdiff.commands.pipelines import load_pipeline

    recordings = _recordings(reference, split, limit)
    files = [path for path in recordings if _readable(path)]
    names = list(PRESETS) if mel_presets == ["all"] else mel_presets
    specs = {name: preset(name) for name in names}
    voc = load_pipeline(Vocoder, model, device, dtype)
    title = Path(model).name
    shared: dict[str, Any] = {"seeds": range(seeds), "measures": measures}
    scores = evaluate_vocoder(voc, files, steps, baselines=not no_baselines, name=title, **shared)
    default = [int(voc.model.default_steps)]
    for name, spec in specs.items():
        label = f"{title}, mel {name}"
        scores += evaluate_vocoder(voc, files, default, mel_spec=spec, baselines=False, name=label, **shared)
    _report(scores, measures, out, json)
    return 0 if len(files) == len(recordings) else 1


def _check_measures(measures: list[str]) -> None:
    from mmdiff.audio.metrics import METRICS

    if unknown := [name for name in measures if name not in METRICS]:
        raise InputError(f"measures={unknown} must be some of {', '.join(METRICS)}")


def _readable(path: Path) -> bool:
    """Read a recording through once, so that a broken one is named and the others are measured."""
    from mmdiff.audio import io

    try:
        for _ in io.stream(path):
            pass
    except InputError as error:
        failed(f"{path}: {error}")
        return False
    return True


def _recordings(reference: str, split: str | None, limit: int | None) -> list[Path]:
    from mmdiff.audio.layouts import SUFFIXES, find_audio

    if Path(reference).suffix.lower() in SUFFIXES and Path(reference).is_file():
        return [Path(reference)]
    files = [clip.path for clip in find_audio(reference, split=split)]
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


def _report(scores: list[Score], measures: list[str], out: str | None, json: bool) -> None:
    if out is not None:
        _write_json(out, [asdict(score) for score in scores])
    if json:
        for score in scores:
            say_json({key: value for key, value in asdict(score).items() if key != "per_file"})
        return
    header = ["system", "evaluations", *measures, "RTF", "diversity"]
    rows = [
        [
            score.system,
            _number(score.steps),
            *(_number(score.metrics[name]) for name in measures),
            _number(score.real_time_factor),
            _number(score.diversity),
        ]
        for score in scores
    ]
    say(table(header, rows))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _evaluate_files(reference: str, estimate: str, measures: list[str], out: str | None, json: bool) -> None:
    from mmdiff.audio.evaluate import evaluate_files

    results = evaluate_files(_pairs(Path(reference), Path(estimate)), measures)
    if out is not None:
        _write_json(out, results)
    if json:
        for name, values in results.items():
            say_json({"file": name, **values})
    else:
        say(table(["file", *measures], [[k, *(_number(v[m]) for m in measures)] for k, v in results.items()]))


def _pairs(reference: Path, estimate: Path) -> list[tuple[Path, Path]]:
    """Match two files, or the files of two folders by their names without suffix."""
    from mmdiff.audio.layouts import find_audio

    if reference.is_file() and estimate.is_file():
        return [(reference, estimate)]
    if not (reference.is_dir() and estimate.is_dir()):
        raise InputError(
            f"reference={str(reference)!r} and estimate={str(estimate)!r} must be two files or two folders"
        )
    references = {_stem(clip.path, reference): clip.path for clip in find_audio(reference, "folder")}
    estimates = {_stem(clip.path, estimate): clip.path for clip in find_audio(estimate, "folder")}
    if not (common := sorted(references.keys() & estimates.keys())):
        raise InputError(
            f"no file of estimate={str(estimate)!r} is named like one of reference={str(reference)!r}"
        )
    return [(references[name], estimates[name]) for name in common]


def _stem(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


def _write_json(path: str, content: Any) -> None:
    from mmdiff.files import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(json_format.dumps(finite(content), indent=1) + "\n", encoding="utf-8")
