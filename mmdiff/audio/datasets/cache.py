"""Clips decoded once into one memory-mapped file that all worker processes read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmdiff.audio.datasets.layouts import Clip
from mmdiff.audio.io import read
from mmdiff.audio.loudness import loudness
from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.media import cache
from mmdiff.progress import track

_FORMAT = 1  # of the files below: a change makes new ones


def default_folder() -> Path:
    """Return where decoded sound is kept, see :func:`mmdiff.media.cache.default_folder`."""
    return cache.default_folder("audio")


class DecodedClips:
    """Random access to the samples of many clips.

    Sound is stored as int16 at one sample rate, mono, each clip with a scale that keeps peaks above 1. The
    file's name is a fingerprint of the clips' paths, sizes and modification times and of the rate, so that
    a changed dataset is decoded again. Clips that cannot be read are left out with one warning.

    Parameters
    ----------
    clips : sequence of Clip
        The recordings.
    sample_rate : int, Hz
        Rate they are resampled to.
    folder : Path, optional
        Where the file goes (2 bytes a sample); by default :func:`default_folder`.
    progress : bool
        Show a progress bar while decoding.

    Attributes
    ----------
    lengths : ndarray of int64, shape (clips,)
        Samples of each clip, 0 for one that was left out.
    loudness : ndarray of float64, shape (clips,)
        LUFS of each clip; minus infinity for silence.

    Raises
    ------
    InputError
        There are no clips, or more than a tenth of them cannot be read.
    """

    def __init__(
        self, clips: Sequence[Clip], sample_rate: int, folder: Path | None = None, progress: bool = True
    ) -> None:
        if not clips:
            raise InputError("clips must hold at least one recording: see find_audio()")
        folder = default_folder() if folder is None else Path(folder).expanduser()
        states = (cache.state_of(clip.path) for clip in clips)
        self._file = folder / f"{cache.fingerprint([f'{_FORMAT} {sample_rate}', *states], 24)}.i16"
        index = self._file.with_suffix(".npy")
        if not (index.is_file() and self._file.is_file()):
            _build(clips, sample_rate, self._file, index, progress)
        # mapped: an index of a million clips is shared, too
        table = np.load(index, mmap_mode="r")
        self._starts, self.lengths = table["start"], table["length"]
        self.loudness, self._scales = table["loudness"], table["scale"]
        self._samples: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def read(self, clip: int, start: int, stop: int) -> np.ndarray:
        """Return samples start to stop of a clip, float32."""
        if self._samples is None:  # opened in whichever process reads
            self._samples = np.memmap(self._file, np.int16, "r")
        first = int(self._starts[clip])
        piece = self._samples[first + start : first + min(stop, int(self.lengths[clip]))]
        return piece.astype(np.float32) * np.float32(self._scales[clip] / 32768.0)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_samples": None}


_ROW = np.dtype([("start", "i8"), ("length", "i8"), ("scale", "f8"), ("loudness", "f8")])


class _Decoded(NamedTuple):
    samples: np.ndarray  # int16
    scale: float
    loudness: float
    complaint: str


def _build(clips: Sequence[Clip], sample_rate: int, file: Path, index: Path, progress: bool) -> None:
    """Decode all clips; the index comes last, and says that the samples are complete."""
    table = np.zeros(len(clips), _ROW)
    complaints: list[str] = []
    position = 0
    decoded = cache.on_threads(lambda clip: _decode(clip.path, sample_rate), clips, bounded=True)
    with cache.writing_to(file.parent, "2 bytes a sample"):
        with atomic_file(file) as temporary:
            with temporary.open("wb") as out:
                shown = track(decoded, "Decoding audio", total=len(clips), show=progress)
                for n, clip in enumerate(shown):
                    table[n] = position, len(clip.samples), clip.scale, clip.loudness
                    out.write(clip.samples.tobytes())
                    position += len(clip.samples)
                    if clip.complaint:
                        complaints.append(clip.complaint)
            cache.report_broken(complaints, len(clips), stacklevel=4)
        with atomic_file(index) as temporary:
            np.save(temporary, table)


def _decode(path: Path, sample_rate: int) -> _Decoded:
    try:
        wave = read(path, sample_rate=sample_rate)[0][0]
    except InputError as error:
        return _Decoded(np.zeros(0, np.int16), 1.0, -np.inf, str(error))
    scale = max(1.0, float(wave.abs().max()))
    # the scale of write(): a 16-bit file that is not resampled comes back bit for bit
    samples = (wave / scale * 32768.0).round().clamp(-32768, 32767).numpy().astype(np.int16)
    return _Decoded(samples, scale, loudness(wave, sample_rate), "")
