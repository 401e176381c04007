"""A vocoder made of what a checkpoint holds, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel.check import describe
from mmdiff.audio.networks.waveform import WaveformNetwork
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.waveform import WaveformDiffusion
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.grids import noise_table_grid
from mmdiff.diffusion.schedules import BetaTable
from mmdiff.errors import InputError


def make_vocoder(
    network: WaveformNetwork,
    arguments: Mapping[str, Any],
    *,
    mel: MelSpec,
    schedule: BetaTable,
    betas: Sequence[float] | None,
    stored: tuple[float, ...],
    **options: Any,
) -> tuple[WaveformVocoder, dict[str, Any]]:
    """Make a vocoder of a network.

    Parameters
    ----------
    network : WaveformNetwork
    arguments : mapping
        What it was built with.
    mel : MelSpec
    schedule : BetaTable
        Of training.
    betas : sequence of float, optional
        Noise variances of few steps that the user asks for.
    stored : tuple of float
        Those of the project, used if nothing is asked for and the schedule has such noise levels; if it has not,
        all steps of the schedule are taken, and the facts say so.
    **options
        Further ones of :class:`WaveformVocoder`.

    Returns
    -------
    model : WaveformVocoder
    facts : dict
        What it is, as JSON values.

    Raises
    ------
    InputError
        The schedule has not all noise levels of ``betas``.
    """
    table, left_out = tuple(betas or stored), {}
    try:
        noise_table_grid(schedule, table)
    except InputError as error:
        if betas:
            raise
        table, left_out = (), {"table_left_out": list(stored), "because": str(error)}
    model = WaveformVocoder(mel, network, schedule, len(table) or schedule.steps, table, **options)
    return model, {
        **_facts(model, arguments, schedule),
        "mel": _mel_in_words(mel),
        "betas": list(table) or None,
        **left_out,
    }


def make_sound_model(
    network: WaveformNetwork, arguments: Mapping[str, Any], *, schedule: BetaTable, **options: Any
) -> tuple[SoundModel, dict[str, Any]]:
    """Make a model of sound of a network without a spectrogram; it takes all steps of its schedule.

    Parameters and results are those of :func:`make_vocoder`, with the options of :class:`SoundModel`.
    """
    model = SoundModel(network, schedule, steps=schedule.steps, **options)
    return model, {**_facts(model, arguments, schedule), "seconds": model.seconds}


def _facts(model: WaveformDiffusion, arguments: Mapping[str, Any], schedule: BetaTable) -> dict[str, Any]:
    apart = {name: _listed(arguments[name]) for name in ("factors", "dilations") if name in arguments}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "network": {name: _listed(value) for name, value in arguments.items() if name not in apart},
        **apart,
        "sample_rate": model.sample_rate,
        "schedule": f"{schedule.steps} steps, {schedule.betas[0]:.4g} .. {schedule.betas[-1]:.4g}",
        "prediction": model.denoiser.prediction,
        "noise_input": model.denoiser.noise_input,
        "sampler": model.default_sampler,
        "clamp": model.clamp,
        "steps": model.default_steps,
    }


def _mel_in_words(spec: MelSpec) -> str:
    filters = f"{spec.mel_scale} filters of unit {'area' if spec.norm else 'height'}"
    return f"{describe(spec)}, {filters}, {spec.f_min:g} to {spec.f_max:g} Hz, window {spec.win_length}"


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value
