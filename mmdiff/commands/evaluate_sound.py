"""``mmdiff evaluate`` of sound: vocoders' copy-synthesis of recordings, or given files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdiff.commands.report import failed, refuse_options, remark, report, take_options
from mmdiff.errors import InputError
from mmdiff.media.tables import ScoreTable

if TYPE_CHECKING:
    from mmdiff.audio.generator import SoundGenerator
    from mmdiff.audio.vocoder import Vocoder

_STEPS = (1, 2, 4, 8)
_EDITED, _EDITED_SECONDS = 8, 4.0  # recordings to edit by default, and how much of each
_SHORTEST, _SHORTEST_EDITED = 0.1, 0.5  # seconds that can be measured, and edited


@dataclass(frozen=True)
class SoundOptions:
    """What the user asked for; the fields are the command's options."""

    reference: str | None
    model: str
    split: str | None
    steps: Sequence[int]
    mel_presets: list[str]
    seeds: int | None
    measures: list[str]
    limit: int | None
    no_baselines: bool
    lookaheads: Sequence[int]
    block: int | None
    out: str | None
    json: bool


def evaluate_vocoder(voc: Vocoder, asked: Mapping[str, Any]) -> int:
    """Measure a vocoder as ``mmdiff evaluate`` was asked to; returns the exit status."""
    if asked["edits"]:
        return evaluate_sound_edits(voc, asked)
    options = take_options(SoundOptions, asked, f"models of clips, and {asked['model']!r} is a vocoder")
    if options.reference is None:
        raise InputError(f"reference must be given: recordings to measure {options.model!r} with")
    return _recordings(voc, options, options.reference)


def _recordings(voc: Vocoder, options: SoundOptions, reference: str) -> int:
    usual = [voc.model.default_steps] if voc.model.latents else _STEPS  # a generator knows no others
    steps, seeds = options.steps or usual, 2 if options.seeds is None else options.seeds
    if seeds < 1 or min(steps) < 1 or (options.limit is not None and options.limit < 1):
        raise InputError(f"seeds={seeds}, steps={list(steps)} and limit={options.limit} must be positive")
    if options.block is not None and not options.lookaheads:
        raise InputError(
            f"block={options.block} must come with lookaheads: whole files are not made in blocks"
        )
    measures = _checked(options.measures)
    from mmdiff.audio.datasets.layouts import pick_recordings
    from mmdiff.audio.evaluation.vocoders import evaluate_vocoder, vocoder_measures
    from mmdiff.audio.mel import PRESETS, preset

    recordings = pick_recordings(reference, options.split, options.limit)
    files = [path for path in recordings if _usable(path)]
    names = list(PRESETS) if options.mel_presets == ["all"] else options.mel_presets
    specs = {name: preset(name) for name in names}
    title = Path(options.model).name
    shared: dict[str, Any] = {"seeds": range(seeds), "measures": measures}
    streams: dict[str, Any] = {"lookaheads": options.lookaheads}
    if options.block is not None:
        streams["block"] = options.block
    baselines = not options.no_baselines
    scores = evaluate_vocoder(voc, files, steps, baselines=baselines, name=title, **streams, **shared)
    default = [int(voc.model.default_steps)]
    for name, spec in specs.items():
        label = f"{title}, mel {name}"
        scores += evaluate_vocoder(voc, files, default, mel_spec=spec, baselines=False, name=label, **shared)
    # systems are compared on the same recordings, which vary far more: intervals are for programs only
    told = ScoreTable(
        scores, vocoder_measures(measures), "system", intervals=False, shared={"model": options.model}
    )
    report(told, options.out, options.json)
    return 0 if len(files) == len(recordings) else 1


@dataclass(frozen=True)
class SoundEditOptions:
    """What the user asked for of edits; the fields are the command's options."""

    reference: str | None
    model: str
    split: str | None
    steps: Sequence[int]
    limit: int | None
    measures: list[str]
    seed: int | None
    sampler: str | None
    guidance: float | None
    out: str | None
    json: bool


def evaluate_sound_edits(pipeline: SoundGenerator | Vocoder, asked: Mapping[str, Any]) -> int:
    """Measure how well a model fills in what is missing, and print it; returns the exit status."""
    owner = "other evaluations than --edits of sound"
    options = take_options(SoundEditOptions, {**asked, "edits": False}, owner)
    if options.reference is None:
        raise InputError("reference must be given: recordings to leave something out of")
    if len(options.steps) > 1 or (options.limit is not None and options.limit < 1):
        raise InputError(
            f"steps={list(options.steps)} must be one number here, limit={options.limit} positive"
        )
    from mmdiff.audio import io
    from mmdiff.audio.evaluation.edits import edit_table, evaluate_edits
    from mmdiff.audio.vocoder import Vocoder

    words = not isinstance(pipeline, Vocoder) and bool(pipeline.labels)
    # whole recordings of a word are too short for PESQ
    usual = ("lsd", "log_mel_l1") if words else ("lsd", "pesq")
    measures = _checked(options.measures) if options.measures else usual
    picked = _picked(pipeline, options.reference, options)
    files = [path for path in picked if _usable(path, _SHORTEST_EDITED, _EDITED_SECONDS)]
    waves = [io.read(path, sample_rate=pipeline.sample_rate, duration=_EDITED_SECONDS)[0] for path in files]
    chosen: dict[str, Any] = {"sampler": options.sampler, "guidance": options.guidance}
    if isinstance(pipeline, Vocoder):
        refuse_options(chosen, f"models of sound, and {options.model!r} is a vocoder")
        chosen = {}
    if options.steps:
        chosen["steps"] = options.steps[0]
    labels = [picked[path] for path in files]
    scores = evaluate_edits(
        pipeline, waves, labels=labels, measures=measures, seed=options.seed or 0, **chosen
    )
    report(edit_table(scores, measures, model=options.model, **chosen), options.out, options.json)
    return 0 if len(files) == len(picked) else 1


def _picked(
    pipeline: SoundGenerator | Vocoder, reference: str, options: SoundEditOptions
) -> dict[Path, str | None]:
    """Choose recordings, and say what each is of: of words that the model knows, if there are any."""
    from mmdiff.audio.datasets.layouts import find_audio, pick_recordings, spaced
    from mmdiff.audio.datasets.words import word_label

    limit, labels = options.limit or _EDITED, getattr(pipeline, "labels", ())
    if labels and not Path(reference).is_file():
        clips = find_audio(reference, split=options.split)
        words = {clip.path: name for clip in clips if (name := word_label(clip)) in labels}
        if words:
            return {path: words[path] for path in spaced(list(words), limit)}
    return dict.fromkeys(pick_recordings(reference, options.split, limit))


def _checked(measures: Sequence[str]) -> Sequence[str]:
    from mmdiff.audio.evaluation.vocoders import MEASURES
    from mmdiff.audio.metrics import METRICS

    if unknown := [name for name in measures if name not in METRICS]:
        raise InputError(f"measures={unknown} must be some of {', '.join(METRICS)}")
    return measures or MEASURES


def _usable(path: Path, shortest: float = _SHORTEST, edited: float | None = None) -> bool:
    """Read a recording, or what is edited of it: one that cannot be measured is named, and the others are measured."""
    from mmdiff.audio import io

    try:
        peaks, seconds = [0.0], io.info(path).seconds
        peaks += [float(block.abs().max()) for block in io.stream(path, duration=edited) if block.numel()]
        if seconds < shortest:
            raise InputError(
                f"seconds={seconds:.3g} must be at least {shortest} to be measured; leave it out"
            )
        if edited and max(peaks) == 0:
            raise InputError("it is silent, and there is nothing to edit; leave it out")
    except InputError as error:
        failed(f"{path}: {error}")
        return False
    return True


@dataclass(frozen=True)
class SoundFileOptions:
    """What the user asked for of files; the fields are the command's options."""

    reference: str
    estimate: str
    measures: Sequence[str]
    out: str | None
    json: bool


def evaluate_sound_files(asked: Mapping[str, Any]) -> int:
    """Measure sound files against those of the same names, and print what was found; returns the exit status."""
    options = take_options(SoundFileOptions, asked, "models, and these are sound files")
    measures = _checked(options.measures)
    from mmdiff.audio.evaluation.vocoders import evaluate_files, sound_measures

    scores = evaluate_files(_pairs(Path(options.reference), Path(options.estimate)), measures)
    report(ScoreTable(scores, sound_measures(measures), "file", kind="file"), options.out, options.json)
    return 0


def _pairs(reference: Path, estimate: Path) -> list[tuple[Path, Path]]:
    """Match two files, or the files of two folders by their names without suffix."""
    from mmdiff.audio.datasets.layouts import find_audio

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
    for folder, found in ((reference, references), (estimate, estimates)):
        if alone := len(found) - len(common):
            remark(
                f"{alone} of {len(found)} files of {folder} are left out: the other folder has none named so"
            )
    return [(references[name], estimates[name]) for name in common]


def _stem(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))
