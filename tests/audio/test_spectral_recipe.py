"""The spectral vocoder's recipe: what it saves, of a model that it goes on from."""

from __future__ import annotations

import pytest
import torch

from mmdiff.errors import InputError
from mmdiff.hub import load_model
from mmdiff.recipes import run_recipe
from mmdiff.weights import named_tensors


def test_the_mean_of_where_a_training_began_and_ended(clips, tmp_path):
    given = ["--data", str(clips), "--adversarial_steps", "0"]
    run_recipe("spectral_vocoder.tiny", [*given, "--run_dir", str(tmp_path / "first")])
    begun = tmp_path / "first" / "model"
    on = [*given, "--init", str(begun), "--joint_rate", "0.01"]
    found = {}
    for average in (0.0, 0.25):
        run = tmp_path / str(average)
        run_recipe("spectral_vocoder.tiny", [*on, "--run_dir", str(run), "--average", str(average)])
        found[average] = named_tensors(load_model(str(run / "model"), "cpu"))
    moved = 0.0
    for name, tensor in named_tensors(load_model(str(begun), "cpu")).items():
        moved += float((found[0.0][name] - tensor).detach().abs().sum())
        wanted = torch.lerp(found[0.0][name], tensor, 0.25)
        torch.testing.assert_close(found[0.25][name], wanted, atol=1e-4, rtol=2e-3)  # of half precision
    assert moved > 1
    with pytest.raises(InputError, match=r"average=0\.5 must be"):
        run_recipe("spectral_vocoder.tiny", [*given, "--average", "0.5"])


def test_a_sketch_is_added_to_a_model_that_stays_as_it_is(clips, tmp_path):
    given = ["--data", str(clips), "--adversarial_steps", "0"]
    run_recipe("spectral_vocoder.tiny", [*given, "--run_dir", str(tmp_path / "first"), "--sketch_steps", "0"])
    begun = load_model(str(tmp_path / "first" / "model"), "cpu")
    assert begun.sketch is None
    on = [*given, "--init", str(tmp_path / "first" / "model"), "--joint_steps", "0"]
    run_recipe("spectral_vocoder.tiny", [*on, "--run_dir", str(tmp_path / "second"), "--sketch_rate", "0.01"])
    made = load_model(str(tmp_path / "second" / "model"), "cpu")
    before, after = named_tensors(begun), named_tensors(made)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = {name for name in after if name not in before}
    assert added == {name for name in after if name.startswith("sketch.")}
    moved = after["sketch.network.read.weight"] - before["denoiser.network.network.read.weight"]
    assert float(moved.detach().abs().max()) > 1e-4  # the rate has hardly begun to rise
    with pytest.raises(InputError, match=r"depth=3 must be at least 1 and at most 2"):
        run_recipe(
            "spectral_vocoder.tiny", [*on, "--run_dir", str(tmp_path / "third"), "--sketch_depth", "3"]
        )
