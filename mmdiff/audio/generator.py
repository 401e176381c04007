"""The sound pipeline: a label, or nothing, in; sound of any length out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmdiff.audio.sampling import decide_sampling, item_seeds
from mmdiff.audio.sound_model import SoundMaker
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.vocoder_model import VocoderModel
from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.errors import InputError
from mmdiff.media.grid_tables import GridSource
from mmdiff.progress import track

LONGEST = 3600
"""Seconds that can be asked for at once."""

Label = str | int | None
"""A class by its name or number; None leaves it to the model."""


class SoundGenerator:
    """Make sound with a diffusion model that is told a label, or nothing.

    Parameters
    ----------
    model : SoundMaker
        An ``nn.Module`` as well, such as :class:`mmdiff.audio.sound_model.SoundModel`.
    device : str, optional
        Default: the fastest there is.
    dtype : {"auto", "float32", "bfloat16", "float16"}, optional
        Of the network's matrix products.
    vocoder : VocoderModel, optional
        For a model that makes spectrograms.

    Raises
    ------
    InputError
        There is no such device or dtype, or the model needs a vocoder of its sampling rate.

    Examples
    --------
    >>> import mmdiff
    >>> gen = mmdiff.load("digits-16k")
    >>> gen("seven-en", seconds=1, seed=0).shape
    torch.Size([1, 16000])
    """

    def __init__(
        self,
        model: SoundMaker,
        device: str | None = None,
        dtype: str | None = None,
        vocoder: VocoderModel | None = None,
    ) -> None:
        assert isinstance(model, nn.Module)
        if model.vocoder and (vocoder is None or vocoder.sample_rate != model.sample_rate):
            raise InputError(
                f"vocoder must be a model at {model.sample_rate} Hz, such as {model.vocoder!r}: this model makes "
                "spectrograms; mmdiff.load finds it by itself"
            )
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        set_compute_dtype(self.model, pick_compute_dtype(self.device, dtype))
        self.vocoder = Vocoder(vocoder, device, dtype) if model.vocoder and vocoder is not None else None

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
            One per sound, or the first one's (the others count on). A sound depends on its seed alone, but for
            rounding, which in half precision depends on how many are made at once and can be heard.
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
        labels = self.check(label)
        seconds = self.model.seconds if seconds is None else seconds
        if min(num, batch, len(labels)) < 1 or not 0 < seconds <= LONGEST:
            raise InputError(
                f"num={num}, batch={batch} and the number of labels must be at least 1, seconds={seconds} positive and "
                f"at most {LONGEST}"
            )
        sampling = decide_sampling(self.model, steps, sampler, grid)
        numbers = torch.tensor([self.number(name) for name in labels for _ in range(num)])
        samples = max(1, round(seconds * self.sample_rate))
        scale = self.model.guidance if guidance is None else guidance
        seeds = item_seeds(seed, len(numbers))
        made = []
        with torch.inference_mode():
            for first in track(range(0, len(seeds), batch), "making sound", show=progress):
                some, told = seeds[first : first + batch], numbers[first : first + batch].to(self.device)
                result = self.model.make(
                    told,
                    seeds=some,
                    samples=samples,
                    sampling=sampling,
                    guidance=scale,
                    temperature=temperature,
                )
                made.append(self._voiced(result, some, samples))
        return torch.cat(made)

    def check(self, label: Label | Sequence[Label]) -> list[Label]:
        """List what is asked for, or raise InputError where the model has no such label."""
        labels = [label] if label is None or isinstance(label, str | int) else list(label)
        for name in labels:
            self.number(name)
        return labels

    def _voiced(self, made: Tensor, seeds: list[int], samples: int) -> Tensor:
        """Sound (B, samples) of what the model made."""
        if self.vocoder is None:
            return made
        spec = self.vocoder.mel_spec
        return torch.cat(
            list(self.vocoder.blocks(made, mel_spec=spec, seed=seeds, samples=samples, measured=True)), 1
        )

    def number(self, label: Label) -> int:
        """Return what the network is told for a label, or for none."""
        if label is None:
            return len(self.labels)
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        if isinstance(label, int) and 0 <= label < len(self.labels):
            return label
        known = ", ".join(self.labels) or "none: the model is unconditional"
        raise InputError(f"label={label!r} must be a name or its number among {known}")
