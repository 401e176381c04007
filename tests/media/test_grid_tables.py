"""Tables of searched grids: round trips, other schedules by log-SNR, files nobody vouches for; kept scores."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mmdiff.diffusion.grids import make_grid, noise_table_grid
from mmdiff.diffusion.schedules import BetaTable, CosineVP, LinearFlow, wavegrad_betas
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import find_grid, find_table, read_table, write_table
from mmdiff.media.scores import ScoreFile
from mmdiff.media.searched_grids import GridTable, SearchedGrid

FLOW, COSINE, TABLE = LinearFlow(), CosineVP(), BetaTable(wavegrad_betas())
FAST = (7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 3.5e-1, 7e-1)


@pytest.fixture
def path(tmp_path):
    grids = [
        SearchedGrid.of(make_grid("uniform", FLOW, 4), FLOW),
        SearchedGrid.of(
            make_grid("quadratic", FLOW, 6),
            FLOW,
            score=0.25,
            others={"uniform": 0.5},
            history=((1, 0.5), (9, 0.25)),
            asked=7,
        ),
    ]
    table = GridTable(tuple(grids), "m", "LinearFlow()", "ddim", "log_mel_l1", False, {"files": ["a.wav"]})
    return write_table(tmp_path / "table.json", table)


def test_a_table_comes_back_as_it_was_written(path):
    table = read_table(path)
    assert (table.model, table.sampler, table.data) == ("m", "ddim", {"files": ["a.wav"]})
    assert [(grid.steps, grid.asked) for grid in table.grids] == [(4, 4), (6, 7)]
    assert table.grids[1].score == 0.25
    assert table.grids[1].others == {"uniform": 0.5}
    assert table.grids[1].history == ((1, 0.5), (9, 0.25))
    assert math.isnan(table.grids[0].score)
    assert read_table(write_table(path, table)).grids[1] == table.grids[1]
    assert torch.equal(table.grid(FLOW, 6), make_grid("quadratic", FLOW, 6))  # to the last digit


@pytest.mark.parametrize("schedule", [COSINE, TABLE], ids=["cosine", "wavegrad"])
def test_a_grid_serves_another_schedule_by_its_log_snr(path, schedule):
    there = read_table(path).grid(schedule, 4)
    levels = FLOW.log_snr(make_grid("uniform", FLOW, 4))
    torch.testing.assert_close(schedule.log_snr(there)[1:-1], levels[1:-1])
    assert (float(there[0]), float(there[-1])) == (1.0, 0.0)


def test_the_end_of_a_table_stays_an_end_and_a_start_below_it_stays_below():
    whole = SearchedGrid.of(make_grid("log_snr", TABLE, 5), TABLE)
    assert float(whole.on(COSINE)[0]) == 1.0
    fast = SearchedGrid.of(noise_table_grid(TABLE, FAST), TABLE)
    assert float(fast.on(TABLE)[0]) < 1
    torch.testing.assert_close(COSINE.log_snr(fast.on(COSINE))[0], TABLE.log_snr(fast.on(TABLE))[0])
    far = SearchedGrid.of(torch.tensor([1.0, 0.999, 0.998, 0.0]).double(), FLOW)
    with pytest.raises(InputError, match="must fall strictly"):
        far.on(TABLE)


def test_grids_are_found_by_name_file_table_and_times(path):
    uniform = make_grid("uniform", FLOW, 4)
    sources = ("uniform", path, str(path), read_table(path), uniform, uniform.tolist())
    for source in sources:
        assert torch.equal(find_grid(source, FLOW, 4, 9), uniform)
        assert torch.equal(find_grid(source, FLOW, None, 4), uniform)
    assert torch.equal(find_grid(uniform, FLOW, None, 9), uniform)
    assert find_table(uniform) is find_table("uniform") is None
    for source, steps, word in (
        ("magic", 4, "grid='magic' must be one of uniform"),
        (path, 5, "must be one of those the table has grids of: 4, 6 \\(asked for as 7\\)"),
        (path, None, "must be one of those the table has grids of: 4, 6 \\(asked for as 7\\)"),
        (uniform, 5, "grid of 4 steps must have the steps=5"),
        ([0.5, 1.0], None, "must decrease strictly"),
    ):
        with pytest.raises(InputError, match=word):
            find_grid(source, FLOW, steps, 9)


BAD = {
    "format": {"format": 2},
    "list of grids": {"grids": "all"},
    "object with times": {"grids": [[1, 0]]},
    "list of two numbers": {"grids": [{"times": 3, "log_snr": [0, 1]}]},
    "finite number": {"grids": [{"times": [1, True], "log_snr": [0, 1]}]},
    "'nan' must be a finite": {"grids": [{"times": [1, 0], "log_snr": ["nan", 1]}]},
    "10000": {"grids": [{"times": [10**400, 0], "log_snr": [0, 1]}]},
    "one less": {"grids": [{"steps": 3, "times": [1, 0], "log_snr": [0, 1]}]},
    "asked=0 must be a whole number, no less than the 1": {
        "grids": [{"asked": 0, "times": [1, 0], "log_snr": [0, 1]}]
    },
    "decrease strictly": {"grids": [{"times": [0, 1], "log_snr": [0, 1]}]},
    "in \\[0, 1\\]": {"grids": [{"times": [2, 1], "log_snr": [0, 1]}]},
    "must rise": {"grids": [{"times": [1, 0], "log_snr": [1, 0]}]},
    "hold numbers": {"grids": [{"times": [1, 0], "log_snr": [0, 1], "score": "good"}]},
    "differ in their": {"grids": [{"times": [1, 0], "log_snr": [0, 1]}] * 2},
    "must be text": {"model": 3, "grids": [{"times": [1, 0], "log_snr": [0, 1]}]},
}


@pytest.mark.parametrize("word", BAD)
def test_what_is_no_table_is_refused_with_its_name(tmp_path, word):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"format": 1, **BAD[word]}))
    with pytest.raises(InputError, match=word) as told:
        read_table(path)
    assert "bad.json" in str(told.value)


def test_what_is_no_json_is_refused(tmp_path):
    path = tmp_path / "bad.json"
    for content in (b"\xff\xfe", b"{", b"[" * 100_000, b" " * (2**20 + 1), b"NaN", b"[]"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.json"):
            read_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.json")


def test_the_shortest_table_is_times_and_log_snr(tmp_path):
    path = tmp_path / "short.json"
    path.write_text('{"format": 1, "grids": [{"times": [1, 0.5, 0], "log_snr": ["-inf", 0, "inf"]}]}')
    assert read_table(path).grid(FLOW).tolist() == [1.0, 0.5, 0.0]
    assert read_table(path).grid(COSINE, 2).tolist() == pytest.approx([1.0, 0.5, 0.0])


def test_scores_are_kept_line_by_line(tmp_path):
    path, about = tmp_path / "deep" / "scores.jsonl", {"model": "m", "files": ("a", "b")}
    scores = ScoreFile(path, about)
    scores["1 0.5 0"], scores["1 0.25 0"] = 0.1 + 0.2, math.inf
    with path.open("a") as file:
        file.write('{"grid": "1 0.')  # the process is killed
    again = ScoreFile(path, about)
    assert dict(again) == {"1 0.5 0": 0.1 + 0.2, "1 0.25 0": math.inf}
    again["1 0.75 0"] = 2.0
    assert len(ScoreFile(path, about)) == 3
    with pytest.raises(InputError, match="scores of another search \\(model='m', now 'n'\\)"):
        ScoreFile(path, {**about, "model": "n"})
    path.write_text("{}\n")
    with pytest.raises(InputError, match="no file of scores"):
        ScoreFile(path, about)
    path.write_text('{"about": {}}\n{"grid": 3}\n')
    with pytest.raises(InputError, match="no score"):
        ScoreFile(path, {})
