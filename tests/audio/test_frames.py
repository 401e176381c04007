"""The waveform denoiser at frame rate: its scalings against SciPy's transforms, its reach, random vectors, graphs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.signal
import torch
from torch import Tensor

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.prior import bands_on_grid
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model
from mmdiff.recipes import run_recipe

MEL = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)
BETAS = (0.001, 0.01, 0.1, 0.9)


def tiny(latents: int = 0, mel: MelSpec = MEL, said: bool = True) -> FrameNet:
    """A small network that says something, or nothing."""
    torch.manual_seed(0)
    net = FrameNet(mel, channels=16, depth=2, bands=8, overlap=4, latents=latents)
    with torch.no_grad():
        net.network.write.weight.mul_(3.0 if said else 0.0)
        for block in net.network.blocks:  # which begin by ignoring level and vector
            torch.nn.init.normal_(block.modulation.weight, std=0.1)
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
        with torch.autocast("cpu", torch.bfloat16):
            assert (net(*given, z=z) - exact).norm() / exact.norm() < 0.05


def test_sound_of_a_spectrogram_is_as_long_as_it():
    voc = Vocoder(
        WaveformVocoder(MEL, tiny(), BetaTable(BETAS), 4, prediction="x0"), device="cpu", dtype="float32"
    )
    wave = voc(noise(1, 20, 10) - 5, seed=3)
    assert wave.shape == (1, 9 * 64)
    assert torch.equal(wave, voc(noise(1, 20, 10) - 5, seed=3))


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
