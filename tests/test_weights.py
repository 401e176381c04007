from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmdiff.errors import CheckpointError
from mmdiff.weights import assign_tensors, named_tensors, read_tensors, write_tensors


class Tied(nn.Module):
    """Two names for one matrix, a persistent buffer and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.register_buffer("kept", torch.rand(2, dtype=torch.float64))
        self.register_buffer("scratch", torch.rand(2), persistent=False)


def test_tied_weights_and_buffers_come_back_through_a_file(tmp_path: Path) -> None:
    source, target = Tied(), Tied()
    assert named_tensors(source).keys() == {"one.weight", "one.bias", "two.bias", "kept"}
    write_tensors(tmp_path / "w.safetensors", named_tensors(source))
    assign_tensors(target, read_tensors(tmp_path / "w.safetensors"), source="w")
    for name, tensor in named_tensors(source).items():
        assert torch.equal(named_tensors(target)[name], tensor)
    assert target.two.weight is target.one.weight


def test_half_narrows_only_what_it_names(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(3), "b": torch.rand(3), "n": torch.arange(3)}
    write_tensors(tmp_path / "w.safetensors", tensors, half={"a", "n"})
    types = {name: t.dtype for name, t in read_tensors(tmp_path / "w.safetensors").items()}
    assert types == {"a": torch.float16, "b": torch.float32, "n": torch.int64}


def test_views_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    write_tensors(tmp_path / "w.safetensors", {"t": base.T, "row": base[1]})
    read = read_tensors(tmp_path / "w.safetensors")
    assert torch.equal(read["t"], base.T)
    assert torch.equal(read["row"], base[1])


def test_a_misfit_changes_nothing() -> None:
    module = nn.Linear(2, 2)
    before = {name: t.clone() for name, t in named_tensors(module).items()}
    with pytest.raises(CheckpointError, match=r"wrong shape: bias \(3,\) instead of \(2,\)"):
        assign_tensors(module, {"weight": torch.ones(2, 2), "bias": torch.ones(3)}, source="x")
    assert all(torch.equal(before[name], t) for name, t in named_tensors(module).items())


def test_long_lists_of_misfits_are_cut() -> None:
    with pytest.raises(CheckpointError, match="unexpected: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"):
        assign_tensors(nn.Identity(), {str(i): torch.ones(1) for i in range(20)}, source="x")
