"""Oracle: for normal data E[x0 | x_t, y] is linear algebra, for any linear measurement y of x0."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from exact_network import normal
from torch import Tensor

from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.measurement import (
    Measurement,
    block_mean,
    conjugate_gradients,
    linear,
    low_pass,
    observed,
)
from mmdiff.diffusion.measurement_combine import part, together
from mmdiff.diffusion.reconstruction import ReconstructionGuidance, Replacement
from mmdiff.diffusion.schedules import EDM, CosineVP, LinearFlow, Schedule
from mmdiff.errors import InputError

SIZE, STD = 12, 0.8
MEAN = torch.linspace(-0.5, 1, SIZE, dtype=torch.float64)
TIMES = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
SCHEDULES = [CosineVP(), EDM(), LinearFlow()]


MASK = torch.tensor([1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
MATRIX = normal(5, SIZE, seed=9)


def by_matrix(x: Tensor) -> Tensor:
    return x[:, 0] @ MATRIX.T


def spectrum(x: Tensor) -> Tensor:
    return torch.fft.rfft(x)[..., :4]


MAKERS: dict[str, Callable[[Tensor, float], Measurement]] = {
    "mask": lambda x0, noise: observed(x0, MASK, noise_std=noise),
    "block_mean": lambda x0, noise: block_mean(x0.unflatten(-1, (-1, 3)).mean(-1), (3,), noise_std=noise),
    "low_pass": lambda x0, noise: low_pass(x0, 0.4, noise_std=noise),
    "matrix": lambda x0, noise: linear(by_matrix(x0), by_matrix, x0, noise_std=noise),
    "part": lambda x0, noise: part(MAKERS["block_mean"](x0, noise), torch.tensor([1, 0, 1, 1])),
    "part of a filter": lambda x0, noise: part(MAKERS["low_pass"](x0, noise), MASK),
    "together": lambda x0, noise: together(
        [observed(x0, MASK & (torch.arange(SIZE) < 3), noise_std=noise), MAKERS["part"](x0, noise)], x0
    ),
}


def exact_denoiser(schedule: Schedule) -> Callable[..., Tensor]:
    def denoiser(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        alpha, sigma, *_ = (field[:, None, None] for field in schedule(t))
        return MEAN + alpha * STD**2 * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)

    return denoiser


def dense(measurement: Measurement) -> Tensor:
    """A as a matrix (size of y, SIZE)."""
    columns = measurement.forward(torch.eye(SIZE, dtype=torch.float64)[:, None])
    return columns.flatten(1).T


def conditional_mean(schedule: Schedule, measurement: Measurement, x: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x_t, y], from the joint normal distribution of (x0, x_t, y)."""
    matrix, items = dense(measurement), []
    for item, y, time in zip(x, measurement.y, t, strict=True):
        alpha, sigma, *_ = schedule(time)
        seen = torch.cat([alpha * torch.eye(SIZE, dtype=torch.float64), matrix])
        noise = (
            torch.cat([sigma.expand(SIZE), torch.full((len(matrix),), measurement.noise_std)]).double() ** 2
        )
        covariance = STD**2 * seen @ seen.T + noise.diag()
        surprise = torch.cat([item.flatten(), y.flatten()]) - seen @ MEAN
        # a mask and a filter measure some directions not at all: a pseudo-inverse
        items.append(
            MEAN + STD**2 * seen.T @ torch.linalg.pinv(covariance, hermitian=True, rtol=1e-12) @ surprise
        )
    return torch.stack(items)[:, None]


@pytest.mark.parametrize("name", MAKERS)
def test_operators_are_linear_with_right_adjoint_gram_and_pseudo_inverse(name: str) -> None:
    x0 = normal(3, 1, SIZE)
    measurement = MAKERS[name](x0, 0.0)
    matrix = dense(measurement)
    v = measurement.y
    torch.testing.assert_close(measurement.forward(x0).flatten(1), x0.flatten(1) @ matrix.T)
    torch.testing.assert_close(measurement.adjoint(v).flatten(1), v.flatten(1) @ matrix)
    inverse = torch.linalg.pinv(matrix, rtol=1e-10)
    torch.testing.assert_close(measurement.pinv(v).flatten(1), v.flatten(1) @ inverse.T, rtol=1e-5, atol=1e-6)
    if measurement.gram is not None:
        gram = measurement.forward(measurement.adjoint(v))
        torch.testing.assert_close(gram, measurement.gram * v)
    assert measurement.residual(x0).abs().max() < 1e-12


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("name", MAKERS)
def test_covariance_guidance_is_the_exact_conditional_mean(
    name: str, noise: float, schedule: Schedule
) -> None:
    x0 = MEAN + STD * normal(3, 1, SIZE)
    measurement = MAKERS[name](x0, noise)
    alpha, sigma, *_ = (field[:, None, None] for field in schedule(TIMES))
    x = alpha * x0 + sigma * normal(3, 1, SIZE, seed=1)
    guided = ReconstructionGuidance(exact_denoiser(schedule), measurement, schedule, data_std=STD)
    expected = conditional_mean(schedule, measurement, x, TIMES)
    torch.testing.assert_close(guided(x, TIMES), expected, rtol=1e-5, atol=1e-5)


def test_covariance_guidance_is_exact_at_pure_noise_and_quiet_at_pure_data() -> None:
    schedule = LinearFlow()
    x0 = MEAN + STD * normal(2, 1, SIZE)
    measurement = observed(x0, MASK, noise_std=0.2)
    x, t = normal(2, 1, SIZE, seed=1), torch.tensor([1.0, 0.0], dtype=torch.float64)
    guided = ReconstructionGuidance(exact_denoiser(schedule), measurement, schedule, data_std=STD)(x, t)
    expected = conditional_mean(schedule, measurement, x, torch.tensor([1.0, 1e-6], dtype=torch.float64))
    torch.testing.assert_close(guided, expected, rtol=1e-5, atol=1e-4)
    certain = ReconstructionGuidance(exact_denoiser(schedule), observed(x0, MASK), schedule, data_std=STD)
    assert certain(x.float(), t.float()).isfinite().all()


def test_measurements_of_different_noise_count_together_by_their_noise() -> None:
    schedule, x0 = LinearFlow(), MEAN + STD * normal(3, 1, SIZE)
    noises = torch.cat([torch.full((SIZE,), 0.1), torch.full((4,), 0.5)]).double()
    both = together([observed(x0, MASK, noise_std=0.1), MAKERS["block_mean"](x0, 0.5)], x0)
    torch.testing.assert_close(
        dense(both) * noises[:, None],
        dense(together([MAKERS["mask"](x0, 0), MAKERS["block_mean"](x0, 0)], x0)),
    )
    alpha, sigma, *_ = (field[:, None, None] for field in schedule(TIMES))
    x = alpha * x0 + sigma * normal(3, 1, SIZE, seed=1)
    guided = ReconstructionGuidance(exact_denoiser(schedule), both, schedule, data_std=STD)
    torch.testing.assert_close(
        guided(x, TIMES), conditional_mean(schedule, both, x, TIMES), rtol=1e-5, atol=1e-5
    )


def test_a_soft_mask_trusts_as_far_as_it_says() -> None:
    schedule, trust = LinearFlow(), torch.linspace(0, 1, SIZE, dtype=torch.float64)
    y = MEAN + STD * normal(3, 1, SIZE)
    y[..., 0] = torch.nan
    measurement, denoiser = observed(y, trust), exact_denoiser(schedule)
    t = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
    x = normal(3, 1, SIZE, seed=1)
    plain, known = denoiser(x, t), torch.where(trust > 0, y, 0.0)
    replaced = Replacement(denoiser, measurement)(x, t)
    torch.testing.assert_close(replaced, trust * known + (1 - trust) * plain)
    # each element is a normal number, seen twice: through x_t, and as y with its own noise
    guided = ReconstructionGuidance(denoiser, measurement, schedule, data_std=STD)(x, t)
    alpha, sigma, *_ = (field[:, None, None] for field in schedule(t))
    precision = 1 / STD**2 + alpha**2 / sigma**2
    doubt = STD**2 * (1 - trust) / trust
    expected = (plain * precision + known / doubt) / (precision + 1 / doubt)
    torch.testing.assert_close(guided[..., 1:-1], expected[..., 1:-1])
    torch.testing.assert_close(guided[..., [0, -1]], torch.stack([plain[..., 0], y[..., -1]], -1))
    torch.testing.assert_close(guided[:1], replaced[:1])  # where x_t says nothing the two are one


def test_clips_are_measured_in_time_in_space_and_by_single_frames() -> None:
    clip = normal(2, 3, 8, 4, 6)
    for factor in ((4, 1, 1), (2, 3), (2, 2, 2), (1, 2, 1)):
        stride = (1, *factor)[-3:]
        small = torch.nn.functional.avg_pool3d(clip, stride)
        measurement = block_mean(small, factor)
        assert measurement.residual(clip).abs().max() < 1e-14
        fine = torch.nn.functional.interpolate(small, size=clip.shape[2:], mode="nearest")
        torch.testing.assert_close(measurement.pinv(small), fine)
    frames = (torch.arange(8) % 3 == 0).reshape(1, 1, -1, 1, 1)
    found = observed(clip, frames).project(torch.zeros_like(clip))
    torch.testing.assert_close(found[:, :, ::3], clip[:, :, ::3])
    assert not found[:, :, 1::3].any()
    # low-resolution frames of which every other is known, and the first at its full size
    small = torch.nn.functional.avg_pool3d(clip, (1, 2, 2))
    known = (torch.arange(8) % 2 == 0).reshape(1, 1, -1, 1, 1)
    first = (torch.arange(8) == 0).reshape(1, 1, -1, 1, 1)
    low = part(block_mean(torch.where(known, small, torch.nan), (2, 2)), known & ~first)
    found = together([observed(clip, first), low], clip).project(torch.zeros_like(clip))
    torch.testing.assert_close(found[:, :, 0], clip[:, :, 0])
    torch.testing.assert_close(
        torch.nn.functional.avg_pool3d(found, (1, 2, 2))[:, :, 2::2], small[:, :, 2::2]
    )
    assert not found[:, :, 1::2].any()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_gradient_guidance_is_that_of_video_diffusion(schedule: Schedule) -> None:
    x0, x = normal(3, 1, SIZE), normal(3, 1, SIZE, seed=1)
    measurement = MAKERS["matrix"](x0, 0.0)
    denoiser = exact_denoiser(schedule)
    guided = ReconstructionGuidance(denoiser, measurement, schedule, weight=1.7, method="gradient")

    def disagreement(x: Tensor) -> Tensor:
        return ((measurement.y - by_matrix(denoiser(x, TIMES))) ** 2).sum()

    gradient = torch.autograd.functional.jacobian(disagreement, x)
    alpha = schedule(TIMES).alpha[:, None, None]
    torch.testing.assert_close(guided(x, TIMES), denoiser(x, TIMES) - 1.7 * alpha / 2 * gradient)


@pytest.mark.parametrize("name", MAKERS)
def test_replacement_agrees_with_the_measurement_and_changes_no_more(name: str) -> None:
    schedule = CosineVP()
    x0, x = normal(3, 1, SIZE), normal(3, 1, SIZE, seed=1)
    measurement = MAKERS[name](x0, 0.0)
    denoiser = exact_denoiser(schedule)
    found = Replacement(denoiser, measurement)(x, TIMES)
    torch.testing.assert_close(measurement.forward(found), measurement.forward(x0), rtol=1e-5, atol=1e-6)
    matrix = dense(measurement)
    unseen = torch.eye(SIZE, dtype=torch.float64) - torch.linalg.pinv(matrix, rtol=1e-10) @ matrix
    torch.testing.assert_close((found - denoiser(x, TIMES)) @ unseen, torch.zeros_like(x), rtol=0, atol=1e-6)


def test_replacement_puts_known_elements_in_place() -> None:
    y = normal(1, 1, SIZE)
    hidden = torch.where(MASK, y, torch.nan)
    mask = MASK.float()
    x = normal(3, 1, SIZE, seed=1)
    found = Replacement(exact_denoiser(LinearFlow()), observed(hidden, mask))(x, TIMES)
    torch.testing.assert_close(found[..., MASK], y[..., MASK].expand(3, -1, -1), rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(found[..., ~MASK], exact_denoiser(LinearFlow())(x, TIMES)[..., ~MASK])
    torch.testing.assert_close(observed(hidden, mask).project(found), found)


def euler(denoiser: Callable[..., Tensor], x: Tensor, steps: int) -> Tensor:
    """Solve the flow's x' = (x - x0) / t from noise to data."""
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for t, s in pairwise(grid):
        x = x + (s - t) / t * (x - denoiser(x, t.expand(len(x))))
    return x


def test_sampling_meets_the_measurement_and_leaves_the_rest_to_the_data() -> None:
    schedule = LinearFlow()
    y, x = MEAN + STD * normal(2, 1, SIZE), normal(2, 1, SIZE, seed=1)
    guided = ReconstructionGuidance(exact_denoiser(schedule), observed(y, MASK), schedule, data_std=STD)
    # independent elements: the unknown ones follow the unguided flow, whose solution is known
    expected = torch.where(MASK, y, MEAN + STD * x)
    torch.testing.assert_close(euler(guided, x, 400), expected, rtol=0, atol=0.01)


def test_what_is_known_determines_the_rest_of_a_correlated_signal() -> None:
    # Every element is the same normal number: knowing the first must fix the others.
    schedule = LinearFlow()

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma, *_ = (field[:, None, None] for field in schedule(t))
        return (alpha * x.sum(-1, keepdim=True) / (alpha**2 * SIZE + sigma**2)).expand_as(x)

    known = torch.full((2, 1, SIZE), 1.3, dtype=torch.float64)
    mask = torch.arange(SIZE) < 1
    # The elements share one uncertainty, down to 1 / SIZE of what r_t^2 takes it for.
    guided = ReconstructionGuidance(denoiser, observed(known, mask), schedule, limit=SIZE, jacobian_error=0)
    torch.testing.assert_close(guided(normal(2, 1, SIZE), 0.7), known)
    x = normal(2, 1, SIZE)
    torch.testing.assert_close(euler(guided, x, 100), known, rtol=0, atol=0.03)
    usual, plain = (
        euler(ReconstructionGuidance(denoiser, observed(known, mask), schedule, **options), x, 100) - known
        for options in ({}, {"limit": None, "jacobian_error": 0})
    )
    assert usual.abs().max() < 0.2
    assert usual.abs().mean() < 0.5 * plain.abs().mean()
    everything = ReconstructionGuidance(denoiser, observed(known, mask | True), schedule, jacobian_error=0)
    torch.testing.assert_close(everything(normal(2, 1, SIZE), 0.7), known)


def test_two_dimensional_super_resolution_shapes() -> None:
    x0 = normal(2, 3, 4, 6, 8)
    small = x0.unflatten(-1, (4, 2)).unflatten(-3, (3, 2)).mean((-1, -3))
    measurement = block_mean(small, (2, 2))
    assert measurement.residual(x0).abs().max() < 1e-14
    torch.testing.assert_close(measurement.pinv(small), small.repeat_interleave(2, 3).repeat_interleave(2, 4))
    with pytest.raises(InputError, match="must be divisible by factor"):
        measurement.residual(x0[..., :7])
    with pytest.raises(InputError, match="must hold 1 to 3 positive block sizes"):
        block_mean(small, (1, 2, 0))


def test_complex_measurements_are_legal() -> None:
    x0 = normal(3, 1, SIZE)
    measurement = linear(spectrum(x0), spectrum, x0)
    found = Replacement(lambda x, t: torch.zeros_like(x), measurement)(x0, 0.5)
    low = torch.fft.rfft(x0)
    low[..., 4:] = 0
    torch.testing.assert_close(found, torch.fft.irfft(low, n=SIZE), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["covariance", "gradient"])
def test_everything_stays_on_the_inputs_device(method: str) -> None:
    # "meta" refuses to mix with tensors of another device, as CUDA does
    y, x = torch.zeros(2, 1, 4, device="meta"), torch.zeros(2, 1, SIZE, device="meta")
    schedule = LinearFlow()
    for measurement in (block_mean(y, (3,)), low_pass(x, 0.5)):
        guided = ReconstructionGuidance(lambda x, t: 2 * x, measurement, schedule, method=method)
        found = Replacement(guided, measurement)(x, torch.tensor(0.5))
        assert found.device.type == "meta"
        assert found.dtype == torch.float32


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_guidance_works_while_sampling_without_gradients_and_composes(mode: Any) -> None:
    schedule = LinearFlow()
    weight = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def denoiser(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return exact_denoiser(schedule)(x, t) * weight + 0.1 * label[:, None, None]

    x0, x, label = normal(3, 1, SIZE), normal(3, 1, SIZE, seed=1), torch.ones(3, dtype=torch.float64)
    measurement = linear(by_matrix(x0), by_matrix, x0, noise_std=0.1)
    guided = ReconstructionGuidance(ClassifierFree(denoiser, 2.0, {"label": 0}), measurement, schedule)
    guided_then_replaced = Replacement(guided, observed(x0, MASK))
    expected = guided_then_replaced(x, TIMES, label=label)
    with mode():
        found = guided_then_replaced(x.clone(), TIMES.clone(), label=label.clone())
    torch.testing.assert_close(found, expected)
    assert not expected.requires_grad
    assert weight.grad is None


def test_batch_does_not_matter() -> None:
    schedule = CosineVP()
    x0, x = normal(3, 1, SIZE), normal(3, 1, SIZE, seed=1)
    measurement = linear(by_matrix(x0), by_matrix, x0, noise_std=0.1)
    whole = ReconstructionGuidance(exact_denoiser(schedule), measurement, schedule)(x, TIMES)
    one = linear(by_matrix(x0[1:2]), by_matrix, x0, noise_std=0.1)
    alone = ReconstructionGuidance(exact_denoiser(schedule), one, schedule)(x[1:2], TIMES[1:2])
    torch.testing.assert_close(alone, whole[1:2], rtol=1e-5, atol=1e-6)


def test_conjugate_gradients_solve_and_leave_zero_alone() -> None:
    root = normal(6, 6)
    matrix = root @ root.T + torch.eye(6, dtype=torch.float64)
    target = normal(3, 6, seed=1)
    target[1] = 0
    found = conjugate_gradients(lambda v: v @ matrix, target, 50, tolerance=1e-12)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, target.T).T)


def test_wrong_settings_say_what_to_do() -> None:
    y = normal(2, 1, SIZE)
    with pytest.raises(InputError, match=r"mask must hold values in \[0, 1\]; divide"):
        observed(y, torch.full((SIZE,), 255))
    with pytest.raises(InputError, match="mask must hold only 0 and 1 here"):
        part(observed(y, MASK), torch.full((SIZE,), 0.5))
    with pytest.raises(InputError, match="must be at least one, none of them with a soft mask"):
        together([observed(y, torch.full((SIZE,), 0.5))], y)
    with pytest.raises(InputError, match="taken together must all be 0 or all above"):
        together([observed(y, MASK), observed(y, MASK, noise_std=0.1)], y)
    with pytest.raises(InputError, match=r"mask.shape=\(5,\) must broadcast to y.shape"):
        observed(y, torch.ones(5))
    with pytest.raises(InputError, match="noise_std=-1"):
        observed(y, MASK, noise_std=-1)
    with pytest.raises(InputError, match="iterations=0"):
        linear(y, lambda x: x, y, iterations=0)
    with pytest.raises(InputError, match=r"cutoff=2 must be in \(0, 1\]"):
        low_pass(y, 2)
    with pytest.raises(InputError, match="function must be linear"):
        linear(y, lambda x: x + 1, y)
    with pytest.raises(
        InputError, match=r"y.shape=\(2, 1, 12\) must be that of the operator's result, \(2, 1, 4\)"
    ):
        linear(y, spectrum, y).residual(y)
    with pytest.raises(InputError, match=r"y.shape=\(2, 1, 12\) must have a batch of 1 or of 3"):
        observed(y, MASK).residual(normal(3, 1, SIZE))
    with pytest.raises(InputError, match="method='exact' must be"):
        ReconstructionGuidance(lambda x, t: x, observed(y, MASK), CosineVP(), method="exact")
    with pytest.raises(InputError, match="data_std=0 must be above 0"):
        ReconstructionGuidance(lambda x, t: x, observed(y, MASK), CosineVP(), data_std=0)
    with pytest.raises(InputError, match="limit=0 must be above 0, or None"):
        ReconstructionGuidance(lambda x, t: x, observed(y, MASK), CosineVP(), limit=0)
    with pytest.raises(InputError, match="jacobian_error=-1 must be at least 0"):
        ReconstructionGuidance(lambda x, t: x, observed(y, MASK), CosineVP(), jacobian_error=-1)
    with pytest.raises(InputError, match=r"denoiser must be differentiable in x.*or use Replacement"):
        ReconstructionGuidance(lambda x, t: x.detach(), observed(y, MASK), CosineVP())(y, 0.5)
