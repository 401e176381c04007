"""What a stranger's file says, checked before anything is built from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmdiff.audio.mel import MelSpec, preset
from mmdiff.errors import CheckpointError, InputError
from mmdiff.weights import assign_tensors

MOST_STEPS = 100_000
HIGHEST_RATE = 768_000
MOST_HOP = 16_384
N = TypeVar("N", bound=nn.Module)


def find_state(content: Any, signs: Collection[str]) -> Mapping[str, Any] | None:
    """Find the weights: a mapping, ``content`` or what it holds as "model", that has all names of ``signs``."""
    states = [content.get("model"), content] if isinstance(content, Mapping) else []
    return next((s for s in states if isinstance(s, Mapping) and set(signs) <= s.keys()), None)


def check_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights, known to be tensors of finite numbers.

    Raises
    ------
    CheckpointError
        One is something else, has no elements, or a value that is not finite in float32; or a name is no text.
    """
    for name, value in state.items():
        if not isinstance(name, str):
            raise CheckpointError(f"names of weights of the checkpoint must be text; got {_short(name)}")
        if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
            kind = f"{value.dtype} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(f"{name} of the checkpoint must be a floating-point tensor; got {kind}")
        if value.numel() == 0:
            raise CheckpointError(f"{name} of the checkpoint must not be empty; got {tuple(value.shape)}")
        if not bool(torch.isfinite(value.float()).all()):
            raise CheckpointError(f"{name} of the checkpoint must be finite; the training run has diverged")
    return dict(state)


def rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Give weights and biases the names of this project's modules.

    Parameters
    ----------
    state : mapping of str to Tensor
    names : mapping of str to str
        Module of the file, and module of this project, which both have a weight and a bias.

    Raises
    ------
    CheckpointError
        A tensor is missing, or belongs to none of the modules.
    """
    kinds = ("weight", "bias")
    pairs = {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in names.items() for kind in kinds}
    problems = {
        "lacks": [name for name in pairs if name not in state],
        "has what belongs to no such network:": [name for name in state if name not in pairs],
    }
    for what, some in problems.items():
        if some:
            more = f" and {len(some) - 4} more" if len(some) > 4 else ""
            raise CheckpointError(f"the checkpoint {what} {', '.join(map(_short, some[:4]))}{more}")
    return {ours: state[theirs] for theirs, ours in pairs.items()}


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count how many tensors there are with consecutive numbers, from 0, in place of ``{}``."""
    number = 0
    while pattern.format(number) in state:
        number += 1
    return number


def size(state: Mapping[str, Tensor], name: str, axis: int) -> int:
    """Read a size off a weight.

    Raises
    ------
    CheckpointError
        The weight is missing, or has no such axis.
    """
    if name not in state or state[name].ndim <= axis:
        shape = tuple(state[name].shape) if name in state else "nothing"
        raise CheckpointError(f"{name} must be there and have {axis + 1} axes or more; got {shape}")
    return state[name].shape[axis]


def build_network(build: Callable[..., N], arguments: Mapping[str, Any], state: Mapping[str, Tensor]) -> N:
    """Build a network with the given weights.

    Raises
    ------
    CheckpointError
        The weights are not those of such a network. That is found before memory is taken for it.
    """
    try:
        with torch.device("meta"):
            network = build(**arguments)
    except InputError as error:
        raise CheckpointError(f"the checkpoint describes no network: {error}") from None
    assert not list(network.buffers()), "buffers would stay empty"
    assign_tensors(network, state, source="the checkpoint")  # compares shapes, and has nothing to copy to
    network.to_empty(device="cpu")
    assign_tensors(network, state, source="the checkpoint")
    return network


class Params:
    """The hyper-parameters that a checkpoint holds as ``params``.

    Parameters
    ----------
    content : mapping
        A loaded file.
    project : str
        For messages.

    Raises
    ------
    CheckpointError
        There are none.
    """

    def __init__(self, content: Mapping[str, Any], project: str) -> None:
        values = content.get("params")
        if not isinstance(values, Mapping):
            raise CheckpointError(
                f"the checkpoint has the weights of {project} but no params, which hold sampling rate, hop and "
                "noise schedule; give the whole file that its trainer saved"
            )
        self.values = values

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Read a whole number from low to high."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._error(name, value, f"a whole number from {low} to {high}")
        return value

    def real(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """Read a number from low to high."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self._error(name, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Read True or False."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._error(name, value, "True or False")
        return value

    def betas(self, name: str, default: tuple[float, ...] | None = None) -> tuple[float, ...]:
        """Read a table of noise variances, each strictly between 0 and 1."""
        value = self._value(name, default)
        table = list(value) if isinstance(value, list | tuple) else []
        if not 0 < len(table) <= MOST_STEPS or not all(type(b) is float and 0 < b < 1 for b in table):
            raise self._error(name, value, f"a list of 1 to {MOST_STEPS} numbers between 0 and 1")
        return tuple(table)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is None:
            raise CheckpointError(
                f"params of the checkpoint must have {name}; is the file of another version?"
            )
        return value

    def _error(self, name: str, value: Any, rule: str) -> CheckpointError:
        return CheckpointError(f"params[{name!r}]={_short(value)} of the checkpoint must be {rule}")


def _short(value: Any) -> str:
    text = f"{type(value).__name__} of {len(value)}" if isinstance(value, list | tuple) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def lmnt_mel(rate: int, hop: int, n_mels: int, n_fft: int | None = None) -> MelSpec:
    """Definition that LMNT's packages compute: windows of four hops, torchaudio's filters, decibels in [0, 1].

    Raises
    ------
    CheckpointError
        The numbers make no definition.
    """
    window = 4 * hop
    return stored_mel(
        preset("lmnt-diffwave-22k"),
        sample_rate=rate,
        n_fft=n_fft or 2 ** (window - 1).bit_length(),
        win_length=window,
        hop_length=hop,
        n_mels=n_mels,
        f_max=rate / 2,
    )


def stored_mel(base: MelSpec, **numbers: Any) -> MelSpec:
    """Change a definition to the numbers that a checkpoint holds.

    Raises
    ------
    CheckpointError
        They make no definition.
    """
    try:
        return replace(base, **numbers)
    except InputError as error:
        raise CheckpointError(f"the checkpoint describes no spectrogram: {error}") from None


def choose_mel(mel: str | None, stored: MelSpec, hop: int, n_mels: int) -> MelSpec:
    """Take the preset that the user names, if any, else the definition read off the file.

    Raises
    ------
    InputError
        The preset does not fit the network.
    """
    if mel is None:
        return stored
    chosen = preset(mel)
    if (chosen.hop_length, chosen.n_mels) != (hop, n_mels):
        raise InputError(
            f"mel={mel!r} has hop {chosen.hop_length} and {chosen.n_mels} bands; it must have the network's, "
            f"{hop} and {n_mels}"
        )
    return chosen


def training_steps(content: Any) -> int | None:
    """Read how long the model was trained, if the file says."""
    for name in ("step", "iteration"):
        value = content.get(name) if isinstance(content, Mapping) else None
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None
