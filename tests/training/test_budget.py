"""Training for a time: the time is kept, and the weights are those of one run of as many updates."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import pytest
import torch
from tiny_run import Points, Regression

from mmdiff.errors import CheckpointError, InputError
from mmdiff.training import Trainer, load_weights
from mmdiff.training.budget import Stopwatch, train_for


def _watch(**settings) -> Stopwatch:
    """One whose clock goes by a second whenever it is looked at."""
    ticks = itertools.count(0, 1_000_000_000)
    return Stopwatch(Regression(noise=0.1, **settings), clock=lambda: next(ticks))


def _trainer(folder: Path, watch: Stopwatch, steps: int, **settings) -> Trainer:
    return Trainer(
        folder, watch, Points(), steps=steps, batch_size=4, learning_rate=1e-2, lr_schedule="constant",
        ema=("power:0.1",), log_every=0, device="cpu", tensorboard=False, **settings,
    )  # fmt: skip


def test_time_is_kept_and_weights_are_those_of_one_run(tmp_path):
    watch = _watch(dropout=0.1)
    steps = [
        train_for(seconds, watch, tmp_path / "a", lambda n: _trainer(tmp_path / "a", watch, n))
        for seconds in (30, 30, 60)  # the second has its time already
    ]
    assert steps == [31, 31, 61]  # the last one's time is not known yet
    assert watch.seconds == 60
    whole = _watch(dropout=0.1)
    _trainer(tmp_path / "b", whole, steps[2]).fit()
    for folder, task in (("a", watch), ("b", whole)):
        load_weights(task, tmp_path / folder)
    for name, tensor in whole.task.state_dict().items():
        torch.testing.assert_close(watch.task.state_dict()[name], tensor, rtol=0, atol=0)


def test_updates_that_become_slower_do_not_take_much_longer(tmp_path):
    now = itertools.accumulate(itertools.chain(itertools.repeat(1, 20), itertools.repeat(4)))
    watch = Stopwatch(Regression(), clock=lambda: 1_000_000_000 * next(now))
    train_for(100, watch, tmp_path, lambda n: _trainer(tmp_path, watch, n))
    assert 100 <= watch.seconds <= 108


def test_interrupted_training_goes_on_with_its_time_and_weights(tmp_path):
    def stopping(seconds: float, folder: Path, end: float) -> Stopwatch:
        watch = _watch()
        data = Points(end=4 * end)  # asking for more ends the run as a crash would

        def make(steps: int) -> Trainer:
            trainer = _trainer(folder, watch, steps, checkpoint_every=5)
            trainer.dataset = data
            return trainer

        train_for(seconds, watch, folder, make)
        return watch

    with pytest.raises(LookupError):
        stopping(50, tmp_path / "a", end=23)
    resumed, whole = stopping(50, tmp_path / "a", end=1000), stopping(50, tmp_path / "b", end=1000)
    assert resumed.seconds == whole.seconds == 50
    counts = [load_weights(w, tmp_path / f, ema=None) for w, f in ((resumed, "a"), (whole, "b"))]
    assert counts == [51, 51]
    again = _watch()
    _trainer(tmp_path / "c", again, counts[0]).fit()
    for name, tensor in again.task.state_dict().items():
        torch.testing.assert_close(resumed.task.state_dict()[name], tensor, rtol=0, atol=0)


def test_rest_is_not_counted_and_time_is_the_processors(tmp_path):
    watch = Stopwatch(Regression())
    batch, generator = (torch.zeros(1, 4), torch.zeros(1)), torch.Generator()
    watch(batch, generator)
    time.sleep(0.05)
    watch(batch, generator)
    assert watch.seconds < 0.04  # asleep
    before = watch.seconds
    watch.rest()
    for _ in range(50):
        torch.randn(100, 100) @ torch.randn(100, 100)
    watch(batch, generator)
    assert watch.seconds == pytest.approx(2 * before)  # of two updates, the second as long as the first


def test_slips_are_explained(tmp_path):
    with pytest.raises(InputError, match="seconds=0"):
        train_for(0, _watch(), tmp_path, lambda n: _trainer(tmp_path, _watch(), n))


def test_a_run_goes_on_with_its_own_settings_alone(tmp_path):
    def go_on(seconds: float, **settings: object) -> int:
        watch = _watch()
        return train_for(seconds, watch, tmp_path, lambda n: _trainer(tmp_path, watch, n), settings)

    updates = go_on(1, steps=4, widths=(1, 2), data=tmp_path)
    assert go_on(1, steps=4, widths=[1, 2], data=tmp_path) == updates
    with pytest.raises(
        CheckpointError, match=r"steps=8 must be 4, as in .*settings\.json, to resume that run"
    ):
        go_on(1, steps=8, widths=[1, 2], data=tmp_path)
