"""Clips by critically damped Langevin diffusion: training, folders, seeds, guidance and edits through the pipeline."""

from __future__ import annotations

import pytest
import torch

import mmdiff
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.video import io as videos
from mmdiff.video.conditioning import ClassCondition, ConditionedNetwork
from mmdiff.video.evaluate_likelihood import evaluate_clip_likelihood
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet
from mmdiff.video.validation import noise_losses


def clip_model(prediction: str = "mixed", schedule=None, **options) -> ClipModel:
    torch.manual_seed(0)
    inputs = 6 if prediction == "mixed" else 3
    network = SpaceTimeUNet(
        3, (8,), blocks=1, mixing=("shift",), embedding=16, vector=16, span=3, inputs=inputs
    )
    conditioned = ConditionedNetwork(network, (ClassCondition(2, 16, "label"),))
    torch.nn.init.normal_(network.write.weight, std=0.02)
    settings = {"frames": 4, "size": (8, 8), "steps": 3, **options}
    return ClipModel(conditioned, schedule or CriticallyDamped(), prediction, **settings)


class Squares:
    """Item n: a clip that is dark, or bright, as its label says."""

    def __getitem__(self, index: int) -> dict:
        video = torch.full((3, 4, 8, 8), 40 + 150 * (index % 2), dtype=torch.uint8)
        return {"video": video, "label": torch.tensor(index % 2)}


def batch(first: int, count: int) -> dict:
    items = [Squares()[n] for n in range(first, first + count)]
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


@pytest.mark.parametrize(
    ("prediction", "balance", "updates"), [("mixed", None, 5), ("v", None, 1), ("x0", 1.35, 1)]
)
def test_training_lowers_the_loss(prediction, balance, updates):
    task = ClipTask(clip_model(prediction), balance=balance)
    optimizer = torch.optim.Adam(task.parameters(), 3e-3)
    losses = []
    for _ in range(1 + updates):
        loss = task(batch(0, 4), torch.Generator().manual_seed(0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.98 * losses[0]


def test_validation_compares_processes_at_the_same_noise():
    """Networks that say that every clip is black have the same error of v, with a velocity or without."""

    def black(model: ClipModel) -> ClipModel:
        model.denoiser.convert = lambda output, x, t: torch.zeros_like(output)
        return model

    models = [black(clip_model("edm", schedule)) for schedule in (CriticallyDamped(), CosineVP())]
    said = [
        model.denoiser(torch.randn(1, *pair, 3, 4, 8, 8), 0.5)
        for model, pair in zip(models, ((2,), ()), strict=True)
    ]
    assert all(torch.equal(clip, torch.zeros_like(clip)) for clip in said)
    found = [
        noise_losses(clip_model("v", s), Squares(), 4, 4, (0.5,), 0) for s in (CriticallyDamped(), CosineVP())
    ]
    # noise is drawn differently, the untrained networks are nearly the same
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=0.2)


@pytest.mark.parametrize("sampler", ["sscs", "langevin_em"])
def test_a_clip_depends_on_its_seed_alone(sampler):
    gen = ClipGenerator(clip_model(), "cpu", "float32")
    together = gen(label=1, num=3, seed=[5, 7, 2], sampler=sampler)
    assert together.isfinite().all()
    torch.testing.assert_close(gen(label=1, seed=7, sampler=sampler), together[1:2], atol=1e-5, rtol=0)
    assert not torch.allclose(together[:1], together[1:2])


def test_a_folder_keeps_the_process_and_requests_work_as_ever(tmp_path):
    model = clip_model(sampler="deis")
    assert model.sampler == "sscs"
    gen = ClipGenerator(model, "cpu", "float32")
    again = mmdiff.load(save_model(model, tmp_path / "clips", half=False), "cpu", "float32")
    denoiser = again.model.denoiser
    assert isinstance(denoiser, LangevinDenoiser)
    assert (denoiser.schedule, denoiser.sees) == (CriticallyDamped(), "pair")
    assert torch.equal(again(label=0, seed=1), gen(label=0, seed=1))
    for parameter in model.parameters():  # so that labels count
        torch.nn.init.normal_(parameter, std=0.1)
    plain = gen(label=0, seed=1)
    for option in (
        {"grid": "quadratic"},
        {"guidance": 3.0},
        {"guidance": 3.0, "guidance_interval": (0.2, 0.6)},
    ):
        assert not torch.allclose(gen(label=0, seed=1, **option), plain)
    with pytest.raises(InputError, match="sampler='ddim' must be one of pairs"):
        gen(label=0, sampler="ddim")


@pytest.mark.parametrize("method", ["reconstruction", "replacement"])
@pytest.mark.parametrize("prediction", ["mixed", "edm"])
def test_edits_keep_what_is_known(method, prediction):
    gen = ClipGenerator(clip_model(prediction), "cpu", "float32")
    clip = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    longer = gen.continue_from(clip, 2, label=1, method=method)
    torch.testing.assert_close(longer[0, :, :2], clip)
    assert longer.shape == (1, 3, 4, 8, 8)
    large = gen.upscale(clip[:, :, :4, :4], 2, method=method)
    assert large.isfinite().all()


def test_a_network_of_plain_clips_is_not_shown_pairs():
    gen = ClipGenerator(clip_model("edm"), "cpu", "float32")
    assert gen(label=1).shape == (1, 3, 4, 8, 8)
    with pytest.raises(InputError, match="prediction='velocity' must be one of"):
        clip_model("velocity")


def test_likelihood_of_videos(tmp_path):
    g = torch.Generator().manual_seed(0)
    for name, video in (
        ("even", torch.full((3, 4, 8, 8), 128)),
        ("noise", torch.randint(256, (3, 4, 8, 8), generator=g)),
    ):
        (tmp_path / name).mkdir()
        videos.write(tmp_path / name / "0.npz", video.to(torch.uint8), 8)
    gen = ClipGenerator(clip_model())
    even, noise = evaluate_clip_likelihood(
        gen, [tmp_path / "even", tmp_path / "noise"], draws=4, progress=False
    )
    # noise has eight bits, and an untrained network tells nothing of it
    assert 0 < even.measures["bits"].value < noise.measures["bits"].value
    assert noise.measures["bits"].value > 7.5
