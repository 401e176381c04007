from __future__ import annotations

import json

import torch

from mmdiff import __version__
from mmdiff.audio.mel import PRESETS


def test_words_name_versions_devices_and_presets(mmdiff_command):
    outcome = mmdiff_command("info")
    assert outcome.status == 0
    for word in (__version__, torch.__version__.partition("+")[0], "cpu", *PRESETS):
        assert word in outcome.out


def test_json_lists_shipped_models_with_size_and_licence(mmdiff_command, tiny_model, monkeypatch):
    monkeypatch.setattr("mmdiff.hub.SHIPPED", tiny_model.parent)
    facts = json.loads(mmdiff_command("info", "--json").out)
    (model,) = facts["models"]
    assert model["name"] == "tiny"
    assert model["class"] == "SpectralVocoder"
    assert model["license"] == "CC0-1.0"
    assert 0 < model["megabytes"] < 1
