from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

from mmdiff.bench import worker
from mmdiff.bench.race import Contender, Run, measured, race, race_measures, speed
from mmdiff.errors import InputError

ROOM = Path(worker.__file__).parent

SYSTEM = """
import os, sys

def build(task):
    def say(word):
        with open(task["log"], "a") as file:
            file.write(f"{task['name']} {word}\\n")
        print("noise from a package")
        if word == task.get("fails"):
            raise ValueError("no such thing\\nmore")
        if word == task.get("dies"):
            sys.stderr.write("out of luck\\n")
            os._exit(3)

    def make(source, target):
        with open(target, "w") as file:
            file.write(open(source).read() + os.environ["OMP_NUM_THREADS"])

    return {"warm": lambda: say("warm"), "full": lambda: say("full"), "make": make}
"""


@pytest.fixture
def contender(tmp_path):
    """Make a contender that writes down what it is told to do."""
    (tmp_path / "system.py").write_text(SYSTEM)

    def make(name, makes=(), **task):
        task = {"name": name, "log": str(tmp_path / "log"), **task}
        return Contender(name, tmp_path / "system.py", task, sys.executable, makes)

    return make


def test_contenders_run_in_turn_and_make_files_last(contender, tmp_path):
    (tmp_path / "in").write_text("threads: ")
    makes = [(str(tmp_path / "in"), str(tmp_path / "out"))]
    runs = race([contender("a", makes), contender("b")], repeats=2, threads=3)
    assert (tmp_path / "log").read_text().split("\n") == [
        *("a warm", "a full", "b warm", "b full"),
        *("a full", "b full", "a full", "b full", ""),
    ]
    assert [len(run.seconds) for run in runs.values()] == [2, 2]
    assert (tmp_path / "out").read_text() == "threads: 3"


def test_what_fails_is_told_and_the_others_go_on(contender):
    runs = race([contender("a", fails="full"), contender("b", dies="full"), contender("c")], repeats=1)
    assert runs["a"].error == "ValueError: no such thing"
    assert runs["b"].error == "out of luck"
    assert not runs["a"].seconds + runs["b"].seconds
    assert runs["c"].error == ""
    assert len(runs["c"].seconds) == 1


def test_no_repeats_are_refused(contender):
    with pytest.raises(InputError, match="repeats=0"):
        race([contender("a")], repeats=0)


def test_ratios_are_medians_of_neighbours():
    ours, theirs = Run([1.0, 2.0, 4.0], 50.0), Run([3.0, 4.0, 40.0], 200.0)
    found = measured(ours, theirs)
    assert found["seconds"].value == 2.0
    assert found["megabytes"].value == 50.0
    assert found["speed"][:2] == (3.0, 2.0)  # of 3, 2 and 10; not 4 / 2, the ratio of medians
    assert found["speed"].high == 10.0
    assert found["memory"].value == 0.25
    assert speed(theirs, ours).value == pytest.approx(1 / 3)
    assert set(measured(ours, ours)) == set(measured(ours)) == {"seconds", "megabytes"}
    assert measured(Run([1.0, 2.0]))["seconds"].value == 1.5


def test_table_says_how_it_was_measured():
    assert race_measures(3, 2)["seconds"].note == "median of 3 interleaved repeats on 2 threads"
    assert race_measures(1, 1)["seconds"].note == "median of 1 interleaved repeat on 1 thread"


def test_memory_is_what_a_run_adds():
    held = torch.ones(2**24)  # 64 MB that must not count

    def full():
        return float(torch.ones(2**25).sum())  # 128 MB

    assert worker.added_memory(lambda: None, full) == pytest.approx(128, abs=32)
    assert held.all()
    assert worker.duration(lambda: None) < 0.1


@pytest.mark.parametrize("file", ["worker.py", "vocoder_peers.py"])
def test_what_runs_elsewhere_imports_nothing_of_ours(file):
    for node in ast.walk(ast.parse((ROOM / file).read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.startswith("mmdiff")]
