"""The clip pipeline: a sentence, or part of a video, in; a video of any length out, whatever the model behind it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mmdiff.devices import pick_compute_dtype, pick_device, set_compute_dtype
from mmdiff.errors import InputError
from mmdiff.progress import track
from mmdiff.video import edits
from mmdiff.video.checks import as_size, check_count
from mmdiff.video.drawing import Drawing, method_of
from mmdiff.video.edits import Edit
from mmdiff.video.long import Plan, choose_lengths, extend, plan
from mmdiff.video.model import ClipModel
from mmdiff.video.request import Prompt, Request, make_request, stride
from mmdiff.video.sampling import Sampling
from mmdiff.video.tasks import TextFunction
from mmdiff.video.text import encoder_for


class ClipGenerator:
    """Make clips, and go on with, fill, widen or sharpen given ones, with a diffusion model.

    Parameters
    ----------
    model : ClipModel
    device : str, optional
        Default: the fastest there is.
    dtype : {"auto", "float32", "bfloat16", "float16"}, optional
        Of the network's matrix products.
    text : callable, optional
        Text encoder of a model with :class:`mmdiff.video.text.TextFeatures`; default: the one that the model
        records, loaded with the first prompt.

    Attributes
    ----------
    notes : list of str
        What there is to know about the latest call, such as words never learned; also raised as warnings.
    evaluations : int
        Network evaluations of each clip in the latest call, without reconstruction guidance's backward passes.

    Examples
    --------
    >>> import mmdiff
    >>> gen = mmdiff.load("clips-32")  # doctest: +SKIP
    >>> gen("a seven moving left", steps=20, seed=0).shape  # doctest: +SKIP
    torch.Size([1, 3, 16, 32, 32])
    """

    def __init__(
        self,
        model: ClipModel,
        device: str | None = None,
        dtype: str | None = None,
        text: TextFunction | None = None,
    ) -> None:
        self._text = text
        self.device = pick_device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)  # guidance needs those of x alone
        set_compute_dtype(self.model, pick_compute_dtype(self.device, dtype))
        self.notes: list[str] = []
        self.evaluations = 0

    @property
    def fps(self) -> float:
        """Frames a second of the clips made."""
        return self.model.fps

    def encode(self, prompts: Sequence[str | None]) -> Tensor:
        """Features of prompts, of the text encoder that the model was trained with."""
        if self._text is None:
            self._text = encoder_for(self.model, device=str(self.device))
        assert self._text is not None, "the model takes no text encoder's features"
        return self._text(prompts)

    def __call__(
        self,
        prompt: Prompt = None,
        *,
        edit: Edit | None = None,
        frames: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int | Sequence[int] = 0,
        num: int = 1,
        loop: bool = False,
        batch: int = 8,
        progress: bool = False,
        **settings: Any,
    ) -> Tensor:
        """Generate clips.

        Parameters
        ----------
        prompt : str, or sequence of str or None, optional
            What the clips show; None leaves it to the model.
        edit : Edit, optional
            What is known of the result, instead of ``frames`` and ``size``: see :mod:`mmdiff.video.edits`.
        frames : int > 0, optional
            Length; default: that of the clips the model was trained on. Longer videos are made in blocks.
        size : int or (height, width), optional
            In pixels; default: that of the training clips.
        seed : int or sequence of B int
            One for each clip, or the first one's (the others count on). A clip depends on its seed alone, not on
            those made beside it.
        num : int > 0
            Clips for each prompt.
        loop : bool
            Let the last frame lead back to the first.
        batch : int > 0
            Clips made at once: more need more memory.
        progress : bool
            Show progress bars.
        **settings
            Fields of :class:`mmdiff.video.sampling.Sampling` (``steps``, ``sampler``, ``guidance``, ...), and the
            model's own conditions, such as ``label`` or ``actions``: numbers or tensors.

        Returns
        -------
        Tensor, shape (B, C, F, H, W), float32 in [-1, 1]
            B is ``num`` times the number of prompts, the clips of a prompt one after the other.

        Raises
        ------
        InputError
            The model cannot do what was asked; the message says what it can do.
        """
        request = self.request(
            prompt, edit=edit, frames=frames, size=size, seed=seed, num=num, loop=loop, **settings
        )
        check_count("batch", batch)
        parts = [request.part(n, n + batch) for n in range(0, len(request), batch)]
        return torch.cat([torch.cat(list(self.stream(part, progress=progress)), 2) for part in parts])

    def request(
        self,
        prompt: Prompt = None,
        *,
        edit: Edit | None = None,
        frames: int | None = None,
        size: int | tuple[int, int] | None = None,
        seed: int | Sequence[int] = 0,
        num: int = 1,
        loop: bool = False,
        **settings: Any,
    ) -> Request:
        """Check what :meth:`__call__` is asked for, and set its notes, without making anything.

        Returns
        -------
        Request
            For :meth:`stream`; its ``part`` method cuts it into batches.
        """
        if edit is None:
            wanted = as_size(self.model.size if size is None else size)
            edit = edits.blank(self.model.frames if frames is None else frames, wanted)
        elif frames is not None or size is not None:
            raise InputError(f"frames={frames} and size={size} must be left out: the edit decides them")
        if loop:
            edit = dataclasses.replace(edit, loop=True)
        names = [field.name for field in dataclasses.fields(Sampling)]
        sampling = Sampling(**{name: settings.pop(name) for name in names if name in settings})
        request = make_request(self.model, prompt, edit, sampling, seed, num, settings, self.encode)
        method_of(self.model, request)  # complains now rather than later
        self.notes, self.evaluations = list(request.notes), 0
        for note in self.notes:
            warnings.warn(note, stacklevel=3)
        return request

    def stream(self, request: Request, *, progress: bool = False) -> Iterator[Tensor]:
        """Make all clips of a request at once, block by block, in memory that does not grow with their length.

        Yields
        ------
        Tensor, shape (B, C, f, H, W), float32 in [-1, 1]
            Consecutive frames.
        """
        steps = self.plan(request)
        self.evaluations = 0
        ticks = track(range(steps.made * (request.sampling.steps or 1)), "sampling", show=progress)
        draw = Drawing(self.model, request, self.device, lambda *_: next(ticks, None))
        for block in extend(
            request.edit, steps, draw, clips=len(request), channels=self.model.channels, device=self.device
        ):
            self.evaluations = draw.evaluations
            yield block
        next(ticks, None)  # closes the bar

    def plan(self, request: Request) -> Plan:
        """How the videos of a request are cut into blocks."""
        overlap = request.sampling.overlap or 1
        return plan(request.edit, choose_lengths(self.model.frames, overlap, request.edit.time_factor))

    def continue_from(
        self, clip: Tensor, frames: int | None = None, prompt: Prompt = None, **settings: Any
    ) -> Tensor:
        """Go on with a clip.

        Parameters
        ----------
        clip : Tensor, shape (C, F, H, W) or (N, C, F, H, W), uint8 or in [-1, 1]
        frames : int > 0, optional
            How many to add; default: as many as training clips have.
        prompt, **settings
            As for :meth:`__call__`.

        Returns
        -------
        Tensor, shape (B, C, F + frames, H, W)
            The clip, unchanged, and what follows.
        """
        edit = edits.continuation(clip, self.model.frames if frames is None else frames)
        return self(prompt, edit=edit, **settings)

    def interpolate(
        self,
        keyframes: Tensor | Sequence[Tensor],
        frames: int | None = None,
        prompt: Prompt = None,
        *,
        places: Sequence[int] | None = None,
        **settings: Any,
    ) -> Tensor:
        """Make the frames between key frames; see :func:`mmdiff.video.edits.between`.

        Returns
        -------
        Tensor, shape (B, C, frames, H, W)
            With the key frames, unchanged, at their places.
        """
        edit = edits.between(keyframes, self.model.frames if frames is None else frames, places)
        return self(prompt, edit=edit, **settings)

    def loop(self, prompt: Prompt = None, **settings: Any) -> Tensor:
        """Make clips whose last frame leads back to the first; as :meth:`__call__`."""
        return self(prompt, loop=True, **settings)

    def inpaint(self, clip: Tensor, mask: Tensor, prompt: Prompt = None, **settings: Any) -> Tensor:
        """Paint part of a clip anew; see :func:`mmdiff.video.edits.inpainting`.

        Parameters
        ----------
        clip : Tensor, shape (C, F, H, W) or (N, C, F, H, W), uint8 or in [-1, 1]
        mask : Tensor, shape (H, W), (F, H, W), (1, F, H, W) or (N, 1, F, H, W)
            Where to paint.
        prompt, **settings
            As for :meth:`__call__`.

        Returns
        -------
        Tensor, shape (B, C, F, H, W)
            Unchanged outside the mask.
        """
        return self(prompt, edit=edits.inpainting(clip, mask), **settings)

    def outpaint(
        self,
        clip: Tensor,
        prompt: Prompt = None,
        *,
        left: int = 0,
        right: int = 0,
        top: int = 0,
        bottom: int = 0,
        before: int = 0,
        after: int = 0,
        **settings: Any,
    ) -> Tensor:
        """Go on beyond the edges of a clip (in pixels) and its ends (in frames).

        Returns
        -------
        Tensor, shape (B, C, before + F + after, top + H + bottom, left + W + right)
            With the clip, unchanged, inside.
        """
        edit = edits.outpainting(
            clip, left=left, right=right, top=top, bottom=bottom, before=before, after=after,
            unit=stride(self.model),
        )  # fmt: skip
        return self(prompt, edit=edit, **settings)

    def upscale(
        self, clip: Tensor, factor: int = 2, time_factor: int = 1, prompt: Prompt = None, **settings: Any
    ) -> Tensor:
        """Make a clip larger, and its frames more; see :func:`mmdiff.video.edits.enlargement`.

        Returns
        -------
        Tensor, shape (B, C, time_factor F, factor H, factor W)
            Whose squares have the clip's pixels as means; a trained stage keeps to that approximately.
        """
        return self(prompt, edit=edits.enlargement(clip, factor, time_factor), **settings)
