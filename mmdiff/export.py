"""Vocoders as files that run elsewhere: ONNX graphs, and programs of ``torch.export``."""

from __future__ import annotations

import copy
import importlib.util
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

import mmdiff
from mmdiff.audio.graphs import Graph, Part, make_graph
from mmdiff.audio.mel import preset_name
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.errors import InputError, MmdiffError
from mmdiff.files import atomic_file, check_writable

Format = Literal["onnx", "pt2"]
LEAST_DECIBELS = 40.0
"""How far below the samples what differs from PyTorch's must stay, as energy. Waveform networks come to more than 90;
phase retrieval magnifies rounding with each iteration, also PyTorch's own, which the comparison tells."""


@dataclass(frozen=True)
class Comparison:
    """What the file computes beside what PyTorch does, for inputs of another batch and length than it was made with.

    Attributes
    ----------
    decibels : float
        Energy of the result over that of the difference.
    rounding : float
        The same of what PyTorch computes in float32 and in float64: no file can be expected to come much nearer.
    largest : float
        Difference.
    batch, frames : int
    """

    decibels: float
    rounding: float
    largest: float
    batch: int
    frames: int


def export(
    model: VocoderModel,
    out: str | Path,
    *,
    format: Format = "onnx",
    part: Part = "all",
    steps: int | None = None,
) -> dict[str, Any]:
    """Write a vocoder as one graph from a mel spectrogram and noise to samples, and compare it with PyTorch.

    The graph has the whole pipeline at a fixed number of evaluations, for any batch and length between two
    limits. It draws no noise: standard normal noise is an input, so that it gives the same everywhere. Runtimes refuse
    fewer or more frames with words of their own: sound is not padded nor cut into windows, and mels of other
    definitions are not converted.

    Parameters
    ----------
    model : VocoderModel
        On the CPU, in float32, such as ``mmdiff.load("vocoder-16k").model``.
    out : str or Path
        File to write: all of it or nothing.
    format : {"onnx", "pt2"}
        ONNX with real operators only, the inverse short-time Fourier transform as transposed convolutions; or a
        program that ``torch.export.load`` reads, with complex spectra.
    part : {"all", "network"}
        The pipeline, or the network alone, whose sampler you write yourself.
    steps : int > 0, optional
        Network evaluations; default: the model's.

    Returns
    -------
    dict
        What was written, as JSON values: inputs and outputs with their shapes, ``frames``, the fewest and the most,
        sampling rate, mel definition, and ``check``, the comparison.

    Raises
    ------
    InputError
        The model cannot be exported, or the packages for it are missing.
    MmdiffError
        The file computes something else than PyTorch; it is not written.

    Examples
    --------
    >>> facts = export(mmdiff.load("vocoder-16k").model, "vocoder.onnx")  # doctest: +SKIP
    """
    if format not in get_args(Format):
        raise InputError(f"format={format!r} must be one of {', '.join(get_args(Format))}")
    if format == "onnx":
        _require_packages()
    check_writable(out)
    steps = model.default_steps if steps is None else steps
    graph = make_graph(model, steps, part, real=format == "onnx")
    facts = describe(graph, steps, part)
    with torch.no_grad(), atomic_file(out) as temporary:
        program = trace(graph)
        if format == "onnx":
            write_onnx(program, graph, facts, temporary)
        else:
            torch.export.save(program, temporary, extra_files={"mmdiff.json": json.dumps(facts)})
        found = compare(graph, temporary, format)
        if not found.decibels >= LEAST_DECIBELS:
            raise MmdiffError(
                f"{out} is not written: what it computes differs from PyTorch's by {-found.decibels:.1f} dB, at "
                f"most {found.largest:.2g}; it must stay below -{LEAST_DECIBELS:g} dB; in PyTorch, "
                f"float32 and float64 differ by {-found.rounding:.1f} dB"
            )
    return {"format": format, **facts, "check": asdict(found)}


def describe(graph: Graph, steps: int, part: Part) -> dict[str, Any]:
    """Facts about a graph that its user needs, as JSON values."""
    model = graph.model
    return {
        "part": part,
        "class": type(model).__name__,
        "evaluations": steps if part == "all" else 1,
        "inputs": {name: list(shape) for name, shape in graph.shapes.items()},
        "outputs": {graph.output: list(graph.output_shape)},
        "frames": [graph.shortest, graph.longest],
        "sample_rate": model.sample_rate,
        "mel_preset": preset_name(model.mel),
        "mel": asdict(model.mel),
        "prediction": model.denoiser.prediction,
        "noise_input": model.denoiser.noise_input,
        "mmdiff": mmdiff.__version__,
    }


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """Trace a graph with free batch and length."""
    example = graph.example(batch=2, frames=graph.shortest + 9)
    graph(*example)  # what is computed once and kept must not be computed while tracing
    free = {
        "batch": torch.export.Dim("batch"),
        "frames": torch.export.Dim("frames", min=graph.shortest, max=graph.longest),
    }
    shapes = {
        name: {axis: free[size] for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, shape in graph.shapes.items()
    }
    return torch.export.export(graph, example, dynamic_shapes=shapes, strict=False)


def write_onnx(
    program: torch.export.ExportedProgram, graph: Graph, facts: Mapping[str, Any], file: Path
) -> None:
    """Write a traced graph as one ONNX file, with the facts about it as its metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own insides
        made = torch.onnx.export(
            program, dynamo=True, input_names=list(graph.shapes), output_names=[graph.output], verbose=False
        )
    assert made is not None
    made.model.metadata_props.update({name: _text(value) for name, value in facts.items()})
    made.save(file, external_data=False)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def compare(graph: Graph, file: Path, format: Format, batch: int = 1, frames: int = 40) -> Comparison:
    """Run a file and the model it was made of, in PyTorch's own arithmetic, on the same inputs."""
    inputs = graph.example(batch, min(max(frames, graph.shortest), graph.longest), seed=1)
    plain = copy.copy(graph)
    plain.real = False
    expected = plain(*inputs).double()
    if format == "onnx":
        got = run_onnx(file, dict(zip(graph.shapes, inputs, strict=True)))
    else:
        got = torch.export.load(file).module()(*inputs)
    exact = copy.deepcopy(plain).double()(*(tensor.double() for tensor in inputs))
    largest = float((got.double() - expected).abs().max())
    return Comparison(_decibels(expected, got), _decibels(exact, expected), largest, batch, frames)


def _decibels(expected: Tensor, found: Tensor) -> float:
    """Energy over that of the difference."""
    difference = found.double() - expected.double()
    return float(10 * (expected.double().square().sum() / difference.square().sum()).log10())


def run_onnx(file: str | Path, inputs: Mapping[str, Tensor]) -> Tensor:
    """Run an ONNX file with onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(result)


def _require_packages() -> None:
    missing = [
        name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise InputError(
            f"format='onnx' needs {', '.join(missing)}, not installed here: pip install 'mmdiff[export]'"
        )
