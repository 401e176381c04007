"""Vocode files: sound (copy-synthesis) or mel spectrograms in, sound files out, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.check import check, describe
from mmdiff.audio.mel.files import MEL_SUFFIXES, read_mel
from mmdiff.audio.mel.lengths import longest_length
from mmdiff.audio.mel.stream import stream_mel
from mmdiff.audio.vocoder import Vocoder
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource
from mmdiff.progress import track

BLOCK_SECONDS = 10.0
LONG_BYTES = 1 << 23  # of a sound file whose reading is worth a progress bar


@dataclass(frozen=True)
class Vocoded:
    """One sound that was made.

    Attributes
    ----------
    input, output : Path
    seconds : float
        Length of the sound.
    elapsed : float, seconds
        Time spent in the model; reading, analysing and writing files are not counted.
    steps : int
        Network evaluations.
    notes : tuple of str
        What was done to the input to make it fit.
    mel : Tensor, shape (n_mels, frames)
        Spectrogram the sound was made from.
    spec : MelSpec
        Its definition.
    is_copy : bool
        The input is sound: a reference to compare with.
    """

    input: Path
    output: Path
    seconds: float
    elapsed: float
    steps: int
    notes: tuple[str, ...]
    mel: Tensor
    spec: MelSpec
    is_copy: bool

    @property
    def real_time_factor(self) -> float:
        """Seconds of computation per second of sound."""
        return self.elapsed / self.seconds


def vocode_file(
    voc: Vocoder,
    source: str | Path,
    target: str | Path,
    *,
    mel_spec: MelSpec | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    grid: GridSource | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    taken: Collection[Path] = (),
    progress: bool = False,
) -> Iterator[Vocoded]:
    """Make the sound of a mel spectrogram in a file, or of a sound file's spectrogram.

    Parameters
    ----------
    voc : Vocoder
    source : path
        Sound, of which ``voc`` hears the spectrogram only, or what :func:`read_mel` reads.
    target : path ending in .wav, .flac, .ogg or .mp3
        Its folder must exist. A batch of n > 1 spectrograms gives n files, numbered before the suffix.
    mel_spec : MelSpec, optional
        Definition to read or to compute the spectrogram by. Default: what the file states, else the model's.
    steps, sampler, grid, seed, temperature
        As for :meth:`Vocoder.__call__`; the items of a batch take ``seed``, ``seed + 1``, ...
    taken : collection of Path
        Files that other inputs' results go to, which numbered ones must not replace.
    progress : bool
        Show progress bars for long sound.

    Yields
    ------
    Vocoded
        One for each sound, after its file is complete.

    Raises
    ------
    InputError
        The source cannot be read or does not fit, or the target cannot be written, or is taken.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if is_copy := source.suffix.lower() not in MEL_SUFFIXES:
        spec = mel_spec or voc.mel_spec
        mel, seconds, peak = analyse(source, spec, progress=progress)
        mels, notes = mel, _remarks(peak)
        longest = longest_length(spec, mel.shape[-1], voc.sample_rate)
        samples: int | None = min(round(seconds * voc.sample_rate), longest)
    else:
        mels, stated = read_mel(source)
        spec = mel_spec or stated or voc.mel_spec
        checked = check(mels, spec, declared=(mel_spec or stated) is not None)
        mels, notes, samples = checked.mel, tuple(checked.notes), None
        if mel_spec is None and stated is None:
            assumed = f"read as {describe(spec)}, the model's own definition"
            notes = (f"{assumed}; if it has another, name it with --mel-preset", *notes)
    sampling = voc.sampling(steps, sampler, grid)
    paths = [target.with_stem(f"{target.stem}-{i}") for i in range(len(mels))] if len(mels) > 1 else [target]
    if lost := [path for path in paths[len(mels) == 1 :] if path in taken]:
        raise InputError(
            f"path={str(source)!r} holds {len(mels)} spectrograms, whose results are numbered: {str(lost[0])!r} is "
            "another input's result already; vocode them into different folders"
        )
    for i, (path, mel) in enumerate(zip(paths, mels, strict=True)):
        blocks = voc.blocks(
            mel[None],
            mel_spec=spec,
            seed=seed + i,
            temperature=temperature,
            samples=samples,
            measured=True,  # or has been checked, all items together
            progress=progress,
            **sampling._asdict(),
        )
        length, elapsed = _write(path, blocks, voc.sample_rate)
        yield Vocoded(source, path, length, elapsed, sampling.steps, (*notes, *voc.notes), mel, spec, is_copy)


def analyse(path: Path, spec: MelSpec, *, progress: bool = False) -> tuple[Tensor, float, float]:
    """Mel spectrogram of a sound file of any length, its channels averaged.

    Returns
    -------
    mel : Tensor, shape (1, n_mels, frames)
    seconds : float
        Length of the sound.
    peak : float
        Its largest magnitude.
    """
    samples, peak = 0, 0.0

    def counted(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        nonlocal samples, peak
        for block in blocks:
            samples += block.shape[-1]
            peak = max(peak, float(block.abs().max()))
            yield block

    show = progress and path.is_file() and path.stat().st_size > LONG_BYTES
    blocks = track(
        io.stream(path, BLOCK_SECONDS, sample_rate=spec.sample_rate), f"reading {path.name}", show=show
    )
    with torch.inference_mode():
        mel = torch.cat(list(stream_mel(counted(blocks), spec)), -1)
    return mel, samples / spec.sample_rate, peak


def _remarks(peak: float) -> tuple[str, ...]:
    if peak < io.SILENT:
        return ("the sound is silent: check the recording",)
    if peak > 1.1:  # resampling alone can add a little to a full-scale recording
        return (f"the sound has a peak of {peak:.3g}: the result is clipped at 1; scale it to [-1, 1] first",)
    return ()


def _write(path: Path, blocks: Iterator[Tensor], sample_rate: int) -> tuple[float, float]:
    """Write sound block by block; return its seconds and the seconds its making took."""
    elapsed, start = 0.0, time.perf_counter()
    with io.writer(path, sample_rate, 1) as file:
        for block in blocks:
            wave = block[0].cpu()  # waits for the device: its time counts
            elapsed += time.perf_counter() - start
            file.write(wave)
            start = time.perf_counter()
        return file.frames / sample_rate, elapsed


def compare(
    reference: Path, made: Path, sample_rate: int, names: Sequence[str], longest: float
) -> dict[str, float]:
    """Measure a sound file against the one it was made from, over at most the first ``longest`` seconds."""
    from mmdiff.audio.metrics import evaluate

    waves = [io.read(p, sample_rate=sample_rate, duration=longest)[0][0] for p in (reference, made)]
    reference_wave, made_wave = _same_length(waves)
    return evaluate(reference_wave, made_wave, sample_rate, names)


def _same_length(waves: list[Tensor]) -> list[Tensor]:
    shortest = min(wave.shape[-1] for wave in waves)
    if shortest == 0:
        raise InputError("there is no sound to compare")
    return [wave[:shortest] for wave in waves]
