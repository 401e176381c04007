"""Cross entropies of normal latents under normal priors, which are known, with their gradients."""

from __future__ import annotations

import math

import pytest
import torch
from normal_prior import Rotated
from torch import Tensor

from mmdiff.diffusion.conversions import expand
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.importance import Importance
from mmdiff.diffusion.schedules import EDM, CosineVP, GeometricVP, LinearBetaVP, LinearFlow, Schedule
from mmdiff.diffusion.times import Uniform
from mmdiff.errors import InputError
from mmdiff.latent.cross_entropy import CrossEntropy

SCHEDULES = [GeometricVP(), LinearBetaVP(), CosineVP(), LinearFlow(), EDM()]
NAMED = {"ids": lambda value: type(value).__name__ if isinstance(value, Schedule) else str(value)}
DRAWS = 400


def exactly(dims: int) -> Tensor:
    """Noise (2 D, D) of mean 0 and covariance 1: means over it of squares are expectations."""
    eye = math.sqrt(dims) * torch.eye(dims, dtype=torch.float64)
    return torch.cat([eye, -eye])


def expected(entropy: CrossEntropy, denoiser, z: Tensor, draws: int = DRAWS) -> Tensor:
    """Cross entropy (B,) with its expectation over noise exact, and that over t by quadrature."""
    dims = z[0].numel()
    u = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    noise, t = exactly(dims), entropy.times.quantile(u, entropy.schedule)
    total = []
    for item in z:
        many = item.expand(2 * dims * draws, *item.shape)
        found = entropy(
            denoiser,
            many,
            generator=None,
            t=t.repeat_interleave(2 * dims),
            noise=noise.repeat(draws, 1).view_as(many),
        )
        total.append(found.mean())
    return torch.stack(total)


@pytest.mark.parametrize("schedule", SCHEDULES, **NAMED)
@pytest.mark.parametrize(("channels", "length"), [(1, 1), (4, 4), (4, 8)])
def test_value_and_gradients_are_those_of_the_density(schedule, channels, length) -> None:
    prior = Rotated(schedule, channels * length)
    source = torch.Generator().manual_seed(3)
    z = torch.randn(1, channels, length, generator=source, dtype=torch.float64).requires_grad_()
    found, wanted = expected(CrossEntropy(schedule), prior, z), prior.nll(z)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-3 * channels * length)
    by_z = (torch.autograd.grad(f.sum(), z, retain_graph=True)[0] for f in (found, wanted))
    torch.testing.assert_close(*by_z, rtol=1e-2, atol=2e-3)
    by_prior = (torch.autograd.grad(f.sum(), prior.log_std)[0] for f in (found, wanted))
    # of one item, where the density's does not vanish: the integral's mean over data is the density's
    difference = torch.stack(list(by_prior)).diff(dim=0).abs().max()
    assert float(difference) < 2e-2


@pytest.mark.parametrize(
    "times", [Importance("unweighted", first=0.3), Importance("reweighted", 0.8, 0.3), Uniform(0.3)]
)
def test_samplers_of_times_expect_the_same(times) -> None:
    schedule = GeometricVP(0.01, 0.9)
    prior, z = Rotated(schedule, 16), torch.linspace(-2, 2, 16).double().view(1, 2, 8)
    found, other = (
        expected(CrossEntropy(schedule, times=t), prior, z, 2000) for t in (times, Importance(first=0.3))
    )
    torch.testing.assert_close(found, other, rtol=2e-3, atol=0)


def test_importance_lowers_the_variance() -> None:
    """Against uniform times, for latents of other deviations than those assumed."""
    schedule = LinearBetaVP()
    prior, source = Rotated(schedule, 64), torch.Generator().manual_seed(1)
    z = torch.randn(20_000, 8, 8, generator=source, dtype=torch.float64) * 0.8
    with torch.no_grad():
        by_importance, by_uniform = (
            CrossEntropy(schedule, times=times)(prior, z, generator=source).std()
            for times in (Importance(), Uniform(Importance().start(schedule)))
        )
    assert float(by_uniform / by_importance) > 3


@pytest.mark.parametrize("weight", ["likelihood", "unweighted", "reweighted"])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "edm"])
def test_one_evaluation_gives_each_its_own_gradient(weight, prediction) -> None:
    """By two evaluations: the cross entropy's for latents, the prior's own loss for the prior."""
    schedule, network = GeometricVP(), torch.nn.Conv1d(2, 2, 3, padding=1).double()

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = network

        def forward(self, x: Tensor, level: Tensor) -> Tensor:
            return torch.tanh(self.conv(x)) * (1 + level[:, None, None])

    denoiser = Denoiser(Network(), schedule, prediction)
    entropy, source = CrossEntropy(schedule, weight), torch.Generator().manual_seed(0)
    z = torch.randn(5, 2, 6, generator=source, dtype=torch.float64).requires_grad_()
    drawn = {"t": torch.linspace(0.1, 0.9, 5).double(), "noise": torch.randn(5, 2, 6, dtype=torch.float64)}
    prior, value = entropy.split(denoiser, z, generator=None, scale=0.3, **drawn)
    loss = prior.sum() + 0.3 * value.sum()
    by_z, by_weight = torch.autograd.grad(loss, (z, network.weight))

    plain = entropy(denoiser, z, generator=None, **drawn)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(by_z, 0.3 * torch.autograd.grad(plain.sum(), z)[0])
    levels = expand(schedule(drawn["t"]), z)
    x = levels.alpha * z.detach() + levels.sigma * drawn["noise"]
    error = (x - levels.alpha * denoiser(x, drawn["t"])) / levels.sigma - drawn["noise"]
    t = drawn["t"]
    rate = 2 * math.log(schedule.sigma_max / schedule.sigma_min) / schedule(t).alpha ** 2  # -dλ/dt
    factor = {"likelihood": rate, "unweighted": 1.0, "reweighted": schedule(t).sigma ** 2 * rate}[weight]
    own = factor / entropy.times.density(t, schedule) * (error**2).flatten(1).sum(1) / 2
    torch.testing.assert_close(prior, own)
    torch.testing.assert_close(by_weight, torch.autograd.grad(own.sum(), network.weight)[0])


@pytest.mark.parametrize(
    ("times", "schedule"),
    [(Uniform(), CosineVP()), (Uniform(0.01, 0.5), GeometricVP()), (Uniform(), LinearBetaVP())],
)
def test_times_that_leave_out_a_part_of_the_bound_are_refused(times, schedule) -> None:
    with pytest.raises(InputError, match="must go from a time with noise to 1"):
        CrossEntropy(schedule, times=times)
