"""Replacement and guidance on correlated normal data, whose conditional distribution is known."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from exact_network import normal
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.measurement import observed
from mmdiff.diffusion.reconstruction import NoisedReplacement, ReconstructionGuidance, Replacement
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import EDM, CosineVP, LinearBetaVP, LinearFlow, Schedule

SIZE, KNOWN, CORRELATION = 8, 2, 0.9
SCHEDULE = CosineVP()
MASK = torch.arange(SIZE) < KNOWN
Y = torch.where(MASK, 1.5, torch.nan).double().reshape(1, 1, SIZE)
PLAIN = {"limit": None, "jacobian_error": 0.0}  # ΠGDM


def chain_covariance(size: int) -> Tensor:
    """Covariance of a chain whose neighbours have the same correlation."""
    place = torch.arange(size, dtype=torch.float64)
    return CORRELATION ** (place[:, None] - place).abs()


class Field:
    """Normal data of mean zero and any covariance: the exact denoiser, and what is known given some elements."""

    def __init__(self, covariance: Tensor, schedule: Schedule = SCHEDULE) -> None:
        self.covariance, self.schedule = covariance, schedule
        self.values, self.vectors = torch.linalg.eigh(covariance)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (level[:, None, None] for level in self.schedule(t.to(x))[:2])
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        return x @ self.vectors * gain @ self.vectors.T

    def conditional(self, mask: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the elements outside the mask, given those inside."""
        known, cross = self.covariance[mask][:, mask], self.covariance[~mask][:, mask]
        gain = cross @ torch.linalg.inv(known)
        return gain @ y[mask], self.covariance[~mask][:, ~mask] - gain @ cross.T

    def guided_mean(self, mask: Tensor, y: Tensor, x: Tensor, t: float) -> Tensor:
        """E[x0 | x_t, y] of every element, for x of shape (B, 1, size)."""
        alpha, sigma = (float(level) for level in self.schedule(t)[:2])
        eye = torch.eye(len(mask), dtype=torch.float64)
        seen = torch.cat([alpha * eye, eye[mask]])
        noise = torch.cat([torch.full((len(mask),), sigma**2), torch.zeros(int(mask.sum()))]).double().diag()
        gain = self.covariance @ seen.T @ torch.linalg.inv(seen @ self.covariance @ seen.T + noise)
        return torch.cat([x, y[mask].expand(len(x), 1, -1)], -1) @ gain.T


FIELD = Field(chain_covariance(SIZE))


def draw(
    denoiser: Callable[..., Tensor], items: int = 1000, sampler: str = "ddim", steps: int = 40, **more: Any
) -> Tensor:
    return sample(
        denoiser, (items, 1, SIZE), schedule=SCHEDULE, sampler=sampler, steps=steps,
        generator=torch.Generator().manual_seed(1), dtype=torch.float64, **more,
    )  # fmt: skip


def ddim_of_the_papers(
    noise: Tensor, steps: int, fresh: torch.Generator | None
) -> tuple[Tensor, list[Tensor]]:
    """Deterministic sampling that puts alpha y + sigma eps into x before each step; states of known elements."""
    x, eps, states = noise, noise, []
    angles = torch.linspace(math.pi / 2, 0, steps + 1, dtype=torch.float64).tolist()
    for here, there in pairwise(angles):
        alpha, sigma = math.cos(here), math.sin(here)
        if fresh is not None:
            eps = torch.randn(x.shape, generator=fresh, dtype=x.dtype)
        states.append(alpha * Y + sigma * eps)
        x = torch.where(MASK, states[-1], x)
        gain = alpha * FIELD.values / (alpha**2 * FIELD.values + sigma**2)
        x0 = x @ FIELD.vectors * gain @ FIELD.vectors.T
        x = math.cos(there) * x0 + math.sin(there) * (x - alpha * x0) / sigma
    return torch.where(MASK, Y, x), states


def test_replacement_in_x0_is_the_papers_with_constant_noise() -> None:
    noise, seen = normal(5, 1, SIZE), []
    expected, states = ddim_of_the_papers(noise, 12, None)
    found = sample(
        Replacement(FIELD, observed(Y, MASK)), noise.shape, schedule=SCHEDULE, sampler="ddim", steps=12,
        noise=noise, dtype=torch.float64, callback=lambda *told: seen.append(told[3]),
    )  # fmt: skip
    torch.testing.assert_close(found, expected)
    for state, x in zip(states[1:], seen, strict=False):
        torch.testing.assert_close(x[..., MASK], state[..., MASK])


def test_noised_replacement_is_the_papers_with_fresh_noise() -> None:
    noise = normal(5, 1, SIZE)
    expected, _ = ddim_of_the_papers(noise, 12, torch.Generator().manual_seed(3))
    wrapped = NoisedReplacement(FIELD, observed(Y, MASK), SCHEDULE, torch.Generator().manual_seed(3))
    ask = {"schedule": SCHEDULE, "sampler": "ddim", "steps": 12, "dtype": torch.float64}
    torch.testing.assert_close(sample(wrapped, noise.shape, noise=noise, **ask), expected)

    def alone(*seeds: int) -> Tensor:
        own = [torch.Generator().manual_seed(seed) for seed in seeds]
        wrapped = NoisedReplacement(FIELD, observed(Y, MASK), SCHEDULE, own)
        return sample(wrapped, (len(seeds), 1, SIZE), seeds=seeds, **ask)

    torch.testing.assert_close(alone(1, 2, 3)[1:2], alone(2), rtol=0, atol=1e-13)


def test_ancestral_replacement_keeps_the_marginal_of_what_is_known() -> None:
    seen: list[tuple[float, Tensor]] = []
    draw(
        Replacement(FIELD, observed(Y, MASK)), sampler="ddpm", steps=8,
        callback=lambda *told: seen.append((told[2], told[3][..., MASK])),
    )  # fmt: skip
    for t, x in seen:
        alpha, sigma = (float(level) for level in SCHEDULE(t)[:2])
        assert float(x.mean()) == pytest.approx(alpha * 1.5, abs=0.1 * sigma + 1e-12)
        assert float(x.std()) == pytest.approx(sigma, rel=0.06, abs=1e-12)


def mean_of_replacement(steps: int = 2000) -> Tensor:
    """Mean of the unknown elements under replacement, by Euler's method on the equation of the mean in alpha/sigma."""
    angle = torch.linspace(math.pi / 2 - 1e-3, 1e-3, steps + 1, dtype=torch.float64)
    over = torch.cos(angle) / torch.sin(angle)
    mean = torch.zeros(SIZE, dtype=torch.float64)  # of x / sigma
    for here, there in pairwise(over):
        seen = torch.where(MASK, here * Y.flatten(), mean)
        gain = here * FIELD.values / (here**2 * FIELD.values + 1)
        x0 = FIELD.vectors @ (gain * (FIELD.vectors.T @ seen))
        mean = mean + (there - here) * x0
    return (mean / over[-1])[~MASK]


def test_replacement_loses_coherence_and_guidance_keeps_it() -> None:
    # The finding of video diffusion (2204.03458, section 3.1), in numbers.
    mean, covariance = FIELD.conditional(MASK, Y.flatten())
    biased = mean_of_replacement()
    assert float(biased[0] / mean[0]) == pytest.approx(0.48, abs=0.02)  # of 1.35, next to a known 1.5
    known = observed(Y, MASK)
    replaced, noised = (
        draw(d)[:, 0, ~MASK] for d in (Replacement(FIELD, known), NoisedReplacement(FIELD, known, SCHEDULE))
    )
    for x in (replaced, noised):
        torch.testing.assert_close(x.mean(0), biased, rtol=0, atol=0.1)
    wanted = float(covariance[0, 0])
    assert float(replaced[:, 0].var()) > 2.3 * wanted
    assert 1.8 * wanted < float(noised[:, 0].var()) < float(replaced[:, 0].var())
    guided = draw(Replacement(ReconstructionGuidance(FIELD, known, SCHEDULE), known))[:, 0, ~MASK]
    torch.testing.assert_close(guided.mean(0), mean, rtol=0, atol=0.15)
    torch.testing.assert_close(guided.var(0), covariance.diag(), rtol=0.25, atol=0)
    jumps = [float((x[:, 0] - 1.5).square().mean()) for x in (replaced, guided)]
    exact = float((mean[0] - 1.5) ** 2 + covariance[0, 0])
    assert jumps[0] > 5 * exact
    assert jumps[1] == pytest.approx(exact, rel=0.25)


@pytest.mark.parametrize("corrector", ["langevin", "resample"])
def test_corrections_bring_replacement_towards_the_conditional(corrector: str) -> None:
    mean, _ = FIELD.conditional(MASK, Y.flatten())
    shares = []
    for corrections in (0, 1, 6):
        options = {"predictor": "ddpm", "corrector": corrector, "corrections": corrections, "step_size": 0.3}
        x = draw(Replacement(FIELD, observed(Y, MASK)), sampler="predictor_corrector", options=options)
        shares.append(float(x[:, 0, KNOWN].mean() / mean[0]))
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 0.7
    assert shares[2] > 0.85


def scene() -> tuple[Field, Tensor, Tensor]:
    """Four frames of 5 x 5 with long correlations, the first frame known."""
    place = torch.cartesian_prod(torch.arange(4) / 20, torch.arange(5) / 4, torch.arange(5) / 4).double()
    covariance = torch.exp(-torch.cdist(place, place))
    truth = torch.linalg.cholesky(covariance) @ normal(len(place), seed=4)
    return Field(covariance), torch.arange(len(place)) < 25, truth


# high orders and a second point near pure noise are where plain guidance breaks
@pytest.mark.parametrize(
    ("sampler", "order", "grid", "gain"),
    [("ddim", {}, "uniform", 1.5), ("deis", {"order": 3}, "log_snr", 8.0)],
)
@pytest.mark.parametrize("error", [0.0, 0.05])
def test_guidance_by_many_elements_that_say_the_same(
    sampler: str, order: dict[str, int], grid: str, gain: float, error: float
) -> None:
    field, mask, truth = scene()
    mean, covariance = field.conditional(mask, truth)
    denoiser = with_error(field, error)
    known = observed(truth.reshape(1, 1, -1), mask)

    def run(**options: Any) -> Tensor:
        guided = ReconstructionGuidance(denoiser, known, SCHEDULE, **options)
        x = sample(
            guided, (64, 1, len(mask)), schedule=SCHEDULE, sampler=sampler, steps=20, grid=grid,
            options=order,            seeds=range(64), dtype=torch.float64,
        )  # fmt: skip
        return x[:, 0, ~mask]

    def off(x: Tensor) -> float:
        return float((x.mean(0) - mean).square().mean().sqrt())

    found = run()
    assert off(found) < 0.16  # the data vary by one
    assert gain * off(found) < off(run(**PLAIN))
    assert float(found.var(0).mean().sqrt()) == pytest.approx(
        float(covariance.diag().mean().sqrt()), rel=0.25
    )


def with_error(denoiser: Callable[..., Tensor], size: float) -> Callable[..., Tensor]:
    """A denoiser with a smooth error of this root mean square in its answers to noisy data."""
    features, back = (normal(100, 100, seed=seed) / 10 for seed in (7, 8))

    def inexact(x: Tensor, t: Tensor) -> Tensor:
        sigma = SCHEDULE(t.to(x)).sigma[:, None, None]
        return denoiser(x, t) + size * math.sqrt(2) * sigma * torch.sin(2 * x @ features) @ back

    return inexact


def test_an_inexact_network_is_not_amplified_where_there_is_hardly_any_signal() -> None:
    field, mask, truth = scene()
    known, denoiser, x = observed(truth.reshape(1, 1, -1), mask), with_error(field, 0.05), normal(20, 1, 100)
    usual, plain = (ReconstructionGuidance(denoiser, known, SCHEDULE, **options) for options in ({}, PLAIN))
    for alpha in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2):
        t = torch.full((20,), 1 - 2 / math.pi * math.asin(alpha), dtype=torch.float64)
        exact = field.guided_mean(mask, truth, x, float(t[0]))
        error, before = (float((g(x, t) - exact).square().mean().sqrt()) for g in (usual, plain))
        assert error < 1.0  # the data's standard deviation is one
        if 0 < alpha <= 1e-2:
            assert before > 5 * error


@pytest.mark.parametrize("schedule", [CosineVP(), LinearFlow(), EDM(), LinearBetaVP()], ids=str)
@pytest.mark.parametrize("lam", [-12.0, -6.0, -2.0, 2.0, 8.0])
def test_guidance_is_exact_for_independent_data_at_every_level(schedule: Schedule, lam: float) -> None:
    field = Field(0.64 * torch.eye(SIZE, dtype=torch.float64), schedule)
    t = float(schedule.time_of_log_snr(lam))
    x = normal(3, 1, SIZE) * float(torch.hypot(*schedule(t)[:2]))
    guided = ReconstructionGuidance(field, observed(Y, MASK), schedule, data_std=0.8)
    expected = field.guided_mean(MASK, Y.flatten(), x, t)
    torch.testing.assert_close(guided(x, t), expected, rtol=1e-6, atol=1e-6)


def test_a_jacobian_of_the_wrong_sign_is_not_followed() -> None:
    guided = ReconstructionGuidance(lambda x, t: -x, observed(Y, MASK), SCHEDULE)
    x = normal(4, 1, SIZE)
    far, near = (-x - Y)[..., MASK].abs(), (guided(x, 0.6) - Y)[..., MASK].abs()
    assert (near < far).all()
    assert guided(x.float(), 0.0).isfinite().all()


class Deep(nn.Module):
    """Linear layers, whose inputs are kept for the gradients of their weights alone."""

    def __init__(self, checkpoints: bool = False) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.layers = nn.Sequential(
            *(layer for _ in range(4) for layer in (nn.Linear(SIZE, SIZE), nn.GELU()))
        )
        self.inner: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor, level: Tensor, shift: float | None = None) -> Tensor:
        first = self.layers[:4]
        inner = checkpoint(first, x, use_reentrant=False) if self.checkpoints else first(x)
        self.inner.append(weakref.ref(inner))
        return self.layers[4:](inner) + (shift or 0)


def guide(network: nn.Module, x: Tensor) -> Tensor:
    denoiser = ClassifierFree(Denoiser(network, SCHEDULE), 2.0, {"shift": None})
    return ReconstructionGuidance(denoiser, observed(Y.float(), MASK), SCHEDULE)(x, 0.5, shift=0.1)


def kept_bytes(network: nn.Module) -> int:
    """Memory of the tensors kept for the backward pass while guiding."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = guide(network, normal(64, 1, SIZE).float())
    assert not result.requires_grad
    return sum(kept.values())


def test_guidance_keeps_nothing_for_the_parameters_and_nothing_afterwards() -> None:
    network = Deep()
    training = kept_bytes(network)
    gc.disable()  # what lives on in a cycle would be collected some time, but not now
    try:
        assert all(ref() is None for ref in network.inner)
    finally:
        gc.enable()
    ready = kept_bytes(network.eval())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    with pytest.raises(RuntimeError):
        guide(network, torch.zeros(1, 1, SIZE + 1))
    assert all(p.requires_grad for p in network.parameters())
    network.requires_grad_(False)
    assert ready == kept_bytes(network) < training
    assert not any(p.requires_grad for p in network.parameters())


def test_a_network_that_computes_again_is_guided_alike() -> None:
    plain, again, x = Deep(), Deep(checkpoints=True), normal(3, 1, SIZE).float()
    again.load_state_dict(plain.state_dict())
    found = [guide(network.train(training), x) for network in (plain, again) for training in (True, False)]
    for other in found[1:]:
        torch.testing.assert_close(found[0], other)


def test_grids_that_come_near_pure_noise_are_why() -> None:
    # a second point at sigma / alpha = 80 follows alpha = 0 in these grids
    first = SCHEDULE(make_grid("log_snr", SCHEDULE, 10)[:2]).alpha
    torch.testing.assert_close(first, torch.tensor([0.0, 1 / 80], dtype=torch.float64), rtol=1e-3, atol=1e-16)


def test_steps_end_where_a_jacobian_that_is_no_covariance_leads_astray() -> None:
    """A network's answer may turn what it is shown; conjugate gradients by such a Jacobian grow without bound."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    mask = torch.arange(SIZE) < SIZE - 2
    known = observed(torch.where(mask, 1.0, torch.nan).double().reshape(1, 1, SIZE), mask)

    def crooked(x: Tensor, t: Tensor) -> Tensor:
        return FIELD(x, t) + 0.5 * x @ (turn - turn.T)

    x = torch.randn(50, 1, SIZE, generator=generator, dtype=torch.float64)
    t = torch.full((50,), 0.5, dtype=torch.float64)
    moves = [
        (ReconstructionGuidance(crooked, known, SCHEDULE, jacobian_error=0, solves=n)(x, t) - crooked(x, t))
        for n in (2, 6, 12)
    ]
    few, more, many = (move.norm(dim=-1).amax() for move in moves)
    assert more < 3 * few
    assert many == more
