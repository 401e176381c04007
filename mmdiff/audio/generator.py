"""The sound pipeline: a label, or nothing, in; sound of any length out."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmdiff.audio.sampling import decide_sampling, item_generators, item_seeds
from mmdiff.audio.sound_model import SoundModel
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource
from mmdiff.progress import track

Label = str | int | None
"""A class by its name or number; None leaves it to the model."""

NOISE_BLOCK = 256
"""Samples that :func:`mmdiff.audio.noise.frame_noise` draws as one frame."""


class SoundGenerator:
    """Make sound with a diffusion model that needs no spectrogram.

    Parameters
    ----------
    model : SoundModel
    device : str, optional
        Default: the fastest there is.
    dtype : {"auto", "float32", "bfloat16", "float16"}, optional
        Of the network's matrix products.

    Examples
    --------
    >>> import mmdiff
    >>> gen = mmdiff.load("digits")  # doctest: +SKIP
    >>> gen("seven", seconds=1, seed=0).shape  # doctest: +SKIP
    torch.Size([1, 16000])
    """

    def __init__(self, model: SoundModel, device: str | None = None, dtype: str | None = None) -> None:
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        set_compute_dtype(self.model, pick_compute_dtype(self.device, dtype))

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the sound made, in Hz."""
        return self.model.sample_rate

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what the model can be asked for; empty for an unconditional one."""
        return self.model.labels

    def __call__(
        self,
        label: Label | Sequence[Label] = None,
        *,
        seconds: float | None = None,
        num: int = 1,
        steps: int | None = None,
        sampler: str | None = None,
        grid: GridSource | None = None,
        guidance: float | None = None,
        seed: int | Sequence[int] = 0,
        temperature: float = 1.0,
        batch: int = 8,
        progress: bool = False,
    ) -> Tensor:
        """Generate sounds.

        Parameters
        ----------
        label : str, int or None, or a sequence of them, optional
            What to make, by one of :attr:`labels` or its number; None leaves it to the model.
        seconds : float > 0, optional
            Length; default: that of the training sounds.
        num : int > 0
            Sounds for each label.
        steps : int > 0, optional
            Network evaluations, guidance not counted; default: the model's.
        sampler : str, optional
            Name of a sampler; default: that of the grid's table, or the model's.
        grid : str, Path, GridTable, Tensor or sequence of float, optional
            Where the sampler stops, as for :class:`mmdiff.audio.vocoder.Vocoder`.
        guidance : float, optional
            Scale of classifier-free guidance: 1 is none, more exaggerates the label; default: the model's.
        seed : int or sequence of int
            One per sound, or the first one's (the others count on). A sound depends on its seed alone.
        temperature : float >= 0
            Factor on the noise.
        batch : int > 0
            Sounds made at once: more need more memory.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Tensor, shape (B, samples), float32 in [-1, 1]
            The sounds of the first label, then those of the next.

        Raises
        ------
        InputError
            There is no such label, or a number makes no sense.
        """
        labels = [label] if label is None or isinstance(label, str | int) else list(label)
        seconds = self.model.seconds if seconds is None else seconds
        if min(num, batch, len(labels)) < 1 or not 0 < seconds < math.inf:
            raise InputError(
                f"num={num}, batch={batch} and the number of labels must be at least 1, seconds={seconds} positive"
            )
        sampling = decide_sampling(self.model, steps, sampler, grid)
        numbers = torch.tensor([self._number(name) for name in labels for _ in range(num)])
        samples = max(1, round(seconds * self.sample_rate))
        scale = self.model.guidance if guidance is None else guidance
        denoise = self.model.guided(self.model.denoise_windows(samples), scale)
        seeds = item_seeds(seed, len(numbers))
        made = []
        with torch.inference_mode():
            for first in track(range(0, len(seeds), batch), "making sound", show=progress):
                some, told = seeds[first : first + batch], numbers[first : first + batch].to(self.device)
                noise = self.model.starting_noise(some, math.ceil(samples / NOISE_BLOCK), NOISE_BLOCK)
                wave = self.model.run_sampler(
                    functools.partial(denoise, **self.model.conditions({"label": told})),
                    noise[..., :samples],
                    generator=item_generators(some, self.device),
                    grid=sampling.grid,
                    sampler=sampling.sampler,
                    temperature=temperature,
                )
                made.append(wave[:, 0].clamp(-1, 1))
        return torch.cat(made)

    def _number(self, label: Label) -> int:
        if label is None:
            return len(self.labels)
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        if isinstance(label, int) and 0 <= label < len(self.labels):
            return label
        known = ", ".join(self.labels) or "none: the model is unconditional"
        raise InputError(f"label={label!r} must be a name or its number among {known}")
