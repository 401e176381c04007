"""How clips are drawn: what may be asked of the sampler, with the model's defaults, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from mmdiff.diffusion.adversarial import check_trained
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource, find_grid, find_table
from mmdiff.video.checks import check_count, check_interval, check_number
from mmdiff.video.conditioning import PIXEL_CONDITIONS
from mmdiff.video.model import ClipModel

METHODS = ("trained", "reconstruction", "replacement")


@dataclass(frozen=True)
class Sampling:
    """How clips are drawn; what is None is the model's default.

    Parameters
    ----------
    steps : int > 0, optional
        Of the sampler.
    sampler : str, optional
        A key of :data:`mmdiff.diffusion.samplers.SAMPLERS`; default: that of the grid's table, or the model's.
    grid : str, Path, GridTable, Tensor or sequence of float, optional
        Where the sampler stops: a key of :data:`mmdiff.diffusion.grids.GRIDS`, a file that ``mmdiff search``
        wrote, or times. A file or times decide on ``steps`` unless they are given.
    guidance : float >= 0, optional
        1 is none, 0 leaves the prompt aside; more follows the prompt more closely, and doubles the network
        evaluations. Default: the model's, and 1 where whole frames are given.
    guidance_interval : (float, float), optional
        First and last time in [0, 1], 1 being pure noise, at which guidance acts; elsewhere it costs nothing.
    temperature : float >= 0
        Factor on all noise.
    method : {"trained", "reconstruction", "replacement"}, optional
        How a result is made to agree with what is known. "trained" is for models that learned to be given
        frames or a small clip, and then the default.
    weight : float, optional
        Of reconstruction guidance.
    overlap : int > 0, optional
        Frames that a block of a long video knows of the one before; default: half of the block. Fewer are
        quicker, and let what is shown drift and jump.
    noise : float in [0, 1]
        Noise added to the small clip that a trained stage sharpens: more lets it invent more.
    """

    steps: int | None = None
    sampler: str | None = None
    grid: GridSource | None = None
    guidance: float | None = None
    guidance_interval: tuple[float, float] | None = None
    temperature: float = 1.0
    method: str | None = None
    weight: float = 1.0
    overlap: int | None = None
    noise: float = 0.1

    def resolved(self, model: ClipModel) -> Sampling:
        """Put the model's defaults in, and check everything.

        Raises
        ------
        InputError
            A name is unknown, a number out of range, or the model is a generator that was not trained for such a run.
        """
        table = None if self.grid is None else find_table(self.grid)
        given: dict[str, Any] = {
            "steps": model.steps,
            "sampler": (table.sampler if table else None) or model.sampler,
            "guidance": model.guidance,
            "guidance_interval": model.guidance_interval,
            "overlap": max(1, model.frames // 2),
        }
        missing = {name: value for name, value in given.items() if getattr(self, name) is None}
        found = dataclasses.replace(self, **missing)
        found._check(model)
        schedule = model.denoiser.schedule
        if self.grid is None:
            times = model.times(found.steps or model.steps)
        else:
            times = find_grid(table or self.grid, schedule, self.steps, model.steps)
        if model.latents:
            check_trained(schedule, times, str(found.sampler))
        return dataclasses.replace(found, grid=times, steps=len(times) - 1)

    def _check(self, model: ClipModel) -> None:
        for name, names in (("sampler", SAMPLERS), ("method", (None, *METHODS))):
            if (value := getattr(self, name)) not in names:
                raise InputError(f"{name}={value!r} must be one of {', '.join(filter(None, names))}")
        assert self.steps is not None
        assert self.overlap is not None
        check_count("steps", self.steps, f"; {model.steps} is usual")
        check_number("guidance", self.guidance)
        if self.guidance_interval is not None:
            check_interval("guidance_interval", self.guidance_interval)
        check_number("temperature", self.temperature)
        check_number("weight", self.weight)
        check_number("noise", self.noise, high=1)
        check_count("overlap", self.overlap)
        if not 0 < self.overlap < max(2, model.frames):
            raise InputError(
                f"overlap={self.overlap} must be from 1 to {model.frames - 1}: blocks have {model.frames} frames"
            )
        if self.method == "trained" and not set(PIXEL_CONDITIONS) & set(model.conditions):
            raise InputError(
                "method='trained' is for models that were trained to be given frames or a small clip; "
                "take 'reconstruction' or 'replacement'"
            )
