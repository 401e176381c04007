"""Denoisers that agree with a linear measurement of the data: replacement and reconstruction guidance.

Replacement in x_t, as the papers have it, and in x0-hat. Of a mask's known elements y, the papers put
alpha y + sigma eps into x_t at each step; :class:`Replacement` puts y into x0-hat instead. A step of DDIM from p
to q then takes a known element to x_q = alpha_q y + sigma_q (x_p - alpha_p y) / sigma_p: it keeps
(x - alpha y) / sigma for good, so x_t is alpha y + sigma eps with the eps it started from (at alpha = 0 the
initial noise itself), and a step of ancestral sampling draws x_q from q(x_q | x_p, y), whose marginal is the
same. So both are the papers' method, with noise that is constant, or that follows the forward process, in place
of fresh noise at each step, which :class:`NoisedReplacement` draws. For normal data fresh noise changes nothing
in the mean of a sampler's results; it averages out over the steps, and spreads the results less.

None of them is the conditional distribution: the unknown elements only see y through noise. For normal data
their mean moves towards E[x0 | x_t] where the known elements of x_t are alpha y, an answer to y at the
signal-to-noise ratio of t, and what is missed early is not made up for late (2204.03458, section 3.1). Beside
two known elements in a chain of correlation 0.9, the next one reaches half of its conditional mean with DDIM and
two thirds with ancestral sampling; corrections (:mod:`mmdiff.diffusion.solvers_corrector`) and above all guidance
bring it near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmdiff.diffusion.conditions import per_item
from mmdiff.diffusion.denoiser import DenoiserFunction, per_item_time
from mmdiff.diffusion.denoiser_checks import SMALLEST_ALPHA
from mmdiff.diffusion.guidance import (
    constant_parameters,
    gradients_on,
    moved_by_data,
    score_to_x0_factor,
    usable,
)
from mmdiff.diffusion.linear_solve import Operator, item_dot
from mmdiff.diffusion.measurement import Measurement
from mmdiff.diffusion.process import expand
from mmdiff.diffusion.schedules import Levels, Schedule
from mmdiff.diffusion.solver_tools import Generators, draw_noise
from mmdiff.errors import InputError


@dataclass(frozen=True)
class Replacement:
    """Make x0-hat agree with the measurement: x0 + A^+ (y - A x0).

    For a mask this puts the known elements in place. A sampler whose grid ends at sigma = 0 then returns
    them exactly; where it ends at some sigma_min, as with EDM's default, they keep noise of that size, and
    ``measurement.project`` of the result removes it. Around :class:`ReconstructionGuidance` it makes exact what
    that makes nearly so.

    Parameters
    ----------
    denoiser : callable
        ``(x, t, **cond) -> x0``.
    measurement : Measurement
        Its ``noise_std`` is not used: the measurement is taken as exact, but for a soft mask, which mixes.
    """

    denoiser: DenoiserFunction
    measurement: Measurement

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return x0, shape (B, C, *space), with A x0 = y."""
        return self.measurement.project(self.denoiser(x, t, **cond))


@dataclass(frozen=True)
class NoisedReplacement:
    """Show the denoiser the measurement with fresh noise: x + A^+ (alpha y + sigma A eps - A x) in place of x.

    For a mask these are the papers' x <- where(mask, alpha y + sigma eps, x), before each evaluation, and then
    :class:`Replacement` of x0-hat, so that the result holds y; see the module.

    Parameters
    ----------
    denoiser : callable
        ``(x, t, **cond) -> x0``.
    measurement : Measurement
        As for :class:`Replacement`.
    schedule : Schedule
    generator : torch.Generator or list of B of them, optional
        Source of eps: one for the batch, one per item, or None for torch's own. With one per item, not the
        sampler's own, an item depends on its own seeds only.

    Raises
    ------
    InputError
        The schedule is one of pairs.

    References
    ----------
    Song et al. (2021), "Score-based generative modeling through SDEs", appendix I.2,
    https://arxiv.org/abs/2011.13456; Lugmayr et al. (2022), "RePaint", eq. 8,
    https://arxiv.org/abs/2201.09865; Ho et al. (2022), section 3.1, https://arxiv.org/abs/2204.03458
    """

    denoiser: DenoiserFunction
    measurement: Measurement
    schedule: Schedule
    generator: Generators = None

    def __post_init__(self) -> None:
        if self.schedule.paired:
            raise InputError(
                f"schedule={type(self.schedule).__name__} must not be one of pairs, of which both parts would have to "
                "be noised; take Replacement or ReconstructionGuidance"
            )

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return x0, shape (B, C, *space), with A x0 = y."""
        t = per_item_time(t, x)
        levels = expand(self.schedule(t), x)
        known = self.measurement
        # A is linear: A^+ (alpha (y - A x0) + A (alpha x0 + sigma eps - x)) at x0 = 0
        noised = draw_noise(x.shape, x, self.generator) * levels.sigma - x
        zero = known.residual(torch.zeros_like(x))
        wanted = per_item(levels.alpha, zero) * zero + known.forward(noised)
        return known.project(self.denoiser(x + known.pinv(wanted), t, **cond))


@dataclass(frozen=True)
class ReconstructionGuidance:
    """Move x0-hat along the gradient of its disagreement with the measurement, through the denoiser.

    The score gains grad log p(y | x_t), with y given x_t taken as normal about A x0-hat. The two methods
    differ in its covariance:

    - "covariance": S = r_t^2 A A^T + noise_std^2 I with r_t^2 = s^2 sigma^2 / (alpha^2 s^2 + sigma^2)
      (ΠGDM), of a length found by one step of conjugate gradients. For independent normal data of standard
      deviation s this is exact, and weight 1 gives E[x0 | x_t, y]; see the notes for other data.
    - "gradient": (sigma / alpha)^2 I, that is x0 - weight alpha / 2 grad ||y - A x0-hat||^2
      (reconstruction guidance of video diffusion). No system is solved, but a good weight depends on A.

    Parameters
    ----------
    denoiser : callable
        ``(x, t, **cond) -> x0``, differentiable in x.
    measurement : Measurement
    schedule : Schedule
    weight : float, default 1
    method : {"covariance", "gradient"}, default "covariance"
    data_std : float > 0, default 1
        s, the standard deviation of the data.
    limit : float > 0, optional, default 3
        Of "covariance": how far its length may exceed that of ΠGDM. None leaves it at ΠGDM's.
    jacobian_error : float >= 0, default 0.03
        Of "covariance": how exact the denoiser's Jacobian is taken to be; 0 is exactly.
    solves : int > 0, default 1
        Of "covariance": steps of conjugate gradients, each of which costs a backward pass. More suit data whose
        elements depend on each other in many ways, such as neighbouring samples of sound: for normal data of any
        covariance they come to E[x0 | x_t, y] exactly, after as many steps as A C A^T has different eigenvalues, if
        none of them leads away from the measurement. One that does is an item's last: the Jacobian of a network need
        not be a covariance, and further steps would go ever further astray.

    Notes
    -----
    Costs ``solves`` backward passes of the denoiser a call, which keep nothing for gradients by its parameters. The
    result lets no gradient through.

    With C = (sigma^2 / alpha) dx0/dx, which for an exact denoiser is the covariance of x0 given x_t, "covariance"
    adds d = k C A^T u where u = S^-1 (y - A x0). Elements of real data depend on each other, and many known ones
    that say the same pull many times: A C A^T is then far from r_t^2 A A^T, and k = 1 (ΠGDM) overshoots at high
    noise and falls short at low noise. Here k = <u, y - A x0> / <u, (A C A^T + noise_std^2) u> is the step to the
    least of the quadratic whose minimum is the exact conditional mean of normal data: the first step of conjugate
    gradients preconditioned by S, for which C A^T u is already there. It is 1 for independent data, exact for
    data of one common component, and at most ``limit``.

    C divides by alpha: an error e of the Jacobian, of a network's answer to a noisy item of unit variance, grows
    to e sigma / (alpha s) of C. Of C, the share w = (alpha s)^2 / ((alpha s)^2 + (e sigma)^2) is therefore kept,
    and 1 - w is r_t^2 times the identity, its value for independent data, which alone remains at alpha = 0 and
    where the Jacobian has the wrong sign along u.

    References
    ----------
    Song et al. (2023), "Pseudoinverse-guided diffusion models for inverse problems", eq. 7,
    https://openreview.net/forum?id=9_gsMA8MRKQ; Ho et al. (2022), "Video diffusion models", eq. 7,
    https://arxiv.org/abs/2204.03458
    """

    denoiser: DenoiserFunction
    measurement: Measurement
    schedule: Schedule
    weight: float = 1.0
    method: str = "covariance"
    data_std: float = 1.0
    limit: float | None = 3.0
    jacobian_error: float = 0.03
    solves: int = 1

    def __post_init__(self) -> None:
        if self.method not in ("covariance", "gradient"):
            raise InputError(f"method={self.method!r} must be 'covariance' or 'gradient'")
        if not self.data_std > 0:
            raise InputError(f"data_std={self.data_std} must be above 0; 1 suits normalised data")
        if self.limit is not None and not self.limit > 0:
            raise InputError(f"limit={self.limit} must be above 0, or None; 3 is usual")
        if not self.jacobian_error >= 0:
            raise InputError(f"jacobian_error={self.jacobian_error} must be at least 0; 0.03 is usual")
        if self.solves < 1 or (self.limit is None and self.solves > 1):
            raise InputError(f"solves={self.solves} must be at least 1, and 1 where limit=None; 1 is usual")

    def __call__(self, x: Tensor, t: Tensor | float, **cond: Any) -> Tensor:
        """Return the guided x0, shape (B, C, *space), detached.

        Raises
        ------
        InputError
            The denoiser is not differentiable in x, or y does not fit.
        """
        t = per_item_time(t, x)
        with gradients_on(), constant_parameters(self.denoiser):
            leaf, seen = moved_by_data(x, t, self.schedule)
            x0 = self.denoiser(seen, usable(t), **{name: usable(value) for name, value in cond.items()})
            if not x0.requires_grad:
                raise InputError(
                    "denoiser must be differentiable in x, but its result carries no gradient; remove "
                    "no_grad or detach from it, or use Replacement"
                )
            levels = expand(self.schedule(t), x0.detach())
            if self.method == "gradient":
                wish = self.measurement.adjoint(self.measurement.residual(x0.detach()))
                (pulled,) = torch.autograd.grad(x0, leaf, wish)  # -1/2 grad ||y - A x0||^2
                return x0.detach() + self.weight * levels.alpha * pulled

            factor, share = score_to_x0_factor(self.schedule, t, x0.detach()), self._share(levels)

            def covariance(wish: Tensor) -> Tensor:
                (pulled,) = torch.autograd.grad(x0, leaf, wish, retain_graph=self.solves > 1)
                return share * factor * pulled + (1 - share) * self._variance(levels) * wish

            return x0.detach() + self.weight * self._change(x0.detach(), t, covariance)

    def _change(self, x0: Tensor, t: Tensor, covariance: Operator) -> Tensor:
        """C A^T (A C A^T + noise)^-1 (y - A x0) by conjugate gradients, as far as they are taken."""
        known = self.measurement
        # At sigma = 0 the data are certain; a tiny variance keeps 0 / 0 out of an exact measurement.
        variance = self._variance(self.schedule(t)).to(x0.dtype).clamp_min(torch.finfo(x0.dtype).eps ** 2)
        rest, noise = known.believed(x0, variance, self.data_std)
        change, direction, before = torch.zeros_like(x0), torch.zeros_like(rest), torch.ones_like(variance)
        least = torch.full_like(item_dot(rest, rest), torch.inf)
        for number in range(self.solves):
            pull = known.solve(rest, variance, noise)
            wanted = item_dot(pull, rest)
            # A network's Jacobian need not be a covariance: a step that led away from what is known was the last.
            wanted = torch.where(wanted > least, 0.0, wanted)
            least = torch.minimum(least, wanted)
            turn = wanted / before if number else torch.zeros_like(wanted)
            direction = pull + per_item(torch.where(before > 0, turn, 0.0), pull) * direction
            wish = known.adjoint(direction)
            moved = covariance(wish)
            answer = known.forward(moved) + noise * direction
            found = item_dot(direction, answer)
            wrong = (found <= 0) & (wanted > 0)
            if number == 0:  # data as good as independent are what is left where the Jacobian makes no sense
                moved = torch.where(per_item(wrong, moved), per_item(variance, wish) * wish, moved)
                length = torch.where(wrong, 1.0, self._length(wanted, found))
            else:
                length = torch.where(found > 0, wanted / found, 0.0)
            change = change + per_item(length, moved) * moved
            rest, before = rest - per_item(length, answer) * answer, torch.where(wrong, 0.0, wanted)
        return change

    def _length(self, wanted: Tensor, found: Tensor) -> Tensor:
        """How far to go first, item by item."""
        if self.limit is None:
            return torch.ones_like(wanted)
        return torch.where(found * self.limit > wanted, wanted / found, self.limit)

    def _share(self, levels: Levels) -> Tensor:
        """Weight of the denoiser's own Jacobian, beside that for independent data."""
        signal = (levels.alpha * self.data_std) ** 2
        blind = levels.alpha <= SMALLEST_ALPHA
        total = signal + (self.jacobian_error * levels.sigma) ** 2
        return torch.where(blind, 0.0, signal / torch.where(blind, 1.0, total))

    def _variance(self, levels: Levels) -> Tensor:
        alpha, sigma = levels.alpha, levels.sigma
        s = self.data_std
        return s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)
