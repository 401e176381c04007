"""Editing with a model of spectrograms: it draws the frames or bands that are not known, its vocoder the sound."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmdiff.audio.editing.baselines import linear_prediction
from mmdiff.audio.editing.edits import SoundEdit, spans
from mmdiff.audio.editing.tools import EditOptions
from mmdiff.audio.editing.vocoder import fill_gaps, known_share, trusted
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.vocoder import Vocoder
from mmdiff.diffusion.measurement import observed
from mmdiff.errors import InputError
from mmdiff.progress import track


def fill_by_mel(
    gen: SoundGenerator,
    model: MelSoundModel,
    number: Tensor,
    scale: float,
    edit: SoundEdit,
    *,
    options: EditOptions,
    progress: bool = False,
) -> Tensor:
    """Fill gaps in recordings, continue them, or add the frequencies above a band.

    Frames are known as far as their windows are, bands as far as their filters lie in the known range. Where less
    surrounds a gap than the model has learned to see at once, it draws frames around the recording too, which are not
    used: in training shorter sounds lie in the middle.

    Parameters
    ----------
    gen : SoundGenerator
        With its vocoder.
    model : MelSoundModel
        The generator's.
    number : Tensor of int64, shape (N,)
        What the recordings are of.
    scale : float
        Of the label's guidance.
    edit : SoundEdit
        At the model's rate: gaps, what follows, or a band.
    options : EditOptions
    progress : bool
        Show a progress bar.

    Returns
    -------
    Tensor, shape of ``edit.wave``

    Raises
    ------
    InputError
        Bounds are known, or the vocoder is none that can do this.
    """
    if edit.side is not None:
        raise InputError("a model of spectrograms does not declip; take one of waveforms")
    voc, stft = _vocoder(gen, model)
    with torch.no_grad():
        mel = completed(model, stft, number, scale, edit, options=options, progress=progress)
        if edit.known_rate is not None:
            blocks = voc.blocks(
                mel,
                mel_spec=model.mel,
                seed=options.seeds(0, len(mel)),
                temperature=options.temperature,
                samples=edit.wave.shape[-1],
                measured=True,
            )
            return torch.cat(list(blocks), -1)
        return fill_gaps(voc, edit, mel, seed=options.seed, temperature=options.temperature)


def completed(
    model: MelSoundModel,
    stft: Stft,
    number: Tensor,
    scale: float,
    edit: SoundEdit,
    *,
    options: EditOptions,
    progress: bool = False,
) -> Tensor:
    """Spectrograms (N, n_mels, frames) of recordings, in which what is not known is drawn.

    ``stft`` is the vocoder's, with the frames of the model's spectrograms; the others are as for :func:`fill_by_mel`.
    """
    device, hop = number.device, stft.hop_length
    start = (linear_prediction(edit) if edit.known_rate is None else edit.wave).to(device)
    mel, denoise = model.mel(start), model.told(number, scale)
    for place, (begin, end) in enumerate(track(_windows(model, edit), "filling in", show=progress)):
        first = -(-begin // hop)  # the first frame within
        trust = _trust(model, stft, edit.part(first * hop, end)).to(device)
        part = mel[..., first:][..., : trust.shape[-1]]
        frames = max(part.shape[-1], model.mel.frames(round(model.seconds * model.sample_rate)))
        left = (frames - part.shape[-1]) // 2
        sides = (left, frames - part.shape[-1] - left)
        state = functional.pad(model.to_state(part), (0, 0, *sides))
        seen = observed(state, functional.pad(trust, sides).mT[:, None])
        drawn = model.draw(
            options.agreeing(denoise, seen, model.denoiser.schedule),
            seeds=options.seeds(place, len(mel)),
            frames=frames,
            sampling=options.sampling,
            temperature=options.temperature,
        )[..., left:][..., : part.shape[-1]]
        part.copy_(torch.where(trust == 1, part, drawn))
    return mel


def _trust(model: MelSoundModel, stft: Stft, edit: SoundEdit) -> Tensor:
    """How far to trust what a spectrogram says, (N or 1, n_mels or 1, frames): all, nothing, or between."""
    if edit.known_rate is None:
        return trusted(known_share(edit.known, stft))[:, None]
    bands = known_bands(model.mel, edit.known_rate).float()
    return bands[None, :, None].expand(-1, -1, model.mel.frames(edit.wave.shape[-1]))


def known_bands(spec: MelSpec, rate: int) -> Tensor:
    """Which bands (n_mels,) hear nothing above half of a rate in Hz."""
    weights = spec.filterbank()
    frequencies = torch.arange(weights.shape[1]) * (spec.sample_rate / spec.n_fft)
    return torch.where(weights > 0, frequencies, 0.0).amax(1) <= rate / 2


def _vocoder(gen: SoundGenerator, model: MelSoundModel) -> tuple[Vocoder, Stft]:
    voc = gen.vocoder
    spectral = None if voc is None else voc.model
    if voc is None or not isinstance(spectral, SpectralVocoder) or voc.mel_spec != model.mel:
        raise InputError(
            f"vocoder={model.vocoder!r} must be a spectral one of the model's own spectrograms, such as vocoder-16k, "
            "for sound to be put into a recording"
        )
    return voc, spectral.stft


def _windows(model: MelSoundModel, edit: SoundEdit) -> list[tuple[int, int]]:
    """Parts with something unknown, as long as the training sounds if that leaves half of it to what is known."""
    length = round(model.seconds * model.sample_rate)
    longest = max(end - begin for known in edit.known for begin, end in spans(~known))
    return edit.windows(max(length // 4, (length - longest) // 2), length)
