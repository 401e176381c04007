"""Sound without a spectrogram: labels, seeds, lengths, guidance, its training task and its model folder."""

from __future__ import annotations

import pytest
import torch

import mmdiff
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.tasks import WaveformTask
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas
from mmdiff.errors import InputError
from mmdiff.hub import save_model

DIGITS = ("zero", "one", "two")


def model(labels: tuple[str, ...] = DIGITS, **options) -> SoundModel:
    torch.manual_seed(0)
    network = DiffWave(0, 8, 6, 3, classes=len(labels), step_width=32)
    torch.nn.init.normal_(network.out.weight, std=0.3)
    schedule = BetaTable(diffwave_betas(20))
    return SoundModel(network, schedule, 1000, 0.5, labels, steps=4, **options)


def generator(**options) -> SoundGenerator:
    return SoundGenerator(model(**options), device="cpu", dtype="float32")


def test_a_label_by_name_or_number_and_as_many_sounds_as_asked_for():
    gen = generator()
    assert gen("one").shape == (1, 500)
    assert torch.equal(gen("one"), gen(1))
    both = gen(["one", None], num=2, seconds=0.1, seed=3)
    assert both.shape == (4, 100)
    assert both.dtype == torch.float32
    assert both.abs().max() <= 1
    torch.testing.assert_close(both[1:2], gen("one", seconds=0.1, seed=4), atol=1e-5, rtol=0)
    torch.testing.assert_close(both[3:], gen(seconds=0.1, seed=6), atol=1e-5, rtol=0)
    assert not torch.allclose(gen("one"), gen("two"))


def test_a_sound_depends_on_its_seed_alone_and_not_on_batches():
    gen = generator()
    together = gen("two", num=5, seed=[5, 1, 9, 2, 3])
    torch.testing.assert_close(gen("two", num=5, seed=[5, 1, 9, 2, 3], batch=2), together, atol=1e-5, rtol=0)
    torch.testing.assert_close(gen("two", seed=9), together[2:3], atol=1e-5, rtol=0)


def test_windows_give_what_the_whole_gives():
    whole, pieces = generator(), generator(window=90)
    torch.testing.assert_close(pieces("one", seconds=0.7), whole("one", seconds=0.7), atol=1e-5, rtol=0)


def test_guidance_exaggerates_what_the_label_changes(monkeypatch):
    gen = generator()
    denoise, x, t = gen.model.denoiser, torch.randn(1, 1, 40), torch.tensor([0.5])
    one, null = torch.tensor([1]), torch.tensor([3])
    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(denoise, "clamp", None)
        told, untold = denoise(x, t, label=one), denoise(x, t, label=null)
        guided = gen.model.guided(denoise, 2.0)(x, t, label=one)
    torch.testing.assert_close(guided, untold + 2 * (told - untold), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(gen("one", guidance=3), gen("one"))
    assert torch.equal(generator(guidance=3.0)("one"), gen("one", guidance=3))


def test_options_of_sampling():
    gen, calls = generator(), []
    gen.model.network.register_forward_hook(lambda *_: calls.append(1))
    gen("one", steps=3, sampler="ddim")
    assert len(calls) == 3
    gen("one", grid=[1.0, 0.6, 0.0])
    assert len(calls) == 5
    assert not torch.allclose(gen("one", temperature=0.5), gen("one"))


def test_an_unconditional_model_takes_no_label():
    gen = generator(labels=())
    assert gen().shape == (1, 500)
    with pytest.raises(InputError, match="unconditional"):
        gen("one")


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        ("nine", {}, "zero, one, two"),
        (3, {}, "label=3"),
        ("one", {"seconds": 0}, "seconds=0"),
        ("one", {"seconds": float("inf")}, "seconds=inf"),
        ("one", {"seconds": 1e9}, "at most 3600"),
        ("3", {}, "label=3"),
        ("one", {"num": 0}, "num=0"),
        ([], {}, "number of labels"),
        ("one", {"steps": 0}, "steps=0"),
        ("one", {"sampler": "magic"}, "sampler='magic'"),
        ("one", {"seed": [1, 2]}, "seed has 2"),
        ("one", {"temperature": -1}, "temperature=-1"),
    ],
)
def test_wrong_requests_are_named(label, options, message):
    with pytest.raises(InputError, match=message):
        generator()(label, **options)


def test_models_that_do_not_fit_are_named():
    schedule = BetaTable(diffwave_betas(20))
    with pytest.raises(InputError, match="n_mels=80"):
        SoundModel(DiffWave(), schedule, 16_000)
    with pytest.raises(InputError, match="2 different names"):
        SoundModel(DiffWave(0, 4, 2, 2, classes=2), schedule, 16_000, labels=("a", "a"))
    with pytest.raises(InputError, match="seconds=0"):
        SoundModel(DiffWave(0, 4, 2, 2), schedule, 16_000, seconds=0)


def test_a_model_folder_becomes_a_generator(tmp_path):
    folder = save_model(model(), tmp_path / "digits", half=False)
    gen = mmdiff.load(folder, device="cpu", dtype="float32")
    assert isinstance(gen, SoundGenerator)
    assert (gen.sample_rate, gen.labels) == (1000, DIGITS)
    assert torch.equal(gen(label="two", seconds=0.2, seed=1), generator()(label="two", seconds=0.2, seed=1))


def test_a_toy_learns_which_label_is_which_tone():
    """Two tones, told apart by their label alone: after training, the label decides which one is made."""
    torch.manual_seed(0)
    network = DiffWave(0, 16, 6, 6, classes=2, step_width=32)
    toy = SoundModel(network, BetaTable(diffwave_betas(20)), 1000, 0.128, ("low", "high"), steps=20)
    task = WaveformTask(toy, norm="l2", drop=0.1)
    optimizer = torch.optim.Adam(task.parameters(), 4e-3)
    rng = torch.Generator().manual_seed(0)
    tones = torch.tensor([20.0, 125.0])  # Hz
    time = torch.arange(128) / 1000
    for _ in range(130):
        label = torch.randint(2, (8,), generator=rng)
        phase = 6.3 * torch.rand(8, 1, generator=rng)
        wave = 0.7 * torch.sin(2 * torch.pi * tones[label][:, None] * time + phase)
        loss = task({"wave": wave, "label": label}, rng)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = SoundGenerator(toy, device="cpu", dtype="float32")(["low", "high"], num=3)
    power = torch.fft.rfft(made).abs().square()
    high = power[:, 8:].sum(1) / power.sum(1)  # from 62 Hz on
    assert high[3:].min() > high[:3].max() + 0.2, high
