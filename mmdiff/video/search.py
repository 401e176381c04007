"""Search of grids for models of clips, measured by the distance from what many steps make of the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.routes import local_errors
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.diffusion.solver_tools import draw_noise
from mmdiff.errors import InputError
from mmdiff.media.grid_search import GridProblem
from mmdiff.video.drawing import Drawing
from mmdiff.video.generator import ClipGenerator

MEASURE = "rms"
"""Root-mean-square difference of pixels in [-1, 1] from the clips of many steps."""
FINE = "deis"
_FOLLOWED = 4  # clips whose ODE is followed for the errors of single steps


class ClipProblem(GridProblem):
    """A grid for a model of clips: few steps should make what many steps make of the same noise.

    Parameters
    ----------
    gen : ClipGenerator
    prompts : sequence of str or None
        What the clips show, one for each clip.
    sampler : str, optional
        Deterministic; default: the model's.
    seed : int
        Of the first clip's noise; the next has the next number.
    fine : int > 0
        Steps of the clips to come near to, made with "deis" on a uniform grid.
    **settings
        As for :class:`mmdiff.video.sampling.Sampling`, such as ``guidance``.

    Raises
    ------
    InputError
        The sampler draws noise, so that its clips have nothing to be compared with.
    """

    def __init__(
        self,
        gen: ClipGenerator,
        prompts: Sequence[str | None],
        *,
        sampler: str | None = None,
        seed: int = 0,
        fine: int = 100,
        **settings: Any,
    ) -> None:
        super().__init__(gen.model.denoiser.schedule, sampler or gen.model.sampler, MEASURE, False)
        if SAMPLERS[self.sampler].stochastic:
            fit = ", ".join(name for name, info in SAMPLERS.items() if not info.stochastic)
            raise InputError(f"sampler={self.sampler!r} must be a deterministic one here: {fit}")
        if not prompts:
            raise InputError("prompts must hold one for each clip, which may be None")
        self.gen, self.prompts = gen, list(prompts)
        self.settings: dict[str, Any] = {**settings, "seed": seed}
        self.target = gen(self.prompts, steps=fine, grid="uniform", sampler=FINE, **self.settings)

    def own_grid(self, steps: int) -> Tensor:
        """Times that the model uses unless told otherwise."""
        return self.gen.model.times(steps)

    def score(self, grid: Tensor, steps: int) -> float:
        """Distance of the clips from those of many steps."""
        made = self.gen(self.prompts, grid=grid, sampler=self.sampler, **self.settings)
        return float((made - self.target).double().square().mean().sqrt())

    def errors(self, candidates: Tensor) -> Tensor:
        """Errors of single steps on the first clips."""
        gen, model = self.gen, self.gen.model
        request = gen.request(self.prompts, **self.settings).part(0, _FOLLOWED)
        drawing = Drawing(model, request, gen.device, lambda *_: None)
        known = request.edit.part(0, request.edit.frames, model.channels, gen.device)
        denoiser, told, _ = drawing.denoiser(0, request.edit.frames, known)
        shape = model.state_shape((len(request), model.channels, request.edit.frames, *request.edit.size))
        generators = [torch.Generator(gen.device).manual_seed(seed) for seed in drawing.seeds(0)]
        noise = draw_noise(shape, torch.empty(0, device=gen.device), generators)
        return local_errors(
            denoiser,
            self.schedule.prior_std * noise,
            candidates,
            self.schedule,
            sampler=self.sampler,
            **told,  # type: ignore[arg-type]
        )
