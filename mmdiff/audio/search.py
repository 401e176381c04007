"""Search of grids for vocoders, measured by copy-synthesis of a few recordings."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdiff.audio import io
from mmdiff.audio.checkpoints.wavegrad import SIX_STEPS
from mmdiff.audio.evaluation.validation import measured_copy
from mmdiff.audio.mel.lengths import longest_length
from mmdiff.audio.metrics import METRICS
from mmdiff.audio.vocoder import Vocoder
from mmdiff.diffusion.grids import noise_table_grid
from mmdiff.diffusion.routes import local_errors
from mmdiff.diffusion.schedules import BetaTable, diffwave_fast_betas
from mmdiff.errors import InputError
from mmdiff.media.grid_search import GridProblem

PUBLISHED = {
    "WaveGrad's table": (7e-6, 1.4e-4, 2.1e-3, 2.8e-2, 3.5e-1, 7e-1),
    "ivanvovk's WaveGrad table": SIX_STEPS,
    "DiffWave's table": diffwave_fast_betas(),
    "DiffWave's table for 200 steps": diffwave_fast_betas(200),
}
"""Tables of noise variances that are used with models of waveforms, least noisy step first.

The first is what projects that build on WaveGrad take for six steps; DiffWave's are the paper's (appendix B).
"""
_FOLLOWED = 2  # recordings whose ODE is followed for the errors of single steps


def read_recordings(voc: Vocoder, files: Sequence[Path], seconds: float) -> list[Tensor]:
    """Read the beginnings of recordings at a model's rate, channels averaged: (1, samples) each."""
    rate = voc.sample_rate
    return [io.read(path, sample_rate=rate, duration=seconds)[0].mean(0, keepdim=True) for path in files]


class VocoderProblem(GridProblem):
    """A grid for a vocoder: what it makes of recordings' spectrograms should be close to the recordings.

    Parameters
    ----------
    voc : Vocoder
    waves : sequence of Tensor (1, samples), in [-1, 1]
        Recordings at the model's rate; a few seconds each suffice, and must not need several windows.
    measure : str
        A key of :data:`mmdiff.audio.metrics.METRICS`.
    sampler : str, optional
        Default: the model's.
    seed : int
        Of the first recording's noise; the next has the next number.
    """

    def __init__(
        self,
        voc: Vocoder,
        waves: Sequence[Tensor],
        measure: str = "log_mel_l1",
        sampler: str | None = None,
        seed: int = 0,
    ) -> None:
        if measure not in METRICS:
            raise InputError(f"measure={measure!r} must be one of {', '.join(METRICS)}")
        if not waves:
            raise InputError("waves must hold at least one recording")
        super().__init__(
            voc.model.denoiser.schedule,
            sampler or voc.model.default_sampler,
            measure,
            METRICS[measure].higher_is_better,
        )
        self.voc, self.waves, self.seed = voc, list(waves), seed

    def own_grid(self, steps: int) -> Tensor:
        """Times that the model uses for so many network evaluations."""
        return self.voc.sampling(steps).grid

    def published(self, steps: int) -> dict[str, Tensor]:
        """Times of the tables above that have so many steps, where the model's own table reaches as far."""
        grids = {}
        for name, betas in PUBLISHED.items():
            if isinstance(self.schedule, BetaTable) and len(betas) == steps:
                with contextlib.suppress(InputError):  # noisier than training was
                    grids[name] = noise_table_grid(self.schedule, betas)
        return grids

    def score(self, grid: Tensor, steps: int) -> float:
        """Mean of the measure over the recordings, without those for which it does not exist."""
        values = []
        for number, wave in enumerate(self.waves):
            how: dict[str, Any] = {"steps": steps, "sampler": self.sampler, "grid": grid}
            _, found = measured_copy(self.voc, wave, [self.measure], seed=self.seed + number, **how)
            values.append(found[self.measure])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a mean of nothing is nan, as it should be
            return float(np.nanmean(values))

    def errors(self, candidates: Tensor) -> Tensor | None:
        """Errors of single steps, mean over the first recordings."""
        if self.schedule.paired:
            return None
        voc, total = self.voc, torch.zeros(len(candidates), len(candidates), dtype=torch.float64)
        chosen = self.waves[:_FOLLOWED]
        with torch.inference_mode():
            for number, wave in enumerate(chosen):
                mel, spec, _ = voc.model.accept(voc.mel(wave, voc.sample_rate), voc.mel_spec)
                samples = min(wave.shape[1], longest_length(spec, mel.shape[-1], voc.sample_rate))
                denoise, noise = voc.model.start(mel, spec, seeds=[self.seed + number], samples=samples)
                total += local_errors(
                    denoise,
                    self.schedule.prior_std * noise,
                    candidates,
                    self.schedule,
                    sampler=self.deterministic_sampler,
                )
        return total / len(chosen)
