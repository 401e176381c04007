"""Does a mel spectrogram fit the definition it claims? Mend the harmless, refuse the rest, say what it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio.mel import PRESETS, MelSpec, preset_name
from mmdiff.audio.mel.hypotheses import Hypothesis
from mmdiff.audio.mel.identify import Guess, identify, weigh
from mmdiff.audio.mel.summary import Summary
from mmdiff.errors import InputError

UNDERSHOOT, OVERSHOOT = 2.5, 1.5  # nepers outside the possible range that predicted spectrograms may stray
DECISIVE, SUSPICIOUS = 7.0, 3.0  # nats by which a rival must win for possible values to be refused, noted


@dataclass(frozen=True)
class Checked:
    """A mel spectrogram that fits its definition.

    Attributes
    ----------
    mel : Tensor, shape (B, n_mels, frames), float32
    notes : list of str
        What was changed to make it fit, in order.
    """

    mel: Tensor
    notes: list[str]


def check(mel: Tensor | np.ndarray, spec: MelSpec, *, declared: bool = False, part: bool = False) -> Checked:
    """Check a mel spectrogram against its definition.

    A missing batch axis, an obvious transposition, another floating-point type, zero padding and values a
    little outside the possible range are mended. Errors say which definition is likely and how to name it.

    Parameters
    ----------
    mel : Tensor or ndarray, shape (B, n_mels, frames) or (n_mels, frames)
        Also transposed, or with a channel axis of size 1 after the batch's.
    spec : MelSpec
        What the values should mean.
    declared : bool
        Whoever made the spectrogram named ``spec``. Then values that it allows are never refused, however
        much they look like another definition's: there is a note instead.
    part : bool
        A few frames of a spectrogram, too few to judge by what they look like: values that ``spec`` allows are
        taken.

    Returns
    -------
    Checked

    Raises
    ------
    InputError
        The values are not real, finite and floating point, there are none, the number of bands differs, or
        the values cannot follow ``spec``.

    Examples
    --------
    >>> from mmdiff.audio.mel import preset
    >>> spec = preset("hifigan-22k")
    >>> checked = check(spec(torch.zeros(1, 4096))[0].mT, spec)
    >>> checked.mel.shape, checked.notes[0]
    (torch.Size([1, 80, 16]), 'added a batch axis: (16, 80) is one item')
    """
    notes: list[str] = []
    mel = _floating(torch.as_tensor(mel), notes)
    mel = _oriented(_batched(mel, notes), spec, notes)
    _require_finite(mel, spec)
    padding = _padding(mel, spec)
    if not bool(padding.all()) and not (part and _possible(mel, spec, part)):
        heard = mel.transpose(1, 2)[~padding].T[None] if bool(padding.any()) else mel
        _require_plausible(heard, spec, declared, notes)
    mel = _silence(mel, padding, spec, notes)
    return Checked(_in_range(mel, spec, notes), notes)


def describe(spec: MelSpec) -> str:
    """Name of a definition, or its main numbers."""
    numbers = f"{spec.n_mels} bands at {spec.sample_rate} Hz, hop {spec.hop_length}"
    return preset_name(spec) or f"this definition ({numbers})"


def _floating(mel: Tensor, notes: list[str]) -> Tensor:
    if not mel.is_floating_point():
        raise InputError(
            f"mel of type {mel.dtype} must be real and floating point; "
            + ("take its magnitude and a filterbank first" if mel.is_complex() else "an image is not enough")
        )
    if mel.numel() == 0:
        raise InputError(
            f"mel of shape {tuple(mel.shape)} must not be empty; was the sound shorter than a frame?"
        )
    if mel.dtype != torch.float32:
        notes.append(f"changed {str(mel.dtype).removeprefix('torch.')} to float32")
    return mel.float()


def _batched(mel: Tensor, notes: list[str]) -> Tensor:
    if mel.dim() == 2:
        notes.append(f"added a batch axis: {tuple(mel.shape)} is one item")
        return mel[None]
    if mel.dim() == 4 and mel.shape[1] == 1:
        notes.append(f"dropped the channel axis of {tuple(mel.shape)}")
        return mel[:, 0]
    if mel.dim() != 3:
        raise InputError(f"mel of shape {tuple(mel.shape)} must be (B, n_mels, frames) or (n_mels, frames)")
    return mel


def _oriented(mel: Tensor, spec: MelSpec, notes: list[str]) -> Tensor:
    """Bring bands to axis 1, where only one axis can be the bands."""
    bands, frames = mel.shape[1:]
    if bands == spec.n_mels:
        return mel
    others = {known.n_mels for known in PRESETS.values()}
    if frames == spec.n_mels and bands not in others:
        notes.append(f"transposed (frames, bands) = ({bands}, {frames}) to (bands, frames)")
        return mel.mT
    shape = tuple(mel.shape)
    if frames == spec.n_mels:
        raise InputError(
            f"mel of shape {shape} must have its n_mels={spec.n_mels} bands on the last axis but one; either "
            "axis could be the bands: if it is transposed, give mel.mT, else name its definition "
            f"({_how_to_name()})"
        )
    guesses = identify(mel) if bool(mel.isfinite().all()) else []
    raise InputError(
        f"mel of shape {shape} must have n_mels={spec.n_mels} bands, as {describe(spec)} has; "
        + (_remedy(guesses[0]) if guesses else f"no preset fits: give its MelSpec ({_how_to_name()})")
    )


def _require_finite(mel: Tensor, spec: MelSpec) -> None:
    broken = ~mel.isfinite()
    if not bool(broken.any()):
        return
    item, band, frame = broken.nonzero()[0].tolist()
    value = float(mel[item, band, frame])
    remedy = (
        f"-inf is the logarithm of zero: clamp the bands to floor={spec.floor:g} first, so that silence "
        f"becomes {spec.lowest_value:.2f}"
        if value == -math.inf
        else "look for a division by zero or an overflow where it was made"
    )
    raise InputError(
        f"mel holds {int(broken.sum())} values of {mel.numel()} that are not finite, the first {value} in "
        f"item {item}, band {band}, frame {frame}; all must be finite; {remedy}"
    )


def _padding(mel: Tensor, spec: MelSpec) -> Tensor:
    """Find frames of exact zeros, where zero is not silence anyway; shape (B, frames), bool."""
    loud = (0.0 - spec.lowest_value) / spec.gain > 1.0
    return (mel == 0).all(1) & loud


def _silence(mel: Tensor, padding: Tensor, spec: MelSpec, notes: list[str]) -> Tensor:
    count = int(padding.sum())
    if not count:
        return mel
    notes.append(
        f"{count} frames are 0 in every band, which is padding: made them silence, {spec.lowest_value:.2f}"
    )
    return mel.masked_fill(padding[:, None], spec.lowest_value)


def _require_plausible(mel: Tensor, spec: MelSpec, declared: bool, notes: list[str]) -> None:
    lowest, highest = float(mel.min()), float(mel.max())
    if highest - spec.lowest_value < 1e-3 * spec.gain and lowest > spec.lowest_value - UNDERSHOOT * spec.gain:
        return  # silence has no habits
    own = describe(spec)
    weighed = weigh(mel, {own: spec} | PRESETS)
    mine = next(score for score, h, _ in weighed if h.name == own and h.scale == "preset")
    rivals = [entry for entry in weighed if not (entry[1].name == own and entry[1].scale == "preset")]
    lead, rival, seen = max(rivals, key=lambda entry: entry[0] + _kinship(entry[1], own))
    guess = Guess(rival.name, rival.scale, False, 1.0, rival.reasons(seen))
    possible = _possible(mel, spec)
    if possible and (declared or lead - mine < DECISIVE):
        if lead - mine > SUSPICIOUS:
            notes.append(f"used the values as {own}, although {_remedy(guess)}")
        return
    raise InputError(
        f"mel values from {lowest:.4g} to {highest:.4g} must follow {own}, whose values lie between "
        f"{spec.lowest_value:.2f} and {spec.highest_value:.2f}; {_remedy(guess)}"
        + (f"; if they do follow {own}, say so: {_how_to_name(own)}" if possible else "")
    )


def _kinship(rival: Hypothesis, own: str) -> float:
    """Prefer, among near equals, the expected definition in another logarithm (LMNT has own presets)."""
    return SUSPICIOUS if rival.name == own and rival.scale != "lmnt" else 0.0


def _possible(mel: Tensor, spec: MelSpec, part: bool = False) -> bool:
    """Whether some wave in [-1, 1] could have such values, within what predicted spectrograms may stray.

    Of a few frames the median is looked at, where otherwise it is nearly the lowest: what is allowed in a whole must
    be allowed in any part.
    """
    sums = ((mel - spec.offset) / spec.gain).logsumexp(1)
    over = max(
        (float(mel.max()) - spec.highest_value) / spec.gain, float(sums.max()) - math.log(spec.loudest_frame)
    )
    low = float(mel.median()) if part else Summary.of(mel).low
    under = (spec.lowest_value - low) / spec.gain
    return under <= UNDERSHOOT and over <= OVERSHOOT


def _in_range(mel: Tensor, spec: MelSpec, notes: list[str]) -> Tensor:
    tolerance = 1e-3 * spec.gain
    if float(mel.min()) < spec.lowest_value - tolerance:
        notes.append(f"raised values as low as {float(mel.min()):.3g} to silence, {spec.lowest_value:.2f}")
    mel = mel.clamp_min(spec.lowest_value)
    if spec.clip is not None:
        if float(mel.max()) > spec.clip[1] + tolerance:
            notes.append(f"lowered values as high as {float(mel.max()):.3g} to {spec.clip[1]:g}")
        mel = mel.clamp_max(spec.clip[1])
    elif float(mel.max()) > spec.highest_value:
        notes.append(
            f"the loudest value, {float(mel.max()):.3g}, is above full scale: the sound may be clipped"
        )
    return mel


def _how_to_name(name: str = "NAME") -> str:
    return f"--mel-preset {name} on the command line, mel_spec={name!r} in Python"


def _remedy(guess: Guess) -> str:
    """Say what the numbers look like and how to tell mmdiff."""
    looks = f"they look like {guess} ({'; '.join(guess.reasons)}): "
    if guess.name not in PRESETS and ":" not in guess.name and guess.name.startswith("this definition"):
        return looks + "give mel_spec=with_log(spec, ...) in Python, or convert them with mel.convert.rebase"
    if guess.scale in ("linear", "standardised", "db_below_peak"):
        needed = {"linear": "", "standardised": ", mean=..., std=...", "db_below_peak": ", peak=..."}[
            guess.scale
        ]
        return (
            looks + f"undo that with mel.convert.rebase(mel, {guess.scale!r}, preset({guess.name!r}){needed})"
        )
    base = guess.name.partition(":")[0]
    name = guess.name if guess.scale == "preset" else f"{base}:{guess.scale}"
    return looks + f"name it with {_how_to_name(name)}"
