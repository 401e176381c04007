"""Turn a mel spectrogram of one definition into one of another, as far as can be, and say what was done.

Level, logarithm, clipping, window normalisation and the height of the same triangles change exactly. Frames
at other times are interpolated. Other bands go through a smooth magnitude spectrogram that has the given
bands: each band keeps its level, what happened inside it is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.audio.mel import LN_10, MelSpec, band_centres, with_log
from mmdiff.audio.mel.check import check, describe
from mmdiff.audio.mel.hypotheses import HEADROOM, SCALES
from mmdiff.audio.prior import Bands
from mmdiff.errors import InputError

ITERATIONS = 8  # of Richardson-Lucy: more change the error on speech by less than 1 %
# Exponent of the window length in a magnitude band: a steady tone asks for 0, noise for 0.5; 0.6 is without
# bias on speech, whose longer frames also lose less to the logarithm of few random bins. For powers: noise.
WINDOW_EXPONENT = {1.0: 0.6, 2.0: 0.5}
RMS_OVER_MEAN = 1.05  # of magnitudes inside a band of speech, beyond what the smooth spectrum already has


@dataclass(frozen=True)
class Converted:
    """A mel spectrogram in its new definition.

    Attributes
    ----------
    mel : Tensor, shape (B, n_mels, frames), float32
    notes : list of str
        Each thing done, and what could not be recovered.
    """

    mel: Tensor
    notes: list[str]


def convert(mel: Tensor, source: MelSpec, target: MelSpec) -> Converted:
    """Change the definition of a mel spectrogram.

    Parameters
    ----------
    mel : Tensor, shape (B, source.n_mels, frames)
        Or anything :func:`mmdiff.audio.mel.check.check` can mend.
    source, target : MelSpec

    Returns
    -------
    Converted
        With as many frames as ``target`` has for the samples the source's frames stand for. Mean errors on
        speech against direct analysis: none where neither frames, bands nor powers change; about 0.1 nepers
        where frames move or bands change; 0.13-0.24 where the window changes too. Speech spans nine nepers.

    Raises
    ------
    InputError
        ``mel`` does not follow ``source``.

    Examples
    --------
    >>> import torch
    >>> from mmdiff.audio.mel import preset
    >>> hifigan, vocos = preset("hifigan-22k"), preset("vocos-24k-100")
    >>> converted = convert(hifigan(torch.zeros(1, 22_050)), hifigan, vocos)
    >>> converted.mel.shape
    torch.Size([1, 100, 94])
    """
    checked = check(mel, source, declared=True)
    notes = list(checked.notes)
    if source == target:
        return Converted(checked.mel, notes)
    bands = source.expand(checked.mel) * source.level() ** source.power
    silent = checked.mel.amax(1) <= source.lowest_value + 1e-4 * source.gain
    _note_limits(checked.mel, source, target, notes)
    bands, silent = _move_frames(bands, silent, source, target, notes)
    bands = _rescale_window(bands, source, target, notes)
    bands = _rearrange(bands, source, target, notes) / target.level() ** target.power
    _note_values(source, target, notes)
    result = target.compress(bands)
    return Converted(result.masked_fill(silent[:, None], target.lowest_value), notes)


def _note_limits(mel: Tensor, source: MelSpec, target: MelSpec, notes: list[str]) -> None:
    """Say how much was lost below the source's floor and above its ceiling, if the target could hold it."""
    floor = (source.lowest_value - source.offset) / source.gain / source.power
    lower = (target.lowest_value - target.offset) / target.gain / target.power
    share = float((mel <= source.lowest_value + 1e-4 * source.gain).float().mean())
    if share > 0 and lower < floor - 0.01:
        notes.append(
            f"{share:.1%} of the values lie at the source's floor; what lay below cannot be recovered"
        )
    if source.clip is not None:
        share = float((mel >= source.clip[1]).float().mean())
        if share > 0:
            notes.append(
                f"{share:.1%} of the values lie at the source's ceiling; the peaks cannot be recovered"
            )


def _note_values(source: MelSpec, target: MelSpec, notes: list[str]) -> None:
    if (source.gain, source.offset, source.clip) != (target.gain, target.offset, target.clip):
        notes.append(
            f"changed the logarithm: silence from {source.lowest_value:.2f} to {target.lowest_value:.2f}"
        )
    if source.window_normalised != target.window_normalised:
        done = "applied" if target.window_normalised else "undid"
        notes.append(f"{done} the normalisation by the window's energy")


def _move_frames(
    bands: Tensor, silent: Tensor, source: MelSpec, target: MelSpec, notes: list[str]
) -> tuple[Tensor, Tensor]:
    """Interpolate bands (B, n, frames) at the target's frame centres."""
    if (
        math.isclose(source.hop_seconds, target.hop_seconds, rel_tol=1e-6)
        and source.centred == target.centred
    ):
        return bands, silent
    samples = round(source.samples(bands.shape[-1]) * target.sample_rate / source.sample_rate)
    seconds = target.frame_seconds(max(1, target.frames(samples)))
    last = bands.shape[-1] - 1
    position = ((seconds - source.frame_seconds(1)) / source.hop_seconds).clamp(0, last).to(bands.device)
    left = position.floor().long()
    right = (left + 1).clamp_max(last)
    fraction = (position - left).to(bands.dtype)
    notes.append(
        f"interpolated frames: one every {1e3 * target.hop_seconds:.2f} ms instead of "
        f"{1e3 * source.hop_seconds:.2f} ms, the first at {1e3 * float(seconds[0]):.2f} ms instead of "
        f"{1e3 * float(source.frame_seconds(1)):.2f} ms"
    )
    silent = silent[:, left] & silent[:, right]
    if target.window_seconds > 1.02 * source.window_seconds:  # a longer window sees an average
        return torch.lerp(bands[..., left], bands[..., right], fraction), silent
    return _cubic(bands.clamp_min(1e-12).log(), left, fraction).exp(), silent


def _cubic(values: Tensor, left: Tensor, fraction: Tensor) -> Tensor:
    """Catmull-Rom interpolation along the last axis."""
    last = values.shape[-1] - 1
    f = fraction
    weights = (
        ((2 - f) * f - 1) * f / 2,
        ((3 * f - 5) * f * f + 2) / 2,
        ((4 - 3 * f) * f + 1) * f / 2,
        (f - 1) * f * f / 2,
    )
    parts = (w * values[..., (left + i).clamp(0, last)] for i, w in enumerate(weights, start=-1))
    return torch.stack(list(parts)).sum(0)


def _rescale_window(bands: Tensor, source: MelSpec, target: MelSpec, notes: list[str]) -> Tensor:
    """Scale bands to what the target's sampling rate and window length would have given."""
    rate = target.sample_rate / source.sample_rate
    window = target.window_seconds / source.window_seconds
    if not math.isclose(window, 1, rel_tol=1e-6):
        notes.append(
            f"scaled bands for a window of {1e3 * target.window_seconds:.1f} ms instead of "
            f"{1e3 * source.window_seconds:.1f} ms; its sharper or blunter view cannot be recovered"
        )
    return bands * (rate * window ** WINDOW_EXPONENT[source.power]) ** source.power


def _rearrange(bands: Tensor, source: MelSpec, target: MelSpec, notes: list[str]) -> Tensor:
    """Bands (B, n, frames) of the source's filters to bands of the target's."""
    density = (target.n_fft / target.sample_rate) / (source.n_fft / source.sample_rate)
    alike = ("n_mels", "f_min", "f_max", "mel_scale", "power")
    if all(getattr(source, name) == getattr(target, name) for name in alike):
        if source.norm != target.norm:
            height = 2.0 / band_centres(source)[1]
            factor = height if target.norm == "slaney" else 1 / height
            notes.append(
                "rescaled the same triangles from " + ("unit area" if source.norm else "unit height")
            )
            bands = bands * factor.to(bands)[:, None]
        return bands * density
    frequencies = torch.arange(target.n_fft // 2 + 1, dtype=torch.float64) * (
        target.sample_rate / target.n_fft
    )
    filters = source.filters_at(frequencies) / density
    reached = filters.sum(1) > 1e-3 * filters.sum(1).amax()  # narrow filters can fall between the bins
    filters, values = filters[reached].to(bands), bands[:, reached.to(bands.device)].transpose(1, 2)
    magnitude = Bands(values, filters, source.power, native=False).magnitude_prior(ITERATIONS).transpose(1, 2)
    held = (frequencies <= source.f_max).to(bands)[:, None]
    notes.append(
        f"redistributed {source.n_mels} bands ({source.f_min:g}-{source.f_max:g} Hz) over {target.n_mels} "
        f"({target.f_min:g}-{target.f_max:g} Hz) through a smooth spectrum; detail inside bands cannot be "
        "recovered"
    )
    empty = int((band_centres(target)[0] > source.f_max).sum())
    if empty:
        notes.append(
            f"made {empty} bands above {source.f_max:g} Hz silent: {describe(source)} holds nothing there"
        )
    return target.filterbank(bands.device) @ _powered(magnitude, source, target, notes).mul(held)


def _powered(magnitude: Tensor, source: MelSpec, target: MelSpec, notes: list[str]) -> Tensor:
    if source.power != target.power:
        notes.append("changed " + ("magnitudes to powers" if target.power == 2.0 else "powers to magnitudes"))
        magnitude = magnitude * RMS_OVER_MEAN ** (target.power - source.power)
    return magnitude**target.power


def rebase(
    mel: Tensor,
    convention: str,
    spec: MelSpec,
    *,
    mean: float | Tensor | None = None,
    std: float | Tensor | None = None,
    peak: float | None = None,
) -> Converted:
    """Give numbers with the bands of ``spec`` in a foreign scale the scale of ``spec``.

    Parameters
    ----------
    mel : Tensor, shape (B, n_mels, frames) or (n_mels, frames)
        -inf is allowed where the logarithm of zero was taken.
    convention : {"ln", "log10", "db", "db10", "db20", "lmnt", "linear", "standardised", "db_below_peak"}
        What the numbers are: a logarithm of the bands (``db10`` is 10 log10, ``db20`` 20 log10, ``db``
        the one that suits ``spec.power``), LMNT's normalised decibels, the bands themselves, values of
        ``spec`` from which ``mean`` was subtracted before dividing by ``std``, or decibels below the loudest.
    spec : MelSpec
    mean, std : float or Tensor, shape (n_mels,)
        For "standardised".
    peak : float, dB
        For "db_below_peak": level of the loudest band.

    Returns
    -------
    Converted

    Raises
    ------
    InputError
        The convention is unknown or lacks its numbers, or the result cannot follow ``spec``.

    Examples
    --------
    >>> import torch
    >>> from mmdiff.audio.mel import preset
    >>> rebase(torch.full((1, 80, 4), -5.0), "log10", preset("hifigan-22k")).mel.unique()
    tensor([-11.5129])
    """
    bands = _linear(mel.float(), convention, spec, mean, std, peak)
    said = SCALES.get(convention, f"{convention[2:]}·log10 of the bands")
    checked = check(spec.compress(bands), spec, declared=True)
    return Converted(checked.mel, [f"took the values as {said}", *checked.notes])


def _linear(
    mel: Tensor,
    convention: str,
    spec: MelSpec,
    mean: float | Tensor | None,
    std: float | Tensor | None,
    peak: float | None,
) -> Tensor:
    decibel = 20.0 / spec.power
    nepers = {
        "ln": 1.0,
        "log10": LN_10,
        "db": LN_10 / decibel,
        "db10": LN_10 / 10,
        "db20": LN_10 / 20,
        "lmnt": 100 * LN_10 / decibel,
        "db_below_peak": LN_10 / decibel,
    }
    if convention == "standardised":
        if mean is None or std is None:
            raise InputError(f"mean={mean}, std={std} must both be given to undo a standardisation")
        return spec.expand(mel * _per_band(std, mel) + _per_band(mean, mel))
    if convention == "linear":
        return mel
    if convention not in nepers:
        raise InputError(
            f"convention={convention!r} must be one of linear, standardised, {', '.join(nepers)}"
        )
    if convention == "db_below_peak" and peak is None:
        usual = (with_log(spec, "ln").highest_value - HEADROOM[0] * spec.power) / nepers["db"]
        raise InputError(
            f"peak={peak} must be the loudest band in dB, which the numbers no longer tell; peak={usual:.0f} "
            "suits speech that nearly reaches full scale"
        )
    zero = {"lmnt": 0.8, "db_below_peak": -(peak or 0.0)}.get(convention, 0.0)
    return torch.exp((mel - zero) * nepers[convention])


def _per_band(value: float | Tensor, mel: Tensor) -> Tensor:
    return torch.as_tensor(value, device=mel.device, dtype=mel.dtype).reshape(-1, 1)
