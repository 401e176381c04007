"""The loop against an independent one, its guard, its precision and what it writes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from matplotlib.image import imread
from tiny_run import Points, Regression, make_trainer
from torch import Tensor, nn

from mmdiff.errors import CheckpointError, InputError, RecipeError
from mmdiff.training import Validation, load_weights
from mmdiff.training.checkpoint import latest_checkpoint, read_checkpoint
from mmdiff.training.data import MicroBatches, step_seed


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def plain_run(
    steps: int, batch: int, bad: tuple[int, ...], decay: float
) -> tuple[nn.Module, list[Tensor], list[float]]:
    """Train in the textbook manner: whole batches, PyTorch's own scheduler, a loop for the average."""
    task = Regression()
    vectors = [p for p in task.parameters() if p.ndim < 2]
    matrices = [p for p in task.parameters() if p.ndim >= 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99))
    averages, losses, done = [p.detach().clone() for p in task.parameters()], [], 0
    data = Points()
    for step in range(steps):
        x, y = (
            torch.stack(part) for part in zip(*(data[step * batch + i] for i in range(batch)), strict=True)
        )
        if any(step * batch <= index < (step + 1) * batch for index in bad):
            continue
        optimizer.zero_grad()
        loss = task((x, y), torch.Generator())["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        rate = (step + 1) / 4 if step < 4 else 0.5 * (1 + math.cos(math.pi * (step - 4) / (steps - 4)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * rate
        optimizer.step()
        weight = min(decay, (1 + done) / (10 + done))
        averages = [
            weight * a + (1 - weight) * p.detach() for a, p in zip(averages, task.parameters(), strict=True)
        ]
        losses.append(loss.item())
        done += 1
    return task, averages, losses


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_the_loop_equals_a_plain_one_whatever_the_accumulation(tmp_path: Path, accumulate: int) -> None:
    bad = (43, 44)  # one update of the run must be skipped
    trainer = make_trainer(
        tmp_path, noise=0.0, dropout=0.0, bad=bad, accumulate=accumulate, weight_decay=0.1, ema=(0.9,)
    )
    trainer.fit()
    task, averages, losses = plain_run(20, 8, bad, 0.9)
    for ours, theirs in zip(trainer.task.parameters(), task.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(trainer.ema.tensors().values(), averages, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    logged = [row["loss"] for row in rows(tmp_path, "train") if "loss" in row]
    assert logged == pytest.approx(losses, rel=1e-4)
    skipped = rows(tmp_path, "skipped")
    assert [(row["step"], row["loss"], row["in_a_row"]) for row in skipped] == [(6, "nan", 1)]


def test_micro_batches_share_out_every_item_once() -> None:
    parts = [MicroBatches(3, 5, 12, 2, rank, 3) for rank in range(3)]
    lists = [list(part) for part in parts]
    assert [len(part) for part in parts] == [len(list_) for list_ in lists] == [4, 4, 4]
    for update in range(2):
        items = sorted(i for list_ in lists for batch in list_[2 * update : 2 * update + 2] for i in batch)
        assert items == list(range(12 * (3 + update), 12 * (4 + update)))


def test_step_seeds_differ_in_every_argument() -> None:
    seeds = {
        step_seed(a, b, c, d, e)
        for a in (0, 1)
        for b in (0, 1)
        for c in (0, 1)
        for d in (0, 1)
        for e in (0, 1)
    }
    assert len(seeds) == 32
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_too_many_bad_updates_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"max_bad_steps=3 .*step 7: loss=nan.*learning_rate=0.01"):
        make_trainer(tmp_path, bad=tuple(range(32, 200)), max_bad_steps=3).fit()
    assert [row["step"] for row in rows(tmp_path, "skipped")] == [5, 6, 7]


def test_bad_updates_that_are_not_in_a_row_do_not(tmp_path: Path) -> None:
    make_trainer(tmp_path, bad=tuple(range(0, 160, 16)), max_bad_steps=2).fit()
    assert len(rows(tmp_path, "skipped")) == 10


def test_bf16_computes_in_bf16_and_learns_in_float32(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, precision="bf16", noise=0.0, dropout=0.0, steps=150, lr_schedule="constant"
    )
    seen = set()
    trainer.task.net[0].register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    trainer.fit()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in trainer.task.parameters()} == {torch.float32}
    losses = [row["loss"] for row in rows(tmp_path, "train")]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_log_rows_hold_means_over_their_updates(tmp_path: Path) -> None:
    make_trainer(tmp_path / "one").fit()
    make_trainer(tmp_path / "five", log_every=5).fit()
    fine, coarse = rows(tmp_path / "one", "train"), rows(tmp_path / "five", "train")
    assert [row["step"] for row in coarse] == [5, 10, 15, 20]
    for index, row in enumerate(coarse):
        group = fine[5 * index : 5 * index + 5]
        for name in ("loss", "mean_error", "grad_norm"):
            assert row[name] == pytest.approx(sum(r[name] for r in group) / 5, rel=1e-5, abs=1e-6)
        assert row["lr"] == group[-1]["lr"]


def validation(task: nn.Module, step: int) -> Validation:
    assert not task.training
    assert not torch.is_grad_enabled()
    wave = 0.5 * torch.sin(torch.arange(1600) * 0.1)
    image = np.linspace(0, 1, 12 * 5, dtype=np.float32).reshape(12, 5)
    first = next(task.parameters()).flatten()[0].item()
    return Validation({"pesq": -abs(step - 8.0), "first": first}, {"voice/a": (wave, 16_000)}, {"mel": image})


def test_validation_sees_the_average_and_leaves_the_weights(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "with", validate=validation, validate_every=4, best="-pesq")
    trainer.fit()
    make_trainer(tmp_path / "without").fit()
    found = rows(tmp_path / "with", "validation")
    assert [row["step"] for row in found] == [4, 8, 12, 16, 20]
    assert found[-1]["first"] == next(iter(trainer.ema.tensors().values())).flatten()[0].item()
    with_, without = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("with", "without"))
    assert with_ is not None
    assert without is not None
    for name, value in without.weights().items():
        assert torch.equal(with_.weights()[name], value)
    assert read_checkpoint(tmp_path / "with" / "checkpoints" / "best").step == 8


def test_validation_writes_media(tmp_path: Path) -> None:
    make_trainer(tmp_path, validate=validation, steps=4).fit()
    samples, rate = soundfile.read(tmp_path / "media" / "step-00000004" / "voice-a.wav")
    assert rate == 16_000
    assert np.abs(samples - 0.5 * np.sin(np.arange(1600) * 0.1)).max() < 2 / 2**15
    image = imread(tmp_path / "media" / "step-00000004" / "mel.png")
    assert image.shape[:2] == (12, 5)
    brightness = image[..., :3].sum(-1).flatten()
    assert np.all(np.diff(brightness) >= -1e-6)
    assert brightness[-1] > brightness[0] + 1


def test_tensorboard_gets_figures_and_media(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path, validate=validation, steps=4, tensorboard=True).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert events.Scalars("train/loss")[-1].value == pytest.approx(rows(tmp_path, "train")[-1]["loss"])
    assert events.Audio("voice/a")[0].sample_rate == 16_000
    assert (events.Images("mel")[0].height, events.Images("mel")[0].width) == (12, 5)


def test_without_tensorboard_a_run_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    make_trainer(tmp_path, steps=2, tensorboard=True).fit()
    assert "tensorboard is not installed" in capsys.readouterr().out
    assert len(rows(tmp_path, "train")) == 2


def test_load_weights_takes_a_run_or_a_checkpoint_and_any_average(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    path = trainer.fit()
    for source, ema in ((tmp_path, 0), (path, 1), (str(path), None)):
        task = Regression()
        assert load_weights(task, source, ema=ema) == 20
        expected = dict(trainer.task.named_parameters()) if ema is None else trainer.ema.tensors(ema)
        for name, parameter in task.named_parameters():
            assert torch.equal(parameter, expected[name])
        assert task.calls == 20
    with pytest.raises(CheckpointError, match="ema=2"):
        load_weights(Regression(), path, ema=2)
    with pytest.raises(CheckpointError, match=r"missing: 0\.weight"):
        load_weights(nn.Sequential(nn.Linear(1, 1)), path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_weights(Regression(), tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0"),
        ({"batch_size": 9, "accumulate": 2}, "batch_size=9 must be divisible"),
        ({"precision": "fp16"}, "fp16"),
        ({"precision": "half"}, "precision='half'"),
        ({"device": "tpu"}, "device='tpu'"),
        ({"grad_clip": 0.0}, "grad_clip=0"),
        ({"weight_decay": -1.0}, "weight_decay=-1"),
        ({"keep": 0}, "keep=0"),
        ({"betas": (1.0, 0.9)}, r"betas=\(1\.0, 0\.9\) must lie in"),
        ({"workers": -1}, "workers=-1"),
        ({"best": "loss"}, "best='loss' needs validate"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_trainer(tmp_path, **options)


def test_the_loss_must_be_there_and_be_one_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for outputs in ({"losses": torch.ones(())}, {"loss": torch.ones(3, requires_grad=True)}):
        monkeypatch.setattr(Regression, "forward", lambda self, batch, generator, outputs=outputs: outputs)
        with pytest.raises(RecipeError, match='scalar tensor "loss", got the shapes'):
            make_trainer(tmp_path).fit()


def test_best_must_name_a_metric(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="best='stoi' must name a metric of the validation: pesq, first"):
        make_trainer(tmp_path, steps=2, validate=validation, best="stoi").fit()
