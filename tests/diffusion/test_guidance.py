"""Oracle: two normal classes, whose denoisers, classifier and scores are known exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from exact_network import normal, seeded
from torch import Tensor

from mmdiff.diffusion.conditions import drop_condition
from mmdiff.diffusion.guidance import AutoGuidance, ClassifierFree, ClassifierGuidance, rescale_std
from mmdiff.diffusion.schedules import EDM, CosineVP, LinearFlow, Schedule
from mmdiff.errors import InputError

MEANS = torch.tensor([[1.0, -0.5, 0.3], [-1.0, 0.7, 0.0]], dtype=torch.float64)
STDS = torch.tensor([0.4, 0.7], dtype=torch.float64)
PRIOR = torch.tensor([0.3, 0.7], dtype=torch.float64)
NONE = 2  # the label that stands for no condition
SCHEDULES = [CosineVP(), EDM(), LinearFlow()]


class Classes:
    """The exact denoiser of either class, or of their mixture, for data (B, 1, 3)."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.calls: list[int] = []

    def log_densities(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(x_t, class), shape (B, 2)."""
        alpha, sigma, *_ = (field[:, None] for field in self.schedule(t))
        columns = []
        for mean, std, share in zip(MEANS, STDS, PRIOR, strict=True):
            spread = (alpha**2 * std**2 + sigma**2).sqrt().expand(-1, 3)
            columns.append(
                torch.distributions.Normal(alpha * mean, spread).log_prob(x[:, 0]).sum(1) + share.log()
            )
        return torch.stack(columns, dim=1)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.calls.append(len(x))
        alpha, sigma, *_ = (field[:, None] for field in self.schedule(t))
        means = [
            mean + alpha * std**2 * (x[:, 0] - alpha * mean) / (alpha**2 * std**2 + sigma**2)
            for mean, std in zip(MEANS, STDS, strict=True)
        ]
        share = self.log_densities(x, t).softmax(1)
        options = torch.stack([*means, share[:, :1] * means[0] + share[:, 1:] * means[1]])
        return options[label, torch.arange(len(x))][:, None]


def score(schedule: Schedule, x0: Tensor, x: Tensor, t: Tensor) -> Tensor:
    alpha, sigma, *_ = (field[:, None, None] for field in schedule(t))
    return (alpha * x0 - x) / sigma**2


TIMES = torch.tensor([0.1, 0.3, 0.5, 0.8], dtype=torch.float64)
LABEL = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_the_true_classifier_at_scale_one_gives_the_classs_own_denoiser(schedule: Schedule) -> None:
    exact = Classes(schedule)

    def log_prob(x: Tensor, t: Tensor) -> Tensor:
        return exact.log_densities(x, t).log_softmax(1)[torch.arange(len(x)), LABEL]

    x, none = normal(4, 1, 3), torch.full((4,), NONE)
    guided = ClassifierGuidance(exact, log_prob, schedule)
    torch.testing.assert_close(guided(x, TIMES, label=none), exact(x, TIMES, LABEL), rtol=1e-8, atol=1e-8)
    # twice the scale moves the score twice as far
    twice = ClassifierGuidance(exact, log_prob, schedule, scale=2.0)(x, TIMES, label=none)
    far, near, start = (
        score(schedule, d, x, TIMES) for d in (twice, exact(x, TIMES, LABEL), exact(x, TIMES, none))
    )
    torch.testing.assert_close(far - start, 2 * (near - start), rtol=1e-7, atol=1e-7)
    off = ClassifierGuidance(exact, log_prob, schedule, scale=0.0)
    torch.testing.assert_close(off(x, TIMES, label=none), exact(x, TIMES, none))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_classifier_guidance_works_while_sampling_without_gradients(mode: Any) -> None:
    schedule = LinearFlow()
    exact = Classes(schedule)

    def log_prob(x: Tensor, t: Tensor) -> Tensor:
        return exact.log_densities(x, t).log_softmax(1)[:, 0]

    guided = ClassifierGuidance(exact, log_prob, schedule)
    label = torch.full((4,), NONE)
    expected = guided(normal(4, 1, 3), TIMES, label=label)
    with mode():
        found = guided(normal(4, 1, 3), TIMES.clone(), label=label)
        at_noise = guided(normal(4, 1, 3), 1.0, label=label)
    torch.testing.assert_close(found, expected.detach())
    assert not found.requires_grad
    assert at_noise.isfinite().all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_classifier_free_guidance_combines_scores(schedule: Schedule, scale: float) -> None:
    exact = Classes(schedule)
    x, none = normal(4, 1, 3), torch.full((4,), NONE)
    guided = ClassifierFree(exact, scale, {"label": NONE})(x, TIMES, label=LABEL)
    assert exact.calls == [4 if scale in (0, 1) else 8]
    cond, free = exact(x, TIMES, LABEL), exact(x, TIMES, none)
    expected = score(schedule, free, x, TIMES) + scale * (
        score(schedule, cond, x, TIMES) - score(schedule, free, x, TIMES)
    )
    torch.testing.assert_close(score(schedule, guided, x, TIMES), expected, rtol=1e-8, atol=1e-8)
    if scale in (0, 1):
        torch.testing.assert_close(guided, cond if scale else free)
    # Bayes: cond - uncond scores are the classifier's gradient
    if scale == 3:

        def log_prob(x: Tensor, t: Tensor) -> Tensor:
            return exact.log_densities(x, t).log_softmax(1)[torch.arange(len(x)), LABEL]

        classifier = ClassifierGuidance(exact, log_prob, schedule, scale)(x, TIMES, label=none)
        torch.testing.assert_close(guided, classifier, rtol=1e-7, atol=1e-7)


def test_one_call_and_two_give_the_same() -> None:
    exact = Classes(CosineVP())
    x = normal(4, 1, 3)
    one = ClassifierFree(exact, 2.0, {"label": torch.tensor(NONE)})
    two = ClassifierFree(exact, 2.0, {"label": torch.full((1,), NONE)}, batched=False)
    torch.testing.assert_close(one(x, TIMES, label=LABEL), two(x, TIMES, label=LABEL))
    assert exact.calls == [8, 4, 4]


def test_conditions_that_share_no_batch_are_evaluated_apart() -> None:
    seen = []

    def denoiser(x: Tensor, t: Tensor, text: Tensor | None, rate: Tensor, plain: int) -> Tensor:
        seen.append((None if text is None else tuple(text.shape), tuple(rate.shape), plain))
        return x if text is None else x + text.mean()

    x, cond = normal(2, 1, 3), {"text": torch.ones(2, 5, 8), "rate": torch.ones(2), "plain": 3}
    ClassifierFree(denoiser, 2.0, {"text": None})(x, 0.5, **cond)
    assert seen == [((2, 5, 8), (2,), 3), (None, (2,), 3)]
    seen.clear()
    ClassifierFree(denoiser, 2.0, {"text": torch.zeros(1, 8)})(x, 0.5, **cond)
    assert seen == [((4, 5, 8), (4,), 3)]
    seen.clear()
    ClassifierFree(denoiser, 2.0, {"text": torch.zeros(1, 77, 8)})(x, 0.5, **cond)
    assert seen == [((2, 5, 8), (2,), 3), ((2, 77, 8), (2,), 3)]


def test_rescale_keeps_the_conditional_standard_deviation() -> None:
    exact = Classes(CosineVP())
    x = normal(4, 1, 3)
    cond = exact(x, TIMES, LABEL)
    plain = ClassifierFree(exact, 5.0, {"label": NONE})(x, TIMES, label=LABEL)
    full = ClassifierFree(exact, 5.0, {"label": NONE}, rescale=1.0)(x, TIMES, label=LABEL)
    torch.testing.assert_close(full.flatten(1).std(1), cond.flatten(1).std(1))
    part = ClassifierFree(exact, 5.0, {"label": NONE}, rescale=0.7)(x, TIMES, label=LABEL)
    torch.testing.assert_close(part, 0.7 * full + 0.3 * plain)
    flat = torch.ones(2, 1, 3, dtype=torch.float64)
    torch.testing.assert_close(rescale_std(flat, cond[:2], 1.0), flat)


def test_guidance_acts_only_inside_its_interval() -> None:
    exact = Classes(CosineVP())
    x = normal(4, 1, 3)
    everywhere = ClassifierFree(exact, 3.0, {"label": NONE})(x, TIMES, label=LABEL)
    limited = ClassifierFree(exact, 3.0, {"label": NONE}, interval=(0.3, 0.6))
    expected = exact(x, TIMES, LABEL)
    expected[1:3] = everywhere[1:3]
    torch.testing.assert_close(limited(x, TIMES, label=LABEL), expected)
    exact.calls.clear()
    torch.testing.assert_close(limited(x, 0.9, label=LABEL), exact(x, torch.full((4,), 0.9), LABEL))
    assert exact.calls == [4, 4]
    zero = ClassifierFree(exact, 0.0, {"label": NONE}, interval=(0.3, 0.6))(x, TIMES, label=LABEL)
    torch.testing.assert_close(zero[::3], exact(x, TIMES, LABEL)[::3])


def test_autoguidance_extrapolates_from_the_weak_model() -> None:
    good, weak = (lambda x, t, **cond: 2 * x), (lambda x, t, **cond: x)
    x = normal(2, 1, 3)
    torch.testing.assert_close(AutoGuidance(good, weak, 1.5)(x, 0.5), 2.5 * x)
    torch.testing.assert_close(AutoGuidance(good, weak, 1.0)(x, 0.5), 2 * x)


def test_dropping_conditions_hits_the_right_share_and_whole_items() -> None:
    count = 4000
    cond = {
        "text": torch.ones(count, 3),
        "label": torch.ones(count, dtype=torch.long),
        "rate": torch.ones(count),
    }
    null = {"text": torch.zeros(3), "label": 7}
    generator = seeded()
    kept = drop_condition(cond, null, 0.2, generator=generator)
    gone = kept["label"] == 7
    assert 0.17 < gone.float().mean().item() < 0.23
    assert torch.equal(kept["text"], (~gone).float()[:, None].expand(-1, 3))
    assert kept["rate"] is cond["rate"]
    assert cond["label"].sum() == count
    assert not (drop_condition(cond, null, 0.0)["label"] == 7).any()
    assert (drop_condition(cond, null, 1.0)["label"] == 7).all()
    with pytest.raises(InputError, match="probability=2 must be in"):
        drop_condition(cond, null, 2)
    with pytest.raises(InputError, match="must be a tensor among the conditions"):
        drop_condition({"text": None}, null, 0.5)


def test_conditions_are_dropped_in_groups_each_by_its_own_draw() -> None:
    cond = {"text": torch.ones(1000, 3), "label": torch.ones(1000, dtype=torch.long)}
    null = {"text": 0.0, "label": 7}
    kept = drop_condition(cond, null, 0.4, groups=[["text", "label"], ["label"]], generator=seeded())
    both, label = torch.rand(2, 1000, generator=seeded()) < 0.4
    assert torch.equal(kept["text"][:, 0] == 0, both)
    assert torch.equal(kept["label"] == 7, both | label)
    assert drop_condition(cond, null, 1.0, groups=[]) == cond
    with pytest.raises(InputError, match="groups name rate, but must be"):
        drop_condition(cond, null, 0.4, groups=[["rate"]])


def test_wrong_settings_say_what_to_do() -> None:
    with pytest.raises(InputError, match=r"rescale=2 must be in \[0, 1\]"):
        ClassifierFree(lambda x, t: x, 2.0, {"label": 0}, rescale=2)
    with pytest.raises(InputError, match=r"interval=\(0.5, 0.2\) must be"):
        ClassifierFree(lambda x, t: x, 2.0, {"label": 0}, interval=(0.5, 0.2))
    with pytest.raises(InputError, match="must name at least one condition"):
        ClassifierFree(lambda x, t: x, 2.0, {})
    with pytest.raises(InputError, match=r"condition text of null_cond must be given .* got label"):
        ClassifierFree(lambda x, t, label: x, 2.0, {"text": 0})(normal(1, 1, 3), 0.5, label=LABEL)
