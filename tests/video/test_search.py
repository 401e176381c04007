"""Search of grids for models of clips, on pixels whose denoiser is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.media.grid_search import OWN, ROUTE, search_table
from mmdiff.media.grid_tables import read_table, write_table
from mmdiff.media.searched_grids import GridTable
from mmdiff.video.generator import ClipGenerator
from mmdiff.video.model import ClipModel
from mmdiff.video.search import ClipProblem


class Bright(nn.Module):
    """Exact network for pixels that are dark or bright, 0.5 and -0.5 with deviation 0.1: v from log-SNR."""

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = (side.sigmoid().sqrt().reshape(-1, 1, 1, 1, 1) for side in (level, -level))
        variance = alpha**2 * 0.01 + sigma**2
        bright = torch.sigmoid(alpha * x / variance)  # log p(x | bright) - log p(x | dark)
        x0 = (bright - 0.5) + 0.01 * alpha / variance * (x - alpha * (bright - 0.5))
        return (alpha * x - x0) / sigma  # v = alpha eps - sigma x0


@pytest.fixture(scope="module")
def gen() -> ClipGenerator:
    model = ClipModel(
        Bright(), CosineVP(), channels=1, frames=4, size=(2, 2), clamp=False, steps=5, sampler="ddim"
    )
    return ClipGenerator(model, "cpu", "float32")


@pytest.fixture(scope="module")
def problem(gen: ClipGenerator) -> ClipProblem:
    return ClipProblem(gen, [None] * 32, seed=5)


@pytest.fixture(scope="module")
def table(problem: ClipProblem) -> GridTable:
    return search_table(problem, [3, 5], evaluations=30, model="bright")


def test_many_steps_make_what_the_measure_asks_for(problem: ClipProblem):
    fine = problem.score(make_grid("uniform", problem.schedule, 200), 200)
    assert fine < 0.02 < problem.score(make_grid("uniform", problem.schedule, 5), 5)
    clips = problem.target
    assert float((clips.abs() - 0.5).abs().mean()) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.15)


def test_searched_clips_are_nearer_on_noise_that_was_not_searched_with(gen: ClipGenerator, table: GridTable):
    unseen = ClipProblem(gen, [None] * 32, seed=1000)
    for grid in table.grids:
        assert set(grid.others) >= {OWN, ROUTE, "uniform", "log_snr"}
        assert grid.score <= min(grid.others.values())
        others = [
            unseen.score(make_grid(name, unseen.schedule, grid.steps), 0) for name in ("uniform", "log_snr")
        ]
        assert unseen.score(grid.on(unseen.schedule), 0) < 0.95 * min(others)


def test_the_pipeline_reads_the_table(gen: ClipGenerator, table: GridTable, problem: ClipProblem, tmp_path):
    path = write_table(tmp_path / "t.json", table)
    expected = gen(grid=list(table.grids[0].times), sampler="ddim", seed=3)
    for source in (path, str(path), read_table(path)):
        assert torch.equal(gen(grid=source, steps=3, seed=3), expected)
    assert torch.equal(gen(grid=path, seed=3), gen(grid=path, steps=5, seed=3))  # the model's own number
    assert gen.evaluations == 5
    assert gen.request(grid=path, steps=3).sampling.sampler == "ddim"
    with pytest.raises(InputError, match="steps=4 must be one of those the table has grids of: 3, 5"):
        gen(grid=path, steps=4)


def test_the_tables_sampler_is_used_unless_another_is_asked_for(gen: ClipGenerator, tmp_path):
    found = search_table(ClipProblem(gen, [None] * 2, sampler="heun", fine=20), [2], evaluations=8)
    path = write_table(tmp_path / "t.json", found)
    assert gen.request(grid=path).sampling.sampler == "heun"
    assert gen.request(grid=path, sampler="deis").sampling.sampler == "deis"


def test_samplers_that_draw_noise_or_keep_to_no_grid_are_refused(gen: ClipGenerator):
    for sampler, rule in (
        ("ddpm", "deterministic one here"),
        ("adaptive", "keeps to a grid"),
        ("x", "keeps to"),
    ):
        with pytest.raises(InputError, match=rule):
            ClipProblem(gen, [None], sampler=sampler)
