"""How good a vocoder is: copy-synthesis of recordings, measured against them and against baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.evaluation.baselines import griffin_lim_at_rate, without_network
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.lengths import longest_length
from mmdiff.audio.metrics import METRICS, evaluate, log_spectral_distance
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stream import BLOCK, VocoderStream
from mmdiff.audio.vocoder import Vocoder
from mmdiff.devices import threads
from mmdiff.errors import InputError
from mmdiff.media.estimates import Estimate, mean_estimate
from mmdiff.media.tables import Measure, Score
from mmdiff.progress import track

MEASURES = ("pesq", "stoi", "log_mel_l1", "mcd", "lsd", "mr_stft")
"""Measures reported by default; the pitch measures take several times as long as all of these."""


class System(NamedTuple):
    """Something that makes sound of a mel spectrogram."""

    name: str
    steps: int | None
    synthesise: Callable[[Tensor, int, int], Tensor]
    """``(mel (n_mels, frames), samples, seed) -> (samples,)``."""
    stochastic: bool
    stream: VocoderStream | None = None
    """One as it makes of frames that come one by one."""


def sound_measures(names: Sequence[str] = MEASURES) -> dict[str, Measure]:
    """What measures of sound say, by their names in :data:`mmdiff.audio.metrics.METRICS`."""
    return {name: Measure(name, METRICS[name].unit, METRICS[name].higher_is_better, 3) for name in names}


def vocoder_measures(names: Sequence[str] = MEASURES) -> dict[str, Measure]:
    """What a vocoder's score says: ``steps``, measures of sound, ``real_time_factor`` and ``diversity``.

    The real-time factor is in seconds of computation, on one thread, per second of sound; diversity the
    log-spectral distance between the sounds of two seeds. Of streams also ``latency``, how long a sample waits for
    frames after its own, and ``block_time``, how long computing a block takes on top.
    """
    return {
        "steps": Measure("evaluations"),
        "latency": Measure("latency", "ms", False, 0),
        "block_time": Measure("a block's computing", "ms", False, 0),
        **sound_measures(names),
        "real_time_factor": Measure("RTF", "", False, 3),
        "diversity": Measure("diversity", "dB", None, 3),
    }


def evaluate_vocoder(
    voc: Vocoder,
    files: Sequence[Path],
    steps: Sequence[int] = (1, 2, 4, 8),
    *,
    mel_spec: MelSpec | None = None,
    seeds: Sequence[int] = (0, 1),
    measures: Sequence[str] = MEASURES,
    baselines: bool = True,
    lookaheads: Sequence[int] = (),
    block: int = BLOCK,
    name: str = "model",
    progress: bool = True,
) -> list[Score]:
    """Measure copy-synthesis of recordings.

    Computation runs on one thread, so that real-time factors mean "on one core" where the device is the CPU.

    Parameters
    ----------
    voc : Vocoder
    files : sequence of Path
        Recordings; resampled to the model's rate, channels averaged.
    steps : sequence of int
        Numbers of network evaluations to try.
    mel_spec : MelSpec, optional
        Definition of the spectrograms given to the model; default: its own.
    seeds : sequence of int
        Systems that draw noise are run with each.
    measures : sequence of str
        Keys of :data:`mmdiff.audio.metrics.METRICS`.
    baselines : bool
        Also measure Griffin-Lim from the same mel, the pipeline without its network, and zero noise.
    lookaheads : sequence of int
        Also measure :meth:`Vocoder.stream` with each of these, at the model's number of evaluations; it is given a
        block's frames at a time.
    block : int
        Of the streams.
    name : str
        What to call the model.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Score
        Of :func:`vocoder_measures`, about ``steps`` (network evaluations), ``files``, ``seeds`` and ``spread`` (the
        standard deviation, between seeds, of each mean over files), with ``per_file`` measures as details. Baselines
        first, then the model by steps, then streams.

    Raises
    ------
    InputError
        There are no files, one cannot be read, or a measure's package is missing.
    """
    if not files or not seeds:
        raise InputError(f"files={len(files)} and seeds={len(seeds)}: there must be at least one of each")
    spec = mel_spec or voc.mel_spec
    systems = [*(_baselines(voc, spec) if baselines else ()), *(_at(voc, spec, n, name) for n in steps)]
    systems += [_streamed(voc, spec, lookahead, block, name) for lookahead in lookaheads]
    tallies = [_Tally(system, seeds if system.stochastic else seeds[:1], measures) for system in systems]
    with threads(1), torch.inference_mode():
        for number, path in enumerate(track(files, "evaluating", show=progress)):
            wave, rate = io.read(path, sample_rate=voc.sample_rate)
            mel = spec(io.resample(wave, rate, spec.sample_rate))[0].to(voc.device)
            longest = longest_length(spec, mel.shape[-1], rate)
            for tally in tallies:
                if number == 0:  # caches and thread pools are not what is timed
                    tally.system.synthesise(mel, min(wave.shape[1], longest), seeds[0])
                tally.add(str(path), wave[0], mel, min(wave.shape[1], longest), rate)
    return [tally.score() for tally in tallies]


def _at(voc: Vocoder, spec: MelSpec, steps: int | None, name: str, temperature: float = 1.0) -> System:
    def synthesise(mel: Tensor, samples: int, seed: int) -> Tensor:
        options = {
            "steps": steps,
            "seed": seed,
            "samples": samples,
            "temperature": temperature,
            "measured": True,
        }
        return torch.cat(list(voc.blocks(mel[None], mel_spec=spec, **options)), -1)[0]  # type: ignore[arg-type]

    used = steps or int(voc.model.default_steps)
    return System(name, used, synthesise, temperature > 0)


def _streamed(voc: Vocoder, spec: MelSpec, lookahead: int, block: int, name: str) -> System:
    def stream(seed: int, mel: Tensor | None = None) -> VocoderStream:
        frames = None if mel is None else mel[None].split(block, -1)
        return voc.stream(frames, lookahead=lookahead, block=block, mel_spec=spec, seed=seed)

    def synthesise(mel: Tensor, samples: int, seed: int) -> Tensor:
        return torch.cat(list(stream(seed, mel)), -1)[0, :samples]

    used = int(voc.model.default_steps)
    return System(f"{name}, look-ahead {lookahead}, block {block}", used, synthesise, True, stream(0))


def _baselines(voc: Vocoder, spec: MelSpec) -> Iterator[System]:
    rate, model = voc.sample_rate, voc.model
    yield System(
        "Griffin-Lim, 60 iterations",
        None,
        lambda mel, samples, seed: griffin_lim_at_rate(mel, spec, rate, samples, seed),
        False,
    )
    if isinstance(model, SpectralVocoder):
        yield System(
            "no network", None, lambda mel, samples, _: without_network(model, mel, spec, samples), False
        )
    yield _at(voc, spec, None, "zero noise", temperature=0.0)


class _Tally:
    """What one system has done so far."""

    def __init__(self, system: System, seeds: Sequence[int], measures: Sequence[str]) -> None:
        self.system, self.seeds, self.measures = system, seeds, measures
        self.values: dict[str, list[dict[str, float]]] = {}  # by file, a dict for each seed
        self.distances: list[float] = []
        self.elapsed = self.seconds = 0.0

    def add(self, file: str, wave: Tensor, mel: Tensor, samples: int, rate: int) -> None:
        """Synthesise a file with every seed and measure the results."""
        made = [self._timed(mel, samples, seed, rate) for seed in self.seeds]
        self.values[file] = [evaluate(wave[: len(sound)], sound, rate, self.measures) for sound in made]
        if len(made) > 1:
            self.distances.append(log_spectral_distance(made[0], made[1], rate))

    def _timed(self, mel: Tensor, samples: int, seed: int, rate: int) -> Tensor:
        start = time.perf_counter()
        sound = self.system.synthesise(mel, samples, seed).cpu()
        self.elapsed += time.perf_counter() - start
        self.seconds += len(sound) / rate
        return sound

    def score(self) -> Score:
        """Take means, leaving out what does not exist (nan); intervals are over files."""
        table = np.array([[[v[m] for m in self.measures] for v in seeds] for seeds in self.values.values()])
        by_file = dict(zip(self.values, table.mean(1), strict=True))
        spread = np.nanmean(table, axis=0).std(0, ddof=1) if len(self.seeds) > 1 else ()
        means = [mean_estimate(column) for column in torch.from_numpy(table.mean(1)).unbind(1)]
        measures = dict(zip(self.measures, means, strict=True))
        speed, system = self.elapsed / self.seconds, self.system
        measures["real_time_factor"] = Estimate(speed, samples=len(self.values))
        if system.stream:
            measures["latency"] = Estimate(1000 * system.stream.latency.seconds)
            measures["block_time"] = Estimate(1000 * system.stream.block_seconds * speed)
        if self.distances:
            measures["diversity"] = mean_estimate(torch.tensor(self.distances))
        about = {
            "steps": system.steps,
            "files": len(self.values),
            "seeds": len(self.seeds),
            "spread": dict(zip(self.measures, map(float, spread), strict=False)),
        }
        per_file = {
            file: dict(zip(self.measures, map(float, row), strict=True)) for file, row in by_file.items()
        }
        return Score(system.name, measures, about, {"per_file": per_file})


def evaluate_files(
    pairs: Sequence[tuple[Path, Path]], measures: Sequence[str] = MEASURES, progress: bool = True
) -> list[Score]:
    """Measure sound files against references, at the lower of the two sampling rates.

    Parameters
    ----------
    pairs : sequence of (reference, estimate)
    measures : sequence of str
    progress : bool

    Returns
    -------
    list of Score
        Of :func:`sound_measures`: the estimates by their names, and "mean".

    Raises
    ------
    InputError
        A file cannot be read or the two differ in length by more than 20 ms.
    """
    scores = []
    for reference, estimate in track(pairs, "measuring", show=progress):
        rate = min(io.info(reference).sample_rate, io.info(estimate).sample_rate)
        waves = [io.read(path, sample_rate=rate)[0][0] for path in (reference, estimate)]
        try:
            found = evaluate(waves[0], waves[1], rate, measures)
        except InputError as error:
            raise InputError(f"{estimate}: {error}") from None
        scores.append(Score(str(estimate), {name: Estimate(value) for name, value in found.items()}))
    columns = {name: torch.tensor([score.measures[name].value for score in scores]) for name in measures}
    return [*scores, Score("mean", {name: mean_estimate(column) for name, column in columns.items()})]
