from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.evaluation.baselines import griffin_lim_of_mel, without_network
from mmdiff.audio.evaluation.vocoders import System, _Tally, evaluate_vocoder
from mmdiff.audio.mel import PRESETS
from mmdiff.audio.plot import plot_vocoding
from mmdiff.errors import InputError


@pytest.mark.parametrize("name", ["mmdiff-16k", "hifigan-22k", "lmnt-diffwave-22k"])
def test_griffin_lim_has_the_mel_it_was_given(name, english):
    spec = PRESETS[name]
    mel = spec(io.resample(english, 16_000, spec.sample_rate))[0]
    wave = griffin_lim_of_mel(mel, spec, iterations=8)
    assert len(wave) == spec.samples(mel.shape[1])
    again = spec(wave[None])[0]
    frames = min(again.shape[1], mel.shape[1])
    loud = mel[:, :frames] > mel.max() - 4 * spec.gain
    error = (again[:, :frames] - mel[:, :frames])[loud].abs().mean() / spec.gain
    assert error < 0.35  # nepers; an unrelated voice is above 1


def test_pipeline_without_network_meets_the_bands(tiny_model, english):
    voc = mmdiff.load(tiny_model, device="cpu")
    voc.model.iterations = 32
    mel = voc.mel(english, 16_000)
    wave = without_network(voc.model, mel[0], voc.mel_spec, english.shape[1])
    assert wave.shape == english.shape[1:]
    again = voc.mel(wave[None], 16_000)
    loud = mel > mel.max() - 4
    assert (again - mel)[loud].abs().mean() < 0.3


def test_tally_takes_means_over_files_and_seeds_without_nan():
    values = {0: 1.0, 1: 3.0}  # by seed: a constant offset between reference and estimate

    def synthesise(mel, samples, seed):
        return torch.full((samples,), 0.1 * values[seed]) + torch.linspace(0, 0.01, samples)

    tally = _Tally(System("x", 3, synthesise, True), (0, 1), ("mr_stft", "lsd"))
    wave = torch.sin(torch.arange(4000) / 7)
    tally.add("long", wave, torch.zeros(1, 1), 4000, 16_000)
    tally.add("other", wave.flip(0) / 2, torch.zeros(1, 1), 4000, 16_000)
    with pytest.warns(UserWarning, match="fewer than 1024"):
        tally.add("short", wave[:500], torch.zeros(1, 1), 500, 16_000)
    score = tally.score()
    per_file = score.details["per_file"]
    assert set(per_file) == {"long", "other", "short"}
    assert math.isnan(per_file["short"]["lsd"])
    found, low, high = score.measures["lsd"], *sorted(per_file[name]["lsd"] for name in ("long", "other"))
    middle, reach = (low + high) / 2, 1.96 * (high - low) / 2
    assert found[:4] == pytest.approx((middle, middle - reach, middle + reach, 2), rel=1e-4)
    assert 0 < score.measures["diversity"].value < 10
    assert score.about["seeds"] == 2
    assert tally.seconds == pytest.approx(2 * 8500 / 16_000)


def test_zero_noise_is_deterministic_and_seeds_differ(tiny_model, clips):
    voc = mmdiff.load(tiny_model, device="cpu")
    threads = torch.get_num_threads()
    files = [Path(clips) / "italian.flac"]
    scores = evaluate_vocoder(voc, files, (2,), seeds=(0, 1), measures=("lsd",), progress=False)
    assert torch.get_num_threads() == threads
    by_name = {score.name: score for score in scores}
    assert "diversity" not in by_name["zero noise"].measures
    assert by_name["model"].measures["diversity"].value > 0.1
    assert by_name["model"].about["spread"]["lsd"] > 0
    assert all(score.measures["real_time_factor"].value > 0 for score in scores)


def test_nothing_to_evaluate_is_an_error(tiny_model):
    with pytest.raises(InputError, match="at least one of each"):
        evaluate_vocoder(mmdiff.load(tiny_model), [])


def test_picture_is_written_whole(tmp_path, english):
    spec = PRESETS["mmdiff-16k"]
    mel = spec(english)[0]
    path = plot_vocoding(tmp_path / "new" / "x.png", mel, mel, spec, english[0], 16_000, "speech")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]
    assert np.isfinite(mel).all()
