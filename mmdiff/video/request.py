"""What was asked of a clip model, decided and checked before the first network evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.adversarial import check_trained
from mmdiff.diffusion.samplers import SAMPLERS
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource, find_grid, find_table
from mmdiff.video.checks import as_prompts, as_seeds, check_count, check_interval, check_number
from mmdiff.video.conditioning import (
    PIXEL_CONDITIONS,
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    Conditioner,
)
from mmdiff.video.edits import Edit
from mmdiff.video.model import ClipModel
from mmdiff.video.tasks import TextFunction
from mmdiff.video.text import text_features

METHODS = ("trained", "reconstruction", "replacement")
Prompt = str | Sequence[str | None] | None


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


@dataclass(frozen=True)
class Request:
    """Clips to be made: B items.

    Attributes
    ----------
    edit : Edit
        Size, length and what is known.
    prompts : tuple of B str or None
    seeds : tuple of B int
    conditions : mapping of str to Tensor (B, ...)
        For the network.
    guided : tuple of str
        Those that guidance exaggerates.
    sampling : Sampling
        Resolved.
    notes : tuple of str
        What the user should know.
    """

    edit: Edit
    prompts: tuple[str | None, ...]
    seeds: tuple[int, ...]
    conditions: Mapping[str, Tensor]
    guided: tuple[str, ...]
    sampling: Sampling
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, begin: int, end: int) -> Request:
        """Items ``begin`` to ``end``."""
        return dataclasses.replace(
            self,
            edit=self.edit.items(begin, end),
            prompts=self.prompts[begin:end],
            seeds=self.seeds[begin:end],
            conditions={name: value[begin:end] for name, value in self.conditions.items()},
        )


def make_request(
    model: ClipModel,
    prompt: Prompt,
    edit: Edit,
    sampling: Sampling,
    seed: int | Sequence[int],
    num: int,
    given: Mapping[str, Any],
    text: TextFunction,
) -> Request:
    """Bring prompts, known clips, conditions and seeds to the same number of items.

    ``text`` is asked for features of prompts if the model takes those of a text encoder.

    Raises
    ------
    InputError
        Numbers do not fit, the model has no such condition, or it cannot make this size.
    """
    prompts = as_prompts(prompt)
    check_count("num", num)
    if not prompts:
        raise InputError("prompt=[] must have at least one entry, which may be None")
    values = {
        name: _tensor(model, name, value, edit.frames) for name, value in given.items() if value is not None
    }
    counts = {"prompts": len(prompts), "clips": edit.clips, **{name: len(v) for name, v in values.items()}}
    base = max(counts.values())
    if any(count not in (1, base) for count in counts.values()):
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count > 1)
        raise InputError(f"{told} do not fit together: give one of a kind, or the same number")
    prompts = prompts * (base // len(prompts))
    notes = [*_caption_notes(model, prompts), *_size_notes(model, edit)]
    if edit.clips > 1 and num > 1:
        repeat = {
            name: value.repeat_interleave(num, 0)
            for name in ("video", "mask", "small")
            if (value := getattr(edit, name)) is not None and len(value) > 1
        }
        edit = dataclasses.replace(edit, **repeat)
    conditions = _conditions(model, prompts, values, base, text)
    # Whole frames say what a prompt says, and more; exaggerating the prompt drives figures off their way.
    if sampling.guidance is None and any(edit.whole()):
        sampling = dataclasses.replace(sampling, guidance=1.0)
    return Request(
        edit=edit,
        prompts=tuple(p for p in prompts for _ in range(num)),
        seeds=as_seeds(seed, base * num),
        conditions={name: value.repeat_interleave(num, 0) for name, value in conditions.items()},
        guided=tuple(conditions) if values or any(prompts) else (),
        sampling=sampling.resolved(model),
        notes=tuple(dict.fromkeys(notes)),
    )


def _conditioners(model: ClipModel) -> dict[str, Conditioner]:
    network = model.network
    return dict(network.conditioners) if isinstance(network, ConditionedNetwork) else {}  # type: ignore[arg-type]


def _tensor(model: ClipModel, name: str, value: Any, frames: int) -> Tensor:
    """Turn a condition given by a user into a tensor with one row for each item."""
    own = [n for n in model.conditions if n not in PIXEL_CONDITIONS]
    if name == "vector" and not isinstance(model.network, ConditionedNetwork):
        vector = torch.as_tensor(value).float()
        return vector if vector.ndim == 2 else vector[None]
    if name not in own or (model.captions is not None and name == model.captions.name):
        offered = ", ".join(n for n in own if model.captions is None or n != model.captions.name)
        raise InputError(
            f"{name}={value!r} is no condition of this model; it takes {offered or 'a prompt only'}"
        )
    tensor = torch.as_tensor(value)
    conditioner = _conditioners(model)[name]
    per_frame = isinstance(conditioner, ActionCondition)
    tensor = tensor if tensor.ndim > per_frame else tensor[None]
    if per_frame and tensor.shape[1:] != (frames,):
        raise InputError(f"{name}={tuple(tensor.shape)} must hold one for each of the {frames} frames")
    if isinstance(conditioner, ActionCondition | ClassCondition):
        most = conditioner.count
        if tensor.is_floating_point() or int(tensor.min()) < 0 or int(tensor.max()) > most:
            raise InputError(
                f"{name}={value!r} must be whole numbers from 0 to {most}; {most} stands for unknown"
            )
        tensor = tensor.long()
    return tensor


def _conditions(
    model: ClipModel,
    prompts: Sequence[str | None],
    values: Mapping[str, Tensor],
    count: int,
    text: TextFunction,
) -> dict[str, Tensor]:
    """One value for each item of each condition that was given; the network takes the others to be absent."""
    found = {name: value.expand(count, *value.shape[1:]) for name, value in values.items()}
    if model.captions is not None:
        found[model.captions.name] = model.caption_ids(prompts)
    features = text_features(model)
    if features is not None and any(prompts):
        if features.name in values:
            raise InputError(f"{features.name} must be left out with a prompt, whose features it would be")
        found[features.name] = text(prompts)
    return found


def _caption_notes(model: ClipModel, prompts: Sequence[str | None]) -> list[str]:
    if any(prompts) and not model.takes_prompts:
        raise InputError(
            f"prompt={next(filter(None, prompts))!r} must be left out: the model was not trained with captions; "
            f"its conditions are {', '.join(model.conditions) or 'none'}"
        )
    if model.captions is None:
        return []
    notes = []
    for prompt in prompts:
        unknown = list(dict.fromkeys(model.captions.unknown_words(prompt or "")))
        if unknown:
            notes.append(
                f"caption {prompt!r}: the model never learned the word{'s' * (len(unknown) > 1)} "
                f"{', '.join(map(repr, unknown))}"
            )
    return notes


def stride(model: ClipModel) -> int:
    """What height and width must be divisible by."""
    network = model.network.network if isinstance(model.network, ConditionedNetwork) else model.network
    cells = 1 if model.autoencoder is None else math.lcm(*model.autoencoder.factor[1:])
    return int(getattr(network, "stride", 1)) * cells


def _size_notes(model: ClipModel, edit: Edit) -> list[str]:
    unit = stride(model)
    if model.autoencoder is not None and not edit.of_whole_frames:
        raise InputError(
            "edit must know frames whole or not at all: the model diffuses latents, each of which stands for a square "
            "of pixels; it can go on with clips, fill in frames and make loops, and a model of pixels does the rest"
        )
    if any(side < 1 or side % unit for side in edit.size):
        near = [max(unit, unit * round(side / unit)) for side in edit.size]
        raise InputError(
            f"size={edit.size[0]}x{edit.size[1]} must be divisible by {unit} along both sides; "
            f"the nearest is {near[0]}x{near[1]}"
        )
    trained = model.size[0] * model.size[1]
    if not trained / 2.5 < edit.size[0] * edit.size[1] < 2.5 * trained:
        return [
            f"clips of {edit.size[0]}x{edit.size[1]} are far from the {model.size[0]}x{model.size[1]} that the model "
            "was trained on: expect less"
        ]
    return []
