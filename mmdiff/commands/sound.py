"""``mmdiff sound``: sounds from labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmdiff.commands.report import say, say_json
from mmdiff.errors import InputError

if TYPE_CHECKING:
    from mmdiff.audio.generator import Label, SoundGenerator

_WRITES = (".wav", ".flac", ".ogg", ".mp3")
_BATCH = 8  # sounds made, and then written, at once


def sound(
    label: str | None = None,
    *,
    model: str = "digits-16k",
    out: str | None = None,
    num: int = 1,
    seed: int = 0,
    seconds: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    guidance: float | None = None,
    temperature: float = 1.0,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    json: bool = False,
) -> None:
    """Make sounds of labels, such as spoken digits, or of nothing.

    Parameters
    ----------
    label : str, optional
        What to make: one of the model's labels, or "all" of them. Without it the model decides.
    model : str
        Shipped name, model folder (the recipe spoken_digits makes one), or Hugging Face hub id owner/name.
    out : str, optional
        Sound file (.wav, .flac, .ogg, .mp3), or a folder. Of several sounds the names are numbered. Default: a
        .wav named after the label.
    num : int
        Sounds for each label.
    seed : int
        Of the first sound's noise; the next sound has the next number. A sound depends on its own seed alone.
    seconds : float, optional
        Length; default: that of the training sounds.
    steps : int, optional
        Network evaluations; more is slower and, up to a point, better. Default: the model's.
    sampler : str, optional
        Sampler by name; default: the model's.
    schedule : str, optional
        Where the sampler stops, as for "mmdiff vocode".
    guidance : float, optional
        How closely to follow the label: 1 is as trained, more doubles the time. Default: the model's.
    temperature : float
        Factor on the noise.
    device : str, optional
        cpu, cuda, cuda:1, ...; default: a GPU if there is one.
    dtype : str
        Precision of the network's matrix products.
    json : bool
        Print one JSON object for each sound.

    Examples
    --------
    mmdiff sound seven-en -o seven.wav
    mmdiff sound seven-es --num 8 --seed 100 -o sounds/
    mmdiff sound all --model runs/digits-16k/model -o sounds/
    """
    from mmdiff.audio.generator import SoundGenerator
    from mmdiff.commands.pipelines import load_pipeline

    if num < 1:
        raise InputError(f"num={num} must be at least 1")
    gen = load_pipeline(SoundGenerator, model, device, dtype)
    every = label == "all" and bool(gen.labels)
    wanted = [name for name in gen.check(gen.labels if every else label) for _ in range(num)]
    paths = _paths(out, [str(name or "sound") for name in wanted])
    options: dict[str, Any] = {
        "seconds": seconds, "steps": steps, "sampler": sampler, "grid": schedule, "guidance": guidance,
        "temperature": temperature,
    }  # fmt: skip
    for n in range(0, len(wanted), _BATCH):
        _make(gen, wanted[n : n + _BATCH], paths[n : n + _BATCH], seed + n, options, json)


def _paths(out: str | None, names: list[str]) -> list[Path]:
    """Name each sound's file."""
    from mmdiff.commands.clip_files import check_places, numbered

    stems = [Path(name) for name in names]
    if out is None:
        paths = list(numbered(stems, _WRITES[0]))
    else:
        target = Path(out).expanduser()
        if target.suffix.lower() in _WRITES and not target.is_dir():
            paths = list(numbered([target.with_suffix("")] * len(names), target.suffix))
        elif target.suffix and not target.is_dir():
            raise InputError(f"out={out!r} must be a folder or end in {', '.join(_WRITES)}")
        else:
            paths = list(numbered([target / stem for stem in stems], _WRITES[0]))
    check_places(paths)
    return paths


def _make(
    gen: SoundGenerator,
    labels: list[Label],
    paths: list[Path],
    seed: int,
    options: dict[str, Any],
    json: bool,
) -> None:
    from mmdiff.audio.io import write

    start = time.perf_counter()
    waves = gen(labels, seed=seed, batch=_BATCH, **options).cpu()
    elapsed = (time.perf_counter() - start) / len(waves)
    for n, (label, path, wave) in enumerate(zip(labels, paths, waves, strict=True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, wave[None], gen.sample_rate)
        length = len(wave) / gen.sample_rate
        if json:
            record = {"output": str(path), "label": label, "seed": seed + n, "seconds": length}
            say_json({**record, "sample_rate": gen.sample_rate, "elapsed": round(elapsed, 6)})
        else:
            say(f"{path}  {length:.2f} s of sound in {elapsed:.2f} s (seed {seed + n})")
