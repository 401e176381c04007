"""Filling gaps with a spectral vocoder: magnitudes by the core's guidance, phases by what is known around.

A vocoder needs a mel spectrogram, and that of a gap is as unknown as the gap. It is interpolated between the frames
around, unless the caller knows it; so this suits gaps within one sound, not whole words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.audio.editing.baselines import linear_prediction
from mmdiff.audio.editing.edits import SoundEdit
from mmdiff.audio.editing.tools import fill_at_rate
from mmdiff.audio.magnitude import Conditions, from_state, to_state
from mmdiff.audio.sampling import place_seeds
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft, hann
from mmdiff.audio.vocoder import Vocoder
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.measurement import observed
from mmdiff.diffusion.reconstruction import ReconstructionGuidance, Replacement
from mmdiff.diffusion.samplers import sample
from mmdiff.errors import InputError

STEPS = 4
ITERATIONS = 32
"""Of finding phases that agree with what is known."""
_CONTEXT = 0.5  # seconds to either side of a gap
_LITTLE = 0.05  # share of a frame below which what is known of it says nothing
_MOST = 1 - 1e-4  # and above which it says all


def fill_gaps(
    voc: Vocoder,
    edit: SoundEdit,
    mel: Tensor | None = None,
    *,
    steps: int = STEPS,
    iterations: int = ITERATIONS,
    seed: int = 0,
    temperature: float = 1.0,
) -> Tensor:
    """Fill gaps in a recording with a spectral vocoder.

    The vocoder's diffused magnitudes are known so far as the frames' windows are; guidance and replacement draw the
    rest. Their phases start from linear prediction, in long gaps from the vocoder's own sound, and are then found by
    Griffin and Lim's iteration in which the known samples stay.

    Parameters
    ----------
    voc : Vocoder
        Of a spectral model.
    edit : SoundEdit
        Gaps, at any rate, with sound on both sides unless ``mel`` is given.
    mel : Tensor, shape (N, n_mels, frames), optional
        Of the whole result, by the vocoder's own definition at its rate; default: interpolated in the gaps.
    steps : int > 0
        Evaluations of the magnitude's network.
    iterations : int >= 0
    seed : int
        Of the first item's noise; the others count on.
    temperature : float >= 0
        Factor on the noise.

    Returns
    -------
    Tensor, shape of ``edit.wave``

    Raises
    ------
    InputError
        The vocoder is of another kind, or the edit is none that it can do.
    """
    model = voc.model
    if not isinstance(model, SpectralVocoder):
        raise InputError(
            f"the vocoder must be a spectral one to fill gaps with, and is a {type(model).__name__}"
        )
    if edit.side is not None or edit.known_rate is not None:
        raise InputError("a vocoder fills gaps, and neither declips nor extends; take a model of waveforms")
    if mel is None and not bool((edit.known[:, 0] & edit.known[:, -1]).all()):
        raise InputError(
            "a vocoder needs sound on both sides of a gap, between which the spectrogram is interpolated; take a "
            "model of sound, or in Python give the gap's mel"
        )
    if steps < 1 or iterations < 0 or temperature < 0:
        raise InputError(
            f"steps={steps} must be at least 1, iterations={iterations}, temperature={temperature} 0"
        )

    def fill(edit: SoundEdit) -> Tensor:
        wave = linear_prediction(edit).to(voc.device)
        made, hop = wave.clone(), model.stft.hop_length
        for begin, end in edit.windows(round(_CONTEXT * voc.sample_rate)):
            begin = begin // hop * hop  # so that frames are those of the whole
            known, start = edit.known[:, begin:end].to(voc.device), wave[:, begin:end]
            share = known_share(known, model.stft)
            frames = share.shape[-1]
            told = bridged(model.mel(start), share) if mel is None else mel[..., begin // hop :][..., :frames]
            told, seeds = told.to(start), place_seeds(seed, len(start), begin << 20)
            start = beyond_prediction(voc, told, start, known, seeds)
            magnitude = _magnitude(model, start, told, share, seeds, steps, temperature)
            made[:, begin:end] = agreeing_phases(magnitude, start, known, model.stft, iterations)
        return made

    with torch.no_grad():
        return fill_at_rate(edit, voc.sample_rate, fill)


def beyond_prediction(
    voc: Vocoder, mel: Tensor, predicted: Tensor, known: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Sound (B, samples) to find phases from: the predicted, and half a frame beyond what is known the vocoder's own.

    A prediction has faded to silence there, which has no phases.
    """
    reach = voc.model.mel.n_fft // 2
    padded = functional.pad(known.float()[:, None], (reach, reach), mode="replicate")
    near = functional.max_pool1d(padded, 2 * reach + 1, 1)[:, 0] > 0
    if near.all():
        return predicted
    spec, samples = voc.mel_spec, predicted.shape[-1]
    own = torch.cat(list(voc.blocks(mel, mel_spec=spec, seed=seeds, samples=samples, measured=True)), 1)
    return torch.where(near, predicted, own)


def known_share(known: Tensor, stft: Stft) -> Tensor:
    """Share of each frame's windowed energy that comes from known samples: (B, samples) of bool to (B, T).

    What lies beyond an end counts as the sample at the end does.
    """
    half = stft.n_fft // 2
    padded = functional.pad(known.float()[:, None], (half, half), mode="replicate")[:, 0]
    energy = hann(stft.n_fft, known.device).square()
    return (padded.unfold(-1, stft.n_fft, stft.hop_length) * energy).sum(-1) / energy.sum()


def trusted(share: Tensor) -> Tensor:
    """How far to trust frames (B, T) of which so much is known: nearly all is all, and little is nothing."""
    return torch.where(share > _MOST, 1.0, torch.where(share < _LITTLE, 0.0, share))


def bridged(mel: Tensor, share: Tensor) -> Tensor:
    """Interpolate a log mel spectrogram (B, n_mels, T) in time, as far as its frames (B, T) are unknown."""
    result = mel.clone()
    for item, part in enumerate(share):
        places = torch.arange(len(part), device=mel.device)
        whole = places[part > _MOST]
        if not len(whole):
            continue
        after = torch.searchsorted(whole, places).clamp(max=len(whole) - 1)
        before = (torch.searchsorted(whole, places, right=True) - 1).clamp(min=0)
        low, high = whole[before], whole[after]
        along = ((places - low) / (high - low).clamp_min(1)).clamp(0, 1)
        between = mel[item][:, low].lerp(mel[item][:, high], along.to(mel))
        result[item] = between.lerp(mel[item], part)
    return result


def agreeing_phases(magnitude: Tensor, start: Tensor, known: Tensor, stft: Stft, iterations: int) -> Tensor:
    """Sound (B, samples) of this magnitude (B, T, K) whose phases were found with the known samples in place.

    What it says in place of these is how far it fails to meet them: :meth:`SoundEdit.finish` makes up for that.

    References
    ----------
    Griffin & Lim (1984), section III, with the samples' projection added.
    """
    made = start
    for _ in range(iterations):
        spectrum = stft(torch.where(known, start, made))
        phasors = spectrum / spectrum.abs().clamp_min(1e-8)
        made = stft.inverse(magnitude * phasors, start.shape[-1])
    return made


def _magnitude(
    model: SpectralVocoder,
    start: Tensor,
    mel: Tensor,
    share: Tensor,
    seeds: list[int],
    steps: int,
    temperature: float,
) -> Tensor:
    """Magnitudes (B, T, K): those of ``start`` where frames are known, drawn by the model where not."""
    conditions: Conditions = model.conditions(mel, model.mel, share.shape[-1])
    denoise, noise = model.start(mel, model.mel, seeds=seeds, samples=start.shape[-1])
    found = model.stft(start).abs()
    trust = trusted(share)
    known = observed(to_state(found, conditions.prior), trust[:, None, :, None])
    schedule = model.denoiser.schedule
    state = sample(
        Replacement(ReconstructionGuidance(denoise, known, schedule), known),
        noise.shape,
        schedule=schedule,
        sampler=model.default_sampler,
        grid=make_grid("uniform", schedule, steps).to(noise.device),
        noise=noise,
        temperature=temperature,
    )
    drawn = from_state(state, conditions)
    return torch.where(trust[..., None] == 1, found, drawn)
