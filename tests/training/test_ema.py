from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from mmdiff.errors import CheckpointError, InputError
from mmdiff.training.ema import EMA, gamma_of_sigma_rel, parse_profile


class Drift(nn.Module):
    """One trained parameter that tests move by hand, one frozen parameter and one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros(()))


def average_of_drift(profile: float | str, steps: int) -> float:
    module = Drift()
    ema = EMA(module, (profile,))
    for n in range(1, steps + 1):
        with torch.no_grad():
            module.place.fill_(float(n))
        ema.update(module)
    return ema.tensors()["place"][0].item()


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_power_profile_weighs_step_i_by_the_difference_of_powers(sigma_rel: float) -> None:
    # Unrolling the recursion: weight of step i among n is (i^(g+1) - (i-1)^(g+1)) / n^(g+1)
    n, power = 200, gamma_of_sigma_rel(sigma_rel) + 1
    i = np.arange(1, n + 1)
    weights = (i / n) ** power - ((i - 1) / n) ** power
    assert weights.sum() == pytest.approx(1)
    assert average_of_drift(f"power:{sigma_rel}", n) == pytest.approx((weights * i).sum(), rel=1e-9)


@pytest.mark.parametrize("sigma_rel", [0.02, 0.05, 0.1, 0.25])
def test_sigma_rel_is_the_relative_width_of_the_profile(sigma_rel: float) -> None:
    gamma, tau = gamma_of_sigma_rel(sigma_rel), (np.arange(1_000_000) + 0.5) / 1_000_000
    density = (gamma + 1) * tau**gamma
    mean = (density * tau).mean()
    assert math.sqrt((density * (tau - mean) ** 2).mean()) == pytest.approx(sigma_rel, rel=1e-4)


def test_gammas_of_the_paper() -> None:
    assert gamma_of_sigma_rel(0.05) == pytest.approx(16.97, abs=0.01)
    assert gamma_of_sigma_rel(0.10) == pytest.approx(6.94, abs=0.01)
    assert average_of_drift("gamma:6.94", 50) == pytest.approx(average_of_drift("power:0.1", 50), rel=1e-3)


def test_constant_decay_lags_a_drift_by_its_length() -> None:
    # Stationary: e = d e + (1 - d) n - ... gives a lag of d / (1 - d) steps
    assert average_of_drift(0.9, 1000) == pytest.approx(1000 - 0.9 / 0.1, rel=1e-9)


def test_constant_decay_warms_up() -> None:
    decay = parse_profile(0.999)
    assert [decay(n) for n in (0, 8, 10_000)] == pytest.approx([0.1, 0.5, 0.999])


def test_several_lengths_at_once_do_not_meet() -> None:
    together, alone = EMA(Drift(), (0.5, "power:0.2")), [EMA(Drift(), (p,)) for p in (0.5, "power:0.2")]
    module = Drift()
    for n in range(5):
        with torch.no_grad():
            module.place.fill_(n**2)
        for ema in (together, *alone):
            ema.update(module)
    for index in (0, 1):
        assert torch.equal(together.tensors(index)["place"], alone[index].tensors()["place"])


def test_applied_swaps_in_and_back_even_after_an_error() -> None:
    module = Drift()
    ema = EMA(module, (0.5,))
    with torch.no_grad():
        module.place.fill_(8.0)
    ema.update(module)
    own, average = module.place.clone(), ema.tensors()["place"].clone()

    def fail_inside() -> None:
        with ema.applied(module):
            assert torch.equal(module.place, average)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert torch.equal(module.place, own)
    assert ema.tensors().keys() == {"place"}
    ema.copy_to(module)
    assert torch.equal(module.place, average)


@pytest.mark.parametrize("profile", [1.0, -0.1, "power:0.5", "power:x", "gamma:-2", "long"])
def test_wrong_profiles_are_refused(profile: float | str) -> None:
    with pytest.raises(InputError, match=r"must (be|lie)"):
        EMA(Drift(), (profile,))


def test_foreign_averages_are_refused() -> None:
    with pytest.raises(CheckpointError, match="place"):
        EMA(Drift()).load(0, {"place": torch.zeros(4)})
