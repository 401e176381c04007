"""Commands that sample generators of reverse steps: they run at the trained steps, and say which others they take."""

from __future__ import annotations

import pytest
import torch

from mmdiff.audio.mel import preset
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, vp_betas
from mmdiff.hub import save_model
from mmdiff.video.conditioning import ConditionedNetwork, LatentCondition
from mmdiff.video.model import ClipModel
from mmdiff.video.unet import SpaceTimeUNet

TABLE = BetaTable(vp_betas(4))


@pytest.fixture
def arguments(tmp_path, speech):
    """Command line of each command, with an untrained model of its kind."""
    torch.manual_seed(0)
    mel = preset("mmdiff-16k")
    sound = {"channels": 4, "layers": 2, "cycle": 2, "step_width": 8, "latents": 3}
    clips = SpaceTimeUNet(widths=(8,), blocks=1, mixing=("",), embedding=16, vector=8)
    told = ConditionedNetwork(clips, (LatentCondition(3, 8),))
    models = {
        "vocode": WaveformVocoder(mel, DiffWave(mel.n_mels, **sound), TABLE, 4, prediction="x0"),
        "sound": SoundModel(DiffWave(0, **sound), TABLE, 8000, 0.02, steps=4, prediction="x0"),
        "clip": ClipModel(told, TABLE, "x0", frames=2, size=(8, 8), steps=4, sampler="ddpm"),
    }
    files = {"vocode": (speech,), "sound": ("-o", tmp_path / "a.wav"), "clip": ("-o", tmp_path / "a.gif")}
    return {
        name: (name, *files[name], "--model", save_model(each, tmp_path / "models" / name), "--device", "cpu")
        for name, each in models.items()
    }


@pytest.mark.parametrize("name", ["vocode", "sound", "clip"])
def test_steps_that_were_not_trained_are_refused_by_name(mmdiff_command, arguments, name):
    outcome = mmdiff_command(*arguments[name], "--steps", 10)
    assert outcome.status == 2
    assert "steps=10 must be 4 or 2 or 1" in outcome.err
    outcome = mmdiff_command(*arguments[name])
    assert outcome.status == 0, outcome.err
