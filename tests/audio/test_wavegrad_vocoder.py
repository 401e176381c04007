"""WaveGrad as a vocoder: windows, seeds, schedules, and its training task."""

from __future__ import annotations

import torch

from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.tasks import WaveGradTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.wavegrad import WaveGradVocoder
from mmdiff.diffusion.schedules import BetaTable, wavegrad_betas
from mmdiff.registry import from_config, to_config

MEL = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)


def small_model(window: int = 1024) -> WaveGradVocoder:
    torch.manual_seed(0)
    network = WaveGrad(20, (4, 4, 4), (16, 16, 8), (8, 8), ((1, 2, 1, 2),) * 3, 16, 8)
    return WaveGradVocoder(MEL, network, BetaTable(wavegrad_betas()), window=window, margin=24).eval()


def test_windows_give_what_the_whole_gives_with_a_stochastic_sampler():
    mel = torch.randn(2, 20, 200, generator=torch.Generator().manual_seed(0)) - 5
    whole = Vocoder(small_model(), device="cpu", dtype="float32")(mel, seed=3)
    pieces = Vocoder(small_model(window=40), device="cpu", dtype="float32")(mel, seed=3)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    assert whole.shape == (2, 199 * 64)


def test_an_item_depends_on_its_seed_alone():
    vocoder = Vocoder(small_model(), device="cpu", dtype="float32")
    mel = torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0)) - 5
    together, alone = vocoder(mel, seed=[1, 2, 3]), vocoder(mel[2], seed=3)
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=0)


def test_a_table_is_used_where_it_has_as_many_steps_as_asked_for():
    betas = (1e-6, 1e-4, 1e-2, 0.5)
    model = WaveGradVocoder(MEL, small_model().denoiser.network, BetaTable(wavegrad_betas()), 4, betas)
    schedule = model.denoiser.schedule
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).flip(0)
    torch.testing.assert_close(schedule(model.grid(4)).alpha[:-1].square(), alpha_bar, atol=1e-9, rtol=1e-9)
    assert len(model.grid(7)) == 8


def test_a_perfect_denoiser_gives_back_the_sound_and_other_mels_are_converted():
    model = small_model()
    target = torch.linspace(-0.5, 0.5, 10 * 64)[None, None]
    model.denoise = lambda x, t, mel: target.expand_as(x)  # what the network would say if it knew
    wave = Vocoder(model, device="cpu")(torch.randn(1, 20, 10) - 5, steps=6)
    torch.testing.assert_close(wave, target[0, :, : 9 * 64], atol=1e-6, rtol=0)
    converted, spec, notes = model.accept(torch.full((1, 80, 30), -5.0), preset("mmdiff-16k"))
    assert converted.shape[1] == 20
    assert spec == MEL
    assert notes


def test_training_lowers_the_loss_and_the_model_survives_its_config():
    model = small_model().train()
    task, batch = WaveGradTask(model), {"wave": 0.3 * torch.sin(torch.arange(2 * 1280.0)).view(2, 1280)}
    optimizer = torch.optim.Adam(task.parameters(), 2e-3)
    losses = []
    for step in range(30):
        loss = task(batch, torch.Generator().manual_seed(step % 3))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    twin = from_config(to_config(model))
    twin.load_state_dict(model.state_dict())
