"""Gaps filled by a model of spectrograms: one that is exact for one spectrogram a label puts just that there."""

from __future__ import annotations

import math

import librosa
import pytest
import torch
from torch import Tensor, nn

from mmdiff.audio.editing.edits import SoundEdit, bandwidth_extension, continuation, declipping, gap_filling
from mmdiff.audio.editing.mel import completed, known_bands
from mmdiff.audio.editing.sound import edit_sound
from mmdiff.audio.editing.tools import EditOptions, Method
from mmdiff.audio.evaluation.edits import evaluate_edits
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.sampling import decide_sampling
from mmdiff.audio.stft import Stft
from mmdiff.diffusion.schedules import CosineVP
from mmdiff.errors import InputError
from mmdiff.hub import load_model

RATE, LABELS = 16_000, ("low", "high")
FRAMES = 32  # of the half second that the model has learned


class ExactNetwork(nn.Module):
    """Says v of data of which each label has one item: x0 whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = len(LABELS)
        ramp = torch.linspace(-1, 1, FRAMES)[:, None] + torch.linspace(-1, 1, 80)
        self.items = nn.Parameter(torch.stack([ramp, -ramp, 0 * ramp])[:, None])

    def forward(self, x: Tensor, level: Tensor, *, label: Tensor | None = None) -> Tensor:
        assert label is not None
        assert x.shape[2] == FRAMES
        angle = level.reshape(-1, 1, 1, 1) * math.pi / 2
        x0 = self.items[label] + 0 * x
        return (angle.cos() * x - x0) / angle.sin().clamp_min(1e-6)


@pytest.fixture(scope="module")
def gen(tiny_model) -> SoundGenerator:
    model = MelSoundModel(ExactNetwork(), CosineVP(), MelSpec(), "tiny", 0.5, LABELS, steps=4)  # type: ignore[arg-type]
    return SoundGenerator(model, "cpu", "float32", load_model(tiny_model))


def wave(seconds: float, count: int = 1) -> Tensor:
    return 0.1 * torch.randn(count, round(seconds * RATE), generator=torch.Generator().manual_seed(0))


def draw(gen: SoundGenerator, edit: SoundEdit, label: int, method: Method = "replacement") -> Tensor:
    model = gen.model
    assert isinstance(model, MelSoundModel)
    options = EditOptions(decide_sampling(model), method, weight=1.0, solves=1, seed=0, temperature=1.0)
    with torch.no_grad():
        return completed(model, Stft(), torch.tensor([label]), 1.0, edit, options=options)


@pytest.mark.parametrize("method", ["replacement", "reconstruction"])
def test_what_is_not_known_is_the_labels_and_frames_that_are_known_stay(gen, method):
    sound = wave(0.5)
    edit = gap_filling(sound, RATE, [(0.2, 0.36)])
    for label in (0, 1):
        mel = draw(gen, edit, label, method=method)
        wanted = gen.model.from_model(gen.model.denoiser.network.items[label][None].detach())
        torch.testing.assert_close(mel[..., 15:21], wanted[..., 15:21], atol=2e-3, rtol=0)
        torch.testing.assert_close(mel[..., :10], gen.model.mel(sound)[..., :10])
        torch.testing.assert_close(mel[..., 25:], gen.model.mel(sound)[..., 25:])


def test_a_short_sound_lies_in_the_middle_of_what_the_model_has_learned(gen):
    edit = continuation(wave(0.128), RATE, 0.128)  # 17 frames, so 7 before and 8 after
    mel = draw(gen, edit, 0)
    wanted = gen.model.from_model(gen.model.denoiser.network.items[0][None].detach())
    assert mel.shape[-1] == 17
    torch.testing.assert_close(mel[..., 11:], wanted[..., 18:24], atol=2e-3, rtol=0)


def test_a_gap_in_a_long_sound_is_seen_with_as_much_as_the_model_has_learned(gen):
    edit = gap_filling(wave(2.0), RATE, [(0.9, 1.0), (1.7, 1.8)])
    assert draw(gen, edit, 0).shape[-1] == 126  # the network refuses windows of other lengths


def test_sound_is_made_of_the_spectrogram_and_known_samples_stay(gen):
    sound = wave(0.5, 2)
    edit = gap_filling(sound, RATE, [(0.2, 0.36)])
    made = edit_sound(gen, edit, "high", seed=3)
    assert torch.equal(made[edit.known], sound[edit.known])
    found = gen.model.mel(made)[..., 15:21]
    wanted = gen.model.from_model(gen.model.denoiser.network.items[1][None].detach())[..., 15:21]
    assert (found - wanted).abs().mean() < 0.5
    alone = edit_sound(gen, gap_filling(sound[1], RATE, [(0.2, 0.36)]), "high", seed=4)
    torch.testing.assert_close(alone[0], made[1], atol=1e-3, rtol=0)
    longer = edit_sound(gen, continuation(sound[:, :4000], RATE, 0.2), "low")
    assert torch.equal(longer[:, :4000], sound[:, :4000])
    assert longer[:, 4000:].std() > 1e-3


def test_bands_below_a_rate_are_those_whose_filters_end_there():
    edges = librosa.mel_frequencies(82, fmin=0, fmax=8000)
    for rate in (2000, 7200, 15_900):
        ends = torch.from_numpy(edges[2:] <= rate / 2 + RATE / 1024)  # to within a bin of the transform
        assert (known_bands(MelSpec(), rate) <= ends).all()
        assert int(ends.sum() - known_bands(MelSpec(), rate).sum()) <= 2
    assert known_bands(MelSpec(), 16_000).all()


def test_what_lies_above_a_band_is_the_labels(gen):
    edit = bandwidth_extension(wave(0.5)[:, ::2], RATE // 2, RATE)
    for label in (0, 1):
        mel = draw(gen, edit, label)[..., :FRAMES]
        wanted = gen.model.from_model(gen.model.denoiser.network.items[label][None].detach())
        bands = known_bands(gen.model.mel, edit.known_rate)
        assert 40 < int(bands.sum()) < 70
        torch.testing.assert_close(mel[:, bands], gen.model.mel(edit.wave)[:, bands][..., :FRAMES])
        torch.testing.assert_close(mel[:, ~bands], wanted[:, ~bands], atol=2e-3, rtol=0)
    made = edit_sound(gen, edit, "low")
    known = edit.measurement()
    torch.testing.assert_close(known.forward(made[:, None]), known.y, atol=1e-5, rtol=0)
    assert (made - edit.wave).std() > 1e-4


def test_what_it_cannot_do_is_said(gen):
    sound = wave(0.5).clamp(-0.1, 0.1)
    with pytest.raises(InputError, match="a model of spectrograms does not declip"):
        edit_sound(gen, declipping(sound, RATE, 0.1))
    edit = continuation(sound, RATE, 0.1)
    with pytest.raises(InputError, match="method='magic'"):
        edit_sound(gen, edit, method="magic")  # type: ignore[arg-type]
    other = MelSoundModel(ExactNetwork(), CosineVP(), MelSpec(f_max=7000), "tiny", 0.5, LABELS)  # type: ignore[arg-type]
    assert gen.vocoder is not None
    with pytest.raises(InputError, match="vocoder='tiny' must be a spectral one"):
        edit_sound(SoundGenerator(other, "cpu", "float32", gen.vocoder.model), edit)


def test_it_is_measured_beside_its_vocoder_and_linear_prediction(gen):
    scores = evaluate_edits(gen, [wave(0.5)], labels=["low"], measures=["log_mel_l1"], progress=False)
    rows = {(score.about["task"], score.name) for score in scores}
    assert len(rows) == len(scores)
    tasks = ("gaps of 50 ms", "gap of 200 ms in the middle", "second half", "half the rate doubled")
    methods = ("replacement in x0", "reconstruction guidance")
    assert rows >= {(task, name) for task in tasks for name in methods}
    assert rows >= {(task, "linear prediction") for task in tasks[:3]} | {(tasks[3], "resampling")}
    assert (tasks[1], "vocoder, spectrogram interpolated") in rows
    assert (tasks[2], "vocoder, spectrogram interpolated") not in rows
