"""Plain states and pairs behind one surface: what is built, losses in any target, and guidance of both alike."""

from __future__ import annotations

import pytest
import torch
from exact_network import normal, seeded
from oracles import gaussian
from torch import Tensor, nn

from mmdiff.diffusion.building import (
    build_denoiser,
    build_objective,
    usual_grid,
    usual_sampler,
    usual_times,
)
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.guidance import ClassifierFree, ClassifierGuidance
from mmdiff.diffusion.hybrid_score import HybridScoreMatching
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser
from mmdiff.diffusion.measurement import observed
from mmdiff.diffusion.objectives import Objective
from mmdiff.diffusion.reconstruction import NoisedReplacement, ReconstructionGuidance
from mmdiff.diffusion.schedules import CosineVP, Levels
from mmdiff.diffusion.times import LevelsOf, LogNormal, Uniform
from mmdiff.errors import InputError

PAIRS, PLAIN = CriticallyDamped(), CosineVP()
TIMES = torch.tensor([0.02, 0.15, 0.4, 0.8]).double()


class Affine(nn.Module):
    """A network that is not right about anything, but depends on all it sees."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, seen: Tensor, level: Tensor) -> Tensor:
        total = seen.sum(1, keepdim=True).expand(-1, self.channels, -1)
        return 0.3 * total + 0.1 * torch.tanh(level)[:, None, None].to(total)


def at_the_same_log_snr(t: Tensor) -> Tensor:
    """Times of the plain schedule."""
    return PLAIN.time_of_log_snr(PAIRS.log_snr(t))


def test_what_is_built_follows_from_the_schedule() -> None:
    network = Affine()
    plain, paired = (build_denoiser(network, s, "v", "log_snr", sigma_data=0.5) for s in (PLAIN, PAIRS))
    assert type(plain) is Denoiser
    assert isinstance(paired, LangevinDenoiser)
    assert (plain.prediction, paired.prediction, paired.sees) == ("v", "edm", "reduced")
    assert plain.sigma_data == paired.sigma_data == 0.5
    views = {kind: build_denoiser(network, PAIRS, kind).sees for kind in ("eps", "mixed", "edm", "x0")}  # type: ignore[union-attr]
    assert views == {"eps": "pair", "mixed": "pair", "edm": "reduced", "x0": "reduced"}
    assert build_objective(PLAIN) == Objective(PLAIN)
    usual = HybridScoreMatching(PAIRS, "v", "l1", times=LevelsOf(PLAIN))
    assert build_objective(PAIRS, norm="l1") == usual
    assert build_objective(PAIRS, times=LogNormal()).times == LogNormal()
    assert [usual_sampler(PLAIN, "deis"), usual_sampler(PAIRS, "deis"), usual_sampler(PAIRS, "langevin_ode")] == [
        "deis", "sscs", "langevin_ode"
    ]  # fmt: skip
    assert [usual_grid(PLAIN, "log_snr"), usual_grid(PAIRS, "log_snr")] == ["log_snr", "quadratic"]
    assert [usual_times(PLAIN, 0.1), usual_times(PAIRS, 0.1)] == [Uniform(), LevelsOf(PLAIN, 0.1)]


@pytest.mark.parametrize("std", [1.0, 0.4])
def test_pairs_and_plain_states_learn_the_same_at_the_usual_times(std: float) -> None:
    share, x0, losses = (torch.arange(64) + 0.5).double() / 64, std * normal(64, 1, 256), []
    for schedule, noise in ((PLAIN, normal(64, 1, 256, seed=1)), (PAIRS, normal(64, 2, 1, 256, seed=1))):
        exact, reduce = gaussian(0.0, std).denoiser(schedule), PAIRS.reduce if schedule.paired else None
        t = usual_times(schedule).quantile(share, schedule)
        found = build_objective(schedule)(
            lambda x, t, exact=exact, reduce=reduce: exact(reduce(x, t) if reduce else x, t),
            x0, generator=None, t=t, noise=noise,
        )  # fmt: skip
        levels = schedule(t)
        expected = std**2 / (std**2 * levels.alpha**2 + levels.sigma**2)
        assert abs(float((found / expected).mean()) - 1) < 0.05
        losses.append(float(expected.mean()))
    assert abs(losses[0] / losses[1] - 1) < 0.01


def test_v_of_a_reduced_state_is_edm_of_unit_data_but_for_its_sign() -> None:
    u = normal(4, 2, 2, 5)
    state = PAIRS.reduce(u, TIMES)
    paired = build_denoiser(Affine(), PAIRS, "v")(u, TIMES)

    class Opposite(Affine):
        def forward(self, seen: Tensor, level: Tensor) -> Tensor:
            return -super().forward(seen, TIMES)  # the same level as the pairs' network is told

    plain = build_denoiser(Opposite(), PLAIN, "v")(state, at_the_same_log_snr(TIMES))
    torch.testing.assert_close(paired, plain, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", ["eps", "mixed", "edm", "x0"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_losses_of_pairs_in_any_target_are_errors_of_what_is_said(kind: str, norm: str) -> None:
    x0, noise = normal(4, 2, 5), normal(4, 2, 2, 5, seed=1)
    u, levels = PAIRS.diffuse(x0, TIMES, noise), PAIRS(TIMES)
    denoiser = build_denoiser(Affine(), PAIRS, kind, sigma_data=0.7)
    said = denoiser(u, TIMES)
    errors = {
        "x0": said - x0,
        "v": (said - x0) / levels.sigma[:, None, None],
        "eps": PAIRS.eps(u, said, TIMES) - noise[:, 1],
    }
    for target, error in errors.items():
        loss = build_objective(PAIRS, target=target, norm=norm)(
            denoiser, x0, generator=None, t=TIMES, noise=noise
        )
        exact = (error.abs() if norm == "l1" else error**2).flatten(1).mean(1)
        torch.testing.assert_close(loss, exact, rtol=1e-6, atol=1e-8)


def test_with_any_weight_on_x0_reduced_states_are_trained_as_plain_ones() -> None:
    """What a network of reduced states learns is plain diffusion: the same states, the same loss."""

    def weight(levels: Levels) -> Tensor:
        return (levels.sigma / levels.alpha).pow(-1.35).clamp(0.02, 1)

    x0, noise = normal(4, 2, 5), normal(4, 2, 2, 5, seed=1)
    u, levels, t = PAIRS.diffuse(x0, TIMES, noise), PAIRS(TIMES), at_the_same_log_snr(TIMES)
    alpha, sigma = (level[:, None, None] for level in levels[:2])
    own = (PAIRS.reduce(u, TIMES) - alpha * x0) / sigma
    given = {"target": "x0", "weighting": weight}
    losses = [
        build_objective(schedule, **given)(
            build_denoiser(Affine(), schedule, "x0", "log_snr"), x0, generator=None, t=when, noise=eps
        )
        for schedule, when, eps in ((PAIRS, TIMES, noise), (PLAIN, t, own))
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-9)
    means = PAIRS.diffuse(
        torch.zeros(60_000, 1), torch.full((60_000,), 0.3), torch.randn(60_000, 2, 1, generator=seeded())
    )
    assert float(PAIRS.reduce(means, 0.3).std()) == pytest.approx(float(PAIRS(0.3).sigma), rel=0.02)


# ---------------------------------------------------------------------- guidance and editing of pairs

COVARIANCE = 0.8 ** (torch.arange(6.0)[:, None] - torch.arange(6.0)).abs().double()
VALUES, VECTORS = torch.linalg.eigh(COVARIANCE)


def of_states(x: Tensor, t: Tensor) -> Tensor:
    """Exact denoiser of plain states of correlated normal data."""
    alpha, sigma = (level[:, None, None] for level in PLAIN(t)[:2])
    return x @ VECTORS * (alpha * VALUES / (alpha**2 * VALUES + sigma**2)) @ VECTORS.T


def of_pairs(u: Tensor, t: Tensor) -> Tensor:
    """The same of pairs: in the basis of its components, the regression of each on its own x and v."""
    mu, noise = PAIRS.marginal(torch.ones(len(u), 1, dtype=u.dtype), t)
    sigma = noise[:, None] + VALUES[:, None, None] * (mu * mu.mT)[:, None]
    gain = VALUES[:, None] * torch.linalg.solve(sigma, mu.expand(-1, -1, 6).mT)
    return torch.einsum("bnk,bkcn->bcn", gain, u @ VECTORS) @ VECTORS.T


@pytest.mark.parametrize("method", ["covariance", "gradient"])
def test_reconstruction_guidance_of_pairs_is_that_of_what_they_say(method: str) -> None:
    u = PAIRS.diffuse(normal(4, 1, 6), TIMES, normal(4, 2, 1, 6, seed=1))
    state, t = PAIRS.reduce(u, TIMES), at_the_same_log_snr(TIMES)
    torch.testing.assert_close(of_pairs(u, TIMES), of_states(state, t), rtol=1e-8, atol=1e-8)
    known = observed(torch.full((1, 1, 6), 0.9).double(), torch.arange(6) < 2)
    options = {"method": method, "solves": 2 if method == "covariance" else 1, "weight": 0.8}
    expected = ReconstructionGuidance(of_states, known, PLAIN, **options)(state, t)
    guided = ReconstructionGuidance(of_pairs, known, PAIRS, **options)(u, TIMES)
    torch.testing.assert_close(guided, expected, rtol=1e-6, atol=1e-7)
    assert not torch.allclose(guided, of_pairs(u, TIMES))
    with pytest.raises(InputError, match="schedule=CriticallyDamped must not be one of pairs"):
        NoisedReplacement(of_pairs, known, PAIRS)


def test_a_true_classifier_of_pairs_guides_to_the_denoiser_of_its_class() -> None:
    """Scalar data N(0, 1) of which y = x_0 + N(0, 0.5²) was seen: log p(y | u) is known."""
    y, u = 0.7, PAIRS.diffuse(normal(4, 1, 1), TIMES, normal(4, 2, 1, 1, seed=1))
    levels = PAIRS(TIMES)
    rest = levels.sigma**2  # variance of x_0 given u

    def denoise(u: Tensor, t: Tensor) -> Tensor:
        alpha, _, *_ = PAIRS(t)
        return alpha[:, None, None] * PAIRS.reduce(u, t)

    def log_prob(u: Tensor, t: Tensor) -> Tensor:
        return -((y - denoise(u, t)[:, 0, 0]) ** 2) / (2 * (rest + 0.25))

    mean = denoise(u, TIMES)
    exact = mean + (rest / (rest + 0.25))[:, None, None] * (y - mean)
    guided = ClassifierGuidance(denoise, log_prob, PAIRS)(u, TIMES)
    torch.testing.assert_close(guided, exact, rtol=1e-7, atol=1e-7)


def test_classifier_free_guidance_of_pairs_keeps_to_its_interval() -> None:
    def denoise(u: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return u[:, 0] + label[:, None, None]

    u, label = normal(4, 2, 3, 5), torch.ones(4).double()
    guided = ClassifierFree(denoise, 3.0, {"label": 0.0}, interval=(0.1, 0.5))(u, TIMES, label=label)
    inside = torch.tensor([1.0, 3.0, 3.0, 1.0]).double()
    torch.testing.assert_close(guided, u[:, 0] + inside[:, None, None])


def test_mistakes_are_named() -> None:
    for make, message in [
        (
            lambda: LangevinDenoiser(Affine(), PAIRS, "eps", sees="reduced"),
            "prediction='eps' must come with sees",
        ),
        (lambda: build_denoiser(Affine(), PAIRS, "velocity"), "prediction='velocity' must be one of"),
        (lambda: build_denoiser(Affine(), PAIRS, "edm", "aligned_index"), "must come with a BetaTable"),
        (
            lambda: build_objective(PAIRS, target="velocity"),
            "target='velocity' must be one of 'eps', 'x0', 'v'",
        ),
        (lambda: build_objective(PAIRS, norm="l3"), "norm='l3'"),
        (lambda: build_objective(PAIRS, weighting="min_snr"), "weighting='min_snr' must be one of"),
        (
            lambda: build_objective(PAIRS, target="v", weighting="likelihood"),
            "must weigh the squared error of eps",
        ),
    ]:
        with pytest.raises(InputError, match=message):
            make()
