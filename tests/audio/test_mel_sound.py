"""Sound by way of mel spectrograms: seeds, labels, lengths, the vocoder it needs, its training task and folder."""

from __future__ import annotations

import pytest
import torch

import mmdiff
from mmdiff.audio.framed_sound import FramedSoundTask
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.sampling import decide_sampling
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import load_model, save_model

LABELS = ("one-en", "two-en")


def model(vocoder: str = "vocoder-16k", **options) -> MelSoundModel:
    torch.manual_seed(0)
    network = LabelledMelNet(classes=2, channels=8, depth=1, label_channels=8)
    torch.nn.init.normal_(network.network.write.weight, std=0.3)
    return MelSoundModel(network, CosineVP(), MelSpec(), vocoder, 0.2, LABELS, steps=2, **options)


@pytest.fixture
def generator(tiny_model) -> SoundGenerator:
    return SoundGenerator(model(), "cpu", "float32", load_model(tiny_model))


def test_spectrograms_go_into_the_model_and_back():
    wave = 0.3 * torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
    net = model(mean=-4.0, std=1.5)
    state = net.to_model(wave)
    assert state.shape == (2, 1, 16, 80)
    torch.testing.assert_close(net.from_model(state), MelSpec()(wave), atol=1e-4, rtol=0)


def test_a_sound_has_its_length_and_depends_on_its_seed_and_label_alone(generator):
    made = generator(["one-en", "two-en"], num=2, seed=[5, 6, 5, 8])
    assert made.shape == (4, 3200)
    assert not torch.allclose(made[0], made[2], atol=1e-3)
    again = generator("two-en", seed=8)  # Griffin-Lim's phases enlarge the rounding that batches bring
    assert float((again - made[3:]).norm() / made[3:].norm()) < 0.05
    assert generator("one-en", seconds=0.5).shape == (1, 8000)


def test_guidance_changes_what_labels_change(generator):
    told = torch.tensor([0])
    options = {"seeds": [3], "samples": 3200, "temperature": 1.0}
    with torch.inference_mode():
        made = [
            generator.model.make(told, sampling=decide_sampling(generator.model), guidance=scale, **options)
            for scale in (1.0, 3.0)
        ]
    assert made[0].shape == (1, 80, 13)
    assert not torch.allclose(made[0], made[1])


def test_it_needs_a_vocoder_of_its_rate(tiny_model):
    with pytest.raises(InputError, match=r"vocoder must be a model at 16000 Hz, such as 'vocoder-16k'"):
        SoundGenerator(model(), "cpu")


def test_a_folder_finds_its_vocoder(tiny_model, tmp_path, generator):
    folder = save_model(model(str(tiny_model)), tmp_path / "digits", half=False)
    gen = mmdiff.load(folder, device="cpu", dtype="float32")
    assert isinstance(gen, SoundGenerator)
    torch.testing.assert_close(gen("two-en", seed=1), generator("two-en", seed=1), atol=1e-5, rtol=0)


def test_numbers_that_make_no_sense_are_named():
    with pytest.raises(InputError, match="std=0"):
        model(std=0.0)
    with pytest.raises(InputError, match="2 different names"):
        MelSoundModel(LabelledMelNet(classes=2), CosineVP(), MelSpec(), labels=("a",))


def test_the_task_asks_for_v_of_the_spectrogram():
    """The loss of a network that says nothing is the mean square of v, which is that of noise and data mixed."""
    net = model()
    for parameter in net.denoiser.network.network.write.parameters():
        torch.nn.init.zeros_(parameter)
    wave = 0.3 * torch.randn(16, 3200, generator=torch.Generator().manual_seed(0))
    x0 = net.to_model(wave)
    batch = {"wave": wave, "label": torch.arange(16) % 2}
    losses = [
        FramedSoundTask(net)(batch, torch.Generator().manual_seed(n))["loss"].detach() for n in range(8)
    ]
    expected = 0.5 * (1 + float(x0.square().mean()))  # α² and σ² are one half on average
    assert float(torch.stack(losses).mean()) == pytest.approx(expected, rel=0.03)


def test_a_toy_learns_which_label_is_loud_where():
    torch.manual_seed(0)
    network = LabelledMelNet(classes=2, channels=24, depth=2, label_channels=16)
    toy = MelSoundModel(network, CosineVP(), MelSpec(), seconds=0.2, labels=LABELS, steps=8, mean=-5, std=3)
    task, rng = FramedSoundTask(toy), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(task.parameters(), 4e-3)
    time = torch.arange(3200) / 16_000
    tones = torch.tensor([300.0, 3000.0])
    for _ in range(60):
        label = torch.randint(2, (8,), generator=rng)
        wave = 0.5 * torch.sin(2 * torch.pi * tones[label][:, None] * time)
        wave += 1e-3 * torch.randn(wave.shape, generator=rng)
        optimizer.zero_grad()
        task({"wave": wave, "label": label}, rng)["loss"].backward()
        optimizer.step()
    with torch.inference_mode():
        mel = toy.make(
            torch.tensor([0, 0, 1, 1]), seeds=range(4), samples=3200, sampling=decide_sampling(toy),
            guidance=1.0, temperature=1.0,
        )  # fmt: skip
    low, high = mel[:, :20].mean((1, 2)), mel[:, 40:60].mean((1, 2))
    assert ((low - high)[:2] > 0.5).all()
    assert ((high - low)[2:] > 0.5).all()
