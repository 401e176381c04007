"""Training data of clips with pictures beside them, for networks that learn from both at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmdiff.errors import InputError
from mmdiff.media.draws import item_rng
from mmdiff.training.data import IndexedData

_UNSEEN = 1 << 40  # numbers of clips that no run comes to


class WithStills:
    """Clips, each with pictures that have nothing to do with it, for joint training on videos and images.

    Parameters
    ----------
    clips : IndexedData
        :class:`mmdiff.video.data.VideoClips`, or other data whose items hold ``video`` and ``caption``.
    images : IndexedData, optional
        :class:`mmdiff.video.data.ImageFolder`, or other data whose items hold ``image`` and ``caption``. By default the
        pictures are random frames of other random clips, with the captions of these.
    stills : int >= 0
        Pictures for each clip.
    seed : int
        Of the choice of frames where there are no ``images``.

    Raises
    ------
    InputError
        ``stills`` is negative.
    """

    def __init__(
        self, clips: IndexedData, images: IndexedData | None = None, stills: int = 4, *, seed: int = 0
    ) -> None:
        if stills < 0:
            raise InputError(f"stills={stills} must be 0 or more")
        self.clips, self.images, self.stills, self.seed = clips, images, stills, seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return clip ``index`` with ``stills`` uint8 (stills, C, H, W) and ``still_captions``, list of str.

        Raises
        ------
        InputError
            The pictures have another size than the clip.
        """
        clip = dict(self.clips[index])
        channels, _, *size = clip["video"].shape
        rng = item_rng(self.seed, index, stream=1)
        chosen = [self._still(index * self.stills + k, rng) for k in range(self.stills)]
        for picture, _ in chosen:
            if picture.shape != (channels, *size):
                raise InputError(
                    f"images of shape {tuple(picture.shape)} must be of the clips' {(channels, *size)}: "
                    "give both the same size"
                )
        empty = clip["video"].new_empty((0, channels, *size))
        clip["stills"] = torch.stack([picture for picture, _ in chosen]) if chosen else empty
        clip["still_captions"] = [caption for _, caption in chosen]
        return clip

    def _still(self, number: int, rng: np.random.Generator) -> tuple[Tensor, str]:
        if self.images is not None:
            item = self.images[number]
            return item["image"], item.get("caption", "")
        item = self.clips[_UNSEEN + int(rng.integers(_UNSEEN))]
        return item["video"][:, int(rng.integers(item["video"].shape[1]))], item.get("caption", "")
