"""``mmdiff mel``: spectrograms from sound."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mmdiff.commands.jobs import Job, plan
from mmdiff.commands.report import failed, say
from mmdiff.errors import MmdiffError


def mel(
    inputs: list[str],
    *,
    out: str | None = None,
    preset: str = "mmdiff-16k",
    format: Literal["safetensors", "npy"] = "safetensors",
) -> int:
    """Compute mel spectrograms of sound, by any preset's definition.

    Sound of any rate is resampled, channels are averaged. A safetensors file also states the definition, so
    that "mmdiff vocode" needs no --mel-preset to read it.

    Parameters
    ----------
    inputs : list of str
        Sound files, videos, and folders of them.
    out : str, optional
        File (.safetensors or .npy) for one input, else a folder. Default: speech.flac gives
        speech.mel.safetensors beside it, a folder clips gives a folder clips.mel.
    preset : str
        Definition by name, optionally with another logarithm: hifigan-22k, hifigan-22k:log10. "mmdiff info"
        lists the names.
    format : str
        Of files whose name is not given by --out.

    Examples
    --------
    mmdiff mel speech.wav
    mmdiff mel speech.wav -o speech.npy --preset hifigan-22k
    mmdiff mel recordings/ -o mels/ --preset vocos-24k-100 --format npy
    """
    from mmdiff.audio.datasets.layouts import SUFFIXES
    from mmdiff.audio.mel import preset as find_preset

    suffixes = sorted((".safetensors", ".npy"), key=lambda suffix: suffix != f".{format}")
    jobs = plan(inputs, out, accepts=SUFFIXES, writes=suffixes, tag="mel")
    spec = find_preset(preset)

    def one(job: Job) -> bool:
        from mmdiff.audio.mel.files import write_mel
        from mmdiff.audio.vocode_files import analyse

        try:
            values, seconds, _ = analyse(Path(job.source), spec, progress=True)
            write_mel(job.target, values[0], spec)
        except (MmdiffError, OSError, MemoryError) as error:
            failed(f"{job.source}: {error or 'not enough memory'}")
            return False
        say(f"{job.target}  {values.shape[1]} bands, {values.shape[2]} frames, {seconds:.2f} s")
        return True

    failures = sum(not one(job) for job in jobs)
    return 1 if failures else 0
