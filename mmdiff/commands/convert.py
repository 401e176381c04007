"""``mmdiff convert``: other projects' checkpoints as model folders."""

from __future__ import annotations

from typing import Any, Literal

from mmdiff.commands.report import say, say_json


def convert(
    file: str,
    *,
    out: str,
    weights: Literal["ema", "model"] = "ema",
    size: int | None = None,
    frames: int | None = None,
    fps: float | None = None,
    groups: int | None = None,
    dynamic_threshold: float | None = None,
    half: bool = False,
    json: bool = False,
) -> None:
    """Turn another project's checkpoint into a model folder.

    The kind of file is recognised by what is in it; so far: checkpoints of video-diffusion-pytorch, of any
    version, as its trainer saves them. Sizes are read off the weights. No code in the file is run.

    Parameters
    ----------
    file : str
        Checkpoint, such as results/model-100.pt.
    out : str
        Folder to write, for --model of other commands.
    weights : str
        ema, the averaged weights, or model, the latest.
    size : int, optional
        Height and width of the training clips in pixels, which such a file does not tell. Default: 64.
    frames : int, optional
        Frames of the training clips. Default: 10.
    fps : float, optional
        Frames a second of the training clips. Default: 8.33, that of the GIFs the project writes.
    groups : int, optional
        Groups of the group normalisation in versions before 0.7, if they were not 8.
    dynamic_threshold : float, optional
        Quantile of dynamic thresholding, if the project was used with it; it takes 0.9. Default: plain
        clamping.
    half : bool
        Store weights as float16: half the size, results change by about a thousandth.
    json : bool
        Print one JSON object instead of words.

    Examples
    --------
    mmdiff convert results/model-100.pt -o models/mine --size 64 --frames 10
    mmdiff convert results/model-100.pt -o models/mine --weights model --json
    """
    from mmdiff.convert import convert as read
    from mmdiff.hub import save_model

    options = {"size": size, "frames": frames, "fps": fps, "groups": groups}
    model, facts = read(file, weights=weights, dynamic_threshold=dynamic_threshold, **options)
    save_model(model, out, extra={"converted": facts}, half=half)
    if json:
        say_json({"folder": out, **facts})
    else:
        say(_words(out, facts))


def _words(folder: str, facts: dict[str, Any]) -> str:
    lines = [folder]
    for name, value in facts.items():
        if name == "assumed" or value is None:
            continue
        note = "  (assumed: the file does not tell)" if name in facts["assumed"] else ""
        lines.append(f"  {name.replace('_', ' '):18} {_plain(value)}{note}")
    return "\n".join(lines)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(v)}" for name, v in value.items())
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
