"""Labelled words as training data: endless variations of recordings, a pure function of (seed, number)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio.datasets.layouts import Clip
from mmdiff.audio.io import read
from mmdiff.errors import InputError
from mmdiff.media.draws import item_rng

_PIVOT = 1000.0  # Hz: what tilts leave as it is


class Word(TypedDict):
    """One training item: ``wave`` (samples,) float32 in [-1, 1], the number of its label, and of its recording."""

    wave: Tensor
    label: int
    clip: int


@dataclass(frozen=True)
class Variation:
    """How recordings are varied; each range is drawn from uniformly.

    Attributes
    ----------
    speed : (float, float)
        Factor on speed, and on pitch with it.
    shift : float, seconds
        Greatest shift in time, either way.
    gain_db : (float, float)
    tilt_db : float, dB an octave
        Greatest tilt of the spectrum, either way.
    noise_db : (float, float), dBFS
        Level of added white noise. Digital silence, which no microphone records, makes logarithms of spectra jump.
    """

    speed: tuple[float, float] = (0.92, 1.09)
    shift: float = 0.04
    gain_db: tuple[float, float] = (-4.0, 2.0)
    tilt_db: float = 1.0
    noise_db: tuple[float, float] = (-72.0, -72.0)

    def __post_init__(self) -> None:
        for name in ("speed", "gain_db", "noise_db"):
            low, high = getattr(self, name)
            if not low <= high or (name == "speed" and low <= 0):
                raise InputError(
                    f"{name}=({low}, {high}) must be a range, the lower end first, and speeds positive"
                )


def word_label(clip: Clip) -> str:
    """Name what a clip of :mod:`mmdiff.audio.datasets.fetch_digits` says, in which language: seven-en."""
    return f"{clip.text}-{clip.speaker.partition('-')[0]}"


class Words:
    """Endless variations of labelled words.

    Item n draws a label, each as often as the others unless told, one of its recordings, and a variation. Nothing
    but ``(seed, n)`` decides.

    Parameters
    ----------
    clips : sequence of Clip
        Recordings; what is longer than ``seconds`` is cut, what is shorter lies in the middle.
    labels : sequence of int
        Number of each clip's label.
    sample_rate : int, Hz
    seconds : float
        Length of the items.
    seed : int
    variation : Variation, optional
        None leaves recordings as they are, apart from the noise that a default variation adds.
    weights : mapping from int to float, optional
        How often to draw some labels, where others have 1.

    Raises
    ------
    InputError
        There are no clips, or not a label for each; or a file cannot be read.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        labels: Sequence[int],
        sample_rate: int = 16_000,
        seconds: float = 1.0,
        *,
        seed: int = 0,
        variation: Variation | None = None,
        weights: Mapping[int, float] | None = None,
    ) -> None:
        if not clips or len(clips) != len(labels):
            raise InputError(f"{len(clips)} clips and {len(labels)} labels must be as many, and one at least")
        if not 0 < seconds < math.inf:
            raise InputError(f"seconds={seconds} must be positive; 1 is usual")
        self.sample_rate, self.samples, self.seed = sample_rate, round(seconds * sample_rate), seed
        still = Variation((1.0, 1.0), 0.0, (0.0, 0.0), 0.0)
        self.variation = still if variation is None else variation
        self.labels = np.asarray(labels)
        self.waves = np.stack([_fitted(_wave(clip, sample_rate), self.samples) for clip in clips])
        self._known = np.unique(self.labels)
        shares = np.array([(weights or {}).get(int(label), 1.0) for label in self._known])
        self._shares = shares / shares.sum()
        frequencies = np.fft.rfftfreq(self.samples, 1 / sample_rate)
        self._octaves = np.log2(np.maximum(frequencies, 100.0) / _PIVOT)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Word:
        """Return item ``index`` >= 0."""
        rng = item_rng(self.seed, index)
        label = int(rng.choice(self._known, p=self._shares))
        clip = int(rng.choice(np.flatnonzero(self.labels == label)))
        return self.varied(clip, rng)

    def varied(self, clip: int, rng: np.random.Generator) -> Word:
        """Return a variation of one recording."""
        how = self.variation
        spectrum = np.fft.rfft(self.waves[clip])
        tilt = how.tilt_db * rng.uniform(-1, 1)
        spectrum *= 10 ** (np.clip(tilt * self._octaves, -12, 12) / 20)
        length = 64 * round(
            self.samples / rng.uniform(*how.speed) / 64
        )  # transforms of other lengths are slow
        wave = np.fft.irfft(_resized(spectrum, length // 2 + 1), length) * (length / self.samples)
        shift = round(how.shift * self.sample_rate * rng.uniform(-1, 1))
        wave = _fitted(wave, self.samples, shift) * 10 ** (rng.uniform(*how.gain_db) / 20)
        wave *= min(1.0, 1 / max(float(np.abs(wave).max()), 1e-9))
        noise = 10 ** (rng.uniform(*how.noise_db) / 20) * rng.standard_normal(self.samples, np.float32)
        varied = torch.from_numpy((wave + noise).astype(np.float32))
        return {"wave": varied, "label": int(self.labels[clip]), "clip": clip}


def _wave(clip: Clip, sample_rate: int) -> np.ndarray:
    wave: np.ndarray = read(clip.path, sample_rate=sample_rate)[0][0].numpy()
    return wave


def _fitted(wave: np.ndarray, samples: int, shift: int = 0) -> np.ndarray:
    """Cut or pad on both sides, after a shift to the right."""
    before = math.floor((samples - len(wave)) / 2) + shift
    wave = wave[max(0, -before) :]
    wave = np.pad(wave, (max(0, before), 0))[:samples]
    return np.pad(wave, (0, samples - len(wave)))


def _resized(values: np.ndarray, count: int) -> np.ndarray:
    return values[:count] if len(values) >= count else np.pad(values, (0, count - len(values)))
