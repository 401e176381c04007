"""The waveform denoiser at frame rate: its scalings against SciPy's transforms, its reach, random vectors, graphs."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.frames import FrameDenoiser, FrameNet, SoundFrameNet
from mmdiff.audio.prior import bands_on_grid
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, log_snr_betas
from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model
from mmdiff.recipes import run_recipe

MEL = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)
BETAS = (0.001, 0.01, 0.1, 0.9)
Network = TypeVar("Network", bound=FrameDenoiser)


def tiny(latents: int = 0, mel: MelSpec = MEL, said: bool = True) -> FrameNet:
    """A small network that says something, or nothing."""
    return randomised(FrameNet(mel, channels=16, depth=2, bands=8, overlap=4, latents=latents), said)


def randomised(net: Network, said: bool) -> Network:
    """Let a network, which begins by saying little, say something of all that it is told, or nothing."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for weight in net.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        if not said:
            net.network.write.weight.zero_()
    return net


def sound_net(classes: int = 0, said: bool = True) -> SoundFrameNet:
    """The same without a spectrogram, which expects a smooth hill of a spectrum."""
    net = randomised(SoundFrameNet(Stft(16_000, 256, 64), 16, 2, 8, 4, classes), said)
    net.expected.copy_(0.2 + 3 * torch.hann_window(128) ** 2)
    return net


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filtered_by_scipy(x: Tensor, level: float, prior: Tensor, mel: MelSpec) -> np.ndarray:
    """x / α through the Wiener filter P²/(P² + n²), by SciPy's transform and its inverse."""
    window, hop = 4 * mel.hop_length, mel.hop_length
    alpha = math.sqrt(1 / (1 + math.exp(-level)))
    padded = np.pad(x.double().numpy() / alpha, window // 2, mode="reflect")
    known = {"window": "hann", "nperseg": window, "noverlap": window - hop, "boundary": None, "padded": False}
    scale = scipy.signal.get_window("hann", window).sum()  # SciPy's spectra are over it
    spectrum = scipy.signal.stft(padded, **known)[2] * scale
    noise_power = math.exp(-level) * (scipy.signal.get_window("hann", window) ** 2).sum()
    power = prior.double().numpy().T ** 2
    spectrum[:-1] *= power / (power + noise_power)
    spectrum[-1] = 0
    known = {"window": "hann", "nperseg": window, "noverlap": window - hop, "boundary": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "NOLA")  # the very ends, cut off below, are seen by one window
        wave: np.ndarray = scipy.signal.istft(spectrum / scale, **known)[1]
    return wave[window // 2 : window // 2 + len(x)]


@pytest.mark.parametrize("level", [-4.0, 0.0, 5.0, 12.0])
@pytest.mark.parametrize("mel", [MEL, MelSpec(22_050, 512, 512, 128, 24, power=2.0)])
def test_a_network_that_says_nothing_is_the_wiener_filter_of_the_expected_magnitudes(
    level: float, mel: MelSpec
):
    net, frames = tiny(mel=mel, said=False), 12
    x, heard = noise(1, 1, frames * mel.hop_length), 2 * noise(1, mel.n_mels, frames, seed=1) - 3
    prior = bands_on_grid(heard, mel, net.stft, frames + 1).magnitude_prior()[0, :, :-1]
    made = net(x, torch.tensor([level]), heard)[0, 0]
    wanted = torch.from_numpy(filtered_by_scipy(x[0, 0], level, prior, mel)).float()
    torch.testing.assert_close(made, wanted, atol=2e-4 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("level", [-4.0, 5.0])
def test_without_a_spectrogram_it_is_the_filter_of_the_mean_spectrum(level: float):
    net, x = sound_net(said=False), noise(1, 1, 750)
    mean = net.expected.expand(750 // 64 + 1, -1)
    wanted = torch.from_numpy(filtered_by_scipy(x[0, 0], level, mean, MEL)).float()
    made = net(x, torch.tensor([level]))[0, 0, : len(wanted)]
    torch.testing.assert_close(made, wanted[: len(made)], atol=2e-4 * float(wanted.abs().max()), rtol=0)


def test_it_listens_to_how_loud_each_bin_is():
    net = sound_net()
    net.listen(0.3 * noise(4, 100_000))
    loud = 0.3 * math.sqrt(float(scipy.signal.get_window("hann", 256) @ scipy.signal.get_window("hann", 256)))
    torch.testing.assert_close(net.expected[3:-3], torch.full((122,), loud), rtol=0.05, atol=0)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m"])
def test_saying_nothing_it_samples_normal_sound_of_the_expected_spectrum(sampler: str):
    """The Wiener filter is the exact denoiser of stationary normal sound, up to the window's resolution."""
    net = sound_net(said=False)
    model = SoundModel(net, BetaTable(log_snr_betas(14.0, -7.0, 50)), 16_000, prediction="x0", clamp="state")
    made = SoundGenerator(model, device="cpu", dtype="float32")(num=4, seconds=2, steps=50, sampler=sampler)
    measured = net.stft(made)[:, 4:-4, 4:-4].abs().square().mean((0, 1)).sqrt()
    torch.testing.assert_close(measured, net.expected[4:-3], rtol=0.12, atol=0)


@pytest.mark.parametrize("classes", [0, 3])
def test_windows_of_sound_without_a_spectrogram_change_nothing(classes: int):
    net = sound_net(classes)
    labels = tuple("abc"[:classes])
    model = SoundModel(net, BetaTable(BETAS), 16_000, labels=labels, prediction="x0", window=20 * 64)
    x, t = noise(2, 1, 5000), torch.full((2,), 0.5)
    cond = {"label": torch.tensor([1, 2])} if classes else {}
    with torch.no_grad():
        whole = model.denoiser(x, t, **cond)
        assert whole.shape == x.shape
        torch.testing.assert_close(model.denoise_windows(5000)(x, t, **cond), whole, atol=1e-5, rtol=0)
        if classes:
            untold, none = model.denoiser(x, t), model.denoiser(x, t, label=torch.tensor([3, 3]))
            assert torch.equal(untold, none)
            assert (whole - none).abs().amax((1, 2)).min() > 1e-4
    wrong = torch.tensor([0]) if classes else torch.tensor([0, 0])
    with pytest.raises(InputError, match="label of shape"):
        net(x, t, label=wrong)


def test_noise_in_a_spectrum_is_as_loud_as_it_is_taken_to_be():
    net, level = tiny(), torch.tensor([1.5])
    alpha, sigma = level.sigmoid().sqrt(), (-level).sigmoid().sqrt()
    assert alpha**2 + sigma**2 == pytest.approx(1)
    spectrum, expected = net._analysed(sigma * noise(1, 400_000), level)
    measured = spectrum[:, 4:-4, 2:].abs().square().mean().sqrt()
    assert float(measured) == pytest.approx(float(expected), rel=0.01)


def test_almost_clean_sound_passes_and_noise_says_nothing():
    net = tiny()
    clean = torch.sin(torch.arange(16 * 64) * 0.3)[None, None]
    heard = MEL(clean[:, 0])[..., :16]
    made = net(clean, torch.tensor([18.0]), heard)
    assert (made - clean)[..., 128:-128].abs().max() < 0.02
    silent = tiny(said=False)(noise(1, 1, 16 * 64), torch.tensor([-19.0]), heard - 5)
    assert silent.abs().max() < 1e-3


@pytest.mark.parametrize("latents", [0, 5])
def test_prepared_spectrograms_and_windows_change_nothing(latents: int):
    net = tiny(latents)
    model = WaveformVocoder(MEL, net, BetaTable(BETAS), 4, prediction="x0", window=20)
    heard, x = noise(2, 20, 90) - 5, noise(2, 1, 90 * 64, seed=1)
    t, cond = torch.full((2,), 0.5), ({"z": noise(2, latents)} if latents else {})
    whole = model.denoiser(x, t, mel=heard, **cond).detach()
    with torch.no_grad():
        windows = model.denoise_windows(90, heard)(x, t, **cond)
    torch.testing.assert_close(windows, whole, atol=1e-5 * float(whole.abs().max()), rtol=0)
    far = x.clone()
    far[..., : 64 * (45 - net.reach)] += 1  # nothing further away is heard, and what is nearer is
    there = slice(45 * 64, None)
    torch.testing.assert_close(model.denoiser(far, t, mel=heard, **cond)[..., there], whole[..., there])
    far[..., : 64 * 45] += 1
    assert (model.denoiser(far, t, mel=heard, **cond) - whole)[..., there].abs().max() > 1e-3


def test_a_generator_is_told_its_random_vector_and_a_denoiser_none():
    heard, x, level = noise(2, 20, 6), noise(2, 1, 6 * 64), torch.zeros(2)
    net = tiny(5)
    z = noise(2, 5)
    other = net(x, level, heard, z=z.flip(0))
    assert (net(x, level, heard, z=z) - other).abs().amax((1, 2)).min() > 1e-4
    with pytest.raises(InputError, match=r"latents=5, needs random vectors"):
        net(x, level, heard)
    with pytest.raises(InputError, match=r"latents=0, takes no random vectors"):
        tiny()(x, level, heard, z=z)
    with pytest.raises(InputError, match="n_mels=20, needs a spectrogram"):
        tiny()(x, level)


def test_gradients_reach_all_weights_and_half_precision_is_near(tmp_path):
    net = tiny(5)
    given = (noise(2, 1, 8 * 64), torch.tensor([-1.0, 3.0]), noise(2, 20, 8) - 4)
    z = noise(2, 5)
    net(*given, z=z).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    model = WaveformVocoder(MEL, net, BetaTable(BETAS), 4, prediction="x0")
    with torch.no_grad():
        exact = net(*given, z=z)
        stored = load_model(save_model(model, tmp_path / "frames")).network
        half = stored(*given, z=z)
        assert (half - exact).norm() / exact.norm() < 0.02
        with torch.autocast("cpu", torch.bfloat16):  # as a trainer that has been asked for half precision
            half = net(*given, z=z)
        assert 0 < (half - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize(("hop", "bands"), [(256, 16), (300, 15), (128, 16), (441, 14)])
def test_bands_divide_the_bins_of_any_window(hop: int, bands: int):
    spec = replace(MEL, hop_length=hop, n_fft=4 * hop, win_length=4 * hop)
    assert FrameNet(spec, 8, 1).network.bands == bands
    for wrong, hint in ((0, "try 1"), (7 * hop, "try")):
        with pytest.raises(
            InputError, match=f"bands={wrong} must be at least 1 and divide bins={2 * hop}; {hint}"
        ):
            FrameNet(spec, 8, 1, bands=wrong)


def test_sound_of_a_spectrogram_is_as_long_as_it():
    voc = Vocoder(
        WaveformVocoder(MEL, tiny(), BetaTable(BETAS), 4, prediction="x0"), device="cpu", dtype="float32"
    )
    wave = voc(noise(1, 20, 10) - 5, seed=3)
    assert wave.shape == (1, 9 * 64)
    assert torch.equal(wave, voc(noise(1, 20, 10) - 5, seed=3))


@pytest.mark.parametrize("network", ["frames", "diffwave"])
def test_recipe_of_sound_trains_and_its_model_fills_gaps(
    network, clips, tmp_path, monkeypatch, mmdiff_command
):
    monkeypatch.chdir(tmp_path)
    given = ["--data", str(clips), "--run_dir", "run", "--network", network, "--validate_every", "2"]
    run_recipe("sound.tiny", [*given, "--sampling_steps", "2"])
    made = load_model("run/model")
    assert isinstance(made, SoundModel)
    assert made.labels == ()
    if network == "frames":
        assert made.network.expected.std() > 0.1 * made.network.expected.mean()
    outcome = mmdiff_command(
        "edit", clips / "english.flac", "--fill", "0.4:0.45", "--model", "run/model", "-o", "out.wav"
    )
    assert outcome.status == 0, outcome.err
    outcome = mmdiff_command("evaluate", clips, "--model", "run/model", "--limit", "2")
    assert (outcome.status, "measure --edits or --likelihood" in outcome.err) == (2, True)


def test_recipe_trains_and_refuses_what_the_network_does_itself(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--data", str(clips), "--run_dir", "run", "--network", "frames", "--steps", "2"]
    run_recipe("waveform_vocoder.tiny", small)
    made = load_model("run/model")
    assert isinstance(made.network, FrameNet)
    assert (made.denoiser.prediction, made.default_steps) == ("x0", 6)
    for option in (["--process", "langevin"], ["--prior", "energy"]):
        with pytest.raises(InputError, match="for network='frames'"):
            run_recipe("waveform_vocoder.tiny", [*small, *option])
