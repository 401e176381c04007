"""``mmdiff evaluate`` of models that say digits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdiff.commands.report import remark, report
from mmdiff.errors import InputError
from mmdiff.media.tables import ScoreTable

if TYPE_CHECKING:
    from mmdiff.audio.generator import SoundGenerator
    from mmdiff.audio.word_judge import WordJudge

_NUM = 4  # sounds of each label unless told
_SHIPPED = "word-judge"


def evaluate_spoken(
    gen: SoundGenerator,
    *,
    reference: str | None,
    model: str,
    steps: list[int],
    num: int | None,
    seed: int | None,
    sampler: str | None,
    guidance: float | None,
    features: str | None,
    out: str | None,
    json: bool,
) -> int:
    """Measure a model that says digits and print what was found; returns the exit status."""
    if min([*steps, 1 if num is None else num]) < 1:
        raise InputError(f"steps={steps} and num={num} must be positive")
    from mmdiff.audio.evaluate_digits import MEASURES, Recordings, evaluate_digits, made_by

    judge = _judge(features or _SHIPPED, gen)
    recordings = None if reference is None else Recordings(reference)
    asked: dict[str, Any] = {"num": num or _NUM, "seed": seed or 0, "sampler": sampler, "guidance": guidance}
    name = Path(model).name
    systems = [
        made_by(gen, f"{name}, {count} steps", steps=count, **asked)
        for count in steps or [gen.model.default_steps]
    ]
    scores = evaluate_digits(systems, judge, recordings)
    report(ScoreTable(scores, MEASURES, turned=True, shared={"model": model, **asked}), out, json)
    if recordings is None:
        remark("give the folder of `mmdiff fetch digits-16k` to compare with recordings")
    return 0


def _judge(name: str, gen: SoundGenerator) -> WordJudge:
    from mmdiff.audio.word_judge import WordJudge
    from mmdiff.hub import load_model

    judge = load_model(name, gen.device)
    if not isinstance(judge, WordJudge):
        raise InputError(
            f"features={name!r} must be a judge of spoken digits: {_SHIPPED}, or a folder of the recipe word_judge"
        )
    return judge
