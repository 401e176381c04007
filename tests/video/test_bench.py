from __future__ import annotations

import sys

import pytest
import torch

from mmdiff.errors import InputError
from mmdiff.video import bench
from mmdiff.video.bench import MODES, SIDES, Workload

TINY = Workload(size=8, frames=2, dim=8, batch=1, threads=1)


def test_both_sides_compute_the_same():
    networks = bench._networks(TINY)
    x = bench._clips(TINY)
    for mode in MODES:
        ours, theirs = (bench._run(side, networks[side], mode, "float32", x)() for side in SIDES)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert all(p.grad is None for network in networks.values() for p in network.parameters())


def test_row_has_times_and_memory_of_both(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(bench, "_fresh_process", lambda side, *_: {"mmdiff": 10.0}.get(side, 40.0))
    (row,) = bench.bench(TINY, dtypes=["bfloat16"], modes=["forward"], repeats=1)
    assert (row.mode, row.dtype) == ("forward", "bfloat16")
    assert row.speed_ratio == pytest.approx(row.seconds[SIDES[1]] / row.seconds[SIDES[0]])
    assert row.memory_ratio == 0.25
    assert torch.get_num_threads() == threads


def test_memory_is_that_of_a_fresh_process():
    large = Workload(size=32, frames=8, dim=8, batch=1, threads=1)
    held = torch.ones(2**26)  # of this process, 256 MB that must not count
    assert 1 < bench._fresh_process("mmdiff", "training step", "float32", large) < 200
    assert held.all()


def test_peak_is_that_of_this_process():
    before = bench._peak()
    extra = torch.ones(round(before / 4) * 2**20)  # as much again, in float32, written to
    assert bench._peak() - before >= 0.5 * extra.nbytes / 2**20


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "video_diffusion_pytorch", None)
    with pytest.raises(InputError, match=r"pip install video-diffusion-pytorch==0\.7\.0"):
        bench.bench(TINY)


@pytest.mark.parametrize("wrong", [{"size": 12}, {"frames": 0}, {"dim": 7}, {"threads": -1}])
def test_impossible_workloads_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Workload(**wrong)
    with pytest.raises(InputError, match="repeats=0"):
        bench.bench(TINY, repeats=0)
