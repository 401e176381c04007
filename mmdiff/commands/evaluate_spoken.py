"""``mmdiff evaluate`` of models that say digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdiff.commands.evaluate_sound import evaluate_sound_edits
from mmdiff.commands.report import remark, report, take_options
from mmdiff.errors import InputError
from mmdiff.media.tables import ScoreTable

if TYPE_CHECKING:
    from mmdiff.audio.evaluation.word_judge import WordJudge
    from mmdiff.audio.generator import SoundGenerator

_NUM = 4  # sounds of each label unless told
_SHIPPED = "word-judge"


@dataclass(frozen=True)
class SpokenOptions:
    """What the user asked for; the fields are the command's options."""

    reference: str | None
    model: str
    steps: Sequence[int]
    num: int | None
    seed: int | None
    sampler: str | None
    guidance: float | None
    features: str | None
    out: str | None
    json: bool


def evaluate_sounds(gen: SoundGenerator, asked: Mapping[str, Any]) -> int:
    """Measure a model of sounds as ``mmdiff evaluate`` was asked to; returns the exit status."""
    if asked["edits"]:
        return evaluate_sound_edits(gen, asked)
    if not gen.labels:
        raise InputError(
            f"model={asked['model']!r} must have labels to be judged by what it says; of one that is told "
            "nothing, measure --edits or --likelihood"
        )
    owner = f"vocoders and models of clips, and {asked['model']!r} makes sound of labels"
    return _spoken(gen, take_options(SpokenOptions, asked, owner))


def _spoken(gen: SoundGenerator, options: SpokenOptions) -> int:
    if min([*options.steps, 1 if options.num is None else options.num]) < 1:
        raise InputError(f"steps={options.steps} and num={options.num} must be positive")
    from mmdiff.audio.evaluation.digits import MEASURES, Recordings, evaluate_digits, made_by

    judge = _judge(options.features or _SHIPPED, gen)
    recordings = None if options.reference is None else Recordings(options.reference)
    asked: dict[str, Any] = {
        "num": options.num or _NUM,
        "seed": options.seed or 0,
        "sampler": options.sampler,
        "guidance": options.guidance,
    }
    name = Path(options.model).name
    systems = [
        made_by(gen, f"{name}, {count} steps", steps=count, **asked)
        for count in options.steps or [gen.model.default_steps]
    ]
    scores = evaluate_digits(systems, judge, recordings)
    report(
        ScoreTable(scores, MEASURES, turned=True, shared={"model": options.model, **asked}),
        options.out,
        options.json,
    )
    if recordings is None:
        remark("give the folder of `mmdiff fetch digits-16k` to compare with recordings")
    return 0


def _judge(name: str, gen: SoundGenerator) -> WordJudge:
    from mmdiff.audio.evaluation.word_judge import WordJudge
    from mmdiff.hub import load_model

    judge = load_model(name, gen.device)
    if not isinstance(judge, WordJudge):
        raise InputError(
            f"features={name!r} must be a judge of spoken digits: {_SHIPPED}, or a folder of the recipe word_judge"
        )
    return judge
