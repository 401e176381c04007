"""Vocode what the vocoder was not trained on: a sung vowel, chords, chirps, drums, clicks, noise, silence.

Run ``python examples/other_sounds.py [FOLDER] [MODEL]``; it writes what went in and what came out to FOLDER, with a
picture of both, and says how far the log mel spectrograms are apart, with the networks and without.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.evaluation.baselines import without_network
from mmdiff.audio.metrics import log_mel_l1

RATE, SECONDS = 16_000, 2.0


def sounds(seed: int = 0) -> dict[str, Tensor]:
    """Make sounds (samples,) that peak at a half, by name."""
    rng = torch.Generator().manual_seed(seed)
    time = torch.arange(round(SECONDS * RATE)) / RATE
    noise = torch.randn(len(time), generator=rng)

    def tone(hertz: Tensor | float, partials: int = 1) -> Tensor:
        turns = (torch.as_tensor(hertz) / RATE).expand(len(time)).double().cumsum(0)
        parts = [(2 * math.pi * n * turns).sin() / n for n in range(1, partials + 1)]
        return torch.stack(parts).sum(0).float()

    def strikes(every: float, fade: float) -> Tensor:
        return torch.exp(-(time % every) / fade)

    vibrato = 220 * 2 ** (
        torch.linspace(0, 7, len(time)).floor() / 12 + 0.03 * (2 * math.pi * 5.5 * time).sin()
    )
    made = {
        "sung vowel": _vowel(tone(vibrato, 30)),
        "chords": sum((tone(220 * 2 ** (n / 12), 8) for n in (0, 4, 7)), torch.zeros(())) * strikes(0.5, 0.3),
        "chirp": tone(torch.linspace(100, 7500, len(time))),
        "drums": noise * strikes(0.25, 0.03) + 3 * tone(60.0) * strikes(0.5, 0.1),
        "clicks": (torch.arange(len(time)) % 2000 == 0).float(),
        "noise": noise,
        "faint noise": 1e-3 * noise,
        "silence": torch.zeros(len(time)),
    }
    peaks = {name: 0.002 if name == "faint noise" else 0.5 for name in made}
    return {name: peaks[name] * wave / wave.abs().max().clamp_min(1e-9) for name, wave in made.items()}


def _vowel(source: Tensor) -> Tensor:
    """Sound as if sung on an open vowel: resonances at 700, 1150 and 2600 Hz."""
    spectrum, hertz = torch.fft.rfft(source), torch.fft.rfftfreq(len(source), 1 / RATE)
    gain = sum((1 / (1 + ((hertz - at) / 90).square()) for at in (700, 1150, 2600)), torch.zeros(()))
    return torch.fft.irfft(spectrum * (gain + 0.01), n=len(source))


def main(folder: Path = Path("other-sounds"), model: str | Path = "vocoder-16k") -> None:
    """Vocode all of them into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    voc, all_ = mmdiff.load(str(model)), sounds()
    figure, axes = plt.subplots(len(all_), 2, figsize=(10, 1.6 * len(all_)), sharex=True)
    for (name, wave), row in zip(all_.items(), axes, strict=True):
        mel = voc.mel(wave[None], RATE)
        made = voc(mel, seed=0, samples=len(wave))[0].cpu()
        plain = without_network(voc.model, mel[0], voc.mel_spec, len(wave)).cpu()
        for axis, sound, title in zip(row, (wave, made), (name, f"{name}, vocoded"), strict=True):
            io.write(folder / f"{title.replace(' ', '-').replace(',', '')}.wav", sound[None], RATE)
            dither = 1e-5 * torch.randn(len(sound), generator=torch.Generator().manual_seed(1))
            axis.specgram((sound + dither).numpy(), NFFT=512, noverlap=384, Fs=RATE, vmin=-130, vmax=-30)
            axis.set_title(title, fontsize=8)
        if name == "silence":
            print(f"{name:12} peak {float(made.abs().max()):.1e}")
            continue
        loudness = 20 * math.log10(float(made.std() / wave.std()))
        ours, theirs = (log_mel_l1(wave, sound, RATE) for sound in (made, plain))
        print(
            f"{name:12} log-mel L1 {ours:.3f} Np, without networks {theirs:.3f}; loudness {loudness:+.2f} dB"
        )
    figure.tight_layout()
    figure.savefig(folder / "spectrograms.png", dpi=80)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
