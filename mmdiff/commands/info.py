"""``mmdiff info``: what is installed."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mmdiff
from mmdiff.commands.report import say, say_json

PACKAGES = (
    "torch",
    "torchaudio",
    "accelerate",
    "librosa",
    "soundfile",
    "av",
    "pesq",
    "pystoi",
    "pocketsphinx",
)


def info(*, json: bool = False) -> None:
    """Tell versions, devices, shipped models and mel presets.

    Parameters
    ----------
    json : bool
        Print one JSON object instead.

    Examples
    --------
    mmdiff info
    mmdiff info --json
    """
    from mmdiff.audio.mel import PRESETS
    from mmdiff.hub import SHIPPED, shipped_models

    facts: dict[str, Any] = {
        "mmdiff": mmdiff.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": _devices(),
        "models": [_model(SHIPPED / name) for name in shipped_models()],
        "mel_presets": {
            name: {
                "sample_rate": s.sample_rate,
                "n_mels": s.n_mels,
                "hop_length": s.hop_length,
                "f_max": s.f_max,
            }
            for name, s in PRESETS.items()
        },
    }
    if json:
        say_json(facts)
    else:
        say(_words(facts))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    cpu = f"cpu ({torch.get_num_threads()} threads)"
    cuda = [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return [cpu, *cuda]


def _model(folder: Path) -> dict[str, Any]:
    from mmdiff.hub import read_config

    config = read_config(folder)
    return {
        "name": folder.name,
        "class": config["model"].get("class"),
        "megabytes": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 2),
        "license": config.get("license"),
    }


def _words(facts: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {v or 'missing'}" for name, v in facts["packages"].items())
    lines = [
        f"mmdiff {facts['mmdiff']} on Python {facts['python']}",
        f"packages: {packages}",
        f"devices: {', '.join(facts['devices'])}",
        "models:",
        *(
            f"  {m['name']}  {m['class']}, {m['megabytes']} MB, licence {m['license'] or 'not stated'}"
            for m in facts["models"]
        ),
        *([] if facts["models"] else ["  none in this installation: give --model a folder or a hub id"]),
        "mel presets:",
        *(
            f"  {name:18} {s['sample_rate']} Hz, {s['n_mels']} bands to {s['f_max']:g} Hz, "
            f"hop {s['hop_length']}"
            for name, s in facts["mel_presets"].items()
        ),
    ]
    return "\n".join(lines)
