"""WaveGrad and DiffWave as vocoders: windows, seeds, schedules, their package's sampling, and their training task."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffwave import inference as lmnt_inference
from diffwave.model import DiffWave as LmntDiffWave
from diffwave.params import AttrDict
from tiny_vocoders import SHORT as MEL
from tiny_vocoders import diffwave
from torch import nn

from mmdiff.audio import waveform
from mmdiff.audio.checkpoints.lmnt_diffwave import diffwave_state
from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import (
    BetaTable,
    LinearFlow,
    diffwave_betas,
    diffwave_fast_betas,
    wavegrad_betas,
)
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config


def wavegrad(**options) -> WaveformVocoder:
    torch.manual_seed(0)
    network = WaveGrad(20, (4, 4, 4), (16, 16, 8), (8, 8), ((1, 2, 1, 2),) * 3, 16, 8)
    return WaveformVocoder(MEL, network, BetaTable(wavegrad_betas()), **options).eval()


@pytest.mark.parametrize("build", [wavegrad, diffwave])
@pytest.mark.parametrize("kept", [2**31, 0])
def test_windows_give_what_the_whole_gives_with_a_stochastic_sampler(build, kept, monkeypatch):
    monkeypatch.setattr(waveform, "KEEP_BYTES", kept)
    mel = torch.randn(2, 20, 130, generator=torch.Generator().manual_seed(0)) - 5
    whole = Vocoder(build(), device="cpu", dtype="float32")(mel, seed=3, steps=4)
    pieces = Vocoder(build(window=30), device="cpu", dtype="float32")(mel, seed=3, steps=4)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)
    assert whole.shape == (2, 129 * 64)


@pytest.mark.parametrize("build", [wavegrad, diffwave])
def test_an_item_depends_on_its_seed_alone(build):
    vocoder = Vocoder(build(), device="cpu", dtype="float32")
    mel = torch.randn(3, 20, 10, generator=torch.Generator().manual_seed(0)) - 5
    together, alone = vocoder(mel, seed=[1, 2, 3]), vocoder(mel[2], seed=3)
    torch.testing.assert_close(together[2:], alone, atol=1e-5, rtol=0)


def test_the_mel_path_runs_once_in_all_steps(monkeypatch):
    model, calls = diffwave(), []
    model.network.upsample.register_forward_hook(lambda *_: calls.append(1))
    Vocoder(model, device="cpu")(torch.randn(1, 20, 10) - 5, steps=5)
    assert len(calls) == 1


def lmnt(rng: torch.Generator, table: int) -> LmntDiffWave:
    params = AttrDict(
        n_mels=20, hop_samples=256, sample_rate=22_050, residual_layers=5, residual_channels=12,
        dilation_cycle_length=3, unconditional=False,
        noise_schedule=np.linspace(1e-4, 0.05 if table <= 50 else 0.02, table).tolist(),
        inference_noise_schedule=list(diffwave_fast_betas(table)),
    )  # fmt: skip
    model = LmntDiffWave(params)
    for p in model.parameters():
        p.data.normal_(0, 0.15, generator=rng)
    return model.eval()


@pytest.mark.parametrize(("table", "fast"), [(50, True), (200, True), (20, False), (40, False), (50, False)])
def test_a_complete_run_equals_the_packages(table: int, fast: bool, monkeypatch):
    rng = torch.Generator().manual_seed(0)
    theirs, mel = lmnt(rng, table), torch.rand(2, 20, 5, generator=rng)
    monkeypatch.setitem(lmnt_inference.models, "ours", theirs)
    torch.manual_seed(5)
    expected, _ = lmnt_inference.predict(mel, "ours", device=torch.device("cpu"), fast_sampling=fast)
    assert 0.02 < (expected.abs() == 1).float().mean() < 0.98  # clipping takes part

    network = DiffWave(20, 12, 5, 3)
    network.load_state_dict(diffwave_state(theirs.state_dict()))
    model = WaveformVocoder(
        MelSpec(22_050, 1024, 1024, 256, 20), network, BetaTable(diffwave_betas(table)),
        inference_betas=diffwave_fast_betas(table), clamp="state",
    )  # fmt: skip
    source, steps = torch.Generator().manual_seed(5), 6 if fast else table
    noise = torch.randn(expected.shape, generator=source)[:, None] / model.denoiser.schedule.prior_std
    with torch.inference_mode():
        denoise = model.denoise_windows(mel.shape[-1], mel)
        wave = model.run_sampler(denoise, noise, generator=source, grid=model.grid(steps), sampler="ddpm")
    torch.testing.assert_close(wave[:, 0], expected, atol=1e-4, rtol=0)


def test_a_table_is_used_where_it_has_as_many_steps_as_asked_for():
    betas = (1e-6, 1e-4, 1e-2, 0.5)
    model = wavegrad(steps=4, inference_betas=betas)
    schedule = model.denoiser.schedule
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).flip(0)
    torch.testing.assert_close(schedule(model.grid(4)).alpha[:-1].square(), alpha_bar, atol=1e-9, rtol=1e-9)
    assert len(model.grid(7)) == 8
    torch.testing.assert_close(diffwave().grid(50), torch.linspace(1, 0, 51, dtype=torch.float64))


def test_a_perfect_denoiser_gives_back_the_sound_and_other_mels_are_converted():
    model = wavegrad()
    target = torch.linspace(-0.5, 0.5, 10 * 64)[None, None]
    model.denoiser.convert = lambda output, x, t: target.expand_as(x)  # what the network would say if it knew
    wave = Vocoder(model, device="cpu")(torch.randn(1, 20, 10) - 5, steps=6)
    torch.testing.assert_close(wave, target[0, :, : 9 * 64], atol=1e-6, rtol=0)
    converted, spec, notes = model.accept(torch.full((1, 80, 30), -5.0), preset("mmdiff-16k"))
    assert converted.shape[1] == 20
    assert spec == MEL
    assert notes


def test_both_begin_with_standard_normal_noise_and_stay_within_what_is_clamped():
    for clamp, sampler in (("data", "ddpm"), ("state", "ddpm"), ("state", "ddim")):
        model, seen = diffwave(clamp=clamp), []
        model.network.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        Vocoder(model, device="cpu", dtype="float32")(torch.randn(1, 20, 100) - 5, steps=4, sampler=sampler)
        assert seen[0].std().item() == pytest.approx(1, abs=0.02)
        assert (seen[1].abs().max().item() <= 1) == (clamp == "state" and sampler == "ddpm")


@pytest.mark.parametrize(("build", "norm"), [(wavegrad, "l1"), (diffwave, "l2")])
def test_training_lowers_the_loss_and_the_model_survives_its_config(build, norm):
    model = build().train()
    task, batch = WaveformTask(model, norm), {"wave": 0.3 * torch.sin(torch.arange(2 * 1280.0)).view(2, 1280)}
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


@pytest.mark.parametrize("prediction", ["eps", "x0", "edm"])
def test_a_distance_is_that_of_the_sound_which_the_denoiser_finds(prediction):
    model = diffwave(prediction=prediction, clamp="state")
    nn.init.normal_(model.network.out.weight, std=0.1)
    batch = {"wave": 0.3 * torch.sin(torch.arange(2 * 1280.0)).view(2, 1280)}
    plain, both = (WaveformTask(model, "l2", distance=weight) for weight in (0.0, 2.0))
    alone = plain(batch, torch.Generator().manual_seed(3))["loss"]
    losses = both(batch, torch.Generator().manual_seed(3))
    mel = model.conditions(batch)
    rng = torch.Generator().manual_seed(3)
    trial = plain.objective.attempt(model.denoiser, batch["wave"][:, None], generator=rng, **mel)
    found = model.denoiser(trial.x_t, trial.t, **mel)[:, 0]
    distance = MultiResolutionLoss(model.sample_rate)(found, batch["wave"])
    torch.testing.assert_close(losses["denoising"], alone)
    torch.testing.assert_close(losses["distance"], distance)
    torch.testing.assert_close(losses["loss"], alone + 2 * distance)


@pytest.mark.parametrize("prediction", ["edm", "x0", "eps"])
@pytest.mark.parametrize(("norm", "expected"), [("l2", 1.0), ("l1", math.sqrt(2 / math.pi))])
def test_balanced_all_levels_count_alike(prediction, norm, expected):
    model = diffwave(prediction=prediction, sigma_data=0.2).eval()
    wave, mel = (
        0.2 * torch.randn(400, 1, 128, generator=torch.Generator().manual_seed(0)),
        torch.zeros(400, 20, 2),
    )
    objective = WaveformTask(model, norm, balanced=True).objective
    found = []
    for t in (0.02, 0.1, 0.4, 1.0):
        noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(1))
        levels = model.denoiser.schedule(torch.tensor(t))
        x = levels.alpha * wave + levels.sigma * noise
        linear = (
            levels.alpha * 0.2**2 / (levels.alpha**2 * 0.2**2 + levels.sigma**2) * x
        )  # the best such estimate
        says = {"edm": 0 * x, "x0": linear, "eps": (x - levels.alpha * linear) / levels.sigma}[prediction]
        hook = model.network.register_forward_hook(lambda *_, says=says: says)
        found.append(objective(model.denoiser, wave, generator=None, t=t, noise=noise, mel=mel).mean())
        hook.remove()
    torch.testing.assert_close(torch.stack(found), torch.full((4,), expected), atol=0.02, rtol=0)


def test_training_draws_the_levels_of_the_papers():
    continuous, steps = WaveformTask(wavegrad()).objective.times, WaveformTask(diffwave()).objective.times
    rng = torch.Generator().manual_seed(0)
    schedule = BetaTable(diffwave_betas())
    points = steps.draw(200, schedule, generator=rng) * 50
    torch.testing.assert_close(points, points.round(), atol=1e-4, rtol=0)
    assert points.round().unique().numel() > 40
    between = continuous.draw(200, BetaTable(wavegrad_betas()), generator=rng) * 1000
    assert ((between - between.round()).abs() > 0.01).any()


def test_arguments_that_do_not_fit_are_named():
    network = DiffWave(20, 4, 2, 2, (8, 8))
    with pytest.raises(InputError, match="clamp='x'"):
        WaveformVocoder(MEL, network, BetaTable(diffwave_betas()), clamp="x")
    with pytest.raises(InputError, match="hop_length=64"):
        WaveformVocoder(MelSpec(n_mels=20, hop_length=128), network, BetaTable(diffwave_betas()))
    with pytest.raises(InputError, match="LinearFlow"):
        WaveformVocoder(MEL, network, LinearFlow())
    with pytest.raises(InputError, match="distance=-1"):
        WaveformTask(diffwave(), distance=-1)
    with pytest.raises(InputError, match="window=0"):
        WaveformVocoder(MEL, network, BetaTable(diffwave_betas()), window=0)
