"""``mmdiff export``: vocoders for programs without PyTorch."""

from __future__ import annotations

from typing import Any, Literal

from mmdiff.commands.report import say, say_json
from mmdiff.errors import InputError


def export(
    model: str,
    *,
    out: str,
    format: Literal["onnx", "pt2"] = "onnx",
    part: Literal["all", "network"] = "all",
    steps: int | None = None,
    json: bool = False,
) -> None:
    """Write a vocoder as one graph from a mel spectrogram and noise to samples, and compare it with PyTorch.

    The graph has the whole pipeline at a fixed number of network evaluations, for any batch size, and for lengths
    between two limits that are printed: a spectral vocoder needs a few frames, the half of its window and one more;
    pad what is shorter with silence. Standard normal noise is one of its inputs. What the file computes is compared
    with PyTorch for another batch and length than it was made with; where they differ nothing is written.
    Sampling rate, limits, mel definition, inputs and outputs are in the file's metadata too.

    Parameters
    ----------
    model : str
        Shipped model, folder or hub id of a vocoder.
    out : str
        File to write.
    format : str
        onnx, for onnxruntime and others, with real operators only; needs pip install "mmdiff[export]". Or pt2,
        for torch.export.load.
    part : str
        all, the pipeline; or network, the denoising network alone, for a sampler of your own.
    steps : int, optional
        Network evaluations. Default: the model's.
    json : bool
        Print one JSON object instead of words.

    Examples
    --------
    mmdiff export vocoder-16k -o vocoder-16k.onnx
    mmdiff export models/diffwave -o diffwave.onnx --steps 6
    mmdiff export models/wavegrad -o wavegrad.pt2 --format pt2
    mmdiff export models/wavegrad -o network.onnx --part network
    """
    from mmdiff.audio.vocoder_model import VocoderModel
    from mmdiff.export import export as write
    from mmdiff.hub import find_model, load_model

    found = load_model(find_model(model, "SpectralVocoder"), "cpu")
    if not isinstance(found, VocoderModel):
        raise InputError(f"model={model!r} must be a vocoder; it is a {type(found).__name__}")
    facts = write(found, out, format=format, part=part, steps=steps)
    if json:
        say_json({"file": out, **facts})
    else:
        say(_words(out, facts))


def _words(out: str, facts: dict[str, Any]) -> str:
    shortest, longest = facts["frames"]
    check = facts["check"]
    what = "the network" if facts["part"] == "network" else f"{facts['evaluations']} network evaluations"
    lines = [
        f"{out}",
        f"  {facts['class']}, {what}, {facts['sample_rate']} Hz",
        *(
            f"  input   {name:10} ({', '.join(map(str, shape))}) float32"
            for name, shape in facts["inputs"].items()
        ),
        *(
            f"  output  {name:10} ({', '.join(map(str, shape))}) float32"
            for name, shape in facts["outputs"].items()
        ),
        f"  frames  {shortest} to {longest}; pad what is shorter with silence, cut what is longer",
        f"  mel     {facts['mel_preset'] or 'of its own, see the metadata'}",
        f"  check   differs from PyTorch by {-check['decibels']:.1f} dB, at most {check['largest']:.2g} "
        f"(batch {check['batch']}, {check['frames']} frames); there float32 from float64 by "
        f"{-check['rounding']:.1f} dB",
    ]
    return "\n".join(lines)
