"""Training data out of recordings: random crops that are a pure function of (seed, number)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio.datasets.cache import DecodedClips
from mmdiff.audio.datasets.layouts import Clip
from mmdiff.audio.resampling import check_rate
from mmdiff.errors import InputError
from mmdiff.media.draws import draw_by_length, item_rng


class Crop(TypedDict):
    """One training item: ``wave`` (samples,) float32 in [-1, 1], and the numbers of its speaker and clip."""

    wave: Tensor
    speaker: int
    clip: int


class AudioCrops:
    """Endless random crops of recordings.

    Crop n draws a clip with probability proportional to its length, an aligned start within it, and a gain.
    Nothing but ``(seed, n)`` decides, so any number of workers and any resumed run see the same data. Clips
    shorter than a crop lie at a random aligned place in silence. Sound is decoded and resampled once, into a
    memory-mapped file that all processes share.

    Parameters
    ----------
    clips : sequence of Clip
        The recordings, see :func:`find_audio`.
    sample_rate : int, Hz
        Rate of the crops.
    samples : int > 0
        Length of a crop.
    seed : int
        Names the sequence of crops.
    align : int > 0
        Crops start at multiples of it: the hop length, where frames of a whole clip are to be matched.
    gain_db : (float, float), dB
        Range of a uniformly drawn gain. It is lowered where the crop would pass full scale.
    loudness_db : float, LUFS, optional
        Bring every clip to this loudness (ITU-R BS.1770) before the gain; by default levels stay.
    cache : Path, optional
        Folder for decoded sound, 2 bytes a sample; by default mmdiff's folder in the user's cache.
    dither : float >= 0
        Standard deviation of added white noise: digital silence, which no microphone records, makes
        logarithms of spectra jump. The default is -100 dBFS.
    progress : bool
        Show a progress bar while decoding.

    Attributes
    ----------
    speakers : list of str
        Names of the speakers, sorted; a crop's ``speaker`` is a position in it.

    Raises
    ------
    InputError
        An argument is out of range, or the clips cannot be used.

    Examples
    --------
    >>> crops = AudioCrops(find_audio("LJSpeech-1.1"), 22_050, 16_384, seed=0)  # doctest: +SKIP
    >>> crops[0]["wave"].shape  # doctest: +SKIP
    torch.Size([16384])
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        sample_rate: int,
        samples: int,
        *,
        seed: int,
        align: int = 1,
        gain_db: tuple[float, float] = (-10.0, 4.0),
        loudness_db: float | None = None,
        cache: Path | None = None,
        dither: float = 1e-5,
        progress: bool = True,
    ) -> None:
        check_rate(sample_rate)
        for name, value in (("samples", samples), ("align", align)):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if not -200 <= gain_db[0] <= gain_db[1] <= 100:
            raise InputError(f"gain_db={gain_db} must be (lowest, highest) in dB, (0, 0) for none")
        if not 0 <= dither < 1:
            raise InputError(f"dither={dither} must be in [0, 1); 1e-5 is inaudible, 0 is none")
        self.clips, self.sample_rate, self.samples = list(clips), sample_rate, samples
        self.seed, self.align, self.dither = seed, align, dither
        self.gain_db, self.loudness_db = gain_db, loudness_db
        self.speakers = sorted({clip.speaker for clip in clips})
        number = {speaker: n for n, speaker in enumerate(self.speakers)}
        self._speaker = [number[clip.speaker] for clip in clips]
        self._decoded = DecodedClips(self.clips, sample_rate, cache, progress)
        self._ends = np.cumsum(self._decoded.lengths)

    @property
    def seconds(self) -> float:
        """Length of all usable clips together."""
        return float(self._ends[-1]) / self.sample_rate

    def __getitem__(self, index: int) -> Crop:
        """Return crop ``index`` >= 0."""
        rng = item_rng(self.seed, index)
        clip = draw_by_length(self._ends, rng)
        wave = self._cut(clip, rng)
        wave *= self._gain(clip, wave, rng)
        if self.dither:
            wave += np.float32(self.dither) * rng.standard_normal(self.samples, np.float32)
        return {"wave": torch.from_numpy(wave), "speaker": self._speaker[clip], "clip": clip}

    def _cut(self, clip: int, rng: np.random.Generator) -> np.ndarray:
        """Return a random window on the clip, or the clip somewhere in a window of silence."""
        length = int(self._decoded.lengths[clip])
        offset = self.align * int(rng.integers(abs(length - self.samples) // self.align + 1))
        if length >= self.samples:
            return self._decoded.read(clip, offset, offset + self.samples)
        wave = np.zeros(self.samples, np.float32)
        wave[offset : offset + length] = self._decoded.read(clip, 0, length)
        return wave

    def _gain(self, clip: int, wave: np.ndarray, rng: np.random.Generator) -> np.float32:
        level = rng.uniform(*self.gain_db)
        measured = float(self._decoded.loudness[clip])
        if self.loudness_db is not None and np.isfinite(measured):
            level += self.loudness_db - measured
        peak = float(np.abs(wave).max())
        return np.float32(min(10 ** (level / 20), 1 / max(peak, 1e-9)))
