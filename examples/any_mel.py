"""One model, every definition of a mel spectrogram: vocode the spectrograms of all presets and compare.

Run ``python examples/any_mel.py [SOUND]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.mel import PRESETS
from mmdiff.audio.metrics import log_mel_l1


def main(sound: Path = Path(__file__).parent / "speech.flac") -> None:
    """Print the distance of each preset's copy of ``sound`` from it."""
    voc = mmdiff.load("vocoder-16k")
    reference, _ = io.read(sound, sample_rate=voc.sample_rate)
    for name, spec in PRESETS.items():
        wave, _ = io.read(sound, sample_rate=spec.sample_rate)
        made = voc(spec(wave), mel_spec=name, seed=0)[0]
        shorter = min(len(made), reference.shape[1])
        error = log_mel_l1(reference[0, :shorter], made[:shorter], voc.sample_rate)
        print(f"{name:18} log-mel error {error:.3f} Np")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
