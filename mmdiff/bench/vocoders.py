"""Speed, memory and quality of vocoders: ours, those of LMNT's packages, the network of Vocos, and Griffin-Lim."""

from __future__ import annotations

import importlib.util
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.checkpoints.wavegrad import SIX_STEPS
from mmdiff.audio.evaluation.vocoders import sound_measures
from mmdiff.audio.mel import preset
from mmdiff.audio.metrics import evaluate
from mmdiff.bench.race import Contender, Run, measured, race, race_measures, speed
from mmdiff.diffusion.schedules import diffwave_fast_betas
from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, mean_estimate
from mmdiff.media.tables import Measure, Score, ScoreTable

PACKAGES = ("wavegrad==0.1.5", "diffwave==0.1.7", "vocos==0.1.0", "encodec==0.1.1")
"""Other people's, and what ``vocos`` imports beyond libraries that we need too."""
Family = Literal["wavegrad", "diffwave", "vocoder-16k", "vocos", "griffin-lim"]
FAMILIES: tuple[Family, ...] = ("wavegrad", "diffwave", "vocoder-16k", "vocos", "griffin-lim")
MODES = ("inference", "training step")
SLOWEST = "lmnt WaveGrad"
_EVALUATIONS = (1, 2, 4)  # of vocoder-16k
_OURS, _PEERS = (Path(__file__).with_name(name) for name in ("vocoder_systems.py", "vocoder_peers.py"))
_WAVEFORM = {
    "wavegrad": ("WaveGrad", "lmnt-wavegrad-22k", SIX_STEPS),
    "diffwave": ("DiffWave", "lmnt-diffwave-22k", diffwave_fast_betas()),
}
_CROPS = {"wavegrad": 24, "diffwave": 62}  # frames of a training crop, as in the packages


@dataclass(frozen=True)
class VocoderLoad:
    """What is computed.

    Attributes
    ----------
    seconds : float > 0
        Of each recording.
    batch : int > 0
        Crops of a training step; as long as in the packages, 24 frames of 300 samples or 62 of 256.
    dtypes : sequence of {"float32", "bfloat16"}
        Of the matrix products of our WaveGrad and DiffWave. ``vocoder-16k`` takes the machine's faster one.
    families : sequence of str
        Of :data:`FAMILIES`.
    threads : int, optional
        Of the processor; default: PyTorch's choice.
    """

    seconds: float = 1.0
    batch: int = 1
    dtypes: Sequence[str] = ("float32", "bfloat16")
    families: Sequence[str] = FAMILIES
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 0.1 <= self.seconds < math.inf or min(self.batch, self.threads or 1) < 1:
            raise InputError(
                f"seconds={self.seconds:g} must be at least 0.1, batch={self.batch} and threads={self.threads} positive"
            )
        if not self.families or not set(self.families) <= set(FAMILIES):
            raise InputError(f"only={list(self.families)} must be some of {', '.join(FAMILIES)}")


class System(NamedTuple):
    """A contender, and what it is compared with."""

    contender: Contender
    mode: str
    peer: str = ""
    """Name of the same network's other implementation."""
    sounds: Sequence[tuple[Path, Path]] = ()
    """Real recording and the sound made of its spectrogram, where weights are trained."""


def bench_vocoders(
    load: VocoderLoad,
    files: Sequence[Path] = (),
    *,
    peers: str | None = None,
    repeats: int = 3,
    progress: bool = False,
) -> tuple[ScoreTable, dict[str, str]]:
    """Measure vocoders side by side.

    Parameters
    ----------
    load : VocoderLoad
    files : sequence of Path
        Recordings: times are of the first one, quality is measured on all. Without any, times are of a synthetic
        sound and there is no quality.
    peers : str, optional
        Interpreter that has :data:`PACKAGES`; without one their rows are left out.
    repeats : int > 0
        Runs of each system, in turn.
    progress : bool
        Show bars.

    Returns
    -------
    table : ScoreTable
        A score for each system that could be measured, about its "mode".
    failures : dict from str to str
        Systems that failed, and why.

    Raises
    ------
    InputError
        A recording cannot be read.
    """
    scores: list[Score] = []
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        material = _Material(Path(folder), files, load)
        for mode in MODES:
            systems = [s for s in _systems(load, material, peers) if s.mode == mode]
            contenders = [system.contender for system in systems]
            runs = race(contenders, repeats=repeats, threads=load.threads, progress=progress)
            failures |= {f"{name}, {mode}": run.error for name, run in runs.items() if run.error}
            scores += [_score(s, runs, load) for s in systems if not runs[s.contender.name].error]
    shared = {"threads": load.threads or torch.get_num_threads(), "torch": torch.__version__}
    return ScoreTable(scores, _measures(load, repeats), group="mode", shared=shared), failures


class _Material:
    """Sounds with their spectrograms, as files for the contenders."""

    def __init__(self, folder: Path, files: Sequence[Path], load: VocoderLoad) -> None:
        self.folder, self.files, self.load = folder, files, load
        self.count = max(1, len(files))

    def sound(self, mel: str, number: int = 0, frames: int | None = None) -> Path:
        """File of a recording with its spectrogram: cut to whole frames, or a batch of crops of so many."""
        spec, path = preset(mel), self.folder / f"{mel}-{number}-{frames}.npz"
        wave = self._wave(number, spec.sample_rate)
        if frames is not None:
            crop = frames * spec.hop_length
            wave = wave.repeat(1, math.ceil(crop / wave.shape[1]))[:, :crop].repeat(self.load.batch, 1)
        frames = wave.shape[1] // spec.hop_length
        wave = wave[:, : frames * spec.hop_length]
        whole = frames if mel in {name for _, name, _ in _WAVEFORM.values()} else None
        np.savez(path, mel=spec(wave)[..., :whole].numpy(), wave=wave.numpy(), rate=spec.sample_rate)
        return path

    def _wave(self, number: int, rate: int) -> Tensor:
        """Mono sound (1, samples)."""
        seconds = self.load.seconds
        if self.files:
            return io.read(self.files[number], sample_rate=rate, duration=seconds)[0].mean(0, keepdim=True)
        t = torch.arange(round(seconds * rate)) / rate
        voiced = sum(torch.sin(2 * math.pi * 120 * n * t) / n for n in range(1, 30))
        return 0.1 * torch.as_tensor(voiced)[None]


def _systems(load: VocoderLoad, material: _Material, peers: str | None) -> Iterator[System]:
    """Everything that is to be measured, other people's first."""
    for family in (name for name in FAMILIES if name in load.families):
        if family in _WAVEFORM:
            yield from _waveform_systems(family, load, material, peers)
        elif family == "vocos" and peers:
            task = {"system": "vocos", "mode": MODES[0], "sound": str(material.sound("vocos-24k-100"))}
            yield System(Contender("vocos", _PEERS, task, peers), MODES[0])
        elif family == "vocoder-16k":
            for steps in _EVALUATIONS:
                name = f"vocoder-16k, {steps} evaluation{'s' * (steps > 1)}"
                ours = {"system": "vocoder", "model": "vocoder-16k", "steps": steps, "dtype": "auto"}
                yield _trained(name, ours, material)
        elif family == "griffin-lim":
            for library in ("torchaudio", "librosa"):
                yield _trained(f"Griffin-Lim, {library}", {"system": f"griffin-lim-{library}"}, material)


def _waveform_systems(
    family: str, load: VocoderLoad, material: _Material, peers: str | None
) -> Iterator[System]:
    """WaveGrad or DiffWave: the package's, and ours in each dtype."""
    title, mel, betas = _WAVEFORM[family]
    for mode, frames in zip(MODES, (None, _CROPS[family]), strict=True):
        task = {"mode": mode, "mel": mel, "sound": str(material.sound(mel, frames=frames)), "betas": betas}
        lmnt = f"lmnt {title}"
        if peers:
            yield System(Contender(lmnt, _PEERS, {**task, "system": f"lmnt-{family}"}, peers), mode)
        for dtype in load.dtypes:
            ours = {**task, "system": family, "dtype": dtype}
            yield System(Contender(f"mmdiff {title}, {dtype}", _OURS, ours), mode, lmnt)


def _trained(name: str, task: Mapping[str, Any], material: _Material) -> System:
    """What makes sound that can be listened to, from spectrograms of one definition."""
    mel = "mmdiff-16k"
    sources = [material.sound(mel, number) for number in range(material.count)]
    task = {**task, "mode": MODES[0], "mel": mel, "sound": str(sources[0])}
    if not material.files:
        return System(Contender(name, _OURS, task), MODES[0])
    sounds = [(source, source.with_name(f"{name}-{source.stem}.npy")) for source in sources]
    makes = [(str(source), str(target)) for source, target in sounds]
    return System(Contender(name, _OURS, task, sys.executable, makes), MODES[0], sounds=sounds)


def _measures(load: VocoderLoad, repeats: int) -> dict[str, Measure]:
    shown = race_measures(repeats, load.threads)
    return {
        "seconds": shown["seconds"],
        "real_time_factor": Measure("RTF", "", False, note="seconds of computation per second of sound"),
        "speed": Measure("as fast as LMNT's", "times", True, 2),
        "speed_slowest": Measure(f"as fast as {SLOWEST}", "times", True),
        "megabytes": shown["megabytes"],
        "memory": Measure("memory of LMNT's", "times", False, 2),
        **sound_measures(_quality()),
    }


def _quality() -> list[str]:
    return [*(["pesq"] if importlib.util.find_spec("pesq") else []), "log_mel_l1"]


def _score(system: System, runs: Mapping[str, Run], load: VocoderLoad) -> Score:
    name, mode = system.contender.name, system.mode
    run, peer, slowest = runs[name], runs.get(system.peer), runs.get(SLOWEST)
    found = measured(run, None if peer is None or peer.error else peer)
    about: dict[str, Any] = {"mode": f"{mode}, {load.batch} crop{'s' * (load.batch > 1)}"}
    if mode == MODES[0]:
        sound = np.load(system.contender.task["sound"])
        length = sound["wave"].shape[-1] / sound["rate"]
        found["real_time_factor"] = Estimate(found["seconds"].value / length)
        about = {"mode": f"{mode}, {load.seconds:g} s of sound"}
        if slowest is not None and slowest is not run and not slowest.error:
            found["speed_slowest"] = speed(run, slowest)
        found |= _compared(system.sounds)
    return Score(name, found, about)


def _compared(sounds: Sequence[tuple[Path, Path]]) -> dict[str, Estimate]:
    """Mean quality of the sounds made."""
    rate, names = preset("mmdiff-16k").sample_rate, _quality()
    values = [evaluate(np.load(real)["wave"][0], np.load(made)[0], rate, names) for real, made in sounds]
    return {name: mean_estimate(torch.tensor([v[name] for v in values])) for name in names} if values else {}
