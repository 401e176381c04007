"""Precision and coverage, against what can be said of them exactly."""

from __future__ import annotations

import pytest
import torch

from mmdiff.errors import InputError
from mmdiff.media.coverage import expected_coverage, precision_and_coverage


def _normal(count: int, seed: int, dims: int = 3) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def test_copies_are_precise_and_cover():
    real = _normal(50, 0)
    found = precision_and_coverage(real, real)
    assert found.precision.value == found.coverage.value == 1.0


def test_a_generator_of_half_the_points_on_a_line():
    # points 0, 1, ..., 9: with one neighbour every ball has radius 1
    real = torch.arange(10.0)[:, None]
    found = precision_and_coverage(real, torch.tensor([[0.0], [2.5], [20.0], [30.0]]), neighbours=1)
    assert found.precision.value == 0.5  # 0 and 2.5 lie among them
    assert found.coverage.value == 0.4  # 0, 1 beside 0 and 2, 3 beside 2.5
    assert (found.precision.samples, found.coverage.samples) == (4, 10)


@pytest.mark.parametrize(("real", "generated", "neighbours"), [(60, 60, 5), (80, 30, 3), (40, 10, 1)])
def test_coverage_of_equal_distributions_is_the_closed_form_whatever_they_are(real, generated, neighbours):
    found = [
        precision_and_coverage(
            _normal(real, 2 * n) ** 3, _normal(generated, 2 * n + 1) ** 3, neighbours
        ).coverage.value
        for n in range(200)
    ]
    values = torch.tensor(found, dtype=torch.float64)
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean()) - expected_coverage(real, generated, neighbours)) < 4 * error


def test_one_mode_of_two_is_precise_and_covers_half():
    modes = torch.cat((_normal(100, 0), _normal(100, 1) + 100))
    found = precision_and_coverage(modes, _normal(400, 2))
    assert found.precision.value > 0.8
    assert 0.45 < found.coverage.value <= 0.5


def test_slips_are_explained():
    with pytest.raises(InputError, match="real has 3 samples and must have 6"):
        precision_and_coverage(_normal(3, 0), _normal(9, 1))
    with pytest.raises(InputError, match="same feature network"):
        precision_and_coverage(_normal(9, 0, dims=2), _normal(9, 1))
    with pytest.raises(InputError, match="neighbours=0"):
        precision_and_coverage(_normal(9, 0), _normal(9, 1), neighbours=0)
