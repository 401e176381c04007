"""Measures of clips: against a reference, in themselves, and between distributions.

Against a reference, each is a function ``(reference, estimate) -> float`` of two clips of the same content and timing;
:data:`METRICS` lists them with unit and direction. Between distributions, each takes features or probabilities of
many clips and returns an :class:`Estimate`: value, 95 % interval, and the numbers of clips, which belong to the value
wherever it is told. All are computed on the host in float64. Where a value does not exist (a single frame does not
flicker), the result is ``nan`` and a warning gives the reason.

What a clip of moving digits shows is judged in :mod:`mmdiff.video.judge`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mmdiff.media.distances import FrechetDistance as FrechetDistance
from mmdiff.media.distances import feature_distances as feature_distances
from mmdiff.media.distances import frechet_distance as frechet_distance
from mmdiff.media.distances import gaussian_frechet_distance as gaussian_frechet_distance
from mmdiff.media.distances import kernel_distance as kernel_distance
from mmdiff.media.estimates import Estimate as Estimate
from mmdiff.media.estimates import wilson as wilson
from mmdiff.media.inception import inception_score as inception_score
from mmdiff.media.measures import Metric as Metric
from mmdiff.media.measures import chosen
from mmdiff.media.memory import Memorisation as Memorisation
from mmdiff.media.memory import memorisation as memorisation
from mmdiff.media.tables import Measure
from mmdiff.video.metrics.coherence import centroid_steps as centroid_steps
from mmdiff.video.metrics.coherence import dtssd as dtssd
from mmdiff.video.metrics.coherence import flicker as flicker
from mmdiff.video.metrics.coherence import flicker_error as flicker_error
from mmdiff.video.metrics.coherence import frame_change as frame_change
from mmdiff.video.metrics.features import FeatureNetwork as FeatureNetwork
from mmdiff.video.metrics.features import clip_features as clip_features
from mmdiff.video.metrics.features import torchscript_network as torchscript_network
from mmdiff.video.metrics.features import torchvision_network as torchvision_network
from mmdiff.video.metrics.pictures import psnr as psnr
from mmdiff.video.metrics.pictures import ssim as ssim

DISTANCES = {
    "frechet": Measure("Fréchet video distance, extrapolated to endless clips", higher_is_better=False),
    "frechet_plug_in": Measure("Fréchet video distance as published, plug-in", higher_is_better=False),
    "kernel": Measure("kernel video distance", higher_is_better=False),
}
"""What :func:`feature_distances` measures, of clips."""
METRICS: dict[str, Metric] = {
    "psnr": Metric(psnr, "dB", True),
    "ssim": Metric(ssim, "", True),
    "dtssd": Metric(dtssd, "", False),
    "flicker_error": Metric(flicker_error, "", False),
}
"""The measures against a reference by name."""


def evaluate(reference: Tensor, estimate: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """Compare one clip with another by several measures.

    Parameters
    ----------
    reference, estimate : Tensor, shape (C, F, H, W), in [-1, 1] or uint8
    names : sequence of str, optional
        Keys of :data:`METRICS`; all of them unless given.

    Returns
    -------
    dict from str to float
        A value for each name, in the units of :data:`METRICS`; nan, with a warning, where it does not exist.

    Raises
    ------
    InputError
        A name is unknown, or the clips do not fit together.

    Examples
    --------
    >>> black, grey = torch.full((3, 4, 16, 16), -1.0), torch.zeros(3, 4, 16, 16)
    >>> evaluate(black, grey, ["psnr", "dtssd"])
    {'psnr': 6.020599913279624, 'dtssd': 0.0}
    """
    return {name: function(reference, estimate) for name, function in chosen(names, METRICS).items()}
