"""Drawing one block of frames: a sampler's run with conditions, guidance, and whatever is known of the frames."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdiff.diffusion.adversarial import with_latents
from mmdiff.diffusion.guidance import ClassifierFree
from mmdiff.diffusion.measurement import Measurement
from mmdiff.diffusion.reconstruction import ReconstructionGuidance, Replacement
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.errors import InputError
from mmdiff.video.conditioning import ActionCondition, ConditionedNetwork
from mmdiff.video.known import Known
from mmdiff.video.model import ClipModel
from mmdiff.video.request import Request
from mmdiff.video.small import noised

_ROUNDS = 20
"""Turns between what is measured and the range of pixels, which a clip of means may leave."""


def method_of(model: ClipModel, request: Request) -> str:
    """How a request's result is made to agree with what is known.

    Raises
    ------
    InputError
        It is to be done by a condition that the model does not have.
    """
    needed = "known" if request.edit.small is None else "small"
    trained = needed in model.conditions
    method = request.sampling.method
    if method == "trained" and not trained:
        raise InputError(
            f"method='trained' must be 'reconstruction' or 'replacement' here: the model has no {needed!r} "
            f"condition, only {', '.join(model.conditions) or 'none'}"
        )
    return method or ("trained" if trained else "reconstruction")


class Drawing:
    """Make blocks of a request's clips, for :func:`mmdiff.video.long.extend`.

    Parameters
    ----------
    model : ClipModel
    request : Request
    device : torch.device
    tick : callable
        Called after each step of the sampler.

    Attributes
    ----------
    evaluations : int
        Network evaluations of each clip so far.
    """

    def __init__(
        self, model: ClipModel, request: Request, device: torch.device, tick: Callable[..., object]
    ) -> None:
        self.model, self.request, self.device, self.tick = model, request, device, tick
        self.method = method_of(model, request)
        self.evaluations = 0
        self._placed = "positions" in inspect.signature(model.network.forward).parameters

    def __call__(self, begin: int, end: int, known: Known) -> Tensor:
        """Make frames ``begin`` to ``end`` of all items: (B, C, end - begin, H, W) in [-1, 1]."""
        model, request, sampling = self.model, self.request, self.request.sampling
        denoiser, told, measurement = self.denoiser(begin, end, known)
        assert isinstance(sampling.grid, Tensor), "resolved"
        generators = [torch.Generator(self.device).manual_seed(seed) for seed in self.seeds(begin)]
        state = sample(
            with_latents(denoiser, model.latents, generators),
            model.state_shape((len(request), model.channels, end - begin, *request.edit.size)),
            schedule=model.denoiser.schedule,
            sampler=str(sampling.sampler),
            grid=sampling.grid,
            temperature=sampling.temperature,
            generator=generators,
            device=self.device,
            callback=self.tick,
            **told,  # type: ignore[arg-type]
        )
        if measurement is not None:
            state = self._projected(state, measurement, 1 if known.small is None else _ROUNDS)
        return torch.where(known.mask, known.video, model.from_model(state))

    def seeds(self, begin: int) -> list[int]:
        """Of the noise of the block that begins at a frame, one for each item."""
        return [block_seed(seed, begin) for seed in self.request.seeds]

    def denoiser(
        self, begin: int, end: int, known: Known
    ) -> tuple[DenoiserFn, dict[str, Tensor], Measurement | None]:
        """What a sampler of these frames runs on: guided denoiser, conditions for it, and what is known."""
        model = self.model
        scaled = _in_model(known, model)
        told = {**self._conditions(begin, end), **self._given(scaled, self.seeds(begin))}
        measurement = scaled.measurement(means=self.method != "trained")
        denoiser = self._guided(told, torch.arange(begin, end, device=self.device))
        if measurement is not None:
            denoiser = self._agreeing(denoiser, measurement)
        return denoiser, told, measurement

    def _guided(self, told: dict[str, Tensor], positions: Tensor) -> DenoiserFn:
        """Denoiser of frames at these places, with classifier-free guidance."""
        request, network = self.request, self.model.network
        place = {"positions": positions} if self._placed else {}

        def placed(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
            self.evaluations += len(x) // len(request)
            clean: Tensor = self.model.denoiser(x, t, **place, **cond)
            return clean

        scale = request.sampling.guidance
        if scale is None or scale == 1 or not request.guided:
            return placed
        if isinstance(network, ConditionedNetwork):
            nulls: dict[str, Any] = network.nulls(told, request.guided)
        else:
            nulls = dict.fromkeys(request.guided, torch.nan)  # says to such a network that nothing is given
        interval = request.sampling.guidance_interval or (0.0, 1.0)
        return ClassifierFree(placed, float(scale), nulls, interval=interval)

    def _agreeing(self, denoiser: DenoiserFn, measurement: Measurement) -> DenoiserFn:
        if self.method == "reconstruction":
            schedule, weight = self.model.denoiser.schedule, self.request.sampling.weight
            denoiser = ReconstructionGuidance(denoiser, measurement, schedule, weight)
        return Replacement(denoiser, measurement)

    def _projected(self, state: Tensor, measurement: Measurement, rounds: int) -> Tensor:
        for _ in range(rounds - 1):
            state = self.model.to_model(self.model.from_model(measurement.project(state)))
        return measurement.project(state)

    def _conditions(self, begin: int, end: int) -> dict[str, Tensor]:
        """What the user says of these frames."""
        frames = [n % self.request.edit.frames for n in range(begin, end)]  # a loop ends with its beginning
        network, told = self.model.network, {}
        for name, value in self.request.conditions.items():
            own = network.conditioners[name] if isinstance(network, ConditionedNetwork) else None
            told[name] = (value[:, frames] if isinstance(own, ActionCondition) else value).to(self.device)
        return told

    def _given(self, known: Known, seeds: Sequence[int]) -> dict[str, Tensor]:
        """What is known, for networks that learned to be given it; in the model's range."""
        told: dict[str, Tensor] = {}
        if self.method != "trained":
            return told
        items = len(self.request)
        if "known" in self.model.conditions and bool(known.mask.any()):
            mask = known.mask.expand(items, -1, -1, -1, -1)
            told["known"] = torch.cat((torch.where(mask, known.video, 0.0), mask.to(known.video)), 1)
        if "small" in self.model.conditions and known.small is not None:
            small = known.small.expand(items, -1, -1, -1, -1)
            generators = [torch.Generator().manual_seed(block_seed(seed, -1)) for seed in seeds]
            noise = torch.stack([torch.randn(small.shape[1:], generator=each) for each in generators])
            told["small"] = noised(small, self.request.sampling.noise, noise.to(small))
        return told


def _in_model(known: Known, model: ClipModel) -> Known:
    """What is known, in the model's range or, as frames are known whole, in its latents."""
    small = None if known.small is None else model.to_model(known.small)
    _, _, down, right = (1, 1, 1, 1) if model.autoencoder is None else (1, *model.autoencoder.factor)
    mask = known.mask[..., ::down, ::right]
    return dataclasses.replace(known, video=model.to_model(known.video), mask=mask, small=small)


def block_seed(seed: int, begin: int) -> int:
    """Seed of the block that begins at a frame; the first block's is the clip's own."""
    if begin == 0:
        return seed
    return int(np.random.SeedSequence([seed % 2**63, begin % 2**63]).generate_state(1, np.uint64)[0] >> 1)
