"""Hear what diffusion adds: one spectrogram with and without noise, by two seeds, at several step counts.

Run ``python examples/vocode.py [SOUND] [FOLDER]``; it writes wav files to FOLDER and says how far they are
apart.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.metrics import log_spectral_distance


def main(sound: Path = Path(__file__).parent / "speech.flac", folder: Path = Path("vocoded")) -> None:
    """Vocode ``sound`` in several ways into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    voc = mmdiff.load("vocoder-16k")
    wave, rate = io.read(sound)
    mel = voc.mel(wave, sample_rate=rate)
    versions = {
        "no-noise": voc(mel, temperature=0.0),
        "seed0": voc(mel, seed=0),
        "seed1": voc(mel, seed=1),
        "seed0-1step": voc(mel, seed=0, steps=1),
        "seed0-8steps": voc(mel, seed=0, steps=8),
    }
    for name, made in versions.items():
        io.write(folder / f"{name}.wav", made, voc.sample_rate)
        distance = log_spectral_distance(versions["seed0"][0], made[0], voc.sample_rate)
        print(f"{folder / name}.wav: {distance:.2f} dB from seed0")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
