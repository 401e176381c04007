"""Draw the README's picture: a mel spectrogram going in, the waveform that comes out, and its spectrogram.

Run ``python examples/picture.py [SOUND] [PNG] [MODEL]``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.plot import plot_vocoding

HERE = Path(__file__).parent


def main(
    sound: str = str(HERE / "speech.flac"),
    picture: str = str(HERE.parent / "docs" / "vocoder.png"),
    model: str = "vocoder-16k",
) -> None:
    """Vocode ``sound`` and draw what went in and what came out."""
    voc = mmdiff.load(model)
    wave, rate = io.read(sound)
    mel = voc.mel(wave, sample_rate=rate)
    made = voc(mel, seed=0)
    again = voc.mel(made, voc.sample_rate)
    title = (
        f"mel spectrogram in, waveform out: {Path(model).name}, {voc.model.default_steps} network evaluations"
    )
    print(plot_vocoding(picture, mel[0], again[0], voc.mel_spec, made[0], voc.sample_rate, title))


if __name__ == "__main__":
    main(*sys.argv[1:4])
