"""Joint training of an autoencoder and its prior: gradients by two evaluations, exact resuming, a known optimum."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmdiff.diffusion.mixed_denoiser import MixedDenoiser
from mmdiff.diffusion.schedules import GeometricVP
from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.cross_entropy import CrossEntropy
from mmdiff.latent.joint import JointTask
from mmdiff.training import Part, Trainer

SCHEDULE = GeometricVP()


class Network(nn.Module):
    """A convolution that is told the time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 3, padding=1)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)) * (1 + level[:, None, None])


class Waves:
    """Item n: eight numbers that hang together."""

    def __getitem__(self, index: int) -> Tensor:
        noise = torch.randn(1, 8, generator=torch.Generator().manual_seed(index))
        return noise.cumsum(1) / 2


def make_task(kl: float = 1.0) -> JointTask:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        autoencoder = Autoencoder(1, 1, 2, widths=(4,), factors=(2,), blocks=0)
        denoiser = MixedDenoiser(Network(), SCHEDULE, 2, share=0.3)
    return JointTask(autoencoder, denoiser, CrossEntropy(SCHEDULE), kl=kl)


def test_each_player_gets_the_gradient_of_its_own_loss() -> None:
    x = torch.stack([Waves()[n] for n in range(6)]).double()
    task = make_task(kl=0.7).double()
    losses = task(x, torch.Generator().manual_seed(1))
    losses["loss"].backward()

    other = make_task(kl=0.7).double()
    source, size = torch.Generator().manual_seed(1), 8
    q = other.autoencoder.encode(x)
    z = q.sample(source)
    state = source.get_state()
    entropy = other.cross_entropy(other.denoiser, z, generator=source).mean()
    likelihood = other.autoencoder.nll(x, other.autoencoder.decode(z)).mean()
    divergence = entropy - q.entropy().mean()
    ours = list(other.autoencoder.parameters())
    wanted = torch.autograd.grad((likelihood + 0.7 * divergence) / size, ours)
    for parameter, gradient in zip(task.autoencoder.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    torch.testing.assert_close(losses["bound"], ((likelihood + divergence) / size).detach())

    source.set_state(state)
    prior, _ = other.cross_entropy.split(other.denoiser, z.detach(), generator=source)
    wanted = torch.autograd.grad(prior.mean() / z[0].numel(), list(other.denoiser.parameters()))
    for parameter, gradient in zip(task.denoiser.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_the_bound_of_a_linear_model_of_normal_data_is_known() -> None:
    """x ~ N(0, s²) each, z = w x + r ε, decoder x = d z + e ε', prior N(0, 1): all terms by hand."""
    task = make_task()
    w, r, d, e = 0.8, 0.3, 1.1, 0.25

    class Linear(nn.Module):
        def encode(self, x: Tensor):
            from mmdiff.latent.posterior import Posterior

            return Posterior(w * x, torch.full_like(x, math.log(r)))

        def decode(self, z: Tensor) -> Tensor:
            return d * z

        def nll(self, x: Tensor, decoded: Tensor) -> Tensor:
            return (
                ((x - decoded) ** 2 / (2 * e**2) + math.log(e) + math.log(2 * math.pi) / 2).flatten(1).sum(1)
            )

    task.autoencoder = Linear()
    nn.init.constant_(task.denoiser.mixing, -torch.inf)
    x = 0.9 * torch.randn(40_000, 2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found = float(task(x, torch.Generator().manual_seed(1))["bound"])
    s2 = 0.9**2
    likelihood = ((1 - d * w) ** 2 * s2 + d**2 * r**2) / (2 * e**2) + math.log(e) + math.log(2 * math.pi) / 2
    divergence = (w**2 * s2 + r**2 - 1) / 2 - math.log(r)
    assert found == pytest.approx(likelihood + divergence, abs=0.02)


def trainer(folder: Path, steps: int = 8) -> Trainer:
    return Trainer(
        folder, make_task(), Waves(), steps=steps, batch_size=4, learning_rate=1e-2, lr_schedule="constant",
        parts={"autoencoder": Part(3e-3)}, ema=(0.9,), checkpoint_every=3, log_every=1, device="cpu",
        tensorboard=False,
    )  # fmt: skip


def test_joint_training_resumes_exactly(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.fit()
    first = trainer(tmp_path / "parts")
    first.steps = 3
    first.fit()
    second = trainer(tmp_path / "parts")
    second.fit(resume=True)
    for name, value in second.task.state_dict().items():
        torch.testing.assert_close(value, whole.task.state_dict()[name], rtol=0, atol=0)


def test_a_distance_adds_to_what_the_autoencoder_lowers() -> None:
    x, far = torch.stack([Waves()[n] for n in range(3)]), lambda decoded, x: (decoded - x).abs().mean()
    plain, other = make_task(), make_task()
    other.added.distance, other.added.weight = far, 0.3
    losses, more = (task(x, torch.Generator().manual_seed(1)) for task in (plain, other))
    assert more["distance"] > 0
    torch.testing.assert_close(more["loss"], losses["loss"] + 0.3 * more["distance"])


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="kl=0 must be positive"):
        make_task(kl=0)
