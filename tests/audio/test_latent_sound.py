"""Sound by way of latents: lengths, seeds, labels, training, the command and its folder."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.framed_sound import FramedSoundTask
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.latent_sound import LatentSoundModel, SoundDistance, judged_by_spectra, waves_of
from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.networks.critic import Critic, judged_sound
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.commands.sound import sound
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.tasks import AutoencoderTask
from mmdiff.recipes import run_recipe

LABELS = ("one-en", "two-en")


def autoencoder(**options) -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(1, 1, 8, **{"widths": (8, 8), "factors": (8, 8), "norm": "l1", **options})


def model(**options) -> LatentSoundModel:
    torch.manual_seed(1)
    network = LabelledMelNet(8, 2, 1, channels=8, depth=1, label_channels=8)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    own = options.pop("autoencoder", None) or autoencoder()
    return LatentSoundModel(network, CosineVP(), own, 8000, 0.11, LABELS, 2, **options)


def waves(count: int = 2, samples: int = 900) -> Tensor:
    return 0.3 * torch.randn(count, samples, generator=torch.Generator().manual_seed(0))


def test_sound_becomes_frames_of_latents_and_sound_again() -> None:
    own = model(autoencoder=autoencoder(widths=(8,), factors=(8,), blocks=0, kernel=1))
    with torch.no_grad():
        for layer in (
            own.autoencoder.read,
            own.autoencoder.code,
            own.autoencoder.decode_in,
            own.autoencoder.write,
        ):
            layer.bias.zero_()
            layer.weight.zero_()
            layer.weight[:8, :, 0] = torch.eye(8)
    state = own.to_model(waves())
    assert state.shape == (2, 1, own.frames(900), 8) == (2, 1, 113, 8)
    torch.testing.assert_close(own.from_model(state)[:, :900], waves().clamp(-1, 1))
    drawn = own.to_model(waves(), torch.Generator().manual_seed(0)) - state
    assert drawn.std() == pytest.approx(1, abs=0.1)  # ln(deviation) = 0


def test_a_sound_has_its_length_and_depends_on_its_seed_and_label_alone() -> None:
    gen = SoundGenerator(model(), "cpu", "float32")
    made = gen(LABELS, num=2, seed=[5, 6, 5, 8])
    assert made.shape == (4, 880)
    assert made.abs().max() <= 1
    assert not torch.allclose(made[0], made[2], atol=1e-4)
    torch.testing.assert_close(gen("two-en", seed=8), made[3:], atol=1e-5, rtol=0)
    assert gen(seconds=0.2).shape == (1, 1600)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_folder_holds_both_stages_and_the_command_uses_it(mixed, tmp_path) -> None:
    own = model(mixed=mixed)
    if mixed:
        assert own.denoiser.mixing.shape == (8,)
        nn.init.normal_(own.denoiser.mixing)  # shares of their own
    gen = SoundGenerator(own, "cpu", "float32")
    folder = save_model(gen.model, tmp_path / "latent", half=False)
    found = mmdiff.load(folder, "cpu", "float32")
    assert isinstance(found, SoundGenerator)
    torch.testing.assert_close(found("two-en", seed=1), gen("two-en", seed=1), atol=1e-5, rtol=0)
    sound("one-en", model=str(folder), out=str(tmp_path / "one.wav"), device="cpu")
    wave, rate = io.read(tmp_path / "one.wav")
    assert (wave.shape, rate) == ((1, 880), 8000)


def test_other_autoencoders_are_refused() -> None:
    with pytest.raises(InputError, match="dims=1 for channels=1"):
        model(autoencoder=Autoencoder(2, 1, 8))


def test_the_prior_is_trained_on_drawn_latents_and_the_autoencoder_is_not() -> None:
    own = model()
    task = FramedSoundTask(own, drop=0.0)
    batch = {"wave": waves(), "label": torch.tensor([0, 1])}
    losses = task(batch, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    x0 = own.to_model(batch["wave"], generator)
    expected = task.objective(own.denoiser, x0, generator=generator, label=batch["label"]).mean()
    torch.testing.assert_close(losses["loss"], expected)
    losses["loss"].backward()
    trained = {name for name, p in task.named_parameters() if p.grad is not None}
    assert trained
    assert all(name.startswith("model.denoiser") for name in trained)


def test_stage_one_compares_spectra_and_lets_a_critic_judge() -> None:
    x, critic = waves()[:, None], Critic(8000, (64, 128), 4)
    near = x + 0.01
    torch.testing.assert_close(SoundDistance(8000)(near, x), MultiResolutionLoss(8000)(near[:, 0], x[:, 0]))
    both = judged_by_spectra(critic, near, x)
    torch.testing.assert_close(both, judged_sound(critic, near[:, 0], x[:, 0]))
    task = AutoencoderTask(
        autoencoder(), waves_of, 0.1, SoundDistance(8000), 1.0, critic, judged_by_spectra, 0.2
    )
    found = task({"wave": waves()}, torch.Generator().manual_seed(0))
    expected = found["likelihood"] + 0.1 * found["divergence"] + found["distance"]
    torch.testing.assert_close(found["loss"].detach(), expected + 0.2 * found["deceived"] + found["critical"])
    found["loss"].backward()
    assert all(p.grad is not None for p in critic.parameters())


def test_the_recipe_trains_all_stages_and_goes_on_where_it_stopped(spoken, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--data", str(spoken), "--run_dir", "run", "--joint_steps", "2"]
    run_recipe("latent_speech.tiny", given)
    folder = tmp_path / "run" / "model"
    weights = (folder / "model.safetensors").read_bytes()
    gen = mmdiff.load(folder, "cpu", "float32")
    assert isinstance(gen, SoundGenerator)
    assert gen("three-en", steps=2).isfinite().all()
    for name in ("model", "prior", "joint"):  # as if it had been stopped after the first stage
        shutil.rmtree(tmp_path / "run" / name)
    run_recipe("latent_speech.tiny", [*given, "--resume", "true"])
    assert (folder / "model.safetensors").read_bytes() == weights
