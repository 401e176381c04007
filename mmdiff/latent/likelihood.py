"""How likely data are under an autoencoder and the diffusion prior of its latents: the evidence bound of the pair.

    -log p(x) <= E[-log p(x | z)] - H(q(z | x)) + CE(q(z | x) ‖ p(z)),    z drawn from q(z | x),

and the difference is the divergence of q(z | x) from the pair's own p(z | x). The cross entropy is E[-log p(z)], which
:func:`by_chain` bounds by the chain of infinitely many steps, and :func:`by_ode` takes from the probability-flow ODE.
Latents are real numbers. Data may be whole ones: p(x | z) is either the density that the autoencoder was trained by, of
data spread over their bins, or a decoder's probability of the bins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmdiff.diffusion.decoders import DataEnd, ResidualDecoder, find_data_end
from mmdiff.diffusion.denoiser import DenoiserFunction
from mmdiff.diffusion.likelihood import continuous_bound, ode_likelihood
from mmdiff.diffusion.quantisation import Quantisation
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import Generators, as_state
from mmdiff.errors import InputError
from mmdiff.latent.autoencoder import crop
from mmdiff.media.likelihoods import Measuring

LatentNll = Callable[[Tensor, Generators], Tensor]
"""``nll(z, generator) -> (B,)``: -log p(z) of latents in nats, at most."""


class PairBound(NamedTuple):
    """Upper bound of -log2 p(x) and its parts, in bits per dimension of the data, each (B,)."""

    total: Tensor
    """The sum of the next two."""
    diffusion: Tensor
    """Of the latents: their cross entropy under the prior less their own entropy."""
    decoder: Tensor
    """-log2 p(x | z)."""
    std_error: Tensor
    """Standard error that latents, times and noise leave in ``total``; nan of one draw of latents."""


def pair_bound(
    autoencoder: nn.Module,
    prior: LatentNll,
    x: Tensor,
    *,
    codes: int = 2,
    decoder: ResidualDecoder | None = None,
    quantised: Quantisation | None = None,
    generator: Generators = None,
) -> PairBound:
    """Evidence bound of an autoencoder with a prior of any kind.

    Parameters
    ----------
    autoencoder : nn.Module
        With ``encode(x) -> Posterior``, ``decode(z)`` and ``nll(x, decoded) -> nats`` (B,), such as
        :class:`mmdiff.latent.autoencoder.Autoencoder`.
    prior : callable
        ``prior(z, generator) -> nats`` (B,), of :func:`by_chain` or :func:`by_ode`.
    x : Tensor, shape (B, C, *space)
        Data, as the autoencoder sees them.
    codes : int > 0
        Latents drawn for each item.
    decoder : ResidualDecoder, optional
        p(x | z) instead of the autoencoder's own, which is the normal or Laplace density with its ``deviation``.
    quantised : Quantisation, optional
        x is quantised. For the autoencoder's own density it is spread over its bins, a decoder gives their
        probabilities. Default: continuous.
    generator : torch.Generator or list of B of them, optional

    Returns
    -------
    PairBound

    Raises
    ------
    InputError
        ``codes`` is not positive.

    References
    ----------
    Vahdat, Kreis and Kautz 2021, arXiv:2106.05931, equations 2-4.

    Examples
    --------
    >>> from mmdiff.diffusion.schedules import GeometricVP
    >>> from mmdiff.latent.autoencoder import Autoencoder
    >>> net, schedule = Autoencoder(1, 1, 4, widths=(8,), factors=(4,), deviation=0.1), GeometricVP()
    >>> def standard_normal(z, t):
    ...     return schedule(t).alpha[:, None, None] * z
    >>> pair_bound(net, by_chain(standard_normal, schedule), torch.zeros(2, 1, 32)).total.shape
    torch.Size([2])
    """
    if codes < 1:
        raise InputError(f"codes={codes} must be positive")
    x, latents, data = as_state(x), [], []
    spread = quantised if decoder is None else None
    for _ in range(codes):
        seen = x if spread is None else spread.dequantise(x, generator)
        posterior = autoencoder.encode(seen)  # type: ignore[operator]
        z = posterior.sample(generator)
        latents.append(prior(z, generator).to(x) - posterior.entropy().to(x))
        decoded = crop(autoencoder.decode(z), x.shape[2:]).to(x)  # type: ignore[operator]
        if decoder is None:
            bins = 0.0 if spread is None else x[0].numel() * math.log(spread.step)
            data.append(autoencoder.nll(seen, decoded) - bins)  # type: ignore[operator]
        else:
            data.append(decoder.nll(x, decoded, quantised).flatten(1).sum(1))
    both = torch.stack((torch.stack(latents), torch.stack(data))) / (x[0].numel() * math.log(2))
    total, (diffusion, last) = both.sum(0), both.mean(1)
    error = total.std(0) / math.sqrt(codes) if codes > 1 else torch.full_like(last, math.nan)
    return PairBound(diffusion + last, diffusion, last, error)


def by_chain(
    denoiser: DenoiserFunction,
    schedule: Schedule,
    *,
    draws: int = 16,
    end: DataEnd | None = None,
    **cond: Any,
) -> LatentNll:
    """Bound -log p(z) by the chain of infinitely many steps.

    Parameters
    ----------
    denoiser : callable
        ``denoiser(z, t, **cond) -> z0``.
    schedule : Schedule
    draws, end, **cond
        As for :func:`~mmdiff.diffusion.likelihood.continuous_bound`; the end is that of
        :func:`~mmdiff.diffusion.decoders.find_data_end`, by default at the schedule's least noise.
    """
    last: dict[str, Any] = {} if end is None else end._asdict()

    def nll(z: Tensor, generator: Generators) -> Tensor:
        bound = continuous_bound(denoiser, z, schedule, draws=draws, generator=generator, **last, **cond)
        return bound.total * (z[0].numel() * math.log(2))

    return nll


def by_ode(denoiser: DenoiserFunction, schedule: Schedule, **options: Any) -> LatentNll:
    """-log p(z) under the probability-flow ODE; options as for :func:`~mmdiff.diffusion.likelihood.ode_likelihood`."""

    def nll(z: Tensor, generator: Generators) -> Tensor:
        return -ode_likelihood(denoiser, z, schedule, generator=generator, **options).log_likelihood

    return nll


@dataclass(frozen=True)
class PairLikelihood:
    """The pair's bound for :func:`mmdiff.media.likelihoods.measure_sets`.

    How data lie about what is decoded, and where the prior's chain ends, are chosen by some files.

    Parameters
    ----------
    autoencoder : nn.Module
        As for :func:`pair_bound`.
    denoiser : callable
        The prior's, of what the autoencoder's ``encode`` draws.
    schedule : Schedule
    quantised : Quantisation, optional
    draws : int > 0
        Evaluations of the denoiser for each of two draws of latents; two more each are for the last step.
    """

    autoencoder: nn.Module
    denoiser: DenoiserFunction
    schedule: Schedule
    quantised: Quantisation | None = None
    draws: int = 16

    def fitted(self, x: Tensor, *, generator: Generators = None, **cond: Any) -> Measuring:
        """Choose what is to be chosen by data (B, C, *space)."""
        z = self.autoencoder.encode(x).sample(generator)  # type: ignore[operator]
        decoded = crop(self.autoencoder.decode(z), x.shape[2:])  # type: ignore[operator]
        decoder = ResidualDecoder.fit(x, decoded, self.quantised)
        end = find_data_end(self.denoiser, z, self.schedule, generator=generator, **cond)

        def measure(x: Tensor, *, generator: Generators = None, **cond: Any) -> PairBound:
            prior = by_chain(self.denoiser, self.schedule, draws=self.draws, end=end, **cond)
            settings: dict[str, Any] = {"decoder": decoder, "quantised": self.quantised}
            return pair_bound(self.autoencoder, prior, x, generator=generator, **settings)

        levels = self.schedule(end.t_min)
        return Measuring(measure, {"draws": self.draws, "last_noise": float(levels.sigma / levels.alpha)})
