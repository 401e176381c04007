"""Traces of Jacobians, exact or by random vectors, for the divergence of a flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from mmdiff.diffusion.solver_tools import Generators, check_choice, draw_noise
from mmdiff.errors import InputError

Divergence = Literal["exact", "rademacher", "gaussian"]
LARGEST_EXACT = 4096
"""Elements of an item up to which each is differentiated by itself: one backward pass for each of them."""


class Probes:
    """Vectors v with E v vᵀ = 1, whose products with a Jacobian give its trace.

    Parameters
    ----------
    like : Tensor, shape (B, ...)
    kind : {"exact", "rademacher", "gaussian"}
        The unit vectors, which give the trace itself; or random ones (Hutchinson 1990): of ±1, which are exact for
        diagonal Jacobians and never worse, or normal.
    count : int > 0
        How many random ones.
    generator : torch.Generator or list of B of them, optional

    Attributes
    ----------
    squares : Tensor, shape (P, B)
        What :meth:`trace` makes of the identity.

    Raises
    ------
    InputError
        The kind is unknown, the count not positive, or items are too large for "exact".
    """

    def __init__(self, like: Tensor, kind: Divergence, count: int, generator: Generators) -> None:
        check_choice("divergence", kind, ("exact", "rademacher", "gaussian"))
        if count < 1:
            raise InputError(f"probes={count} must be at least 1")
        size = like[0].numel()
        if kind == "exact" and size > LARGEST_EXACT:
            raise InputError(
                f"divergence='exact' must have items of at most {LARGEST_EXACT} elements, here {size}; "
                f"take 'rademacher'"
            )
        self.exact, self._like = kind == "exact", like
        self._drawn: list[Tensor] = []
        if not self.exact:
            self._drawn = [draw_noise(like.shape, like, generator) for _ in range(count)]
        if kind == "rademacher":
            self._drawn = [torch.where(v < 0, -1.0, 1.0).to(v) for v in self._drawn]
        # The identity's trace is estimated by the same vectors: where the Jacobian is close to it, as at little noise,
        # their errors cancel.
        squares = [v.flatten(1).square().sum(1) for v in self._drawn]
        self.squares = torch.stack(squares) if squares else like.new_full((1, len(like)), size)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield tensors of the state's shape."""
        if not self.exact:
            yield from self._drawn
            return
        for n in range(self._like[0].numel()):
            unit = torch.zeros_like(self._like).flatten(1)
            unit[:, n] = 1
            yield unit.view_as(self._like)

    def trace(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate a function, and the trace of each item's Jacobian.

        Returns
        -------
        value : Tensor, shape of x
        traces : Tensor, shape (P, B)
            One for each random probe, or a single exact one.

        Raises
        ------
        InputError
            No gradient flows from the value to x.
        """
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()
            value = function(at)
            if not value.requires_grad:
                raise InputError(
                    "denoiser must be differentiable by x, and its result has no gradient; take off its no_grad"
                )
            products = []
            for v in self:
                (row,) = torch.autograd.grad(value, at, v.to(value), retain_graph=True)
                products.append((row * v).flatten(1).sum(1))
        traces = torch.stack(products)
        return value.detach(), traces.sum(0, keepdim=True) if self.exact else traces
