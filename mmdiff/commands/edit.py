"""``mmdiff edit``: fill gaps in recordings, continue, widen and declip them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import mmdiff
from mmdiff.commands.jobs import plan
from mmdiff.commands.report import given_options, refuse_options, remark, say, say_json
from mmdiff.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from mmdiff.audio.editing.edits import SoundEdit

_WRITES = (".wav", ".flac", ".ogg", ".mp3")
_OPTIONS = {
    "gap": "--fill",
    "gaps": "--fill",
    "seconds": "--continue-by",
    "to_rate": "--extend-to",
    "label": "--label",
    "steps": "--steps",
    "sampler": "--sampler",
    "sample_rate": "rate",
}
"""What this command calls the arguments of the functions that make edits."""


def edit(
    recording: str,
    *,
    out: str | None = None,
    fill: list[str] = [],  # noqa: B006, read only
    continue_by: float | None = None,
    extend_to: int | None = None,
    declip: bool = False,
    model: str | None = None,
    label: str | None = None,
    method: Literal["reconstruction", "replacement"] | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    json: bool = False,
) -> None:
    """Fill gaps in a recording, continue it, give it high frequencies, or undo clipping.

    What is known stays as it is, sample for sample; new sound meets it within itself. Where peaks above full scale do
    not fit into the file, the whole is made quieter, and that is said; .wav files of floats hold them. Without a
    model, gaps are bridged by linear prediction, clipped samples by sound of few frequencies, and a higher rate is
    plain resampling: what a model has to beat.

    Parameters
    ----------
    recording : str
        Sound file or video, of any number of channels.
    out : str, optional
        File (.wav, .flac, .ogg or .mp3). Default: speech.wav gives speech.edited.wav beside it.
    fill : list of str, optional
        Gaps to make anew, begin:end in seconds.
    continue_by : float, optional
        Seconds to add at the end.
    extend_to : int, optional
        Rate in Hz, above the recording's own, to which its frequencies are extended.
    declip : bool
        Make anew what was cut off at the recording's highest and lowest level.
    model : str, optional
        Shipped model, model folder or hub id: a model of sound (of waveforms, or for all but declipping of
        spectrograms, such as digits-16k); for gaps also a vocoder, such as vocoder-16k, which is told the spectrogram
        interpolated in the gap. Default: none.
    label : str, optional
        What the recording is of, for models that can be told.
    method : str, optional
        How a model is made to agree with what is known: guidance through the network (default for waveforms), or
        replacement alone (default for spectrograms), which is cheaper.
    steps : int, optional
        Network evaluations; default: the model's.
    sampler : str, optional
        Sampler by name; default: the model's.
    seed : int
        Of the noise that sound is made from.
    device : str, optional
        cpu, cuda, cuda:1, ...; default: a GPU if there is one.
    dtype : str
        Precision of the network's matrix products.
    json : bool
        Print one JSON object about what was made.

    Examples
    --------
    mmdiff edit speech.wav --fill 1.2:1.35
    mmdiff edit speech.wav --fill 1.2:1.28 --model vocoder-16k
    mmdiff edit speech.wav --fill 0.50:0.52 2.10:2.14 --model runs/sound/model -o whole.wav
    mmdiff edit seven.wav --fill 0.4:0.6 --model digits-16k --label seven-en
    mmdiff edit speech.wav --continue-by 0.5
    mmdiff edit narrow-8k.wav --extend-to 16000 --model runs/sound/model -o wide.wav
    mmdiff edit loud.flac --declip -o soft.flac
    """
    given = given_options(
        {"fill": fill, "continue_by": continue_by, "extend_to": extend_to, "declip": declip}
    )
    if len(given) != 1:
        raise InputError(
            "exactly one of --fill, --continue-by, --extend-to, --declip must be given; got "
            + (", ".join(given) or "none of them")
        )
    if model is None:
        needless = {"label": label, "method": method, "steps": steps, "sampler": sampler}
        refuse_options(needless, "models; add --model")
    gaps = [_gap(text) for text in fill]
    if Path(recording).expanduser().is_dir():
        raise InputError(
            f"recording={recording!r} must be a file, and is a folder: edits are of single recordings"
        )
    own = Path(recording).suffix.lower()
    writes = (own, *_WRITES) if own in _WRITES else _WRITES
    (job,) = plan([recording], out, accepts=_WRITES, writes=writes, tag="edited")
    from mmdiff.audio import io
    from mmdiff.audio.editing import edits

    wave, rate = io.read(job.source, mono=False)
    options: dict[str, Any] = {"method": method, "steps": steps, "sampler": sampler, "seed": seed}
    with _naming_options():
        if gaps:
            known = edits.gap_filling(wave, rate, gaps)
        elif continue_by is not None:
            known = edits.continuation(wave, rate, continue_by)
        elif extend_to is not None:
            known = edits.bandwidth_extension(wave, rate, extend_to)
        else:
            known = edits.declipping(wave, rate)
        began = time.perf_counter()
        made = _by_model(known, model, label, device, dtype, options) if model else _plainly(known)
    elapsed = time.perf_counter() - began
    job.target.parent.mkdir(parents=True, exist_ok=True)
    bits = _bits(job.source, job.target)
    io.write(job.target, made if bits == 32 else _within_range(made), known.sample_rate, bits=bits)
    _tell(job.target, made, known, elapsed, json)


@contextlib.contextmanager
def _naming_options() -> Iterator[None]:
    """Name this command's options where functions name their arguments."""
    try:
        yield
    except InputError as error:
        name, equals, rest = str(error).partition("=")
        raise InputError(f"{_OPTIONS[name]} {rest}" if equals and name in _OPTIONS else str(error)) from None


def _gap(text: str) -> tuple[float, float]:
    begin, _, end = text.partition(":")
    try:
        return float(begin), float(end)
    except ValueError:
        raise InputError(f"--fill {text!r} must be begin:end in seconds, such as 1.2:1.35") from None


def _by_model(
    known: SoundEdit,
    model: str,
    label: str | None,
    device: str | None,
    dtype: str,
    options: dict[str, Any],
) -> Tensor:
    from mmdiff.audio.editing.sound import edit_sound
    from mmdiff.audio.editing.vocoder import STEPS, fill_gaps
    from mmdiff.audio.generator import SoundGenerator
    from mmdiff.audio.vocoder import Vocoder

    pipeline = mmdiff.load(model, device, dtype)
    if isinstance(pipeline, Vocoder):
        refused = {"label": label, "method": options["method"], "sampler": options["sampler"]}
        refuse_options(refused, "models of sound, and this is a vocoder")
        steps = STEPS if options["steps"] is None else options["steps"]
        return fill_gaps(pipeline, known, steps=steps, seed=options["seed"])
    if not isinstance(pipeline, SoundGenerator):
        raise InputError(f"model={model!r} must be a model of sound, or for gaps a vocoder; it makes clips")
    return edit_sound(pipeline, known, label, progress=True, **options)


def _plainly(known: SoundEdit) -> Tensor:
    from mmdiff.audio.editing.baselines import without_model

    return without_model(known)


def _within_range(made: Tensor) -> Tensor:
    """Scale sound whose peaks a file of whole numbers would clip."""
    peak = float(made.abs().max())
    if peak <= 1:
        return made
    remark(f"made {1 / peak:.3g} times as loud, so that its peaks fit into the file")
    return made / peak


def _bits(source: Path, target: Path) -> int:
    """As many bits of a sample as the recording has, where the format has them."""
    from mmdiff.audio import io

    codec = io.info(source).codec
    if any(name in codec for name in ("f32", "f64", "s32", "float", "double", "pcm_32")):
        return 32 if target.suffix.lower() == ".wav" else 24
    return 24 if "24" in codec else 16


def _tell(target: Path, made: Tensor, known: SoundEdit, elapsed: float, json: bool) -> None:
    seconds = made.shape[-1] / known.sample_rate
    share = float((~known.known).double().mean())
    if json:
        say_json(
            {
                "output": str(target),
                "seconds": round(seconds, 6),
                "sample_rate": known.sample_rate,
                "unknown": round(share, 6),
                "elapsed": round(elapsed, 6),
            }
        )
        return
    say(f"{target}  {seconds:.2f} s of sound, {100 * share:.1f} % of its samples new, in {elapsed:.2f} s")
