"""``mmdiff convert``: other projects' checkpoints as model folders, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mmdiff.commands.report import say, say_json
from mmdiff.errors import InputError


def convert(
    file: str,
    *,
    out: str,
    weights: Literal["ema", "model"] | None = None,
    size: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    groups: int | None = None,
    dynamic_threshold: float | None = None,
    mel: str | None = None,
    sample_rate: int | None = None,
    factors: list[int] = [],  # noqa: B006, read only
    dilations: list[str] = [],  # noqa: B006
    betas: list[str] = [],  # noqa: B006
    energy_min: float | None = None,
    energy_max: float | None = None,
    to: Literal["lmnt"] | None = None,
    half: bool = False,
    json: bool = False,
) -> None:
    """Turn another project's checkpoint into a model folder, or a model folder into a checkpoint.

    The kind of file is recognised by what is in it: WaveGrad and DiffWave by LMNT, WaveGrad by ivanvovk,
    PriorGrad's vocoder, and video-diffusion-pytorch, of any version, as their trainers save them. Sizes are
    read off the weights; what the file does not tell is assumed, and said. No code in the file is run.

    Parameters
    ----------
    file : str
        Checkpoint, such as results/model-100.pt or weights.pt; with --to, a model folder.
    out : str
        Folder to write, for --model of other commands; with --to, the file to write.
    weights : str, optional
        For video: ema, the averaged weights, or model, the latest. Default: ema.
    size : int, optional
        For video: height and width of the training clips in pixels. Default: 64.
    frames : int, optional
        For video: frames of the training clips. Default: 10.
    fps : float, optional
        For video: frames a second of the training clips. Default: 8.33, that of the GIFs the project writes.
    groups : int, optional
        For video: groups of the group normalisation in versions before 0.7, if they were not 8.
    dynamic_threshold : float, optional
        For video: quantile of dynamic thresholding, if the project was used with it; it takes 0.9. Default:
        plain clamping.
    mel : str, optional
        For vocoders: preset of the spectrogram, if it is not the project's own.
    sample_rate : int, optional
        For ivanvovk's WaveGrad: sampling rate in Hz. Default: 22050.
    factors : list of int
        For WaveGrad: upsampling factors. Default: 5 5 3 2 2, those of both projects.
    dilations : list of str
        For WaveGrad: dilations of each upsampling block, such as 1,2,1,2 1,2,4,8. Default: those of both
        projects.
    betas : list of str
        For vocoders: noise variances of few steps, least noisy first, or the .npy file in which the wavegrad
        package stored them. Default: the file's, or published ones.
    energy_min : float, optional
        For PriorGrad: the number in stats_priorgrad/energy_min_train.npy. Default: the energy of silence.
    energy_max : float, optional
        For PriorGrad: the number in stats_priorgrad/energy_max_train.npy, if the file does not override it.
    to : str, optional
        lmnt: write a WaveGrad or DiffWave as a checkpoint that LMNT's package loads, if it computes the same.
    half : bool
        Store weights as float16: half the size, results change by about a thousandth.
    json : bool
        Print one JSON object instead of words.

    Examples
    --------
    mmdiff convert weights.pt -o models/diffwave
    mmdiff convert wavegrad-24kHz.pt -o models/wavegrad --mel lmnt-wavegrad-24k --betas noise_schedule.npy
    mmdiff convert checkpoint_9000.pt -o models/wavegrad --sample-rate 16000 --factors 5 4 3 2 2
    mmdiff convert results/model-100.pt -o models/clips --size 64 --frames 10
    mmdiff convert models/diffwave --to lmnt -o weights.pt
    """
    options = {
        "weights": weights,
        "size": size,
        "frames": frames,
        "fps": fps,
        "groups": groups,
        "dynamic_threshold": dynamic_threshold,
        "mel": mel,
        "sample_rate": sample_rate,
        "factors": tuple(factors) or None,
        "dilations": tuple(_numbers(taps, "dilations") for taps in dilations) or None,
        "betas": _read_betas(betas),
        "energy_min": energy_min,
        "energy_max": energy_max,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if to is None:
        facts = _to_folder(file, out, half, given)
    elif given or half:
        unused = ", ".join([*given, *(["half"] if half else [])])
        raise InputError(f"{unused} must not be given with --to: the folder tells everything")
    else:
        from mmdiff.convert import export

        facts = export(file, out, to)
    if json:
        say_json({"file" if to else "folder": out, **facts})
    else:
        say(_words(out, facts))


def _to_folder(file: str, out: str, half: bool, options: dict[str, Any]) -> dict[str, Any]:
    from mmdiff.convert import convert as read
    from mmdiff.hub import save_model

    model, facts = read(file, **options)
    save_model(model, out, extra={"converted": facts}, half=half)
    return facts


def _numbers(text: str, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise InputError(
            f"{name}={text!r} must be whole numbers with commas between, such as 1,2,4,8"
        ) from None


def _read_betas(given: Sequence[str]) -> tuple[float, ...] | None:
    """Numbers, or those in the one file that is named."""
    if len(given) == 1 and given[0].endswith(".npy"):
        return _stored_betas(Path(given[0]))
    try:
        return tuple(float(number) for number in given) or None
    except ValueError:
        raise InputError(f"betas={' '.join(given)} must be numbers, or one .npy file") from None


def _stored_betas(file: Path) -> tuple[float, ...]:
    import numpy as np

    try:
        table = np.load(file, allow_pickle=False, mmap_mode="r")
        if table.ndim == 1 and 0 < len(table) <= 1000 and table.dtype.kind == "f":
            return tuple(table.tolist())
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"betas={file} cannot be read: {error}; give the file, or the numbers") from None
    raise InputError(f"betas={file} must hold 1 to 1000 numbers; got {table.dtype} of shape {table.shape}")


def _words(place: str, facts: dict[str, Any]) -> str:
    lines = [place]
    assumed = facts.get("assumed", ())
    for name, value in facts.items():
        if name == "assumed" or value is None:
            continue
        note = "  (assumed: the file does not tell)" if name in assumed else ""
        lines.append(f"  {name.replace('_', ' '):18} {_plain(value)}{note}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(v)}" for name, v in value.items())
    if isinstance(value, list):
        return _listed(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(values: list[Any], most: int = 12) -> str:
    """The first and the last of a long table; lists in a list with commas between."""
    if values and isinstance(values[0], list):
        return ", ".join(map(_listed, values))
    if len(values) > most:
        return f"{_plain(values[0])} .. {_plain(values[-1])} ({len(values)} numbers)"
    return " ".join(map(_plain, values))
