from __future__ import annotations

import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from mmdiff.audio import io
from mmdiff.audio.graphs import Graph, make_graph
from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.metrics import pesq
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.planes import Planes
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.errors import InputError, MmdiffError
from mmdiff.export import LEAST_DECIBELS, compare, describe, export, run_onnx, trace, write_onnx
from mmdiff.hub import load_model, save_model

CLIPS = Path(__file__).parent / "audio" / "clips"
MEL = MelSpec(16_000, 64, 64, 8, n_mels=4)


def waveform_vocoder(network) -> WaveformVocoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WaveformVocoder(MEL, network(), BetaTable((1e-3, 0.01, 0.3)), inference_betas=(1e-3, 0.3))
        torch.nn.init.normal_(model.network.out.weight)
    return model.eval()


@pytest.fixture(scope="module")
def wavegrad() -> WaveformVocoder:
    sizes = {"up_channels": (4, 4), "down_channels": (4,), "dilations": ((1, 2, 1, 2),) * 2}
    return waveform_vocoder(lambda: WaveGrad(4, (4, 2), **sizes, mel_channels=4, wave_channels=2))


@pytest.fixture(scope="module")
def diffwave() -> WaveformVocoder:
    return waveform_vocoder(lambda: DiffWave(4, 4, 2, 1, (4, 2), step_width=8))


@pytest.fixture(scope="module")
def frames() -> WaveformVocoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = FrameNet(MEL, channels=8, depth=2, bands=4, overlap=2)
        torch.nn.init.normal_(network.network.write.weight)
        return WaveformVocoder(MEL, network, BetaTable((1e-3, 0.01, 0.3)), 3, prediction="x0").eval()


class Inverse(Graph):
    """An inverse STFT of any spectrum."""

    output_shape = ("batch", "(frames - 1) * 64")

    def __init__(self, model) -> None:
        super().__init__(model, real=True)
        self.stft = Stft(16_000, 256, 64)
        self.shapes = {"real": ("batch", "frames", 129), "imag": ("batch", "frames", 129)}

    def forward(self, real, imag):
        with self.arithmetic():
            return self.stft.inverse(Planes(real, imag), (real.shape[1] - 1) * 64)


class Fickle(Inverse):
    """The same, and the number of calls."""

    calls = itertools.count()

    def forward(self, real, imag):
        return super().forward(real, imag) + next(self.calls)


def test_inverse_transform_in_onnx_is_that_of_torch(wavegrad, tmp_path):
    graph = Inverse(wavegrad)
    with torch.no_grad():
        write_onnx(trace(graph), graph, {"answer": 42}, tmp_path / "inverse.onnx")
    for batch, frames in ((1, 5), (3, 40)):
        real, imag = graph.example(batch, frames)
        found = run_onnx(tmp_path / "inverse.onnx", {"real": real, "imag": imag})
        spectrum, window = torch.complex(real, imag).mT, torch.hann_window(256)
        expected = torch.istft(spectrum, 256, 64, window=window, length=(frames - 1) * 64)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    written = onnx.load(tmp_path / "inverse.onnx")
    assert {p.key: p.value for p in written.metadata_props}["answer"] == "42"
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}


def test_network_is_exported_by_the_command(mmdiff_command, wavegrad, tmp_path):
    save_model(wavegrad, tmp_path / "model")
    file = tmp_path / "network.onnx"
    outcome = mmdiff_command("export", tmp_path / "model", "-o", file, "--part", "network")
    assert outcome.status == 0, outcome.err
    for words in (
        "the network, 16000 Hz",
        "(batch, frames, 8)",
        "(batch, 4, frames)",
        "frames  2 to 4096; pad what is shorter",
        "differs from PyTorch by -",
    ):
        assert words in outcome.out
    facts = {p.key: p.value for p in onnx.load(file).metadata_props}
    assert (facts["sample_rate"], facts["noise_input"]) == ("16000", "sqrt_alpha_bar")
    assert (json.loads(facts["mel"])["hop_length"], json.loads(facts["frames"])) == (8, [2, 4096])
    stored = load_model(tmp_path / "model", "cpu")
    for batch, frames in ((1, 2), (3, 33)):
        x, level, mel = make_graph(stored, 1, "network").example(batch, frames, seed=2)
        found = run_onnx(file, {"x": x, "level": level, "mel": mel})
        with torch.no_grad():
            expected = stored.network(x.flatten(1)[:, None], level, mel=mel)
        torch.testing.assert_close(found.flatten(1), expected[:, 0], atol=1e-3, rtol=1e-3)


def test_pipeline_as_a_program_is_what_the_vocoder_makes_of_the_same_noise(diffwave, tmp_path):
    facts = export(diffwave, tmp_path / "diffwave.pt2", format="pt2", steps=2)
    assert facts["inputs"] == {"mel": ["batch", 4, "frames"], "noise": ["batch", 2, "frames", 8]}
    assert facts["check"]["decibels"] > 90
    (mel, noise) = make_graph(diffwave, 2).example(batch=3, frames=21, seed=5)
    drawn = iter(noise.flatten(2)[:, :, None].unbind(1))
    with torch.no_grad():
        expected = diffwave.sample_window(
            mel,
            next(drawn) / diffwave.denoiser.schedule.prior_std,
            lambda: next(drawn),
            grid=diffwave.grid(2),
            sampler="ddpm",
            temperature=1.0,
        )
    found = torch.export.load(tmp_path / "diffwave.pt2").module()(mel, noise)
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=1e-5, rtol=1e-4)


def test_compiled_network_gives_the_same_sound(diffwave):
    voc, mel = Vocoder(diffwave, "cpu", "float32"), MEL(torch.zeros(1, 200))
    expected = voc(mel, steps=2, seed=3)
    diffwave.network.compile(backend="aot_eager")
    try:
        torch.testing.assert_close(voc(mel, steps=2, seed=3), expected, atol=1e-5, rtol=1e-4)
    finally:
        diffwave.network._compiled_call_impl = None


def test_a_file_that_computes_something_else_is_not_written(monkeypatch, diffwave, tmp_path):
    monkeypatch.setattr("mmdiff.export.make_graph", lambda model, *_, **__: Fickle(model))
    with pytest.raises(MmdiffError, match="differs from PyTorch's by"):
        export(diffwave, tmp_path / "diffwave.pt2", format="pt2")
    assert list(tmp_path.iterdir()) == []


def test_rounding_of_pytorch_itself_is_told_and_excuses_nothing(monkeypatch, diffwave, tmp_path):
    check = export(diffwave, tmp_path / "diffwave.pt2", format="pt2", steps=2)["check"]
    assert min(check["decibels"], check["rounding"]) > 90
    monkeypatch.setattr("mmdiff.export.LEAST_DECIBELS", 1000.0)
    with pytest.raises(MmdiffError, match=r"below -1000 dB; in PyTorch, float32 and float64 differ by -\d"):
        export(diffwave, tmp_path / "refused.pt2", format="pt2", steps=2)
    assert [path.name for path in tmp_path.iterdir()] == ["diffwave.pt2"]


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch, diffwave, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(InputError, match=r"onnxscript.*pip install 'mmdiff\[export\]'"):
        export(diffwave, tmp_path / "diffwave.onnx")


def test_what_cannot_be_exported_is_refused(diffwave, tmp_path):
    stft = Stft()
    other = SpectralVocoder(stft, preset("hifigan-22k"), MagnitudeNet(stft, channels=4, depth=1))
    for model, options, word in (
        (other, {}, "hop_length"),
        (diffwave, {"steps": 0, "format": "pt2"}, "steps"),
        (diffwave, {"format": "pt"}, "format"),
        (diffwave, {"part": "none", "format": "pt2"}, "part"),
    ):
        with pytest.raises(InputError, match=word):
            export(model, tmp_path / "file", **options)
    with pytest.raises(InputError, match="must be a file to write, and is a folder"):
        export(diffwave, tmp_path, format="pt2")


def spectral_vocoder(*kinds: type, **settings: Any) -> SpectralVocoder:
    """Of networks of these kinds: magnitude, phase and maybe sketch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stft = Stft(16_000, 256, 64)
        networks = [kind(stft, context=20, channels=8, depth=1, bands=8, overlap=2) for kind in kinds]
        mel = MelSpec(16_000, 256, 256, 64, n_mels=20)
        sketch = {"sketch": networks[2]} if len(networks) > 2 else {}
        model = SpectralVocoder(stft, mel, *networks[:2], iterations=2, **sketch, **settings)
    return model.eval()


@pytest.fixture(scope="module")
def spectral() -> SpectralVocoder:
    return spectral_vocoder(MagnitudeNet, PhaseNet)


@pytest.fixture(scope="module")
def sketched() -> SpectralVocoder:
    return spectral_vocoder(MagnitudeNet, PhaseNet, MagnitudeNet, corrections=(1, 1))


def test_the_shortest_length_stated_is_the_least_that_is_reflected_at_its_ends(spectral):
    graph, stft = make_graph(spectral, 2), spectral.stft
    shortest, _ = describe(graph, 2, "all")["frames"]
    samples = (shortest - 1) * stft.hop_length  # what is shorter PyTorch pads otherwise, and runtimes refuse
    assert samples - stft.hop_length <= stft.n_fft // 2 < samples
    with torch.no_grad():
        assert graph(*graph.example(1, shortest)).shape == (1, samples)


def test_network_at_frame_rate_is_a_program_of_three_frames_and_more(frames, tmp_path):
    facts = export(frames, tmp_path / "frames.pt2", format="pt2", part="network")
    assert facts["frames"][0] == 3
    assert facts["check"]["decibels"] > 90
    with torch.no_grad():
        assert compare(make_graph(frames, 1, "network"), tmp_path / "frames.pt2", "pt2", 2, 3).decibels > 90


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "model", "steps"), [("onnx", "spectral", 2), ("pt2", "spectral", 2), ("onnx", "sketched", 1)]
)
def test_whole_spectral_vocoder_is_exported(format, model, steps, request, tmp_path):
    model = request.getfixturevalue(model)
    facts = export(model, tmp_path / f"tiny.{format}", steps=steps, format=format)
    assert facts["check"]["decibels"] > 40
    graph = make_graph(model, steps)
    for batch, frames in ((1, 5), (3, 70)):
        with torch.no_grad():
            assert compare(graph, tmp_path / f"tiny.{format}", format, batch, frames).decibels > 40


@pytest.mark.slow
@pytest.mark.parametrize("network", ["wavegrad", "diffwave", "frames"])
def test_whole_waveform_vocoder_is_exported(network, request, tmp_path):
    model = request.getfixturevalue(network)
    assert export(model, tmp_path / "model.onnx", steps=2)["check"]["decibels"] > 90
    with torch.no_grad():
        assert compare(make_graph(model, 2), tmp_path / "model.onnx", "onnx", 3, 70).decibels > 90


@pytest.mark.slow
def test_shipped_vocoder_speaks_from_onnx_as_from_pytorch(tmp_path):
    model = load_model("vocoder-16k", "cpu")
    facts = export(model, tmp_path / "vocoder.onnx")
    assert facts["check"]["decibels"] > LEAST_DECIBELS
    graph, rate = make_graph(model, model.default_steps, real=False), model.sample_rate
    with torch.no_grad():
        assert compare(graph, tmp_path / "vocoder.onnx", "onnx", 2, 90).decibels > LEAST_DECIBELS
        for name in ("english", "italian", "russian"):
            wave = io.read(CLIPS / f"{name}.flac", sample_rate=rate)[0]
            mel = model.mel(wave).contiguous()
            noise = torch.randn(
                1, mel.shape[-1], model.stft.bins - 1, generator=torch.Generator().manual_seed(0)
            )
            found = run_onnx(tmp_path / "vocoder.onnx", {"mel": mel, "noise": noise})
            quality = [pesq(wave[0, : len(made)], made, rate) for (made,) in (found, graph(mel, noise))]
            assert quality[0] == pytest.approx(quality[1], abs=0.01)
            assert quality[0] > 3
