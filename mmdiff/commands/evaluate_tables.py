"""Tables of ``mmdiff evaluate`` for models of clips: each number with its 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mmdiff.commands.report import table

if TYPE_CHECKING:
    from mmdiff.video.evaluate import Score
    from mmdiff.video.evaluate_edits import EditScore
    from mmdiff.video.evaluate_folder import FolderScore
    from mmdiff.video.metrics import Estimate, Proportion

EDIT_HEADS = {"psnr": "PSNR, dB", "ssim": "SSIM", "seam": "seam", "motion": "motion", "digit": "digit"}
"""Columns of the table of edits."""


def digit_table(scores: Sequence[Score], names: Mapping[str, str]) -> str:
    """Lay out how moving digits came out: a row for each measure, a column for each system."""
    rows = [
        ["clips of one figure", *(str(score.clips) for score in scores)],
        ["clips of two figures", *(str(score.pairs) for score in scores)],
        ["network evaluations a clip", *(_count(score.evaluations) for score in scores)],
        [
            "seconds a clip",
            *("" if score.evaluations is None else f"{score.seconds:.2f}" for score in scores),
        ],
    ]
    return table(["", *(score.system for score in scores)], [*rows, *_measure_rows(scores, names)])


def folder_table(scores: Sequence[FolderScore], names: Mapping[str, str]) -> str:
    """The same of a folder of videos."""
    rows = [
        ["clips", *(str(score.clips) for score in scores)],
        ["network evaluations a clip", *(_count(score.evaluations) for score in scores)],
    ]
    return table(["", *(score.system for score in scores)], [*rows, *_measure_rows(scores, names)])


def _measure_rows(
    scores: Sequence[Score] | Sequence[FolderScore], names: Mapping[str, str]
) -> Iterable[list[str]]:
    for name, meaning in names.items():
        values = [score.measures.get(name) for score in scores]
        if any(value is not None for value in values):
            against = {getattr(value, "real", None) for value in values if not isinstance(value, float)} - {
                None
            }
            label = f"{meaning} ({against.pop()} real)" if len(against) == 1 else meaning
            yield [label, *(_cell(value) for value in values)]


def edit_table(scores: Sequence[EditScore], names: Mapping[str, str]) -> str:
    """Lay out how edits came out: a row for each task and system."""
    used = [name for name in names if any(name in score.measures for score in scores)]
    header = [f"{scores[0].clips} clips", "evaluations", *(EDIT_HEADS[name] for name in used)]
    rows, task = [], None
    for score in scores:
        if score.task != task:
            task = score.task
            rows.append([f"**{task}**", *("" for _ in header[1:])])
        rows.append(
            [score.system, _count(score.evaluations), *(_cell(score.measures.get(name)) for name in used)]
        )
    return table(header, rows)


def _cell(value: Estimate | Proportion | float | None) -> str:
    """A number as a person reads it: with its interval, shares in percent, nothing where it does not exist."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}"
    if not math.isfinite(value.value):
        return ""
    if hasattr(value, "trials"):
        return f"{100 * value.value:.1f} % [{100 * value.low:.1f}, {100 * value.high:.1f}]"
    size = math.floor(math.log10(abs(value.value))) if value.value else 0
    digits = min(5, max(0, 2 - size))
    text = f"{value.value:.{digits}f}"
    return text if math.isnan(value.low) else f"{text} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def _count(number: int | None) -> str:
    return "" if number is None else str(number)
