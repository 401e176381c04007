"""What was asked of a clip model, decided and checked before the first network evaluation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.video.checks import as_prompts, as_seeds, check_count
from mmdiff.video.conditioning import (
    PIXEL_CONDITIONS,
    ActionCondition,
    ClassCondition,
    ConditionedNetwork,
    Conditioner,
)
from mmdiff.video.edits import Edit
from mmdiff.video.model import ClipModel
from mmdiff.video.sampling import Sampling
from mmdiff.video.tasks import TextFunction
from mmdiff.video.text import text_features

Prompt = str | Sequence[str | None] | None


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
