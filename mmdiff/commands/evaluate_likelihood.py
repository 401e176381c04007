"""``mmdiff evaluate --likelihood``: bits per dimension of files, and how they rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmdiff.commands.pipelines import likelihood_of
from mmdiff.commands.report import report, take_options
from mmdiff.errors import InputError

_FILES, _DRAWS = 16, 16


@dataclass(frozen=True)
class LikelihoodOptions:
    """What the user asked for; the fields are the command's options."""

    reference: str | None
    estimate: str | None
    model: str
    split: str | None
    steps: Sequence[int]
    limit: int | None
    seed: int | None
    out: str | None
    json: bool


def evaluate_likelihood(pipeline: Any, asked: Mapping[str, Any]) -> int:
    """Measure files by a model's variational bound and print what was found; returns the exit status."""
    owner = "other evaluations than --likelihood"
    options = take_options(LikelihoodOptions, {**asked, "likelihood": False}, owner)
    if len(options.steps) > 1:
        raise InputError(f"steps={list(options.steps)} must be one number with --likelihood")
    if min(options.steps, default=1) < 1:
        raise InputError(f"steps={options.steps[0]} must be at least 1: evaluations for each file's bound")
    if getattr(pipeline.model, "latents", 0):
        raise InputError(
            f"model={options.model!r} has no likelihood: it is the generator of a denoising diffusion GAN, which draws "
            "what it makes of a random vector; take one that is trained as a denoiser"
        )
    settings = {
        "split": options.split,
        "count": _FILES if options.limit is None else options.limit,
        "draws": options.steps[0] if options.steps else _DRAWS,
        "seed": options.seed or 0,
    }
    from mmdiff.media.likelihoods import LIKELIHOOD_MEASURES
    from mmdiff.media.tables import ScoreTable

    sources = [source for source in (options.reference, options.estimate) if source is not None]
    scores = likelihood_of(pipeline)(pipeline, sources, **settings)
    shared = {"model": options.model, **settings}
    report(
        ScoreTable(scores, LIKELIHOOD_MEASURES, "set", kind="set", shared=shared), options.out, options.json
    )
    return 0
