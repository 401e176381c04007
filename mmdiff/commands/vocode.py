"""``mmdiff vocode``: waveforms from spectrograms, or from sound by way of its spectrogram."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdiff.commands.jobs import Job, plan
from mmdiff.commands.report import failed, remark, say, say_json
from mmdiff.errors import InputError, MmdiffError

if TYPE_CHECKING:
    from mmdiff.audio.vocode_files import Vocoded
    from mmdiff.audio.vocoder import Vocoder

SOUND = (".wav", ".flac", ".ogg", ".mp3")
MEASURES = ("pesq", "stoi", "log_mel_l1", "lsd", "mcd", "mr_stft")
COMPARED_SECONDS = 60.0
SHOWN_SECONDS = 30.0


def vocode(
    inputs: list[str],
    *,
    out: str | None = None,
    model: str = "vocoder-16k",
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    mel_preset: str | None = None,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    plot: bool = False,
    json: bool = False,
) -> int:
    """Make waveforms from mel spectrograms, or from sound by way of its spectrogram.

    Inputs are mel spectrograms (.npy, .npz, .pt, .safetensors), sound files or videos, which are turned into
    spectrograms first (copy-synthesis: it shows what the model can do), and folders of either. A file that
    cannot be used is named, the others are finished, and the exit status is 1.

    Parameters
    ----------
    inputs : list of str
        Files and folders.
    out : str, optional
        File (.wav, .flac, .ogg or .mp3) for one input, else a folder. Default: speech.flac gives
        speech.vocoded.wav beside it, a folder clips gives a folder clips.vocoded. Older results are replaced,
        inputs never.
    model : str
        Shipped model (see "mmdiff info"), model folder, or Hugging Face hub id owner/name.
    steps : int, optional
        Steps of the model: network evaluations, unless the sampler takes several to a step. More is slower
        and, up to a point, better. Default: the model's.
    sampler : str, optional
        Sampler by name; default: the model's.
    schedule : str, optional
        Where the sampler stops: a file that "mmdiff search" wrote, or uniform, quadratic, log_snr, karras or
        flow_shift. Default: the model's.
    seed : int
        Of the noise that sound is made from. Every file gets the same, so a result depends on no other file.
    temperature : float
        Factor on that noise; 0 gives the model's single best guess.
    mel_preset : str, optional
        Definition of the spectrograms, such as hifigan-22k. Default: what the file states, else the model's.
    device : str, optional
        cpu, cuda, cuda:1, ...; default: a GPU if there is one.
    dtype : str
        Precision of the networks' matrix products.
    plot : bool
        Write a picture too, speech.vocoded.png: spectrogram in, spectrogram of the result, waveform (the
        first 30 seconds).
    json : bool
        Print one JSON object for each sound made, with measures of quality where the input is sound (over
        its first 60 seconds), or for each input that failed, with the error.

    Examples
    --------
    mmdiff vocode speech.wav
    mmdiff vocode speech.mp3 -o speech.flac --steps 4 --plot
    mmdiff vocode mel.npy --mel-preset hifigan-22k -o speech.wav
    mmdiff vocode recordings/ more/clip.m4a -o results/ --json
    mmdiff vocode speech.wav --schedule searched.json --steps 6
    """
    if (steps is not None and steps < 1) or temperature < 0:
        raise InputError(f"steps={steps} must be at least 1, temperature={temperature} at least 0")
    from mmdiff.audio.datasets.layouts import SUFFIXES
    from mmdiff.audio.mel.files import MEL_SUFFIXES

    jobs = plan(inputs, out, accepts=SUFFIXES | MEL_SUFFIXES, writes=SOUND, tag="vocoded")
    settings = _settings(steps, sampler, seed, temperature, mel_preset)
    from mmdiff.audio.vocoder import Vocoder
    from mmdiff.commands.pipelines import load_pipeline

    voc = load_pipeline(Vocoder, model, device, dtype)
    settings |= voc.sampling(steps, sampler, schedule)._asdict()
    settings["taken"] = {job.target for job in jobs}
    failures = sum(not _one(voc, job, settings, plot, json) for job in jobs)
    if failures and len(jobs) > 1:
        failed(f"{failures} of {len(jobs)} inputs; the others are done")
    return 1 if failures else 0


def _settings(
    steps: int | None, sampler: str | None, seed: int, temperature: float, mel_preset: str | None
) -> dict[str, Any]:
    """Check what does not depend on a file, so that a slip is told once and not for every file."""
    from mmdiff.audio.mel import preset
    from mmdiff.diffusion.samplers import SAMPLERS

    if sampler is not None and sampler not in SAMPLERS:
        raise InputError(f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}")
    spec = None if mel_preset is None else preset(mel_preset)
    return {"mel_spec": spec, "steps": steps, "sampler": sampler, "seed": seed, "temperature": temperature}


def _one(voc: Vocoder, job: Job, settings: dict[str, Any], plot: bool, json: bool) -> bool:
    from mmdiff.audio.vocode_files import vocode_file

    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        for made in vocode_file(voc, job.source, job.target, progress=True, **settings):
            _tell(made, voc.sample_rate, json)
            if plot:
                _plot(made)
    except (MmdiffError, OSError, MemoryError) as error:
        reason = str(error) or "not enough memory"
        failed(f"{job.source}: {reason}")
        if json:
            say_json({"input": str(job.source), "error": reason})
        return False
    return True


def _tell(made: Vocoded, sample_rate: int, json: bool) -> None:
    if not json:
        for note in made.notes:
            remark(f"{made.input.name}: {note}")
        say(
            f"{made.output}  {made.seconds:.2f} s of sound in {made.elapsed:.2f} s "
            f"(real-time factor {made.real_time_factor:.3f}, {made.steps} steps)"
        )
        return
    record: dict[str, Any] = {
        "input": str(made.input),
        "output": str(made.output),
        "seconds": round(made.seconds, 6),
        "sample_rate": sample_rate,
        "elapsed": round(made.elapsed, 6),
        "real_time_factor": round(made.real_time_factor, 6),
        "steps": made.steps,
        "notes": list(made.notes),
    }
    if made.is_copy:
        record["metrics"] = _measures(made, sample_rate)
    say_json(record)


def _measures(made: Vocoded, sample_rate: int) -> dict[str, float]:
    from mmdiff.audio.vocode_files import compare

    packages = {"pesq": "pesq", "stoi": "pystoi"}
    names = [name for name in MEASURES if name not in packages or find_spec(packages[name])]
    return compare(made.input, made.output, sample_rate, names, COMPARED_SECONDS)


def _plot(made: Vocoded) -> None:
    from mmdiff.audio import io
    from mmdiff.audio.plot import plot_vocoding

    def output(rate: int | None = None) -> Any:
        return io.read(made.output, sample_rate=rate, duration=SHOWN_SECONDS)

    wave, rate = output()
    shown = made.mel[:, : round(SHOWN_SECONDS / made.spec.hop_seconds)]
    mel_out = made.spec(output(made.spec.sample_rate)[0])[0]
    path = made.output.with_suffix(".png")
    plot_vocoding(path, shown, mel_out, made.spec, wave[0], rate, title=Path(made.input).name)
    remark(f"picture in {path}")
