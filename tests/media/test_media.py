"""What the adapters share; their own tests cover it through real data sets and files."""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from mmdiff.errors import InputError
from mmdiff.media.blocks import rebuffer
from mmdiff.media.cache import fingerprint, on_threads, report_broken, state_of, writing_to
from mmdiff.media.draws import draw_by_length, item_rng
from mmdiff.media.estimates import Estimate, bootstrapped, mean_estimate, wilson
from mmdiff.media.folders import subfolders, walk
from mmdiff.media.manifests import lines, records
from mmdiff.media.measures import Metric, chosen, undefined
from mmdiff.media.splits import apart, hold_out
from mmdiff.media.tables import SHARE, Measure, Score, ScoreTable, markdown_table


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_folders_are_walked_in_order_without_what_is_hidden(tmp_path):
    tree(tmp_path, "b.wav", "a.WAV", ".c.wav", "z/1.wav", "y/2.wav", "y/deep/3.wav", ".git/4.wav", "c.txt")
    met = [file.relative_to(tmp_path).as_posix() for f in walk(tmp_path) for file in f.ending_in({".wav"})]
    assert met == ["a.WAV", "b.wav", "y/2.wav", "y/deep/3.wav", "z/1.wav"]
    assert [folder.name for folder in subfolders(tmp_path)] == ["y", "z"]


def test_a_folder_is_left_out_when_told_and_when_it_cannot_be_listed(tmp_path):
    tree(tmp_path, "a/1", "b/2", "c/3")
    walker = walk(tmp_path)
    next(walker).subfolders.remove("a")
    (tmp_path / "b/2").unlink()
    (tmp_path / "b").rmdir()
    with pytest.warns(UserWarning, match=r"b' is left out: No such file"):
        assert [folder.path.name for folder in walker] == ["c"]


def test_links_are_followed_only_when_told(tmp_path):
    tree(tmp_path, "real/1", "data/2")
    (tmp_path / "data/link").symlink_to(tmp_path / "real")
    assert [len(list(walk(tmp_path / "data", links=links))) for links in (True, False)] == [2, 1]


def test_manifests_say_which_line_is_wrong(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text("\ufeffFile,Caption\nx.mp4,\n", encoding="utf-8")
    (record,) = records(table)
    assert (record.first("caption", "file"), record.first("text")) == ("x.mp4", None)
    assert record.name_of_file("path", "file") == "x.mp4"
    with pytest.raises(InputError, match=r"a.csv' line 2 names .*x.mp4', which is no file"):
        record.path("x.mp4")
    with pytest.raises(InputError, match="line 2 must name its file under video"):
        record.name_of_file("video")
    (tmp_path / "b.jsonl").write_text('# comment\n\n{"file": "y"}\n[1]\n', encoding="utf-8")
    found = records(tmp_path / "b.jsonl")
    assert next(found).number == 3
    with pytest.raises(InputError, match=r"line 4 must be one JSON object, not '\[1\]'"):
        next(found)
    (tmp_path / "c.txt").write_bytes("ä".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        list(lines(tmp_path / "c.txt"))


@pytest.mark.parametrize("count", [0, 1, 2, 49, 100, 12_000])
def test_one_group_of_fifty_validates_and_none_is_on_both_sides(count):
    items = [(n // 3, n) for n in range(3 * count)]
    train, valid = hold_out(items, lambda item: item[0])
    held = {group for group, _ in valid}
    assert sorted(train + valid) == items
    assert held.isdisjoint(group for group, _ in train)
    assert len(held) == (min(100, max(1, count // 50)) if count else 0)
    if len(held) > 1:  # evenly spaced
        assert set(np.diff(sorted(held))) <= {count // len(held), count // len(held) + 1}
    assert apart(items, valid, lambda item: item[0]) == train


def test_fingerprints_change_with_the_file_and_hold_for_any_name(tmp_path):
    file = tmp_path / os.fsdecode(b"\xff.wav")
    file.write_bytes(b"1")
    before = state_of(file)
    assert fingerprint(["a", before], 24) == fingerprint(iter(["a", before]), 64)[:24]
    assert fingerprint(["a", "b"], 64) == hashlib.sha256(b"a\nb").hexdigest()
    os.utime(file, ns=(0, 0))
    assert state_of(file) != before
    with pytest.raises(InputError, match=r"gone' cannot be read"):
        state_of(tmp_path / "gone")


def test_work_on_threads_keeps_the_order_and_its_bound():
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.002 * (number % 3))
        return number

    ahead = []
    for result in on_threads(work, range(60), bounded=True):
        ahead.append(max(begun) - result)
    assert max(ahead) <= 4
    assert list(on_threads(work, range(60))) == list(range(60))


def test_work_on_threads_stops_at_the_first_failure():
    released, done = threading.Event(), []

    def work(number: int) -> None:
        if number == 0:
            raise ValueError("first")
        released.wait(0.01)
        done.append(number)

    with pytest.raises(ValueError, match="first"):
        list(on_threads(work, range(1000)))
    assert len(done) < 1000


@pytest.mark.parametrize(
    ("broken", "total", "outcome"),
    [
        (0, 5, None),
        (1, 2, "1 of 2 clips"),
        (1, 1, InputError),
        (2, 5, InputError),
        (10, 100, "10 of 100 clips"),
    ],
)
def test_a_tenth_of_the_files_may_be_broken(broken, total, outcome):
    complaints = [f"file {n}" for n in range(broken)]
    if outcome is InputError:
        with pytest.raises(InputError, match="Repair or remove them"):
            report_broken(complaints, total, stacklevel=1)
    elif outcome is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report_broken(complaints, total, stacklevel=1)
    else:
        with pytest.warns(UserWarning, match=outcome) as caught:
            report_broken(complaints, total, stacklevel=1)
        assert caught[0].filename == __file__


def test_broken_files_are_named_and_many_counted():
    complaints = [f"file {n}" for n in range(12)]
    with pytest.raises(InputError, match=r"3 of 5 clips cannot be used: file 0; file 1; file 2\. Repair"):
        report_broken(complaints[:3], 5, stacklevel=1)
    with pytest.raises(InputError, match=r"file 8; file 9; 2 more\. Repair"):
        report_broken(complaints, 20, stacklevel=1)


def test_a_full_disk_is_told_with_what_is_needed(tmp_path):
    with pytest.raises(InputError, match=r"written: No space left on device\. It needs 2 bytes"):  # noqa: SIM117
        with writing_to(tmp_path, "2 bytes a sample"):
            raise OSError(28, "No space left on device")


def test_draws_are_a_function_of_seed_number_and_stream():
    draws = {(s, n, k): item_rng(s, n, k).random() for s in (0, 1, -1) for n in (0, 1) for k in (0, 1)}
    assert len(set(draws.values())) == len(draws)
    assert item_rng(0, 1, 1).random() == draws[0, 1, 1]
    with pytest.raises(IndexError, match="index=-1"):
        item_rng(0, -1)


def test_items_are_drawn_in_proportion_to_their_length():
    ends = np.cumsum([0, 1, 3, 0, 4])
    rng = item_rng(0, 0)
    counts = Counter(draw_by_length(ends, rng) for _ in range(8000))
    assert set(counts) == {1, 2, 4}
    for item, share in ((1, 1 / 8), (2, 3 / 8), (4, 4 / 8)):
        assert abs(counts[item] / 8000 - share) < 5 * (share * (1 - share) / 8000) ** 0.5


@pytest.mark.parametrize("size", [1, 3, 7, 40])
@pytest.mark.parametrize("dim", [0, -1])
def test_blocks_of_one_length_join_to_what_came_in(size, dim):
    whole = torch.arange(40.0).reshape((20, 2) if dim == 0 else (2, 20))
    pieces = torch.split(whole, [1, 2, 0, 9, 8], dim)
    blocks = list(rebuffer(pieces, size, dim))
    assert torch.equal(torch.cat(blocks, dim), whole)
    assert [block.shape[dim] for block in blocks[:-1]] == [size] * (len(blocks) - 1)
    assert all(block.is_contiguous() for block in blocks)
    assert len({block.untyped_storage().data_ptr() for block in blocks}) == len(blocks)


def test_measures_are_chosen_by_name():
    known = {"one": Metric(lambda a, b: 1.0, "", True), "two": Metric(lambda a, b: 2.0, "dB", False)}
    assert list(chosen(None, known)) == ["one", "two"]
    assert chosen(["two"], known)["two"](0, 0) == 2.0
    with pytest.raises(InputError, match="name='three' must be a known measure: one of one, two"):
        chosen(["three"], known)
    with pytest.warns(UserWarning, match="two is undefined here and counts as nan: too short"):
        assert np.isnan(undefined("two", "too short"))


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    normal, found = mean_estimate(values), bootstrapped(lambda x: x.mean(-1), values)
    assert found.value == normal.value
    assert (found.low, found.high) == pytest.approx((normal.low, normal.high), abs=0.01)


def test_means_leave_out_what_does_not_exist() -> None:
    found = mean_estimate(torch.tensor([1.0, math.nan, 3.0]))
    assert found[:4] == pytest.approx((2, 2 - 1.96, 2 + 1.96, 2), abs=1e-3)
    one, none = mean_estimate(torch.tensor([4.0])), mean_estimate(torch.tensor([math.nan]))
    assert (one.value, one.samples, none.samples) == (4, 1, 0)
    assert all(math.isnan(x) for x in (one.low, one.high, none.value, none.low))


TABLE = ScoreTable(
    [
        Score("real", {"right": wilson(1.0, 10)}, {"task": "a", "evaluations": None}),
        Score("x|y", {"right": wilson(0.5, 10), "far": Estimate(0.01234, 0.01, 0.02, 10, 500)}, {"task": "a"}),
        Score("z", {"far": Estimate(1234.5, samples=9, real=500)}, {"task": "b", "evaluations": 19}, {"all": [1]}),
        Score("w", {"far": Estimate(math.inf)}, {"task": "b", "evaluations": 2.0}),
    ],
    {
        "evaluations": Measure("evaluations", decimals=2),
        "right": Measure("clips that are right", SHARE, True, note="all of them"),
        "far": Measure("distance", "pixels", False),
        "nowhere": Measure("not measured", note="never"),
    },
    "name",
    group="task",
    shared={"model": "m"},
)  # fmt: skip


def cells(table: ScoreTable) -> list[list[str]]:
    assert len({len(line) for line in table.markdown().splitlines()}) == 1
    return [
        [cell.strip() for cell in line.replace("\\|", "/").split("|")[1:-1]]
        for line in table.markdown().splitlines()
        if not line.startswith("| :")
    ]


def test_a_table_shows_what_there_is_with_units_directions_and_intervals() -> None:
    assert cells(TABLE) == [
        ["name", "evaluations", "clips that are right ↑", "distance, pixels ↓ (500 real)"],
        ["**a**", "", "", ""],
        ["real", "", "100.0 % [72.2, 100.0]", ""],
        ["x/y", "", "50.0 % [23.7, 76.3]", "0.0123 [0.0100, 0.0200]"],
        ["**b**", "", "", ""],
        ["z", "19", "", "1234"],
        ["w", "2.00", "", ""],
    ]
    assert TABLE.notes() == ["clips that are right: all of them"]
    assert cells(replace(TABLE, intervals=False))[3][2:] == ["50.0 %", "0.0123"]


def test_a_turned_table_has_the_same_cells() -> None:
    whole = cells(replace(TABLE, group=""))
    assert cells(replace(TABLE, turned=True)) == [list(column) for column in zip(*whole, strict=True)]


def test_records_say_everything_to_programs() -> None:
    records = replace(TABLE, kind="file").records()
    assert [record["file"] for record in records] == ["real", "x|y", "z", "w"]
    assert records[2] == {
        "model": "m",
        "file": "z",
        "task": "b",
        "evaluations": 19,
        "measures": {
            "far": {
                "value": 1234.5, "low": ANY, "high": ANY, "samples": 9, "real": 500, "unit": "pixels",
                "higher_is_better": False,
            }
        },
        "all": [1],
    }  # fmt: skip
    assert all("all" not in record for record in TABLE.records(details=False))
    assert markdown_table(["a"], [["two\nlines"]]).splitlines()[2] == "| two lines |"
