"""Two players in one update: a generator, and a critic that learns to tell its results from data.

A task of two players returns as ``"loss"`` the sum of what either lowers, made so that no term sends gradients to
the other player: the critic judges detached results for its own loss, and for the generator's it is called through
:func:`frozen`. One backward pass then serves both, and what the trainer does about steps that are not finite, several
processes, accumulation and exact resuming holds for both. The critic's rate and clipping are those of its
:class:`mmdiff.training.optim.Part`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


def frozen(module: nn.Module) -> Callable[..., Any]:
    """Make a module a function that passes gradients to what it is called with, none to its own parameters.

    Examples
    --------
    >>> critic, made = nn.Linear(2, 1), torch.ones(2, requires_grad=True)
    >>> frozen(critic)(made).backward()
    >>> made.grad is not None, critic.weight.grad is None
    (True, True)
    """
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}
    return lambda *inputs, **named: functional_call(module, parameters, inputs, named)


def critic_hinge(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Loss of the critic (Lim & Ye 2017, arXiv:1705.02894): data shall be above 1, what was made below -1.

    Parameters
    ----------
    real, made : sequence of Tensor, any shapes
        Judgements by each of the critic's views; views count alike.
    """
    losses = [(1 - r).relu().mean() + (1 + m).relu().mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def generator_hinge(made: Sequence[Tensor]) -> Tensor:
    """Loss of the generator: what it made shall be judged above 1, as data is; more is not asked for."""
    return torch.stack([(1 - m).relu().mean() for m in made]).mean()


def feature_distance(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Distance of a critic's hidden features, each relative to the data's (Kumar et al. 2019, arXiv:1910.06711).

    Parameters
    ----------
    real, made : sequence of Tensor
        Of the same shapes; no gradients flow into ``real``.
    """
    terms = []
    for r, m in zip(real, made, strict=True):
        r = r.detach()
        terms.append((m - r).abs().mean() / r.abs().mean().clamp_min(1e-6))
    return torch.stack(terms).mean()
