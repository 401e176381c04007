"""Mel definitions by name: those in use, each with its origin, and the same with other logarithms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from mmdiff.audio.mel.definition import LN_10, MelSpec
from mmdiff.errors import InputError

Logarithm = Literal["ln", "log10", "db", "lmnt"]

# 20 log10 x - 20 dB, (dB + 100) / 100, clipped to [0, 1]: lmnt's WaveGrad and DiffWave
_DECIBELS: dict[str, Any] = {"gain": 0.2 / LN_10, "offset": 0.8, "clip": (0.0, 1.0)}
_HIFIGAN: dict[str, Any] = {"centred": False, "epsilon": 1e-9}

PRESETS: dict[str, MelSpec] = {
    "mmdiff-16k": MelSpec(),
    "mmdiff-44k": MelSpec(44_100, 2048, 2048, 512, 128, 0.0, 22_050.0),
    "hifigan-22k": MelSpec(22_050, **_HIFIGAN),
    "bigvgan-24k-100": MelSpec(24_000, n_mels=100, f_max=12_000.0, **_HIFIGAN),
    "vocos-24k-100": MelSpec(24_000, n_mels=100, f_max=12_000.0, mel_scale="htk", norm=None, floor=1e-7),
    "lmnt-wavegrad-22k": MelSpec(
        22_050, 2048, 1200, 300, 128, 20.0, 11_025.0, "htk", None, window_normalised=True, **_DECIBELS
    ),
    "lmnt-wavegrad-24k": MelSpec(
        24_000, 2048, 1200, 300, 128, 20.0, 12_000.0, "slaney", "slaney", window_normalised=True, **_DECIBELS
    ),
    "lmnt-diffwave-22k": MelSpec(
        22_050, 1024, 1024, 256, 80, 20.0, 11_025.0, "htk", None, window_normalised=True, **_DECIBELS
    ),
    "speechbrain": MelSpec(22_050),
}
"""Mel definitions by name, each with its origin:

mmdiff-16k, mmdiff-44k
    This project's own models.
hifigan-22k
    HiFi-GAN (Kong et al. 2020), as Matcha-TTS uses it. Tacotron 2 and FastSpeech 2 train with the same
    numbers, except that frame m is centred on sample m·hop, half a hop (5.8 ms) earlier, as in "speechbrain";
    vocoders are used with either.
bigvgan-24k-100
    BigVGAN v2 (Lee et al. 2023), 24 kHz, 100 bands, hop 256.
vocos-24k-100
    Vocos (Siuzdak 2023), which takes torchaudio's default filterbank.
lmnt-wavegrad-22k, lmnt-wavegrad-24k, lmnt-diffwave-22k
    The wavegrad and diffwave packages by LMNT; the public 24 kHz checkpoint has librosa's filterbank.
speechbrain
    SpeechBrain's HiFi-GAN and Tacotron 2 for LJSpeech.
"""

_ALIASES = {"tacotron2": "hifigan-22k", "matcha": "hifigan-22k", "fastspeech": "hifigan-22k"}


def with_log(spec: MelSpec, logarithm: Logarithm) -> MelSpec:
    """Definition with the same bands and another logarithm.

    Parameters
    ----------
    spec : MelSpec
    logarithm : {"ln", "log10", "db", "lmnt"}
        Natural; base ten; decibels (20 log10 of magnitude or 10 log10 of power bands); decibels normalised to
        [0, 1] as LMNT's packages do, (20 log10 - 20 + 100) / 100.

    Returns
    -------
    MelSpec

    Raises
    ------
    InputError
        The logarithm is unknown.

    Examples
    --------
    >>> round(with_log(preset("hifigan-22k"), "log10").lowest_value, 6)
    -5.0
    """
    decibel = 20.0 / spec.power
    known: dict[str, dict[str, Any]] = {
        "ln": {"gain": 1.0, "offset": 0.0, "clip": None},
        "log10": {"gain": 1.0 / LN_10, "offset": 0.0, "clip": None},
        "db": {"gain": decibel / LN_10, "offset": 0.0, "clip": None},
        "lmnt": {"gain": decibel / LN_10 / 100.0, "offset": 0.8, "clip": (0.0, 1.0)},
    }
    if logarithm not in known:
        raise InputError(f"logarithm={logarithm!r} must be one of {', '.join(known)}")
    return replace(spec, **known[logarithm])


def preset(name: str) -> MelSpec:
    """Mel definition by name.

    Parameters
    ----------
    name : str
        A key of :data:`PRESETS`, "tacotron2", "matcha" or "fastspeech" (all hifigan-22k), optionally followed
        by ":" and a logarithm of :func:`with_log`.

    Returns
    -------
    MelSpec

    Raises
    ------
    InputError
        The name is unknown; the message lists the known ones.

    Examples
    --------
    >>> preset("hifigan-22k").hop_length
    256
    >>> round(preset("hifigan-22k:db").lowest_value)
    -100
    """
    base, _, logarithm = name.partition(":")
    base = _ALIASES.get(base, base)
    if base not in PRESETS:
        raise InputError(f"preset={name!r} must be one of {', '.join(PRESETS)} or {', '.join(_ALIASES)}")
    return with_log(PRESETS[base], logarithm) if logarithm else PRESETS[base]  # type: ignore[arg-type]


def preset_name(spec: MelSpec) -> str | None:
    """Name that :func:`preset` knows ``spec`` by, or None."""
    for name in PRESETS:
        for suffix in ("", ":ln", ":log10", ":db", ":lmnt"):
            if spec == preset(name + suffix):
                return name + suffix
    return None
