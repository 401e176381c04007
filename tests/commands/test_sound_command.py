"""``mmdiff sound``: names of files, numbers of sounds, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.sound_model import SoundModel
from mmdiff.diffusion.schedules import BetaTable, diffwave_betas
from mmdiff.hub import load_model, save_model


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Folder of an untrained model of two labels."""
    torch.manual_seed(0)
    network = DiffWave(0, 8, 4, 2, classes=2, step_width=32)
    labels = ("one-en", "two-en")
    model = SoundModel(network, BetaTable(diffwave_betas(20)), 16_000, 0.05, labels, steps=2)
    return save_model(model, tmp_path_factory.mktemp("models") / "toy", half=False)


def test_one_sound_goes_to_the_file_named(mmdiff_command, toy, tmp_path):
    outcome = mmdiff_command("sound", "two-en", "--model", toy, "-o", tmp_path / "a/two.wav", "--seed", 3)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path / 'a/two.wav'}  0.05 s of sound in ")
    wave, rate = io.read(tmp_path / "a/two.wav")
    assert rate == 16_000
    torch.testing.assert_close(wave, mmdiff.load(toy)("two-en", seed=3), atol=1e-4, rtol=0)


def test_several_sounds_are_numbered_and_tell_their_seeds(mmdiff_command, toy, tmp_path):
    outcome = mmdiff_command(
        "sound",
        "all",
        "--model",
        toy,
        "-o",
        tmp_path / "out",
        "--num",
        2,
        "--seed",
        7,
        "--json",
        "--device",
        "cpu",
    )
    records = [json.loads(line) for line in outcome.out.splitlines()]
    names = ["one-en-0.wav", "one-en-1.wav", "two-en-0.wav", "two-en-1.wav"]
    assert [record["output"] for record in records] == [str(tmp_path / "out" / name) for name in names]
    assert [record["seed"] for record in records] == [7, 8, 9, 10]
    assert [record["label"] for record in records] == ["one-en", "one-en", "two-en", "two-en"]
    assert all((tmp_path / "out" / name).is_file() for name in names)
    outcome = mmdiff_command("sound", "one-en", "--model", toy, "-o", tmp_path / "x.flac", "--num", 2)
    assert outcome.status == 0
    assert sorted(path.name for path in tmp_path.glob("x*")) == ["x-0.flac", "x-1.flac"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["three-en"], "label='three-en' must be a name or its number among one-en, two-en"),
        (["one-en", "--num", 0], "num=0"),
        (["one-en", "-o", "a.mid"], "out='a.mid' must be a folder or end in .wav, .flac"),
    ],
)
def test_what_makes_no_sense_is_refused(mmdiff_command, toy, arguments, message):
    outcome = mmdiff_command("sound", *arguments, "--model", toy)
    assert outcome.status == 2
    assert message in outcome.err


def test_a_vocoder_is_no_model_of_labels(mmdiff_command, tiny_model):
    outcome = mmdiff_command("sound", "--model", tiny_model)
    assert outcome.status == 2
    assert (
        "must be one for `mmdiff sound`, such as the shipped digits-16k; it is one for `mmdiff vocode`"
        in outcome.err
    )


def test_the_shipped_model_says_seven(mmdiff_command, tmp_path):
    """By the judge of spoken digits, which tells these voices' digits apart."""
    outcome = mmdiff_command("sound", "seven-es", "--num", 4, "-o", tmp_path)
    assert outcome.status == 0, outcome.err
    heard = load_model("word-judge").probabilities(
        torch.cat([io.read(path)[0] for path in sorted(tmp_path.glob("*.wav"))])
    )
    assert (heard.argmax(-1) == 7).sum() >= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", 2], "--seeds must be left out: for vocoders and models of clips"),
        (["--limit", 2, "--captions", "none"], "--limit, --captions must be left out"),
        (["--num", 0], "num=0 must be positive"),
        (["--edits"], "reference must be given: recordings to leave something out of"),
        (["--edits", "--features", "x"], "--features must be left out: for other evaluations than --edits"),
    ],
)
def test_what_does_not_go_with_models_of_labels_is_refused_by_evaluate(mmdiff_command, toy, options, message):
    outcome = mmdiff_command("evaluate", "--model", toy, *options)
    assert outcome.status == 2
    assert message in outcome.err
