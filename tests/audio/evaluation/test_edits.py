"""Measures of filled-in sound: what is counted, and what a perfect and an empty result get."""

from __future__ import annotations

import pytest
import torch
from test_sound_generator import generator

from mmdiff.audio.evaluation.edit_tasks import edit_tasks
from mmdiff.audio.evaluation.edits import EDIT_MEASURES, edit_measures, evaluate_edits, unknown
from mmdiff.errors import InputError
from mmdiff.media.tables import ScoreTable

RATE = 1000


def recordings() -> list[torch.Tensor]:
    time = torch.arange(1300) / RATE
    return [0.3 * torch.sin(2 * torch.pi * f * time)[None] + 0.05 * torch.sin(2900 * time) for f in (40, 55)]


def test_the_unknown_part_alone_is_measured():
    wave = recordings()[0]
    for task in edit_tasks():
        edit = task.edit(wave, RATE)
        real = wave[:, : edit.wave.shape[-1]]
        other = edit.finish(real + 0.1 * torch.randn(real.shape, generator=torch.Generator().manual_seed(0)))
        kept = 0.02 if edit.known_rate else 1e-5  # a resampler does not know what comes after the end
        known = (sound - unknown(edit, sound) for sound in (real, other))
        torch.testing.assert_close(*known, atol=kept, rtol=0)
        assert edit_measures([edit], [wave], [edit.finish(real)], [])["snr"].value > 60
        half = edit.finish(real - 0.5 * unknown(edit, real)) if edit.side is None else None
        if half is not None and "gaps of 10" not in task.name:  # short gaps are all border
            assert edit_measures([edit], [wave], [half], [])["snr"].value == pytest.approx(6.02, abs=1.5)


def test_baselines_and_methods_are_compared_task_by_task():
    tasks = [task for task in edit_tasks() if "50 ms" in task.name or "rate" in task.name]
    scores = evaluate_edits(generator(), recordings(), tasks=tasks, measures=["lsd"], progress=False, steps=2)
    table = ScoreTable(scores, EDIT_MEASURES, group="task").markdown()
    assert table.count("reconstruction guidance") == table.count("replacement in x0") == len(tasks) == 3
    by_name = {(score.about["task"], score.name): score.measures["snr"].value for score in scores}
    assert by_name["gaps of 50 ms", "silence"] == pytest.approx(0, abs=0.2)  # but for the fade
    assert by_name["gaps of 50 ms", "linear prediction"] > 15
    assert by_name["half the rate doubled", "resampling"] == pytest.approx(0, abs=0.5)
    assert scores[0].about["gaps"] == 4


def test_wrong_requests_are_named():
    with pytest.raises(InputError, match="methods="):
        evaluate_edits(generator(), recordings(), methods=["magic"])
    with pytest.raises(InputError, match="each of 0"):
        evaluate_edits(generator(), [torch.ones(1, 100)])
