"""Checkpoints of PriorGrad's vocoder (github.com/microsoft/NeuralSpeech): DiffWave with a prior that knows loudness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmdiff.audio.checkpoints.assemble import make_vocoder
from mmdiff.audio.checkpoints.lmnt_diffwave import SIGNS, read_network
from mmdiff.audio.checkpoints.reading import (
    HIGHEST_RATE,
    Params,
    check_tensors,
    choose_mel,
    find_state,
    stored_mel,
    training_steps,
)
from mmdiff.audio.energy_prior import EnergyPrior
from mmdiff.audio.mel import MelSpec, preset
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.schedules import BetaTable, diffwave_fast_betas
from mmdiff.errors import CheckpointError, InputError


def recognise(content: Any) -> bool:
    """Say whether a loaded file is a checkpoint of PriorGrad's vocoder: DiffWave's weights, and its parameters."""
    params = content.get("params") if isinstance(content, Mapping) else None
    return isinstance(params, Mapping) and "use_prior" in params and find_state(content, SIGNS) is not None


def build_model(
    content: Mapping[str, Any],
    *,
    mel: str | None = None,
    betas: Sequence[float] | None = None,
    energy_min: float | None = None,
    energy_max: float | None = None,
) -> tuple[WaveformVocoder, dict[str, Any]]:
    """Build the model of a checkpoint of PriorGrad's vocoder.

    Parameters
    ----------
    content : mapping
        ``{"step": int, "model": state, "params": {...}, ...}`` as its trainer saves it.
    mel : str, optional
        Preset of the spectrogram; default: HiFi-GAN's definition with the file's numbers, which the project uses.
    betas : sequence of float, optional
        Noise variances for few steps, least noisy first; default: those in the file.
    energy_min : float, optional
        What the project stored as ``energy_min_train.npy`` beside its data. Default: the energy of silence, which
        no data can be below and recordings come close to.
    energy_max : float, optional
        Stored as ``energy_max_train.npy``; not needed if the file overrides it, as it usually does.

    Returns
    -------
    model : WaveformVocoder
    facts : dict
        What was found, as JSON values.

    Raises
    ------
    CheckpointError
        Hyper-parameters are missing or out of range, or weights do not fit together.
    InputError
        An option does not fit the network, or ``energy_max`` is needed.
    """
    params = Params(content, "PriorGrad")
    for name in ("condition_prior", "condition_prior_global"):
        if params.flag(name, False):
            raise CheckpointError(
                f"params[{name!r}]=True of the checkpoint must be False: networks that are told the energy as a "
                "condition too cannot be converted"
            )
    network, arguments = read_network(check_tensors(find_state(content, SIGNS) or {}), params)
    if not network.n_mels:
        raise CheckpointError(
            "the checkpoint has the parameters of PriorGrad but no weights for a spectrogram"
        )
    hop, n_mels = network.hop_length, network.n_mels
    prior = _prior(params, n_mels, energy_min, energy_max) if params.flag("use_prior") else None
    schedule = BetaTable(params.betas("noise_schedule"))
    model, facts = make_vocoder(
        network,
        arguments,
        mel=choose_mel(mel, _mel(params, hop, n_mels), hop, n_mels),
        schedule=schedule,
        betas=betas,
        stored=params.betas("inference_noise_schedule", diffwave_fast_betas(schedule.steps)),
        clamp="state",
        prior=prior,
    )
    facts = {"training_steps": training_steps(content), **facts}
    if prior is None:
        return model, {**facts, "prior": "standard normal"}
    return model, {
        **facts,
        "prior": f"energy of frames, standard deviation at least {prior.floor:g}",
        "energy_min": prior.lowest,
        "energy_max": prior.highest,
        "assumed": ["energy_min"],
    }


def _mel(params: Params, hop: int, n_mels: int) -> MelSpec:
    rate = params.integer("sample_rate", 1000, HIGHEST_RATE)
    return stored_mel(
        preset("hifigan-22k"),
        sample_rate=rate,
        n_fft=params.integer("n_fft", 2, 2**20),
        win_length=4 * hop,
        hop_length=hop,
        n_mels=n_mels,
        f_min=params.real("fmin", 0, rate / 2),
        f_max=params.real("fmax", 0, rate / 2),
    )


def _prior(params: Params, n_mels: int, lowest: float | None, highest: float | None) -> EnergyPrior:
    """The prior: energies between the quietest and the loudest of the data become 0 to 1."""
    floor = params.real("std_min", 1e-6, 1)
    silence = math.sqrt(n_mels * preset("hifigan-22k").floor)
    lowest = silence if lowest is None else lowest
    if params.values.get("max_energy_override") is None:
        if highest is None:
            raise InputError(
                "energy_max=None must be given: the file leaves it to the statistics that the project stored as "
                "stats_priorgrad/energy_max_train.npy beside its data"
            )
        return EnergyPrior(lowest, highest, floor, ceiling=None)
    most = params.real("max_energy_override", 1e-6, 1e6)
    if highest is not None and highest != most:
        raise InputError(f"energy_max={highest} must not be given: the file overrides it by {most:g}")
    return EnergyPrior(lowest, most, floor)
