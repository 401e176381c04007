"""``mmdiff evaluate`` of models of clips: of moving digits, of a folder's videos, and of editing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdiff.commands.report import remark, report, take_options
from mmdiff.errors import InputError
from mmdiff.media.tables import ScoreTable

if TYPE_CHECKING:
    from torch import Tensor

    from mmdiff.video.generator import ClipGenerator
    from mmdiff.video.judge import DigitJudge
    from mmdiff.video.metrics import FeatureNetwork

_CLIPS, _HELD_OUT_SEEDS, _EDITED = 16, 10, 8
"""How many there are unless told: clips of a folder, clips for each held-out caption, clips edited."""
_TORCHVISION = "torchvision:"
_EDIT_SEED = 3 << 32  # of real clips that are edited


@dataclass(frozen=True)
class ClipOptions:
    """What the user asked for; the fields are the command's options."""

    reference: str | None
    model: str
    split: str | None
    steps: list[int]
    captions: str | None
    num: int | None
    seed: int | None
    limit: int | None
    sampler: str | None
    guidance: float | None
    features: str | None
    edits: bool
    out: str | None
    json: bool

    @property
    def step(self) -> int | None:
        """The one number of steps, where several cannot be compared."""
        if len(self.steps) > 1:
            raise InputError(f"steps={self.steps} must be one number with --edits or a folder of videos")
        return self.steps[0] if self.steps else None

    @property
    def first(self) -> int:
        """Seed of the first clip."""
        return self.seed or 0

    @property
    def sampling(self) -> dict[str, Any]:
        """For the model's pipeline, but for ``steps``."""
        return {"sampler": self.sampler, "guidance": self.guidance}


def evaluate_clips(gen: ClipGenerator, asked: Mapping[str, Any]) -> int:
    """Measure a model of clips as ``mmdiff evaluate`` was asked to; returns the exit status."""
    options = take_options(ClipOptions, asked, f"vocoders, and {asked['model']!r} is a model of clips")
    numbers = (*options.steps, options.num, options.limit)
    if any(number is not None and number < 1 for number in numbers):
        raise InputError(
            f"steps={options.steps}, num={options.num} and limit={options.limit} must be positive"
        )
    if options.edits:
        _edits(gen, options)
    elif options.reference is None:
        _digits(gen, options)
    else:
        _folder(gen, options)
    return 0


def _digits(gen: ClipGenerator, options: ClipOptions) -> None:
    from mmdiff.video.evaluate import COUNTS, MEASURES, coded_system, evaluate_digits, model_system
    from mmdiff.video.evaluate_captions import PAIRS, check_digit_model, makes_pairs, questions

    if options.captions == "none" or options.split is not None:
        raise InputError("captions='none' and split must be left out: the model is measured by its captions")
    check_digit_model(gen.model)
    held_out = True if options.captions == "held-out" else None
    num = options.num or (_HELD_OUT_SEEDS if held_out else 1)
    pairs = PAIRS if makes_pairs(gen.model) else 0
    asked = questions(held_out, num, limit=options.limit, pairs=pairs, seed=options.first)
    network = _features(gen, options.features or "judge")
    name = Path(options.model).name
    systems = [
        model_system(gen, f"{name}, {steps} steps", steps=steps, **options.sampling)
        for steps in options.steps or [gen.model.steps]
    ]
    if gen.model.autoencoder is not None:
        systems.insert(0, coded_system(gen.model))
    scores = evaluate_digits(
        systems, _judge(gen), asked, frames=gen.model.frames, size=gen.model.size[0], features=network
    )
    shared = {
        "model": options.model,
        "captions": options.captions or "crossed",
        "num": num,
        "seed": options.first,
        **options.sampling,
    }
    report(ScoreTable(scores, COUNTS | MEASURES, turned=True, shared=shared), options.out, options.json)
    if not any("frechet" in score.measures for score in scores):
        remark("too few clips for a Fréchet distance: raise --limit or --num")


def _folder(gen: ClipGenerator, options: ClipOptions) -> None:
    from mmdiff.video.evaluate_captions import is_digit_model
    from mmdiff.video.evaluate_folder import FOLDER_COUNTS, FOLDER_MEASURES, evaluate_folder, folder_clips

    if options.captions is not None or options.num is not None:
        raise InputError(
            "captions and num must be left out with a folder: its own captions are used, once each"
        )
    steps, features = options.step, options.features
    if not features and is_digit_model(gen.model):
        features = "judge"
    network = _features(gen, features) if features else None
    if network is None:
        remark("no distances between distributions: they need --features")
    clips = folder_clips(str(options.reference), gen.model, split=options.split, seed=options.first)
    name, count = Path(options.model).name, options.limit or _CLIPS
    scores = evaluate_folder(
        gen,
        clips,
        name=name,
        count=count,
        features=network,
        steps=steps,
        seed=options.first,
        **options.sampling,
    )
    shared = {"model": options.model, "folder": options.reference, "seed": options.first, **options.sampling}
    measures = FOLDER_COUNTS | FOLDER_MEASURES
    report(ScoreTable(scores, measures, turned=True, shared=shared), options.out, options.json)


def _edits(gen: ClipGenerator, options: ClipOptions) -> None:
    from mmdiff.video.evaluate_captions import is_digit_model
    from mmdiff.video.evaluate_edits import EDIT_MEASURES, EVALUATIONS, evaluate_edits

    steps, count = options.step, options.limit or _EDITED
    digits = options.reference is None
    clips, captions = _digit_clips(gen, options, count) if digits else _folder_examples(gen, options, count)
    judge = _judge(gen) if is_digit_model(gen.model) else None
    scores = evaluate_edits(
        gen, clips, prompts=captions, judge=judge, steps=steps, seed=options.first, **options.sampling
    )
    shared = {
        "model": options.model,
        "captions": options.captions or "none",
        "steps": steps or gen.model.steps,
        "seed": options.first,
        **options.sampling,
    }
    measures = {"evaluations": EVALUATIONS, **EDIT_MEASURES}
    corner = f"{scores[0].about['clips']} clips"
    report(ScoreTable(scores, measures, corner, group="task", shared=shared), options.out, options.json)


def _digit_clips(gen: ClipGenerator, options: ClipOptions, count: int) -> tuple[Tensor, Sequence[str] | None]:
    from mmdiff.video.evaluate_captions import check_digit_model, questions, real_digits

    check_digit_model(gen.model)
    held_out = True if options.captions == "held-out" else None
    num = options.num or max(1, math.ceil(count / (30 if held_out else 300)))
    asked = questions(held_out, num, limit=math.ceil(count / num), pairs=0)
    captions = asked.captions[:count]
    seeds = range(_EDIT_SEED + options.first, _EDIT_SEED + options.first + len(captions))
    clips = real_digits(gen.model.frames, gen.model.size[0])(captions, seeds)
    return clips, captions if options.captions in ("crossed", "held-out") else None


def _folder_examples(
    gen: ClipGenerator, options: ClipOptions, count: int
) -> tuple[Tensor, Sequence[str | None] | None]:
    import torch

    from mmdiff.video.evaluate_folder import folder_clips, for_model

    if options.captions in ("crossed", "held-out") or options.num is not None:
        raise InputError(
            "captions and num must be left out with a folder: its own captions are used, once each"
        )
    clips = folder_clips(str(options.reference), gen.model, split=options.split, seed=options.first)
    items = [for_model(clips[n], gen.model) for n in range(count)]
    told = gen.model.takes_prompts and options.captions != "none"
    return torch.stack([item["video"] for item in items]), [
        (item["caption"] or None) if told else None for item in items
    ]


def _features(gen: ClipGenerator, name: str) -> FeatureNetwork:
    """Feature network by what the user calls it."""
    from mmdiff.video.metrics.features import torchscript_network, torchvision_network

    if name == "judge":
        return _judge(gen).features
    if name.startswith(_TORCHVISION):
        return torchvision_network(name.removeprefix(_TORCHVISION), str(gen.device))
    if not Path(name).is_file():
        raise InputError(
            f"features={name!r} must be judge, a TorchScript file, or {_TORCHVISION}NAME such as "
            f"{_TORCHVISION}r3d_18"
        )
    return torchscript_network(name, device=str(gen.device))


def _judge(gen: ClipGenerator) -> DigitJudge:
    from mmdiff.hub import load_as
    from mmdiff.video.judge import DigitJudge

    return load_as(DigitJudge, "digit-judge", gen.device)
