from __future__ import annotations

import sys

import pytest
import torch

from mmdiff.bench.clip_networks import (
    MODES,
    PACKAGE,
    SIDES,
    computation,
    make_network,
    noise_clips,
    same_weights,
)
from mmdiff.bench.clips import ClipLoad, bench_clips
from mmdiff.errors import InputError

TINY = ClipLoad(size=8, frames=2, dim=8, batch=1, threads=1)


def test_both_sides_compute_the_same():
    networks = {side: make_network(side, TINY.dim) for side in SIDES}
    for side, state in same_weights(TINY.dim).items():
        networks[side].load_state_dict(state)
    x = noise_clips(TINY.batch, TINY.frames, TINY.size)
    for mode in MODES:
        ours, theirs = (computation(side, networks[side], mode, "float32", x)() for side in SIDES)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert all(p.grad is None for network in networks.values() for p in network.parameters())


def test_table_has_times_and_memory_of_both(in_this_process):
    table = bench_clips(TINY, dtypes=["bfloat16"], modes=["forward"], repeats=1)
    ours, theirs = table.scores
    assert (ours.name, theirs.name) == SIDES
    assert ours.about == theirs.about == {"work": "forward, bfloat16"}
    ratio = theirs.measures["seconds"].value / ours.measures["seconds"].value
    assert ours.measures["speed"].value == pytest.approx(ratio)
    assert "speed" not in theirs.measures
    assert table.shared["size"] == 8


def test_a_missing_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "video_diffusion_pytorch", None)
    with pytest.raises(InputError, match=rf"pip install {PACKAGE}==0\.7\.0"):
        bench_clips(TINY)


@pytest.mark.parametrize("wrong", [{"size": 12}, {"frames": 0}, {"dim": 7}, {"threads": -1}])
def test_impossible_workloads_are_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        ClipLoad(**wrong)
    with pytest.raises(InputError, match="dtypes="):
        bench_clips(TINY, dtypes=["int8"])
