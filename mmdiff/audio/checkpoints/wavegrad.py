"""What the checkpoints of WaveGrad share: how its sizes are read off the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from mmdiff.audio.checkpoints.reading import build_network, count, size
from mmdiff.audio.networks.wavegrad import NARROW, WIDE, WaveGrad
from mmdiff.errors import InputError

FACTORS = (5, 5, 3, 2, 2)
"""Upsampling factors of both implementations, unless their code was changed."""
DILATIONS = (NARROW, NARROW, WIDE, WIDE, WIDE)
SIX_STEPS = (1e-6, 1.8929e-5, 1.19432e-4, 1.004755e-3, 1.1094254e-2, 0.6)
"""Noise variances for six steps that ivanvovk's project searched for with a WaveGrad of LJSpeech.

The first five are 1, 3, 3, 4 and 7 times the points of that project's grid, six from 10^-6 to 10^-2 in equal ratios.
The last is sixty times its point, which the grid, of factors up to nine, does not hold: the project says that what the
search had found was improved by hand. With 0.06, which it holds, the sampler would be told of its first noise that it
is sound with 93 % of its variance left.
"""


def read_network(
    state: Mapping[str, Tensor],
    factors: Sequence[int] | None,
    dilations: Sequence[Sequence[int]] | None,
    **arguments: Any,
) -> tuple[WaveGrad, dict[str, Any]]:
    """Build the network whose weights these are.

    Parameters
    ----------
    state : mapping of str to Tensor
        With the names of :class:`WaveGrad`.
    factors, dilations : sequences, optional
        As for :class:`WaveGrad`; the weights do not tell. Default: those of both implementations.
    **arguments
        Further ones of :class:`WaveGrad`.

    Returns
    -------
    network : WaveGrad
    arguments : dict
        What it was built with.

    Raises
    ------
    CheckpointError
        The weights are not a WaveGrad's.
    InputError
        There are not as many factors or dilations as the weights have levels.
    """
    up, down = _widths(state, "up"), _widths(state, "down")
    factors, dilations = factors or FACTORS, dilations or DILATIONS
    for name, values in (("factors", factors), ("dilations", dilations)):
        if len(values) != len(up):
            raise InputError(
                f"{name}={tuple(values)} must have {len(up)} entries, as many as the network has levels; the "
                "weights do not tell them: take them from the code that trained it"
            )
    if min(factors) < 1 or any(len(taps) != 4 or min(taps) < 1 for taps in dilations):
        raise InputError(
            f"factors={factors} must be positive, dilations={dilations} four positive numbers each"
        )
    arguments = {
        "n_mels": size(state, "mel_in.weight", 1),
        "factors": tuple(factors),
        "up_channels": up,
        "down_channels": down,
        "dilations": tuple(map(tuple, dilations)),
        "mel_channels": size(state, "mel_in.weight", 0),
        "wave_channels": size(state, "wave_in.weight", 0),
        "strided": False,
        **arguments,
    }
    return build_network(WaveGrad, arguments, state), arguments


def _widths(state: Mapping[str, Tensor], path: str) -> tuple[int, ...]:
    name = path + ".{}.convs.0.weight"
    return tuple(size(state, name.format(n), 0) for n in range(count(state, name)))
