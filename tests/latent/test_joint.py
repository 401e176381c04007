"""Joint training of an autoencoder and its prior: gradients by two evaluations, exact resuming, a known optimum."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from normal_prior import Rotated
from torch import Tensor, nn

from mmdiff.diffusion.mixed_denoiser import MixedDenoiser
from mmdiff.diffusion.schedules import GeometricVP
from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.cross_entropy import CrossEntropy
from mmdiff.latent.joint import JointTask
from mmdiff.latent.posterior import Posterior
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


class Linear(nn.Module):
    """z = W x + r ε' of data (B, 1, D), and x = V z + e ε'' of latents (B, 1, K)."""

    def __init__(self, dims: int, latents: int, source: torch.Generator) -> None:
        super().__init__()

        def drawn(*size: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(size, generator=source, dtype=torch.float64) / 2)

        self.into, self.back, self.log_r = drawn(latents, dims), drawn(dims, latents), drawn(latents)
        self.log_e = nn.Parameter(torch.tensor(-0.4, dtype=torch.float64))

    def encode(self, x: Tensor) -> Posterior:
        mean = x @ self.into.T
        return Posterior(mean, self.log_r.expand_as(mean))

    def decode(self, z: Tensor) -> Tensor:
        return z @ self.back.T

    def nll(self, x: Tensor, decoded: Tensor) -> Tensor:
        spread = (x - decoded) ** 2 * (-2 * self.log_e).exp() / 2
        return (spread + self.log_e + math.log(2 * math.pi) / 2).flatten(1).sum(1)


def likelihood_of_normal_data(pair: Linear, covariance: Tensor) -> Tensor:
    """Nats that x ~ N(0, covariance) costs given its latents, by the moments of x and z."""
    dims, noise = len(covariance), torch.diag((2 * pair.log_r).exp())
    rest = torch.eye(dims, dtype=torch.float64) - pair.back @ pair.into
    error = torch.trace(rest @ covariance @ rest.T) + torch.trace(pair.back @ noise @ pair.back.T)
    return error * (-2 * pair.log_e).exp() / 2 + dims * (pair.log_e + math.log(2 * math.pi) / 2)


def divergence_of_normal_data(pair: Linear, prior: Rotated, covariance: Tensor) -> Tensor:
    """Nats of its latents' divergence from N(0, R diag(s²) Rᵀ)."""
    noise = torch.diag((2 * pair.log_r).exp())
    seen = prior.rotation.T @ (pair.into @ covariance @ pair.into.T + noise) @ prior.rotation
    cross = (torch.diagonal(seen) * (-2 * prior.log_std).exp() / 2 + prior.log_std).sum()
    return cross - len(noise) / 2 - pair.log_r.sum()  # of 2π, cross entropy and entropy have as much


@pytest.mark.parametrize(("dims", "latents", "kl"), [(3, 2, 1.0), (5, 4, 0.7), (2, 1, 1.0)])
def test_gradients_of_a_linear_model_of_normal_data_are_known(dims: int, latents: int, kl: float) -> None:
    """By all weights: of encoder and decoder, of deviations, and of the prior that learns beside them."""
    source = torch.Generator().manual_seed(dims)
    pair, prior = Linear(dims, latents, source), Rotated(SCHEDULE, latents)
    root = torch.randn(dims, dims, generator=source, dtype=torch.float64) / math.sqrt(dims)
    x = torch.randn(500_000, dims, generator=source, dtype=torch.float64) @ root.T
    covariance = x.T @ x / len(x)  # of these very data: what is random is z, the time and its noise
    task = JointTask(pair, prior, CrossEntropy(SCHEDULE, "likelihood"), kl=kl)
    losses = task(x[:, None], source)
    losses["loss"].backward()

    likelihood = likelihood_of_normal_data(pair, covariance)
    divergence = divergence_of_normal_data(pair, prior, covariance)
    bound = float((likelihood + divergence).detach()) / dims
    assert float(losses["bound"]) == pytest.approx(bound, abs=0.02)
    parameters = list(pair.parameters())
    gradients = torch.autograd.grad(likelihood + kl * divergence, parameters, retain_graph=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.grad * dims, gradient, rtol=0.02, atol=0.03)
    (of_prior,) = torch.autograd.grad(divergence, [prior.log_std])
    torch.testing.assert_close(prior.log_std.grad * latents, of_prior, rtol=0.02, atol=0.03)


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
