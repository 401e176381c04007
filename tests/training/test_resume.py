"""An interrupted run ends with the same bits as one that was left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import make_trainer, run
from torch import nn

from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.schedules import LinearFlow
from mmdiff.errors import CheckpointError, RecipeError
from mmdiff.training.checkpoint import Checkpoint, latest_checkpoint, list_checkpoints, read_checkpoint
from mmdiff.training.settings import compare_settings, task_settings

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Start runs in fresh processes, forked from a clean one that has PyTorch imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mmdiff.training"])
    started = []

    def launch(
        folder: Path, environment: Mapping[str, str] = {}, *, resume: bool = False, **options: Any
    ) -> BaseProcess:
        process = context.Process(target=run, args=(folder, dict(environment), resume, options))
        process.start()
        started.append(process)
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE.parents[1]), str(HERE))))
        yield launch
    for process in started:
        process.kill()


def newest(folder: Path) -> Checkpoint:
    found = latest_checkpoint(folder / "checkpoints")
    assert found is not None
    return found


def everything(folder: Path) -> dict[str, Any]:
    checkpoint = newest(folder)
    training = checkpoint.training()
    tensors = {f"model.{k}": v for k, v in checkpoint.weights().items()}
    for index in (0, 1):
        tensors |= {f"ema{index}.{k}": v for k, v in checkpoint.average(index).items()}
    for number, state in training["optimizer"]["state"].items():
        tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
    counters = {k: training[k] for k in ("ema_updates", "bad", "skipped")}
    return {"step": checkpoint.step, **counters, **tensors}


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name


def train_rows(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["kind"] == "train"]
    for row in kept:
        del row["steps_per_second"]
    return kept


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    make_trainer(folder).fit()
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_a_random_step_saves_and_exits_and_resuming_is_exact(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    step = random.randrange(1, 20)
    print(f"interrupted in step {step}")
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    trainer = make_trainer(tmp_path, kill=(step, number, 0))
    with pytest.raises(SystemExit) as stop:
        trainer.fit()
    assert stop.value.code == 128 + number
    assert handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    assert newest(tmp_path).step in (step, step + 1)
    assert "resume" in capsys.readouterr().out
    make_trainer(tmp_path).fit(resume=True)
    assert_same(everything(tmp_path), everything(uninterrupted))
    assert train_rows(tmp_path) == train_rows(uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_stopped_with_its_workers_resumes_exactly(
    tmp_path: Path, uninterrupted: Path, number: signal.Signals, start: Callable[..., BaseProcess]
) -> None:
    step = random.randrange(9, 20)
    print(f"stopped in step {step}")
    process = start(tmp_path, kill=(step, number, 0), workers=1)
    process.join(300)
    assert process.exitcode == (143 if number == signal.SIGTERM else -9)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')  # a line cut short
    make_trainer(tmp_path).fit(resume=True)
    assert_same(everything(tmp_path), everything(uninterrupted))
    assert train_rows(tmp_path) == train_rows(uninterrupted)


def test_an_error_in_the_data_ends_the_run_and_its_workers(
    tmp_path: Path, start: Callable[..., BaseProcess]
) -> None:
    process = start(tmp_path, workers=2, end=50)
    process.join(300)
    assert process.exitcode == 1


def test_workers_change_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    make_trainer(tmp_path, workers=2).fit()
    assert_same(everything(tmp_path), everything(uninterrupted))


def test_two_processes_equal_one_even_when_one_of_them_is_told_to_stop(
    tmp_path: Path, start: Callable[..., BaseProcess]
) -> None:
    options: dict[str, Any] = {"noise": 0.0, "dropout": 0.0, "steps": 12, "accumulate": 2}
    make_trainer(tmp_path / "one", **options).fit()

    def run_both(**more: Any) -> list[int | None]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        processes = [
            start(tmp_path / "two", {**common, "RANK": str(r), "LOCAL_RANK": str(r)}, **options, **more)
            for r in (0, 1)
        ]
        for process in processes:
            process.join(300)
        return [process.exitcode for process in processes]

    assert run_both(kill=[9, signal.SIGTERM, 1]) == [143, 143]
    stopped = newest(tmp_path / "two").step
    assert 0 < stopped < 12
    assert run_both(resume=True) == [0, 0]
    one, two = newest(tmp_path / "one"), newest(tmp_path / "two")
    assert one.step == two.step == 12
    for name, value in one.weights().items():
        if name != "calls":
            torch.testing.assert_close(two.weights()[name], value, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(train_rows(tmp_path / "one"), train_rows(tmp_path / "two"), strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0.5), ("seed", 3), ("batch_size", 4), ("steps", 30), ("ema", (0.5, 0.7))],
)
def test_other_settings_are_refused_by_name(uninterrupted: Path, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=key):
        make_trainer(uninterrupted, **{key: value}).fit(resume=True)


def test_another_loss_is_refused_by_name_and_old_runs_say_nothing_of_theirs(
    uninterrupted: Path, tmp_path: Path
):
    with pytest.raises(CheckpointError, match=r"task\.noise=0\.3 must be 0\.1"):
        make_trainer(uninterrupted, noise=0.3).fit(resume=True)
    checkpoint = make_trainer(tmp_path, steps=3, lr_schedule="constant").fit()
    meta = json.loads((checkpoint / "meta.json").read_text())
    assert meta["settings"]["task"] == {"noise": 0.1}
    del meta["settings"]["task"]
    (checkpoint / "meta.json").write_text(json.dumps(meta))
    make_trainer(tmp_path, steps=5, lr_schedule="constant", noise=0.3).fit(resume=True)


def test_configurations_differ_by_more_than_rounding():
    task = nn.Module()
    task.network = nn.Linear(3, 3)
    task.weights, task.read, task._private = (0.5, 1), len, 3
    stored = task_settings(task)
    assert stored == {"weights": [0.5, 1]}  # a network that nobody registered has no configuration
    task.model = Denoiser(DiffWave(6, 8, 2, 2, (2, 2), step_width=8), LinearFlow(), prediction="velocity")
    stored = {"task": task_settings(task)}
    assert stored["task"]["model"]["network"]["n_mels"] == 6
    compare_settings({"task": {**stored["task"], "weights": [0.5 + 1e-9, 1]}}, stored, Path("here"))
    for name, value in (("weights", [0.6, 1]), ("weights", [0.5]), ("extra", "l1")):
        with pytest.raises(CheckpointError, match=rf"task\.{name}=.* must be .*, as in here"):
            compare_settings({"task": {**stored["task"], name: value}}, stored, Path("here"))
    changed = json.loads(json.dumps(stored))
    changed["task"]["model"]["prediction"] = "x0"
    with pytest.raises(CheckpointError, match=r"task\.model\.prediction='x0' must be 'velocity'"):
        compare_settings(changed, stored, Path("here"))


def test_a_schedule_that_ignores_the_length_may_be_prolonged(tmp_path: Path) -> None:
    make_trainer(tmp_path / "a", lr_schedule="constant", steps=9).fit()
    make_trainer(tmp_path / "a", lr_schedule="constant", steps=14).fit(resume=True)
    make_trainer(tmp_path / "b", lr_schedule="constant", steps=14).fit()
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))


def test_a_run_is_not_overwritten(uninterrupted: Path) -> None:
    with pytest.raises(RecipeError, match="holds a run"):
        make_trainer(uninterrupted).fit()


def test_a_finished_run_stays_as_it_is(uninterrupted: Path) -> None:
    before = everything(uninterrupted)
    assert make_trainer(uninterrupted).fit(resume=True) == newest(uninterrupted).path
    assert_same(before, everything(uninterrupted))


def test_resume_without_a_run_starts_one(tmp_path: Path, uninterrupted: Path) -> None:
    make_trainer(tmp_path).fit(resume=True)
    assert_same(everything(tmp_path), everything(uninterrupted))


def test_rotation_keeps_the_newest_and_sweeps_up(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / ".tmp-1234-step-00000003"
    leftover.mkdir(parents=True)
    make_trainer(tmp_path, checkpoint_every=3, keep=3).fit()
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000015", "step-00000018", "step-00000020",
    ]  # fmt: skip
    assert not leftover.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "ema-1.safetensors", "training.pt", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, file: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_trainer(tmp_path, steps=4, checkpoint_every=2, lr_schedule="constant").fit()
    target = tmp_path / "checkpoints" / "step-00000004" / file
    content = bytearray(target.read_bytes())
    if damage == "gone":
        target.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        target.write_bytes(content[:-7] if damage == "cut" else content)
    make_trainer(tmp_path, steps=6, checkpoint_every=2, lr_schedule="constant").fit(resume=True)
    output = capsys.readouterr().out
    assert "passing over" in output
    assert "resuming after step 2" in output
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000004",
        "step-00000006",
    ]


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    folder = make_trainer(tmp_path, steps=2).fit()
    (folder / "meta.json").write_text("{}")
    with pytest.raises(CheckpointError, match="all 1 checkpoints"):
        make_trainer(tmp_path, steps=2).fit(resume=True)


def test_training_state_cannot_carry_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, ("true",)

    folder = make_trainer(tmp_path, steps=2).fit()
    torch.save({"optimizer": Bomb()}, folder / "training.pt")
    with pytest.raises(CheckpointError, match=r"training\.pt"):
        Checkpoint(folder, {}).training()
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(folder)
