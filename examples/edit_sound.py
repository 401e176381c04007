"""Leave something out of a recording, fill it in without a model and with a vocoder, and see how near it comes.

Run ``python examples/edit_sound.py [SOUND] [FOLDER]``; it writes wav files to FOLDER, with a spectrogram of each, and
says how far they are from the recording.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.editing import edits
from mmdiff.audio.editing.baselines import linear_prediction, sparsity
from mmdiff.audio.editing.vocoder import fill_gaps
from mmdiff.audio.evaluation.edits import edit_measures

RATE = 16_000


def main(sound: Path = Path(__file__).parent / "speech.flac", folder: Path = Path("edited")) -> None:
    """Edit the first two seconds of ``sound`` in several ways into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    voc = mmdiff.load("vocoder-16k")
    wave = io.read(sound, sample_rate=RATE, duration=2.0)[0]
    gaps = edits.gap_filling(wave, RATE, [(at, at + 0.05) for at in (0.45, 0.95, 1.45)])
    level = float(wave.abs().quantile(0.95))
    clipped = edits.declipping(wave.clamp(-level, level), RATE, level)
    versions = {
        "gaps": (gaps, gaps.wave),
        "gaps-prediction": (gaps, linear_prediction(gaps)),
        "gaps-vocoder": (gaps, fill_gaps(voc, gaps)),
        "gaps-vocoder-spectrogram-known": (gaps, fill_gaps(voc, gaps, voc.mel(wave, RATE))),
        "clipped": (clipped, clipped.wave),
        "clipped-few-frequencies": (clipped, sparsity(clipped)),
    }
    figure, axes = plt.subplots(len(versions), figsize=(10, 2 * len(versions)), sharex=True)
    for axis, (name, (edit, made)) in zip(axes, versions.items(), strict=True):
        io.write(folder / f"{name}.wav", made / made.abs().max().clamp_min(1), RATE)
        noise = 1e-5 * torch.randn(made.shape[-1], generator=torch.Generator().manual_seed(0))  # nothing is 0
        axis.specgram((made[0] + noise).numpy(), NFFT=512, noverlap=384, Fs=RATE, vmin=-130, vmax=-30)
        axis.set_title(name, fontsize=8)
        found = edit_measures([edit], [wave], [made], ["lsd"])
        print(f"{folder / name}.wav: SNR {found['snr'].value:.2f} dB, LSD {found['lsd'].value:.2f} dB")
    figure.tight_layout()
    figure.savefig(folder / "spectrograms.png", dpi=80)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
