"""Networks for pairs of data and velocity: a denoiser as samplers and guidance want it.

A pair is u = μ x_0 + L ε with two standard normal ε, of which the second, ε_v, moves the velocity alone. The score that
the reverse process needs is that of the velocity, -E[ε_v | u] / l_vv. For a given u, ε_v and x_0 are one linear map
apart, so the denoiser says x_0 like any other, and guidance that combines estimates of x_0 combines scores here too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_levels import PairLevels
from mmdiff.diffusion.schedules import Schedule
from mmdiff.diffusion.solver_tools import check_choice
from mmdiff.errors import InputError
from mmdiff.registry import register

PairPrediction = Literal["eps", "mixed", "edm", "x0"]
View = Literal["pair", "reduced"]


@register
class LangevinDenoiser(Denoiser):
    """Turn a network into the denoiser x0-hat(u, t) of pairs u (B, 2, C, *space).

    Parameters
    ----------
    network : nn.Module
        Called as ``network(seen, level, **cond)``; returns (B, C, *space).
    schedule : CriticallyDamped
        The process.
    prediction : {"eps", "mixed", "edm", "x0"}, default "mixed"
        "eps" is ε_v, of which -1/l_vv times is the score of v. "mixed" adds the network to the ε_v of a velocity
        that is normal by itself, l_vv v / Var v, as the paper does. "edm" adds c_out times the network to the best
        linear estimate of x_0 from x and v, with a target of unit variance: the preconditioning of Karras et al.
        (2022), for pairs. "x0" is x_0 itself.
    noise_input : {"t", "log_snr", "sigma", "sqrt_alpha_bar", "c_noise"}, default "t"
        See :class:`~mmdiff.diffusion.denoiser.Denoiser`; the log-SNR is that of the pair.
    sigma_data : float > 0, default 1
        Standard deviation of the data, used by "mixed" and "edm"; the paper has 1.
    sees : {"pair", "reduced"}, default "pair"
        The network is shown x and v/√M, concatenated to (B, 2C, *space), each over its standard deviation for
        "edm"; or the pair's reduced state (B, C, *space), which says as much of x_0 and fits any network of plain
        states. From it alone ε_v cannot be told, so it is not for "eps" and "mixed".
    clamp, dynamic_threshold
        See :class:`~mmdiff.diffusion.denoiser.Denoiser`.

    Raises
    ------
    InputError
        An argument is out of range, ε_v is asked of a network that sees reduced states, or the schedule is not one of
        pairs.

    References
    ----------
    Dockhorn et al. 2022, arXiv:2112.07068, section 3.2 and appendix B.3.

    Examples
    --------
    >>> import torch
    >>> class Zero(torch.nn.Module):
    ...     def forward(self, x, level):
    ...         return torch.zeros_like(x[:, :3])
    >>> denoiser = LangevinDenoiser(Zero(), CriticallyDamped())
    >>> denoiser(torch.ones(1, 2, 3, 8), torch.tensor(0.5)).shape
    torch.Size([1, 3, 8])
    """

    schedule: CriticallyDamped

    def __init__(
        self,
        network: nn.Module,
        schedule: CriticallyDamped,
        prediction: str = "mixed",
        noise_input: str = "t",
        sigma_data: float = 1.0,
        sees: str = "pair",
        clamp: tuple[float, float] | None = None,
        dynamic_threshold: float | None = None,
    ) -> None:
        check_choice("sees", sees, get_args(View))
        super().__init__(
            network,
            schedule,
            prediction,
            noise_input,
            sigma_data,
            clamp=clamp,
            dynamic_threshold=dynamic_threshold,
        )
        self.sees = sees
        if sees == "reduced" and prediction in ("eps", "mixed"):
            raise InputError(
                f"prediction={prediction!r} must come with sees='pair', since ε_v depends on both x and v; "
                "take 'edm' or 'x0' for a network that sees='reduced' states"
            )

    def convert(self, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Turn the network's prediction into x0 (B, C, *space), neither clamped nor thresholded."""
        if self.prediction == "x0":
            return output
        if self.prediction == "edm":
            scales = linear_estimate(self.schedule.levels_like(t, output), self.sigma_data)
            first, second = x.to(output.dtype).unbind(1)
            return scales.of_x * first + scales.of_v * second + scales.out * output
        return self.schedule.x0(x.to(output.dtype), output + self._normal_part(x, t), t)

    def error(self, output: Tensor, u: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Error in ε_v of a prediction about ``u = diffuse(x0, t, noise)``, shape (B, C, *space).

        Nothing is divided by what vanishes at t = 0, which :meth:`convert` and back would do.
        """
        first, second = noise.unbind(1)
        if self.prediction in ("eps", "mixed"):
            return output + self._normal_part(u, t) - second
        at = self.schedule.levels_like(t, output)
        of_x, of_v = at.whitened
        if self.prediction == "x0":
            return -of_v * (output - x0)
        scales = linear_estimate(at, self.sigma_data)
        # (x_0 - its linear estimate)/c_out with u = μ x_0 + L ε put in
        target = scales.out / self.sigma_data**2 * x0 - scales.out * (of_x * first + of_v * second)
        return -of_v * scales.out * (output - target)

    def _normal_part(self, u: Tensor, t: Tensor) -> Tensor:
        """ε_v of the velocity taken by itself, for normal data; 0 without mixing."""
        v = u[:, 1]
        if self.prediction == "eps":
            return torch.zeros_like(v)
        at = self.schedule.levels_like(t, v)
        variance = at.l_vx**2 + at.l_vv**2 + (self.sigma_data * at.mean_v) ** 2
        return at.l_vv / variance * v

    def _seen(self, x: Tensor, t: Tensor) -> Tensor:
        if self.sees == "reduced":
            return self.schedule.reduce(x, t)
        first, second = x.unbind(1)
        if self.prediction == "edm":
            at = self.schedule.levels_like(t, first)
            first = first / torch.hypot(self.sigma_data * at.mean_x, at.l_xx)
            second = second / torch.hypot(self.sigma_data * at.mean_v, torch.hypot(at.l_vx, at.l_vv))
        else:
            second = second / self.schedule.mass**0.5
        return torch.cat([first, second], 1)

    def _data_shape(self, x: Tensor) -> torch.Size:
        if x.ndim < 3 or x.shape[1] != 2:
            raise InputError(
                f"x.shape={tuple(x.shape)} must be that of pairs, (B, 2, C, *space); sample with 'sscs', "
                "'langevin_em' or 'langevin_ode'"
            )
        return x[:, 0].shape

    def _check(self, prediction: str, schedule: Schedule) -> None:
        check_paired(schedule)
        check_choice("prediction", prediction, get_args(PairPrediction))


class LinearEstimate(NamedTuple):
    """Best linear estimate of centred data from a pair, and the standard deviation of its error."""

    of_x: Tensor
    of_v: Tensor
    out: Tensor


def linear_estimate(at: PairLevels, sigma_data: float) -> LinearEstimate:
    """Weights s²q/(1 + s²q) of the unbiased estimate, and s/√(1 + s²q), for data of standard deviation s."""
    of_x, of_v = at.whitened
    inverse = 1 / (of_x**2 + of_v**2)
    share = sigma_data**2 / (sigma_data**2 + inverse)
    first, second = at.readout
    out = sigma_data * (inverse / (sigma_data**2 + inverse)).sqrt()
    return LinearEstimate(share * first, share * second, out)


def check_paired(schedule: Schedule) -> None:
    """Raise InputError unless the schedule is one of pairs."""
    if not isinstance(schedule, CriticallyDamped):
        raise InputError(
            f"schedule={type(schedule).__name__} must be CriticallyDamped; others have Denoiser and Objective"
        )
