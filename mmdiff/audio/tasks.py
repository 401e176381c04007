"""What the trainer optimises: models of waveforms, and spectral vocoders, with their losses."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn

from mmdiff.audio.disturbance import DisturbanceLoss
from mmdiff.audio.losses import MultiResolutionLoss
from mmdiff.audio.magnitude import Conditions, MagnitudeNet, to_state
from mmdiff.audio.mel.variety import random_mel_spec
from mmdiff.audio.networks.critic import Critic, judged_sound
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.waveform import WaveformDiffusion
from mmdiff.diffusion.building import build_objective, usual_times
from mmdiff.diffusion.conditions import drop_condition
from mmdiff.diffusion.objectives import Norm, Objective
from mmdiff.diffusion.scalings import edm_scalings
from mmdiff.diffusion.schedules import BetaTable, Levels
from mmdiff.diffusion.times import ContinuousTable, Stratified, TablePoints, Times
from mmdiff.diffusion.weightings import gain
from mmdiff.errors import InputError


class WaveformTask(nn.Module):
    """Train a diffusion of the waveform as WaveGrad and DiffWave are: its error in ε at the table's noise levels.

    A network that is told √ᾱ is trained between the table's points too (2009.00713, algorithm 1), one that is told
    the step at the points alone (2009.09761, algorithm 1). Langevin diffusion has no table: its error is in the noise
    of the velocity, at all times. That error tells little of levels at which sound is hardly to be seen, and which
    decide what it will be; ``balanced`` counts all alike.

    Parameters
    ----------
    model : WaveformDiffusion
        A vocoder, or a model of sound without a spectrogram.
    norm : {"l1", "l2"}
        Absolute error as in WaveGrad's paper, or squared error as in DiffWave's.
    drop : float in [0, 1]
        Share of items trained without their label, for classifier-free guidance.
    distance : float >= 0
        Weight of the distance in several resolutions of the clean waveform that the network finds and the recording,
        which has no say in phases: :class:`mmdiff.audio.losses.MultiResolutionLoss`. Where phases cannot be known the
        squared error wants their mean, which is next to nothing; the distance wants sound that is as loud.
    balanced : bool
        The error is that of the clean sound over the deviation that the best linear estimate leaves, for data of the
        model's ``sigma_data``: that of a network with the scalings of Karras et al. (2206.00364, table 1).

    Raises
    ------
    InputError
        The model's schedule is no table, nor one of pairs; or it is one of pairs and there is a distance.
    """

    def __init__(
        self,
        model: WaveformDiffusion,
        norm: Norm = "l1",
        drop: float = 0.0,
        distance: float = 0.0,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        if distance < 0 or (distance and model.denoiser.schedule.paired):
            raise InputError(
                f"distance={distance} must be at least 0, and 0 for schedules of pairs; leave it out"
            )
        self.model, self.drop, self.weight = model, drop, distance
        self.spectra = MultiResolutionLoss(model.sample_rate) if distance else None
        self.objective = build_objective(
            model.denoiser.schedule,
            target="v" if balanced else "eps",
            norm=norm,
            weighting=functools.partial(_balance, model.denoiser.sigma_data, norm) if balanced else "uniform",
            times=_levels_trained(model),
            normalize_weight=False,
        )

    @property
    def vocoder(self) -> WaveformDiffusion:
        """The model, by the name that validation asks for."""
        return self.model

    def forward(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch with ``wave`` (B, samples), whole frames long, and ``label`` (B,) for a model of labels."""
        cond = self.model.conditions(batch)
        if "label" in cond and self.drop:
            null = {"label": self.model.network.classes}
            cond = drop_condition(cond, null, self.drop, generator=generator)
        wave, prior = batch["wave"][:, None], self.model.noise_prior(cond)
        scaled: dict[str, Tensor] = {}
        if prior is not None and prior.white:
            wave = prior.whiten(wave)
        elif prior is not None:  # noise of the prior's deviation, and errors over it (PriorGrad, algorithm 1)
            noise = torch.randn(wave.shape, generator=generator, device=generator.device).to(wave)
            power = 1 if self.objective.norm == "l1" else 2
            scaled = {"noise": prior.color(noise), "weight": prior.std**-power}
        denoiser, objective = self.model.denoiser, self.objective
        if self.spectra is None or not isinstance(objective, Objective):
            losses = objective(denoiser, wave, generator=generator, **scaled, **cond)
            return {"loss": losses.mean()}
        weight = scaled.pop("weight", None)
        trial = objective.attempt(denoiser, wave, generator=generator, **scaled, **cond)
        denoising = objective.loss(trial, weight).mean()
        made = denoiser.convert(trial.output, trial.x_t, trial.t)
        if prior is not None and prior.white:
            made = prior.unwhiten(made)
        distance = self.spectra(made[:, 0], batch["wave"])
        parts = {"denoising": denoising.detach(), "distance": distance.detach()}
        return {"loss": denoising + self.weight * distance, **parts}


def _balance(sigma_data: float, norm: Norm, levels: Levels) -> Tensor:
    """Factor on a norm of the error in v that makes it one of EDM's network."""
    return gain("edm", levels, sigma_data) ** (1 if norm == "l1" else 2)


def _levels_trained(model: WaveformDiffusion) -> Times:
    """Where on the way a model of waveforms is trained."""
    schedule = model.denoiser.schedule
    if schedule.paired:
        return Stratified(usual_times(schedule, model.denoiser.sigma_data))
    if not isinstance(schedule, BetaTable):
        raise InputError(
            f"schedule={type(schedule).__name__} must be a BetaTable, as in the papers, or CriticallyDamped"
        )
    continuous = model.denoiser.noise_input == "sqrt_alpha_bar"
    return ContinuousTable() if continuous else TablePoints(schedule.steps)


class SpectralTask(nn.Module):
    """Train a :class:`SpectralVocoder`: its denoiser at random noise levels, its sampler unrolled, or both.

    Parameters
    ----------
    vocoder : SpectralVocoder
    denoising : float >= 0
        Weight of the denoising loss at random noise levels.
    unrolled : float >= 0
        Weight of the waveform loss: the few-step sampler, Griffin-Lim's last iterations, the phase network and
        the inverse transform run as in use, and gradients flow through all of it (in the manner of InferGrad,
        Chen et al. 2022, and WaveFit, Koizumi et al. 2022).
    steps : tuple of int
        Numbers of network evaluations to draw from when unrolled, the phase network's included.
    variety : float in [0, 1]
        Share of batches whose mel has another definition than the model's own.
    gradient : int >= 0
        Griffin-Lim iterations that gradients flow through.
    share : float in (0, 1]
        Share of the batch that the denoising loss is computed on; less where it only accompanies the other.
    hearing : float >= 0
        Weight of the unrolled sound's :class:`DisturbanceLoss`.
    adversarial : float >= 0
        Weight of what a critic of the unrolled sound says. The critic, the submodule ``critic``, learns beside the
        vocoder; give it its own rate as a part of the trainer.
    """

    def __init__(
        self,
        vocoder: SpectralVocoder,
        denoising: float = 1.0,
        unrolled: float = 0.0,
        steps: tuple[int, ...] = (2, 2, 3, 4),
        variety: float = 0.5,
        gradient: int = 2,
        share: float = 1.0,
        hearing: float = 0.0,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__()
        self.vocoder = vocoder
        self.denoising, self.unrolled, self.steps = denoising, unrolled, steps
        self.variety, self.gradient, self.share = variety, gradient, share
        self.hearing, self.adversarial = hearing, adversarial
        sigma_data = vocoder.denoiser.sigma_data
        self.objective = Objective(
            vocoder.denoiser.schedule,
            target="x0",
            weighting=lambda levels: 1 / edm_scalings(levels, sigma_data)[1].clamp_min(0.03),
        )
        self.distance = MultiResolutionLoss(vocoder.stft.sample_rate)
        self.disturbance = DisturbanceLoss(vocoder.stft.sample_rate)
        self.critic = Critic(vocoder.stft.sample_rate) if adversarial else None

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Losses of a batch with ``wave`` (B, samples): "loss" and its parts."""
        wave = batch["wave"]
        with torch.no_grad():
            conditions = self._conditions(wave, generator)
        losses = {}
        if self.denoising:
            losses["denoising"] = self._denoising(wave, conditions, generator)
        if self.unrolled:
            estimate = self._unroll(wave, conditions, generator)
            losses["unrolled"] = self.distance(estimate, wave)
            if self.hearing:
                losses["hearing"] = self.disturbance(estimate, wave)
            if self.critic is not None:
                losses["adversarial"], losses["critical"] = judged_sound(self.critic, estimate, wave)
        weighted = [getattr(self, name, 1.0) * value for name, value in losses.items()]
        total = torch.stack(weighted).sum()
        return {"loss": total, **{name: value.detach() for name, value in losses.items()}}

    def _conditions(self, wave: Tensor, generator: torch.Generator) -> Conditions:
        return varied_conditions(self.vocoder, wave, self.variety, generator)

    def _denoising(self, wave: Tensor, conditions: Conditions, generator: torch.Generator) -> Tensor:
        vocoder, some = self.vocoder, slice(0, math.ceil(self.share * len(wave)))
        wave, prior, context = wave[some], conditions.prior[some], conditions.context[some]
        with torch.no_grad():
            x0 = to_state(vocoder.stft(wave).abs(), prior)
            t = torch.rand(len(x0), generator=generator, device=x0.device)
            t[: len(t) // 4] = 1 - 0.3 * t[: len(t) // 4]  # few-step samplers live near pure noise
            weight = loudness_weight(prior)
        losses = self.objective(
            vocoder.denoiser, x0, generator=generator, weight=weight, t=t, prior=prior, context=context
        )
        return losses.mean()

    def _unroll(self, wave: Tensor, conditions: Conditions, generator: torch.Generator) -> Tensor:
        shape = (len(wave), 1, conditions.prior.shape[1], conditions.prior.shape[2] - 1)
        noise = torch.randn(shape, generator=generator, device=wave.device)
        choice = torch.randint(len(self.steps), (), generator=generator, device=generator.device)
        steps = self.steps[int(choice)]
        estimate: Tensor = self.vocoder(noise, conditions, steps, wave.shape[1], gradient=self.gradient)
        return estimate


class SketchTask(nn.Module):
    """Teach a vocoder's sketch what its denoiser makes of no noise: an evaluation of many blocks in few (distillation).

    The denoiser's answer at the highest noise level is the expected state. It varies less than the recordings do, so
    that a shallow network comes near it soon.

    Parameters
    ----------
    vocoder : SpectralVocoder
        With a sketch, which alone learns.
    variety : float in [0, 1]
        Share of batches whose mel has another definition than the model's own.

    Raises
    ------
    InputError
        The vocoder has no sketch.
    """

    def __init__(self, vocoder: SpectralVocoder, variety: float = 0.5) -> None:
        super().__init__()
        if vocoder.sketch is None:
            raise InputError(
                "vocoder without a sketch must get one to be taught; build it with SpectralVocoder(sketch=...)"
            )
        self.vocoder, self.variety = vocoder, variety

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch with ``wave`` (B, samples): squared error of states, louder bins counting more."""
        vocoder, wave = self.vocoder, batch["wave"]
        assert vocoder.sketch is not None
        teacher = vocoder.denoiser.network
        assert isinstance(teacher, MagnitudeNet)
        with torch.no_grad():
            told = varied_conditions(vocoder, wave, self.variety, generator)
            wanted = teacher.regress(told.prior, told.context)
        error = (vocoder.sketch.regress(told.prior, told.context) - wanted).square()
        return {"loss": (loudness_weight(told.prior) * error).mean()}


def varied_conditions(
    vocoder: SpectralVocoder, wave: Tensor, variety: float, generator: torch.Generator
) -> Conditions:
    """What the networks are told of ``wave`` (B, samples), a ``variety`` of times by a random mel definition."""
    spec = random_mel_spec(generator, vocoder.mel, variety)
    sound = torchaudio.functional.resample(wave, vocoder.stft.sample_rate, spec.sample_rate)
    return vocoder.conditions(spec(sound), spec, frames=vocoder.stft.frames(wave.shape[1]))


def loudness_weight(prior: Tensor) -> Tensor:
    """Weights (B, 1, T, K-1) of errors in states: the root of how loud the prior (B, T, K) is, over all of an item."""
    loudness = (prior / prior.square().mean((1, 2), keepdim=True).sqrt()).clamp(1e-3, 30)
    return loudness.sqrt()[:, None, :, :-1]
