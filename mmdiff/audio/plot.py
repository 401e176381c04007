"""Pictures of sound and spectrograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from mmdiff.audio.mel import MelSpec, band_centres
from mmdiff.files import atomic_file

DECIBELS_SHOWN = 80.0
_COLUMNS = 2000  # to which a wave is thinned, by its extremes


def plot_vocoding(
    path: str | Path,
    mel_in: Tensor,
    mel_out: Tensor,
    spec: MelSpec,
    wave: Tensor,
    sample_rate: int,
    title: str = "",
) -> Path:
    """Draw what went into a vocoder and what came out of it.

    Parameters
    ----------
    path : path
        PNG file to write.
    mel_in, mel_out : Tensor, shape (n_mels, frames)
        Spectrogram given, and that of the sound made, by the same definition.
    spec : MelSpec
        That definition.
    wave : Tensor, shape (samples,)
        Sound made.
    sample_rate : int, Hz
        Of ``wave``.
    title : str
        Text above.

    Returns
    -------
    Path
        The file.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(2, 2, 1))
    figure.suptitle(title)
    highest = float(_decibels(mel_in, spec).max())
    for axes, mel, label in ((top, mel_in, "mel in"), (middle, mel_out, "mel of the sound made")):
        image = draw_mel(axes, mel, spec, highest)
        axes.set_title(label, loc="left", fontsize="small")
    figure.colorbar(image, ax=[top, middle], label="dB", pad=0.01)
    draw_wave(bottom, wave, sample_rate)
    bottom.set(xlabel="seconds", ylabel="waveform")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    return Path(path)


def draw_mel(axes, mel: Tensor, spec: MelSpec, highest: float | None = None):  # type: ignore[no-untyped-def]
    """Draw a mel spectrogram (n_mels, frames) in dB on matplotlib axes, bands by centre frequency."""
    level = _decibels(mel, spec)
    highest = float(level.max()) if highest is None else highest
    seconds = mel.shape[-1] * spec.hop_seconds
    image = axes.imshow(
        level,
        origin="lower",
        aspect="auto",
        interpolation="nearest",
        extent=(0, seconds, 0, spec.n_mels),
        vmin=highest - DECIBELS_SHOWN,
        vmax=highest,
        cmap="magma",
    )
    centres = band_centres(spec)[0].numpy()
    marks = [f for f in (250, 500, 1000, 2000, 4000, 8000, 16000) if f <= spec.f_max]
    axes.set_yticks(np.interp(marks, centres, np.arange(spec.n_mels) + 0.5), [_kilohertz(f) for f in marks])
    axes.set_ylabel("kHz")
    return image


def draw_wave(axes, wave: Tensor, sample_rate: int) -> None:  # type: ignore[no-untyped-def]
    """Draw a waveform (samples,) on matplotlib axes as the band between its extremes."""
    samples = wave.detach().cpu().float().numpy()
    width = max(1, len(samples) // _COLUMNS)
    columns = samples[: len(samples) // width * width].reshape(-1, width)
    seconds = (np.arange(len(columns)) + 0.5) * width / sample_rate
    axes.fill_between(
        seconds, columns.min(1), columns.max(1), linewidth=0.5, color="#3b528b", edgecolor="#3b528b"
    )
    limit = max(1e-3, 1.05 * float(np.abs(samples).max()))
    axes.set(xlim=(0, len(samples) / sample_rate), ylim=(-limit, limit))


def _decibels(mel: Tensor, spec: MelSpec) -> np.ndarray:
    bands = spec.expand(mel.detach().cpu().double()).clamp_min(1e-12)
    return (20 / spec.power * bands.log10()).numpy()


def _kilohertz(frequency: float) -> str:
    return f"{frequency / 1000:g}"
