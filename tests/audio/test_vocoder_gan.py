"""Waveforms by generators of reverse steps: random vectors, seeds, grids, model folders, training and its recipe."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mmdiff
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.graphs import make_graph
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.vocoder_gan import SpectrumCritic, VocoderGAN
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas
from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model
from mmdiff.recipes import run_recipe
from mmdiff.registry import from_config, to_config
from mmdiff.training import Part, Trainer
from mmdiff.training.checkpoint import latest_checkpoint

MEL = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)
BETAS = (0.001, 0.01, 0.1, 0.9)


def generator(latents: int = 5, classes: int = 0, n_mels: int = 20) -> DiffWave:
    torch.manual_seed(0)
    network = DiffWave(n_mels, 8, 4, 4, (8, 8), classes, step_width=32, latents=latents)
    torch.nn.init.normal_(network.out.weight, std=0.3)
    return network


def model(**options) -> WaveformVocoder:
    return WaveformVocoder(MEL, generator(), BetaTable(BETAS), 4, prediction="x0", **options)


def pipeline(**options) -> Vocoder:
    return Vocoder(model(**options), device="cpu", dtype="float32")


def mels(count: int, frames: int = 10) -> Tensor:
    return torch.randn(count, 20, frames, generator=torch.Generator().manual_seed(0)) - 5


def watch_latents(network: DiffWave, seen: list[Tensor]) -> None:
    network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["z"]), with_kwargs=True)


def test_each_step_has_a_random_vector_of_the_items_own_generator():
    voc, seen = pipeline(), []
    watch_latents(voc.model.network, seen)
    voc(mels(2), seed=[3, 8])
    for item, seed in enumerate((3, 8)):
        source = torch.Generator().manual_seed(seed)
        for z in seen:
            assert torch.equal(z[item], torch.randn(5, generator=source))
            torch.randn(1, 10 * 64, generator=source)  # what the step itself draws
    assert len(seen) == 4


def test_an_item_depends_on_its_seed_alone_and_not_on_windows():
    mel = mels(3, 90)
    together = pipeline()(mel, seed=[1, 2, 3])
    torch.testing.assert_close(together[2:], pipeline()(mel[2], seed=3), atol=1e-5, rtol=0)
    torch.testing.assert_close(pipeline(window=20)(mel, seed=[1, 2, 3]), together, atol=1e-5, rtol=0)
    assert not torch.allclose(pipeline()(mel[:1], seed=1), pipeline()(mel[:1], seed=2), atol=1e-3)


def test_blocks_of_a_stream_are_told_the_same_and_fit_each_other():
    voc, seen = pipeline(), []
    watch_latents(voc.model.network, seen)
    wave = torch.cat(list(voc.stream(mels(1, 21), lookahead=8, block=4, seed=4)), 1)
    assert wave.shape == pipeline()(mels(1, 21)).shape
    blocks = [seen[n : n + 4] for n in range(0, len(seen), 4)]
    assert len(blocks) > 1
    assert all(torch.equal(a, b) for block in blocks for a, b in zip(block, blocks[0], strict=True))
    assert len({z[0, 0].item() for z in blocks[0]}) == 4


def test_sound_without_a_spectrogram_is_guided_with_one_vector_for_both():
    network = generator(classes=2, n_mels=0)
    toy = SoundModel(network, BetaTable(BETAS), 1000, 0.3, ("low", "high"), 4, prediction="x0")
    gen, seen = SoundGenerator(toy, device="cpu", dtype="float32"), []
    alone = gen("high", guidance=2.0, seed=7)
    watch_latents(network, seen)
    together = gen(["low", "high"], guidance=2.0, seed=[3, 7])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)
    assert all(torch.equal(z[:2], z[2:]) for z in seen)  # told, then untold
    with pytest.raises(InputError, match="steps=10 must be 4 or 2 or 1"):
        gen("low", steps=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 10}, "steps=10 must be 4 or 2 or 1, .*at the times 1, 0.75, 0.5, 0.25 alone"),
        ({"steps": 3}, "steps=3 must be 4 or 2 or 1"),
        ({"grid": [1.0, 0.6, 0.0]}, "a grid may stop there"),
        ({"grid": [1.0, 0.5, 0.25]}, "end at 0"),
        ({"sampler": "ddim"}, "sampler='ddim' must be 'ddpm'"),
    ],
)
def test_runs_that_the_generator_was_not_trained_for_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        pipeline()(mels(1), **options)


def test_steps_of_several_trained_ones_are_taken():
    voc = pipeline()
    assert voc.sampling(steps=2).grid.tolist() == [1.0, 0.5, 0.0]
    assert voc(mels(1), steps=1).shape == voc(mels(1), grid=[1.0, 0.75, 0.0]).shape == (1, 9 * 64)


def test_a_generator_is_no_graph():
    with pytest.raises(InputError, match="latents=5"):
        make_graph(model(), 4)


def test_a_model_folder_makes_the_same_sound(tmp_path):
    folder = save_model(model(), tmp_path / "gan", half=False)
    voc = mmdiff.load(folder, device="cpu", dtype="float32")
    assert (voc.model.latents, voc.model.denoiser.prediction) == (5, "x0")
    assert torch.equal(voc(mels(1), seed=3), pipeline()(mels(1), seed=3))


def test_folders_from_before_there_were_predictions_find_noise():
    network = DiffWave(20, 8, 4, 4, (8, 8), step_width=32)
    config = to_config(WaveformVocoder(MEL, network, BetaTable(diffwave_betas())))
    del config["prediction"], config["network"]["latents"]
    old = from_config(config)
    assert (old.denoiser.prediction, old.latents) == ("eps", 0)


class Crops:
    """Item n: noise that fades in."""

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        noise = torch.randn(1024, generator=torch.Generator().manual_seed(n))
        return {"wave": 0.1 * noise * torch.linspace(0, 1, 1024)}


def game(**options) -> VocoderGAN:
    vocoder = model()
    critic = SpectrumCritic(MEL, (64, 128), (4, 8, 8))
    return VocoderGAN(vocoder, critic, every=2, **options)


def make_trainer(folder, steps: int) -> Trainer:
    return Trainer(
        folder, game(), Crops(), steps=steps, batch_size=2, learning_rate=1e-3, lr_schedule="constant",
        parts={"critic": Part(1e-3, (0.5, 0.9))}, ema=(0.9,), device="cpu", tensorboard=False,
    )  # fmt: skip


def test_training_with_a_critic_resumes_exactly(tmp_path):
    make_trainer(tmp_path / "whole", 5).fit()
    make_trainer(tmp_path / "parted", 3).fit()
    make_trainer(tmp_path / "parted", 5).fit(resume=True)
    whole, parted = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parted"))
    for one, other in ((whole.weights(), parted.weights()), (whole.average(0), parted.average(0))):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    start = dict(game().named_parameters())
    assert all(not torch.equal(tensor, whole.weights()[name]) for name, tensor in start.items())


def test_the_spectral_distance_is_added_and_reaches_the_generator_alone():
    batch = {"wave": torch.stack([Crops()[n]["wave"] for n in range(2)])}

    def run(weight: float) -> tuple[VocoderGAN, dict[str, Tensor]]:
        players = game(distance=weight, penalty=0.0)
        losses = players(batch, torch.Generator().manual_seed(0))
        losses["loss"].backward()
        return players, losses

    (without, plain), (with_it, more) = run(0.0), run(3.0)
    torch.testing.assert_close(more["loss"], plain["loss"] + 3 * more["distance"])
    assert "distance" not in plain
    for (name, one), other in zip(without.named_parameters(), with_it.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-7) == name.startswith("critic"), name


def test_the_critic_waits_for_the_distance_to_begin():
    batch = {"wave": torch.stack([Crops()[n]["wave"] for n in range(2)])}
    waiting, playing = game(begin=2, penalty=0.0), game(penalty=0.0)
    for number in range(3):
        losses = waiting(batch, torch.Generator().manual_seed(number))
        usual = playing(batch, torch.Generator().manual_seed(number))
        assert losses["distance"] == usual["distance"]
        assert losses["loss"] == (losses["distance"] if number < 2 else usual["loss"])
        waiting.zero_grad()
        losses["loss"].backward()
        slopes = [p.grad.abs().max() for p in waiting.critic.parameters()]  # none is missing
        assert all((slope > 0) == (number == 2) for slope in slopes)
    alone = game(begin=1, penalty=0.0, distance=0.0)(batch, torch.Generator().manual_seed(0))
    assert alone["loss"] == alone["distance"] == game()(batch, torch.Generator().manual_seed(0))["distance"]
    with pytest.raises(InputError, match=r"begin=-5 must be at least 0"):
        game(begin=-5)


def test_the_penalty_is_that_of_waveforms_over_their_deviation():
    """In units in which sound has deviation 1 a critic of it is a σ-times steeper one of the waveform."""
    batch = {"wave": torch.stack([Crops()[n]["wave"] for n in range(2)])}
    loud, quiet = (VocoderGAN(model(sigma_data=sigma), SpectrumCritic(MEL), every=1) for sigma in (1.0, 0.1))
    quiet.critic.load_state_dict(loud.critic.state_dict())
    whole, part = (players(batch, torch.Generator().manual_seed(0))["penalty"] for players in (loud, quiet))
    assert float(part) == pytest.approx(0.01 * float(whole), rel=1e-4)


def test_the_critic_hears_the_spectrogram_where_it_is():
    critic = game().critic
    x, mel = torch.zeros(2, 1, 640), mels(2)
    moved = mel.clone()
    moved[1, :, 4] += 3.0
    scores, others = (critic(x, x, torch.ones(2), mel=m) for m in (mel, moved))
    assert scores.shape == (2,)
    torch.testing.assert_close(scores[0], others[0])
    assert not torch.allclose(scores[1], others[1])


def test_denoisers_are_no_players():
    plain = WaveformVocoder(MEL, generator(0), BetaTable(BETAS), 4)
    with pytest.raises(InputError, match="latents=0"):
        VocoderGAN(plain, SpectrumCritic(MEL))


@pytest.mark.parametrize("plain", [False, True])
def test_tiny_recipe_trains_and_its_model_loads(plain, clips, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_recipe("vocoder_gan.tiny", ["--data", str(clips), "--run_dir", "run", "--plain", str(plain).lower()])
    made = load_model(tmp_path / "run" / "model")
    assert isinstance(made, WaveformVocoder)
    assert (made.latents, made.default_steps) == (0 if plain else 8, 4)
    assert "saved run/model" in capsys.readouterr().out
