"""Models written back as checkpoints of LMNT's packages, which load them and go on training."""

from __future__ import annotations

import lmnt
import pytest
import torch
from diffwave.learner import DiffWaveLearner
from wavegrad.learner import WaveGradLearner

from mmdiff.audio.checkpoints import lmnt_diffwave, lmnt_wavegrad
from mmdiff.audio.energy_prior import EnergyPrior
from mmdiff.audio.mel import preset
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.convert import convert, export
from mmdiff.diffusion.schedules import BetaTable, LinearBetaVP, diffwave_betas
from mmdiff.errors import InputError
from mmdiff.hub import save_model

SIZES = {"n_mels": 13, "residual_layers": 7, "residual_channels": 6, "dilation_cycle_length": 3}


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def go_on(learner, model, tmp_path):
    """Load the file as the package's trainer does when it goes on."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    learner = learner(str(tmp_path / "out"), model, [], optimizer, model.params)
    assert learner.restore_from_checkpoint()
    assert learner.step == 1234
    return optimizer


def equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_wavegrad_comes_back_as_it_was_and_its_package_goes_on_with_it(tmp_path, rng):
    theirs = lmnt.wavegrad_default()
    lmnt.randomise(theirs, rng)
    model, _ = convert(lmnt.save(theirs, tmp_path / "weights.pt"))
    after = lmnt_wavegrad.export_model(model, 1234)
    assert after["params"] == theirs.params
    (tmp_path / "out").mkdir()
    torch.save(after, tmp_path / "out" / "weights.pt")
    fresh = lmnt.wavegrad_default()
    go_on(WaveGradLearner, fresh, tmp_path)
    assert equal(fresh.state_dict(), theirs.state_dict())


def test_diffwave_of_other_sizes_comes_back_as_it_was_and_its_package_goes_on_with_it(tmp_path, rng):
    theirs = lmnt.diffwave(**SIZES)
    lmnt.randomise(theirs, rng)
    model, facts = convert(lmnt.save(theirs, tmp_path / "weights.pt"))
    save_model(model, tmp_path / "model", extra={"converted": facts}, half=False)
    facts = export(tmp_path / "model", tmp_path / "out" / "weights.pt")
    assert (facts["format"], facts["training_steps"]) == ("DiffWave by LMNT", 1234)
    after = torch.load(tmp_path / "out" / "weights.pt")
    assert {**theirs.params, "unconditional": False, "audio_len": 110_250} == after["params"]
    fresh = lmnt.diffwave(**{key: after["params"][key] for key in after["params"]})
    optimizer = go_on(DiffWaveLearner, fresh, tmp_path)
    assert equal(fresh.state_dict(), theirs.state_dict())
    fresh(torch.randn(1, 512), torch.rand(1, 13, 2), torch.tensor([3])).sum().backward()
    optimizer.step()
    assert optimizer.param_groups[0]["lr"] == 2e-4


def test_a_model_of_sound_comes_back_through_our_reader(tmp_path, rng):
    network = DiffWave(0, 6, 4, 2)
    model = SoundModel(network, BetaTable(diffwave_betas(200)), 16_000, seconds=0.5, steps=200, clamp="state")
    save_model(model, tmp_path / "model", half=False)
    facts = export(tmp_path / "model", tmp_path / "weights.pt")
    assert (facts["params"]["unconditional"], facts["params"]["audio_len"]) == (True, 8_000)
    twin, facts = convert(tmp_path / "weights.pt")
    assert (twin.seconds, twin.sample_rate, facts["training_steps"]) == (0.5, 16_000, 0)
    assert twin.denoiser.schedule == model.denoiser.schedule
    assert equal(twin.state_dict(), model.state_dict())


DIFFWAVE = preset("lmnt-diffwave-22k")
TABLE, VP = BetaTable(diffwave_betas()), LinearBetaVP()


def small_wavegrad() -> WaveGrad:
    return WaveGrad(128, (60, 5), (4, 4), (4,), ((1, 2, 1, 2),) * 2, 4, 4)


def small(n_mels=80, factors=(16, 16), classes=0) -> DiffWave:
    return DiffWave(n_mels, 2, 2, 2, factors, classes=classes)


def vocoder(*parts, **options) -> WaveformVocoder:
    return WaveformVocoder(*parts, clamp="state", **options)


@pytest.mark.parametrize(
    ("place", "model", "message"),
    [
        (lmnt_wavegrad, lambda: vocoder(preset("lmnt-wavegrad-22k"), small_wavegrad(), TABLE), "strided"),
        (lmnt_wavegrad, lambda: vocoder(preset("lmnt-wavegrad-22k"), small_wavegrad(), VP), "LinearBetaVP"),
        (lmnt_diffwave, lambda: vocoder(preset("hifigan-22k"), small(), TABLE), "mel=hifigan-22k must"),
        (lmnt_diffwave, lambda: vocoder(DIFFWAVE, small(80, (32, 8)), TABLE), r"factors=\[32, 8\]"),
        (lmnt_diffwave, lambda: vocoder(DIFFWAVE, small(), TABLE, prior=EnergyPrior(0, 1)), "prior="),
        (
            lmnt_diffwave,
            lambda: SoundModel(small(0, classes=2), TABLE, 8000, labels=("a", "b"), clamp="state"),
            "classes=2",
        ),
        (
            lmnt_diffwave,
            lambda: WaveformVocoder(DIFFWAVE, small(), TABLE, clamp="data"),
            "clamp='data' must be 'state': .* of config.json, listen",
        ),
    ],
)
def test_what_the_packages_would_compute_otherwise_is_refused(place, model, message):
    with pytest.raises(InputError, match=message):
        place.export_model(model(), 0)


def test_other_networks_and_projects_are_named(tmp_path):
    with pytest.raises(InputError, match="must have a model of WaveGrad or DiffWave; vocoder-16k is a"):
        export("vocoder-16k", tmp_path / "weights.pt")
    with pytest.raises(InputError, match="to='nvidia' must be one of lmnt"):
        export("vocoder-16k", tmp_path / "weights.pt", to="nvidia")
