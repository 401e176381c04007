"""Clips by way of latents: what is diffused, edits of whole frames, long videos, folders and training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mmdiff
from mmdiff.diffusion.mixed_denoiser import MixedDenoiser
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.video.digits import MovingDigits
from mmdiff.video.evaluate import coded_system
from mmdiff.video.evaluate_captions import real_digits
from mmdiff.video.evaluate_likelihood import evaluate_clip_likelihood
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import ClipTask
from mmdiff.video.unet import SpaceTimeUNet

NETWORK = {"widths": (8, 16), "mixing": ("shift", "time"), "blocks": 1, "embedding": 16, "head_width": 8}


def autoencoder(**options) -> Autoencoder:
    torch.manual_seed(0)
    settings = {"widths": (8,), "factors": ((1, 4, 4),), "kernel": (1, 3, 3), **options}
    return Autoencoder(3, 3, 48, **settings)


def lossless() -> Autoencoder:
    """Latents are the pixels of a cell, scaled and moved by channel."""
    net = autoencoder(widths=(48,), blocks=0, kernel=1)
    with torch.no_grad():
        for layer in (net.read, net.code, net.decode_in, net.write):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[:48, :, 0, 0, 0] = torch.eye(48)
        net.shift += torch.linspace(-1, 1, 48)
        net.scale *= torch.linspace(0.5, 2, 48)
    return net


def model(own: Autoencoder | None = None, **options) -> ClipModel:
    torch.manual_seed(1)
    network = SpaceTimeUNet(48, **NETWORK, span=3)
    for parameter in network.parameters():  # some of which start at zero
        nn.init.normal_(parameter, std=0.1)
    settings = {"frames": 4, "size": (16, 16), "steps": 3, **options}
    return ClipModel(network, CosineVP(), autoencoder=own or autoencoder(), **settings)


@pytest.fixture
def generator() -> ClipGenerator:
    return ClipGenerator(model(lossless()), "cpu", "float32")


def clip(frames: int = 3) -> Tensor:
    return torch.rand(3, frames, 16, 16, generator=torch.Generator().manual_seed(3)) * 1.8 - 0.9


def test_pixels_become_latents_and_pixels_again() -> None:
    own = model(lossless(), mean=-0.5, std=0.4)
    video = clip()[None]
    state = own.to_model(video)
    assert state.shape == own.state_shape(video.shape) == (1, 48, 3, 4, 4)
    torch.testing.assert_close(own.from_model(state), video)
    drawn = own.to_model(video, torch.Generator().manual_seed(0)) - state
    # the network says ln(deviation) = 0, and latents are divided by their scale
    torch.testing.assert_close(
        drawn.std((0, 2, 3, 4)) * own.autoencoder.scale, torch.ones(48), atol=0.5, rtol=0
    )
    assert not state.requires_grad
    assert not any(p.requires_grad for p in own.autoencoder.parameters())


@pytest.mark.parametrize("mixed", [False, True])
def test_a_clip_depends_on_its_seed_alone_and_a_folder_holds_both_stages(mixed, tmp_path) -> None:
    own = model(mixed=mixed)
    if mixed:
        nn.init.normal_(own.denoiser.mixing)  # shares of their own
    generator = ClipGenerator(own, "cpu", "float32")
    made = generator(num=2, seed=[5, 6])
    assert made.shape == (2, 3, 4, 16, 16)
    assert made.abs().max() <= 1
    torch.testing.assert_close(generator(seed=6), made[1:], atol=1e-5, rtol=0)
    folder = save_model(generator.model, tmp_path / "latent", half=False)
    found = mmdiff.load(folder, "cpu", "float32")
    assert isinstance(found.model.denoiser, MixedDenoiser) == mixed
    torch.testing.assert_close(found(num=2, seed=[5, 6]), made, atol=1e-5, rtol=0)


def test_whole_frames_stay_and_the_model_sees_them(generator: ClipGenerator) -> None:
    start = clip(2)
    for made, places in (
        (generator.continue_from(start, 2), [0, 1]),
        (generator.interpolate(start, 4), [0, 3]),
        (generator.outpaint(start, before=1, after=1), [1, 2]),
    ):
        torch.testing.assert_close(made[0][:, places], start)
        assert torch.isfinite(made).all()
    other = generator.continue_from(-start, 2)
    assert not torch.allclose(other[:, :, 2:], generator.continue_from(start, 2)[:, :, 2:], atol=1e-3)
    assert generator(frames=9).shape == (
        1,
        3,
        9,
        16,
        16,
    )  # in blocks, each of which is given frames of the one before
    assert generator.loop(frames=4).shape == (1, 3, 4, 16, 16)


def test_known_frames_are_known_as_their_latents(generator: ClipGenerator) -> None:
    """What replacement puts into the latents decodes to the given frames, before any pixel is copied."""
    states = []
    decode = generator.model.autoencoder.decode
    generator.model.autoencoder.decode = lambda z: (states.append(z), decode(z))[1]
    start = clip(2)
    generator.continue_from(start, 2, method="replacement")
    torch.testing.assert_close(decode(states[-1])[0, :, :2], start, atol=1e-5, rtol=0)


def test_edits_of_pixels_are_refused(generator: ClipGenerator) -> None:
    for edit in (
        lambda: generator.inpaint(clip(), torch.eye(16) > 0),
        lambda: generator.outpaint(clip(), left=16),
        lambda: generator.upscale(clip(), 2),
    ):
        with pytest.raises(InputError, match="frames whole or not at all"):
            edit()
    with pytest.raises(InputError, match="reference must be given"):
        evaluate_clip_likelihood(generator, [])
    with pytest.raises(InputError, match="divisible by 8"):  # 2 levels of the network, 4 pixels a latent
        generator(size=20)


@pytest.mark.parametrize("level", [None, -0.9])
def test_what_an_autoencoder_costs_is_measured_on_real_clips(level: float | None) -> None:
    """A lossless one costs nothing; one that says grey, whatever it is given, grey."""
    own = lossless()
    if level is not None:
        with torch.no_grad():
            own.write.weight.zero_()
            own.write.bias.fill_(level)
    captions, seeds = ["a red three moving left", "a blue seven moving up"], (5, 6)
    made = coded_system(model(own, size=(32, 32))).make(captions, seeds)
    real = real_digits(4, 32)(captions, seeds).float() / 127.5 - 1
    torch.testing.assert_close(made, real if level is None else torch.full_like(real, level))


@pytest.mark.parametrize(
    "wrong", [{"factors": ((2, 2, 2),)}, {"kernel": 3}, {"dims": 2, "factors": (4,), "kernel": 3}]
)
def test_an_autoencoder_must_see_frames_one_by_one(wrong: dict) -> None:
    settings = {"dims": 3, "channels": 3, "latents": 48, "widths": (8,), "factors": ((1, 4, 4),), "kernel": 1}
    with pytest.raises(InputError, match="sees frames one by one"):
        model(Autoencoder(**{**settings, **wrong}))


def test_the_prior_is_trained_and_the_autoencoder_is_not() -> None:
    own = model()
    task = ClipTask(own)
    clips = MovingDigits(frames=4, size=32)
    batch = {"video": torch.stack([clips[n]["video"] for n in range(2)])}
    losses = task(batch, torch.Generator().manual_seed(0))
    losses["loss"].backward()
    trained = {name for name, p in task.named_parameters() if p.grad is not None}
    assert trained
    assert all(name.startswith("model.denoiser") for name in trained)
