"""Averages of the weights over training: several lengths at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mmdiff.errors import CheckpointError, InputError

Profile = float | str


def gamma_of_sigma_rel(sigma_rel: float) -> float:
    r"""Exponent γ of the power-function average whose relative width is ``sigma_rel``.

    The profile :math:`p(\tau) \propto \tau^\gamma` over training time :math:`\tau \in [0, t]` has standard
    deviation :math:`\sigma_{rel} t` with :math:`\sigma_{rel}^2 = (γ + 1) / ((γ + 2)^2 (γ + 3))`
    (Karras et al., arXiv 2312.02696, section 3.1); γ is the largest root of the cubic.

    Parameters
    ----------
    sigma_rel : float, 0 < sigma_rel < 0.288
        Width of the average as a share of the run so far.

    Returns
    -------
    float
        γ > 0.

    Raises
    ------
    InputError
        No positive γ has this width.

    Examples
    --------
    >>> round(gamma_of_sigma_rel(0.10), 2), round(gamma_of_sigma_rel(0.05), 2)
    (6.94, 16.97)
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise InputError(f"sigma_rel={sigma_rel} must lie in (0, 0.288); try 0.05 or 0.10")
    inverse = sigma_rel**-2
    return float(np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse]).real.max())


def _constant(decay: float) -> Callable[[int], float]:
    # The warm-up keeps the first, random weights from being remembered for 1 / (1 - decay) updates.
    return lambda n: min(decay, (1 + n) / (10 + n))


def _power(gamma: float) -> Callable[[int], float]:
    # 2312.02696, section 3.1: with this decay the average follows the profile exactly at every n.
    return lambda n: (n / (n + 1)) ** (gamma + 1)


def parse_profile(profile: Profile) -> Callable[[int], float]:
    """Decay of one average as a function of the number of updates already made.

    Parameters
    ----------
    profile : float or str
        A number in [0, 1): constant decay after a warm-up, min(decay, (1 + n) / (10 + n)). ``"power:S"``: the
        power-function profile of relative width S. ``"gamma:G"``: the same by its exponent.

    Returns
    -------
    callable
        n -> decay in [0, 1).

    Raises
    ------
    InputError
        The profile is none of these.
    """
    if isinstance(profile, str):
        kind, _, number = profile.partition(":")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if kind == "power" and value == value:
            return _power(gamma_of_sigma_rel(value))
        if kind == "gamma" and value > -1:
            return _power(value)
    elif 0 <= profile < 1:
        return _constant(profile)
    raise InputError(f'ema={profile!r} must be a decay in [0, 1), "power:SIGMA_REL" or "gamma:GAMMA"')


class EMA:
    """Running averages of a module's trained parameters; buffers are always the module's current ones.

    Parameters
    ----------
    module : nn.Module
        Its parameters with ``requires_grad`` are averaged, in their own dtype and on their own device.
    profiles : sequence of float or str
        One average for each, see :func:`parse_profile`.

    Attributes
    ----------
    updates : int
        Updates made so far.

    Examples
    --------
    >>> module = nn.Linear(2, 2)
    >>> ema = EMA(module, (0.999, "power:0.05"))
    >>> ema.update(module)
    >>> with ema.applied(module, index=1):
    ...     sound = module(torch.zeros(1, 2))
    """

    def __init__(self, module: nn.Module, profiles: Sequence[Profile] = (0.999,)) -> None:
        self.profiles = tuple(profiles)
        self.updates = 0
        self._decays = [parse_profile(profile) for profile in self.profiles]
        self._names = [name for name, p in module.named_parameters() if p.requires_grad]
        self._shadows = [[p.detach().clone() for p in self._trained(module)] for _ in self.profiles]

    def __len__(self) -> int:
        return len(self.profiles)

    def _trained(self, module: nn.Module) -> list[Tensor]:
        parameters = dict(module.named_parameters())
        return [parameters[name].detach() for name in self._names]

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move every average towards the module's present parameters."""
        parameters = self._trained(module)
        for decay, shadow in zip(self._decays, self._shadows, strict=True):
            torch._foreach_lerp_(shadow, parameters, 1.0 - decay(self.updates))
        self.updates += 1

    def tensors(self, index: int = 0) -> dict[str, Tensor]:
        """One average by parameter name (not a copy)."""
        return dict(zip(self._names, self._shadows[index], strict=True))

    @torch.no_grad()
    def load(self, index: int, tensors: Mapping[str, Tensor]) -> None:
        """Set one average.

        Raises
        ------
        CheckpointError
            A name or shape differs.
        """
        own = self.tensors(index)
        if own.keys() != tensors.keys() or any(own[name].shape != t.shape for name, t in tensors.items()):
            differing = sorted(own.keys() ^ tensors.keys()) or [
                n for n in own if own[n].shape != tensors[n].shape
            ]
            raise CheckpointError(
                f"the stored average does not fit the parameters: {', '.join(differing[:8])}"
            )
        for name, tensor in tensors.items():
            own[name].copy_(tensor)

    @torch.no_grad()
    def copy_to(self, module: nn.Module, index: int = 0) -> None:
        """Overwrite the module's trained parameters with one average."""
        for parameter, average in zip(self._trained(module), self._shadows[index], strict=True):
            parameter.copy_(average)

    @contextlib.contextmanager
    def applied(self, module: nn.Module, index: int = 0) -> Iterator[nn.Module]:
        """Let the module hold one average inside the block and its own parameters after it."""
        kept = [parameter.clone() for parameter in self._trained(module)]
        self.copy_to(module, index)
        try:
            yield module
        finally:
            with torch.no_grad():
                for parameter, own in zip(self._trained(module), kept, strict=True):
                    parameter.copy_(own)
