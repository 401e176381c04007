"""Bits of sets of files, and the ranks of one beside the other."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import gaussian
from scipy import stats
from torch import Tensor

from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.media.likelihoods import ChainLikelihood, Item, coded_bits, measure_sets, rank_estimate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ranks_are_the_share_of_pairs() -> None:
    outside = torch.tensor([3.0, 1.0, 2.0, 5.0])
    inside = torch.tensor([1.0, 2.0, 0.0])
    found = rank_estimate(outside, inside)
    expected = stats.mannwhitneyu(outside.numpy(), inside.numpy()).statistic / 12
    assert found.value == pytest.approx(float(expected))
    assert found.samples == 4
    assert 0 <= found.low < found.value < found.high <= 1
    apart = rank_estimate(torch.arange(8.0) + 10, torch.arange(8.0))
    assert (apart.value, apart.high) == (1.0, 1.0)
    assert 0.6 < apart.low < 0.9
    mirrored = rank_estimate(torch.arange(8.0), torch.arange(8.0) + 10)
    assert (mirrored.low, mirrored.high) == (0.0, pytest.approx(1 - apart.low))


def test_intervals_of_ranks_hold_the_truth() -> None:
    truth, hits = float(stats.norm.cdf(1 / math.sqrt(2))), 0
    for seed in range(100):
        values = torch.randn(2, 40, generator=seeded(seed), dtype=torch.float64)
        found = rank_estimate(values[0] + 1, values[1])
        hits += found.low < truth < found.high
    assert hits >= 88  # 95 % in expectation


def test_a_general_compressor_finds_what_repeats() -> None:
    noise = torch.randint(0, 256, (3, 4, 32, 32), generator=seeded()).to(torch.uint8)
    assert coded_bits(noise) == pytest.approx(8, rel=0.05)
    assert coded_bits(torch.full_like(noise, 77)) < 0.1
    ramp = torch.arange(-4000, 4000).to(torch.int16)
    assert coded_bits(ramp) < 0.2


MEAN, STD, BINS = 0.2, 0.3, Quantisation(2 / 255)


def items(mean: float, std: float, count: int, seed: int) -> list[Item]:
    values = mean + std * torch.randn(count, 1, 64, generator=seeded(seed), dtype=torch.float64)
    whole = ((values.clamp(-1, 1) + 1) * 127.5).round()
    return [Item(f"{n}.png", row / 127.5 - 1, coded_bits(row.to(torch.uint8))) for n, row in enumerate(whole)]


def test_sets_are_measured_and_ranked() -> None:
    schedule = CosineVP()
    sets = {
        "known": items(MEAN, STD, 24, 0),
        "shifted": items(-0.5, STD, 12, 1),
        "alike": items(MEAN, STD, 12, 2),
    }
    denoiser = gaussian(MEAN, STD).denoiser(schedule)
    likelihood = ChainLikelihood(denoiser, schedule, BINS, 48)
    known, shifted, alike = measure_sets(likelihood, sets, seed=5, batch=12, progress=False)
    # the entropy of such numbers: that of the density, over the bin
    entropy = math.log2(STD * math.sqrt(2 * math.pi * math.e) / BINS.step)
    assert known.measures["bits"].low - 0.1 < entropy < known.measures["bits"].high + 0.1
    assert known.about["files"] == 24
    assert "auroc" not in known.measures
    assert shifted.measures["bits"].value > entropy + 1
    assert shifted.measures["auroc"].value > 0.95
    assert 0.2 < alike.measures["auroc"].value < 0.8
    rows = shifted.details["ranking"]
    assert [row["bits"] for row in rows] == sorted((row["bits"] for row in rows), reverse=True)
    assert {row["file"] for row in rows} == {f"{n}.png" for n in range(12)}


def test_a_files_bits_do_not_depend_on_the_batch() -> None:
    schedule = CosineVP()
    denoiser = gaussian(MEAN, STD).denoiser(schedule)

    def told(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        assert len(shift) == len(x)
        return denoiser(x, t)

    files = [Item(item.name, item.state, cond={"shift": torch.zeros(1)}) for item in items(MEAN, STD, 5, 0)]
    files.append(Item("longer", torch.zeros(1, 80, dtype=torch.float64), cond={"shift": torch.zeros(1)}))
    likelihood = ChainLikelihood(told, schedule, draws=4)
    found = [measure_sets(likelihood, {"all": files}, batch=batch, progress=False)[0] for batch in (1, 4)]
    one, other = ({row["file"]: row["bits"] for row in score.details["ranking"]} for score in found)
    assert one == pytest.approx(other)
    assert math.isnan(found[0].details["ranking"][0]["coded"])
    assert "coded" not in found[0].measures
    with pytest.raises(InputError, match="nothing must have files"):
        measure_sets(likelihood, {"nothing": []}, progress=False)
