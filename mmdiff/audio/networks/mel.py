"""A network that denoises mel spectrograms of labelled sounds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmdiff.audio.networks.spectral import SubBandNet
from mmdiff.nn.embeddings import sinusoidal
from mmdiff.registry import register

_PLACES = 32  # channels that say where a frame is


@register
class LabelledMelNet(nn.Module):
    """Sub-band network on (frames, mel bands), told a label and where each frame lies.

    Parameters
    ----------
    n_mels : int
        A multiple of ``bands``.
    classes : int
        Labels; the number itself stands for none of them.
    bands : int
        Groups of mel bands that share weights.
    channels, depth : int
        As for :class:`SubBandNet`.
    label_channels : int
        Channels of a label's code.
    """

    def __init__(
        self,
        n_mels: int = 80,
        classes: int = 0,
        bands: int = 5,
        channels: int = 96,
        depth: int = 8,
        label_channels: int = 96,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.codes = nn.Embedding(classes + 1, label_channels)
        self.network = SubBandNet(
            1, 1, n_mels, bands, context=label_channels + _PLACES, channels=channels, depth=depth
        )

    def forward(self, x: Tensor, level: Tensor, *, label: Tensor | None = None) -> Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : Tensor, shape (B, 1, frames, n_mels)
        level : Tensor, shape (B,), in [0, 1]
            Noise level.
        label : Tensor of int64, shape (B,), optional
            Default: none, the number ``classes``.

        Returns
        -------
        Tensor, shape of x
        """
        batch, frames = len(x), x.shape[2]
        if label is None:
            label = torch.full((batch,), self.classes, device=x.device)
        places = sinusoidal(torch.arange(frames, device=x.device), _PLACES, max_period=500.0)
        code = self.codes(label)[:, None].expand(-1, frames, -1)
        context = torch.cat((code, places.to(code).expand(batch, -1, -1)), 2)
        result: Tensor = self.network(x, level, context)
        return result
