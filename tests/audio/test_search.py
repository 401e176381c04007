"""Search of grids for vocoders: scores are those of the pipeline, tables serve it, the search is repeatable."""

from __future__ import annotations

import pytest
import torch

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.datasets.layouts import pick_recordings
from mmdiff.audio.magnitude import MagnitudeNet
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.metrics import log_mel_l1
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.search import PUBLISHED, VocoderProblem, read_recordings
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.schedules import BetaTable, wavegrad_betas
from mmdiff.errors import InputError
from mmdiff.media.grid_search import ROUTE, search_table
from mmdiff.media.grid_tables import write_table
from mmdiff.media.searched_grids import GridTable, SearchedGrid


@pytest.fixture(scope="module")
def voc(tiny_model) -> Vocoder:
    found = mmdiff.load(tiny_model, "cpu", "float32")
    assert isinstance(found, Vocoder)
    return found


def tiny_spectral(**settings) -> SpectralVocoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = (make(Stft(), channels=8, depth=1) for make in (MagnitudeNet, PhaseNet))
        model = SpectralVocoder(Stft(), preset("mmdiff-16k"), *networks, iterations=1, **settings)
        for parameter in model.parameters():  # as made, it changes nothing
            parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture
def problem(voc, clips) -> VocoderProblem:
    waves = read_recordings(voc, pick_recordings(clips, limit=2), 0.6)
    assert [wave.shape for wave in waves] == [(1, 9600)] * 2
    return VocoderProblem(voc, waves, seed=4)


def test_a_score_is_that_of_the_pipeline(voc, problem):
    grid = torch.tensor([1.0, 0.7, 0.2, 0.0]).double()
    values = []
    for n, wave in enumerate(problem.waves):
        mel = voc.mel(wave, 16_000)
        made = voc(mel, mel_spec=voc.mel_spec, steps=4, grid=grid, seed=4 + n, samples=9600)
        values.append(log_mel_l1(wave[0], made[0], 16_000))
    assert problem.score(grid, 4) == pytest.approx(sum(values) / 2)
    assert problem.score(problem.own_grid(4), 4) == pytest.approx(
        problem.score(make_grid("uniform", problem.schedule, 3), 4)
    )


def test_errors_of_steps_are_those_of_the_network(problem):
    candidates = make_grid("uniform", problem.schedule, 8)
    errors = problem.errors(candidates)
    assert errors.shape == (9, 9)
    assert bool((errors.triu(1) == errors).all())
    assert bool((errors.triu(1)[torch.ones(9, 9).triu(1) > 0] >= 0).all())
    assert float(errors[0, 8]) > float(errors[4, 5])  # one step for all is worse than one of eight


@pytest.mark.parametrize("measure", ["log_mel_l1", "stoi"])
def test_a_search_never_ends_worse_than_it_began_and_repeats(problem, voc, measure):
    problem = VocoderProblem(voc, problem.waves, measure, seed=4)
    tables = [search_table(problem, [4], evaluations=9) for _ in range(2)]
    assert tables[0] == tables[1]
    (grid,) = tables[0].grids
    assert (grid.steps, ROUTE in grid.others) == (3, True)
    worse = max if measure == "stoi" else min
    assert grid.score == worse([*grid.others.values(), grid.score])
    scores = [score for _, score in grid.history]
    assert scores == sorted(scores, reverse=measure != "stoi")
    assert problem.score(grid.on(problem.schedule), 4) == grid.score


def test_the_pipeline_reads_tables_by_what_its_users_call_steps(voc, tmp_path):
    schedule, mel = (
        voc.model.denoiser.schedule,
        torch.randn(80, 20, generator=torch.Generator().manual_seed(0)) - 5,
    )
    two, three = (torch.tensor(times).double() for times in ([1.0, 0.3, 0.0], [1.0, 0.6, 0.1, 0.0]))
    table = tmp_path / "t.json"
    write_table(
        table, GridTable((SearchedGrid.of(two, schedule), SearchedGrid.of(three, schedule)), sampler="heun")
    )
    expected = voc(mel, steps=4, grid=three, sampler="heun")
    assert torch.equal(voc(mel, steps=4, grid=table), expected)
    assert torch.equal(voc(mel, grid=three, sampler="heun"), expected)  # three steps and the phases
    assert voc.sampling(3, None, table).grid.tolist() == two.tolist()
    assert voc.sampling(None, "ddim", "karras").steps == voc.model.default_steps
    assert voc.sampling(1).grid.tolist() == [1.0, 0.0]
    for options, word in (
        ({"steps": 6, "grid": table}, "must be one of those the table has grids of: 2, 3"),
        ({"grid": table}, "steps=1 must be one of"),  # what the model does by default
        ({"steps": 3, "grid": three}, "grid of 3 steps must have the steps=2"),
        ({"sampler": "magic"}, "sampler='magic' must be one of"),
        ({"steps": 0}, "steps=0 must be at least 1"),
    ):
        with pytest.raises(InputError, match=word):
            voc(mel, **options)


def test_evaluations_are_counted_as_the_model_does_where_none_are_asked_for(tmp_path):
    """Of one evaluation the sampler has none, of two and of three one, of four two."""
    model = tiny_spectral(corrections=(1, 1, 2))
    model.default_steps = 2
    voc = Vocoder(model, "cpu", "float32")
    for grid, evaluations in (
        ("uniform", 2),
        (torch.tensor([1.0, 0.0]), 2),
        (torch.tensor([1.0, 0.5, 0.0]), 4),
    ):
        assert voc.sampling(grid=grid).steps == evaluations
    one = SearchedGrid.of(torch.tensor([1.0, 0.0]).double(), model.denoiser.schedule, asked=3)
    write_table(tmp_path / "t.json", GridTable((one,)))
    assert voc.sampling(grid=tmp_path / "t.json").steps == 3


def test_scores_of_other_evaluations_by_the_same_grid_are_kept_apart():
    model, scores = tiny_spectral(corrections=(1, 1, 2)), {}
    waves = [0.1 * torch.randn(1, 6400, generator=torch.Generator().manual_seed(0))]
    problem = VocoderProblem(Vocoder(model, "cpu", "float32"), waves)
    found = [search_table(problem, [steps], evaluations=1, scores=scores).grids[0] for steps in (2, 3)]
    assert found[0].times == found[1].times
    assert [grid.score for grid in found] == [
        problem.score(torch.tensor([1.0, 0.0]), steps) for steps in (2, 3)
    ]
    assert found[0].score != found[1].score


def test_pairs_of_sound_and_velocity_are_searched():
    network = FrameNet(preset("mmdiff-16k"), 8, 1, latents=0)
    model = WaveformVocoder(preset("mmdiff-16k"), network, CriticallyDamped(), 3, prediction="x0")
    waves = [0.1 * torch.randn(1, 6400, generator=torch.Generator().manual_seed(0))]
    problem = VocoderProblem(Vocoder(model, "cpu", "float32"), waves)
    (grid,) = search_table(problem, [3], evaluations=7).grids
    assert grid.score <= problem.score(problem.own_grid(3), 3)


def test_a_table_model_is_measured_against_the_papers_tables_and_may_begin_later(clips):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = WaveGrad(20, (4, 4, 4), (16, 16, 8), (8, 8), ((1, 2, 1, 2),) * 3, 16, 8)
    mel = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)
    voc = Vocoder(WaveformVocoder(mel, network, BetaTable(wavegrad_betas())), "cpu", "float32")
    problem = VocoderProblem(
        voc, [io.read(clips / "english.flac", sample_rate=mel.sample_rate, duration=0.3)[0]]
    )
    (grid,) = search_table(problem, [6], evaluations=16).grids
    assert set(grid.others) >= {"WaveGrad's table", "DiffWave's table", ROUTE}
    assert grid.score <= min(grid.others.values())
    times = grid.on(problem.schedule)
    assert problem.score(times, 6) == grid.score
    for name, betas in PUBLISHED.items():
        alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0).flip(0)
        alpha = problem.schedule(problem.published(6)[name]).alpha[:-1]
        torch.testing.assert_close(alpha.square(), alpha_bar, atol=1e-9, rtol=1e-9)
    fixed = search_table(problem, [6], evaluations=16, move_start=False).grids[0]
    assert fixed.times[0] in {1.0, *(float(g[0]) for g in problem.published(6).values())}
    assert problem.published(5) == {}
    levels = [float(problem.schedule(grid).alpha[0]) for grid in problem.published(6).values()]
    assert max(levels) < 0.7  # each begins where noise is louder than sound


def test_numbers_of_steps_that_mean_the_same_are_refused(problem, voc, clips):
    with pytest.raises(InputError, match="differ in the sampler's steps"):
        search_table(problem, [1, 2])
    with pytest.raises(InputError, match="measure='loudness' must be one of"):
        VocoderProblem(voc, problem.waves, "loudness")
    assert pick_recordings(clips / "english.flac") == [clips / "english.flac"]
    assert len(pick_recordings(clips)) == 3
