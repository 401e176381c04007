from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.cli import main
from mmdiff.hub import save_model

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Spread the whole suite over the processor's cores; single files of it run here and start at once."""
    option = config.option
    whole = config.args == ["tests"] and "PYTEST_XDIST_WORKER" not in os.environ and not option.usepdb
    if whole and getattr(option, "numprocesses", 0) is None:
        cores = min(4, os.cpu_count() or 1)  # each takes two gigabytes
        option.numprocesses, option.dist = cores, "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # one test's threads would wait for another's


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of an untrained spectral vocoder: its pipeline works, its networks hardly do anything."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stft = Stft()
        networks = (net(stft, channels=8, depth=1) for net in (MagnitudeNet, PhaseNet))
        model = SpectralVocoder(stft, MelSpec(), *networks, iterations=2)
    return save_model(model, tmp_path_factory.mktemp("models") / "tiny", extra={"license": "CC0-1.0"})


@pytest.fixture
def mmdiff_command(capsys):
    """Run the command line in this process: ``mmdiff_command("vocode", path, ...)``."""

    def run(*argv: object) -> Outcome:
        status = main([str(argument) for argument in argv])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def mmdiff_process():
    """Run the command line as its own process, from the checkout."""

    def run(*argv: object, timeout: float = 120) -> Outcome:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "mmdiff", *map(str, argv)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env=environment,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def in_this_process(monkeypatch):
    """Let what is compared for speed answer here: processes of its own take seconds to load PyTorch."""
    from mmdiff.bench import race, worker

    @contextlib.contextmanager
    def answering(contender, threads):
        yield worker.Answering(worker.load(contender.file))

    monkeypatch.setattr(race, "_worker", answering)
