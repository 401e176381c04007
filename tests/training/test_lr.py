from __future__ import annotations

import pytest
import torch
from torch.optim import lr_scheduler

from mmdiff.errors import InputError
from mmdiff.training.lr import SCHEDULES, LearningRate


def torch_rates(make: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_and_linear_equal_torch() -> None:
    cosine = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=50), 50)
    linear = torch_rates(lambda o: lr_scheduler.LinearLR(o, 1.0, 1e-12, total_iters=50), 50)
    for name, expected in (("cosine", cosine), ("linear", linear)):
        rate = LearningRate(0.3, name, 0, 50)
        assert [rate(n) for n in range(50)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_is_linear_and_joins_the_schedule_at_its_peak(name: str) -> None:
    rate = LearningRate(2.0, name, 10, 100)
    assert [rate(n) for n in range(10)] == pytest.approx([0.2 * (n + 1) for n in range(10)])
    assert rate(10) == pytest.approx(2.0, rel=0.05)
    after = [rate(n) for n in range(10, 100)]
    assert after == sorted(after, reverse=True)
    assert min(after) > 0


def test_inverse_square_root() -> None:
    rate = LearningRate(1.0, "inverse_sqrt", 100, 10_000)
    assert rate(399) == pytest.approx(0.5)
    assert rate(9999) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((1.0, "cosin", 0, 5), "lr_schedule"),
        ((0.0, "cosine", 0, 5), "learning_rate"),
        ((1.0, "cosine", -1, 5), "warmup"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple, name: str) -> None:
    with pytest.raises(InputError, match=name):
        LearningRate(*arguments)
