"""``mmdiff evaluate --likelihood`` of models of clips and of sound."""

from __future__ import annotations

import json

import pytest
import tiny_clips
import torch

from mmdiff.audio.latent_sound import LatentSoundModel
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.frames import FrameNet
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, CosineVP, diffwave_betas, vp_betas
from mmdiff.hub import save_model
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.video import io as videos
from mmdiff.video.evaluate_likelihood import DIGITS
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet


@pytest.fixture(scope="module")
def clips_model(tmp_path_factory):
    """Make a function that saves an untrained model of clips, of moving digits or of anything."""

    def save(digits):
        captions = tiny_clips.DIGITS if digits else ("rain", "snow")
        folder = tmp_path_factory.mktemp("models") / "tiny-clips"
        return tiny_clips.save_clips_model(folder, captions, frames=2)

    return save


@pytest.fixture
def noisy_and_grey(tmp_path):
    """Two folders of videos that are easily told apart."""
    g = torch.Generator().manual_seed(0)
    for folder, colours in (("grey", (1, 1, 1, 1)), ("noisy", (3, 6, 32, 32))):
        (tmp_path / folder).mkdir()
        for n in range(3):
            video = torch.randint(0, 256, colours, generator=g).to(torch.uint8).expand(3, 6, 32, 32)
            videos.write(tmp_path / folder / f"{n}.npz", video, 8)
    return tmp_path / "grey", tmp_path / "noisy"


def test_sets_of_videos(mmdiff_command, clips_model, noisy_and_grey, tmp_path):
    out = tmp_path / "bits.json"
    options = ("--likelihood", "--model", clips_model(False), "--steps", 3, "--limit", 3, "-o", out)
    outcome = mmdiff_command("evaluate", *noisy_and_grey, *options)
    assert outcome.status == 0, outcome.err
    header = [cell.strip() for cell in outcome.out.splitlines()[0].split("|")[1:-1]]
    assert header[:3] == ["set", "files", "bits/dim ↓"]
    assert "rank, bits/dim" in header
    grey, noisy = json.loads(out.read_text())
    assert (grey["set"], noisy["set"], noisy["files"], noisy["draws"]) == ("grey", "noisy", 3, 3)
    assert noisy["measures"]["bits"]["value"] > 6 > grey["measures"]["coded"]["value"]
    assert noisy["measures"]["coded"]["value"] > 7.5
    assert {row["file"] for row in noisy["ranking"]} == {
        str(noisy_and_grey[1] / f"{n}.npz") for n in range(3)
    }


def test_folders_of_the_same_name_are_two_sets(
    mmdiff_command, clips_model, noisy_and_grey, tmp_path, monkeypatch
):
    grey, noisy = noisy_and_grey
    (tmp_path / "a").mkdir()
    noisy.rename(tmp_path / "a" / "videos")
    grey.rename(tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    options = ("--likelihood", "--model", clips_model(False), "--steps", 2, "--limit", 1, "--json")
    for sets in (("a/videos", "videos"), ("videos", "videos")):
        outcome = mmdiff_command("evaluate", *sets, *options)
        assert outcome.status == 0, outcome.err
        assert [json.loads(line)["set"] for line in outcome.out.splitlines()] == ["videos", "videos (2)"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", 0], "steps=0 must be at least 1"),
        (["--seed", -1], "seed=-1 must be a whole number from 0"),
    ],
)
def test_numbers_that_make_no_sense_are_named_first(mmdiff_command, clips_model, options, message):
    outcome = mmdiff_command("evaluate", "nowhere", "--likelihood", "--model", clips_model(False), *options)
    assert outcome.status == 2
    assert message in outcome.err


def test_clips_under_a_model_of_latents(mmdiff_command, noisy_and_grey, tmp_path):
    torch.manual_seed(0)
    own = Autoencoder(3, 3, 4, widths=(8,), factors=((1, 4, 4),), kernel=1)
    network = SpaceTimeUNet(4, widths=(8, 16), mixing=("", "time"), blocks=1, embedding=16, head_width=8)
    model = ClipModel(network, CosineVP(), frames=2, autoencoder=own, mixed=True)
    options = ("--likelihood", "--model", save_model(model, tmp_path / "latent"), "--steps", 3, "--json")
    outcome = mmdiff_command("evaluate", *noisy_and_grey, *options)
    assert outcome.status == 0, outcome.err
    grey, noisy = map(json.loads, outcome.out.splitlines())
    assert (grey["set"], noisy["set"], noisy["files"], noisy["draws"]) == ("grey", "noisy", 3, 3)
    for score in (grey, noisy):
        parts = score["measures"]
        total = parts["diffusion"]["value"] + parts["decoder"]["value"]
        assert parts["bits"]["value"] == pytest.approx(total, abs=1e-4)
        assert parts["bits"]["low"] < parts["bits"]["value"] < parts["bits"]["high"]
    assert noisy["measures"]["bits"]["value"] > 6
    assert 0 <= noisy["measures"]["auroc"]["value"] <= 1  # a network that learned nothing


def test_models_of_moving_digits_have_those_for_their_first_set(mmdiff_command, clips_model, noisy_and_grey):
    options = ("--likelihood", "--model", clips_model(True), "--steps", 2, "--limit", 2, "--json")
    outcome = mmdiff_command("evaluate", noisy_and_grey[1], *options)
    assert outcome.status == 0, outcome.err
    digits, noisy = map(json.loads, outcome.out.splitlines())
    assert (digits["set"], noisy["set"]) == (DIGITS, "noisy")
    assert noisy["measures"]["auroc"]["value"] == 1


@pytest.fixture
def sounds_model(tmp_path, tiny_model):
    """Make a function that saves an untrained model of sound: of spectrograms, or a vocoder of waveforms."""

    def save(kind):
        torch.manual_seed(0)
        if kind == "mel":
            network = LabelledMelNet(classes=2, channels=8, depth=1, label_channels=8)
            model = MelSoundModel(network, CosineVP(), MelSpec(), str(tiny_model), 0.2, ("a", "b"), steps=2)
        elif kind == "latent":
            own = Autoencoder(1, 1, 4, widths=(8,), factors=(16,), norm="l1")
            network = LabelledMelNet(4, 2, 1, channels=8, depth=1, label_channels=8)
            model = LatentSoundModel(network, CosineVP(), own, 8000, 0.2, ("a", "b"), steps=2)
        else:
            network = DiffWave(channels=4, layers=2, cycle=2, step_width=16)
            model = WaveformVocoder(MelSpec(), network, BetaTable(diffwave_betas()))
        return save_model(model, tmp_path / kind)

    return save


@pytest.mark.parametrize("kind", ["mel", "wave", "latent"])
def test_sound(mmdiff_command, sounds_model, folder, speech, kind):
    (folder / "broken.wav").unlink()
    options = ("--likelihood", "--model", sounds_model(kind), "--steps", 2, "--json")
    outcome = mmdiff_command("evaluate", speech, folder, *options)
    assert outcome.status == 0, outcome.err
    one, two = map(json.loads, outcome.out.splitlines())
    assert (one["files"], two["files"]) == (1, 2)
    assert 0 < two["measures"]["coded"]["value"] < 16
    assert two["measures"]["bits"]["value"] > 1


def test_models_without_likelihood_say_why(mmdiff_command, tiny_model, speech, tmp_path):
    network = FrameNet(MelSpec(), 8, 1, latents=4)
    generator = WaveformVocoder(MelSpec(), network, BetaTable(vp_betas(4)), 4, prediction="x0")
    folder = save_model(generator, tmp_path / "generator")
    outcome = mmdiff_command("evaluate", speech, "--likelihood", "--model", folder)
    assert outcome.status == 2
    assert "it is the generator of a denoising diffusion GAN" in outcome.err
    outcome = mmdiff_command("evaluate", speech, "--likelihood", "--model", tiny_model)
    assert outcome.status == 2
    assert "has no likelihood of sound" in outcome.err
    outcome = mmdiff_command("evaluate", speech, "--likelihood", "--measures", "pesq", "--model", tiny_model)
    assert outcome.status == 2
    assert "--measures must be left out" in outcome.err
