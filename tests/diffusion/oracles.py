"""Exact answers for data whose elements are independent draws from a mixture of Gaussians.

For x0 ~ sum_k w_k N(mu_k, s_k²) and x_t = alpha x0 + sigma eps everything is known in closed form:
the denoiser E[x0 | x_t], the score, the marginal density and, for one Gaussian, the end of the ODE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.schedules import (
    EDM,
    BetaTable,
    CosineVP,
    GeometricVP,
    LaplaceVP,
    Levels,
    LinearBetaVP,
    LinearFlow,
    Schedule,
    Shifted,
    SigmoidVP,
    SubVP,
    VarianceExploding,
    ZeroTerminalSNR,
    ddpm_betas,
    diffwave_betas,
    wavegrad_betas,
)


def levels_like(schedule: Schedule, x: Tensor, t: Tensor | float) -> Levels:
    """Levels in the dtype of x, shaped to multiply x of shape (B, ...); t is (B,) or a scalar."""
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    t = t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
    return Levels(*(field.to(x.dtype) for field in schedule(t)))


@dataclass(frozen=True)
class Mixture:
    """Elementwise mixture of Gaussians; ``std=0`` (points) is legal."""

    weights: tuple[float, ...] = (1.0,)
    means: tuple[float, ...] = (0.0,)
    stds: tuple[float, ...] = (1.0,)

    def _components(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = (-1,) + (1,) * x.ndim
        return tuple(  # type: ignore[return-value]
            torch.tensor(v, dtype=x.dtype, device=x.device).reshape(shape)
            for v in (self.weights, self.means, self.stds)
        )

    def sample(self, shape: tuple[int, ...], generator: torch.Generator, dtype=torch.float64) -> Tensor:
        """Draw data."""
        which = torch.multinomial(
            torch.tensor(self.weights, dtype=torch.float64), math.prod(shape), True, generator=generator
        ).reshape(shape)
        noise = torch.randn(shape, generator=generator, dtype=dtype)
        return (
            torch.tensor(self.means, dtype=dtype)[which] + torch.tensor(self.stds, dtype=dtype)[which] * noise
        )

    def mean(self) -> float:
        """E[x0]."""
        return sum(w * m for w, m in zip(self.weights, self.means, strict=True))

    def variance(self) -> float:
        """Var[x0]."""
        second = sum(w * (m * m + s * s) for w, m, s in zip(self.weights, self.means, self.stds, strict=True))
        return second - self.mean() ** 2

    def _responsibilities(self, x: Tensor, levels: Levels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log p(x_t), p(k | x_t), E[x0 | x_t, k], Var[x0 | x_t, k]; leading axis k except the first."""
        weight, mean, std = self._components(x)
        alpha, sigma = levels.alpha, levels.sigma
        variance = alpha**2 * std**2 + sigma**2
        residual = x - alpha * mean
        log_joint = weight.log() - 0.5 * (residual**2 / variance + variance.log() + math.log(2 * math.pi))
        log_p = log_joint.logsumexp(0)
        return (
            log_p,
            (log_joint - log_p).exp(),
            mean + alpha * std**2 / variance * residual,
            std**2 * sigma**2 / variance,
        )

    def denoise(self, schedule: Schedule, x: Tensor, t: Tensor | float) -> Tensor:
        """E[x0 | x_t = x]; legal at alpha = 0 (the mean) and at sigma = 0 (x / alpha), if no std is 0."""
        _, p, mean, _ = self._responsibilities(x, levels_like(schedule, x, t))
        return (p * mean).sum(0)

    def denoiser(self, schedule: Schedule):
        """The exact denoiser as a callable ``(x, t, **cond) -> x0``."""

        def denoise(x: Tensor, t: Tensor, **cond: object) -> Tensor:
            return self.denoise(schedule, x, t)

        return denoise

    def posterior_variance(self, schedule: Schedule, x: Tensor, t: Tensor | float) -> Tensor:
        """Var[x0 | x_t = x]."""
        _, p, mean, variance = self._responsibilities(x, levels_like(schedule, x, t))
        centre = (p * mean).sum(0)
        return (p * (variance + (mean - centre) ** 2)).sum(0)

    def log_density(self, schedule: Schedule, x: Tensor, t: Tensor | float) -> Tensor:
        """log p_t(x), elementwise, natural logarithm."""
        return self._responsibilities(x, levels_like(schedule, x, t))[0]

    def score(self, schedule: Schedule, x: Tensor, t: Tensor | float) -> Tensor:
        """d log p_t(x) / dx."""
        levels = levels_like(schedule, x, t)
        _, mean, std = self._components(x)
        p = self._responsibilities(x, levels)[1]
        variance = levels.alpha**2 * std**2 + levels.sigma**2
        return (p * (levels.alpha * mean - x) / variance).sum(0)

    def marginal(self, schedule: Schedule, t: float) -> tuple[float, float]:
        """Mean and standard deviation of x_t."""
        levels = schedule(t)
        alpha, sigma = float(levels.alpha), float(levels.sigma)
        return alpha * self.mean(), math.sqrt(alpha**2 * self.variance() + sigma**2)

    def optimal_x0_loss(
        self, schedule: Schedule, t: float, points: int = 20001, width: float = 12.0
    ) -> float:
        """E Var[x0 | x_t]: the smallest mean squared error of any x0 prediction at time t, per element.

        Exact for one Gaussian; otherwise a trapezoid integral over x_t, whose error is far below 1e-9 for a
        smooth density.
        """
        levels = schedule(t)
        alpha, sigma = float(levels.alpha), float(levels.sigma)
        if len(self.weights) == 1:
            s = self.stds[0]
            return s * s * sigma * sigma / (alpha * alpha * s * s + sigma * sigma)
        if sigma == 0:
            return 0.0
        centre, spread = self.marginal(schedule, t)
        x = torch.linspace(centre - width * spread, centre + width * spread, points, dtype=torch.float64)
        density = self.log_density(schedule, x, t).exp()
        return float(torch.trapezoid(density * self.posterior_variance(schedule, x, t), x))

    def ode_end(self, schedule: Schedule, x: Tensor, t1: float, t2: float) -> Tensor:
        """Where the probability-flow ODE carries x from t1 to t2; one Gaussian only."""
        assert len(self.weights) == 1
        mean, std = self.means[0], self.stds[0]
        a1, s1, *_ = (float(v) for v in schedule(t1))
        a2, s2, *_ = (float(v) for v in schedule(t2))
        growth = math.sqrt((a2**2 * std**2 + s2**2) / (a1**2 * std**2 + s1**2))
        return a2 * mean + (x - a1 * mean) * growth


def gaussian(mean: float = 0.0, std: float = 1.0) -> Mixture:
    """Data of one Gaussian."""
    return Mixture((1.0,), (mean,), (std,))


TWO_PEAKS = Mixture((0.3, 0.7), (-1.0, 0.5), (0.1, 0.3))
"""A mixture with two unequal peaks."""


def all_schedules() -> dict[str, Schedule]:
    """Every schedule class, with the settings whose ends differ; transformations included."""
    plain: dict[str, Schedule] = {
        "linear": LinearBetaVP(),
        "linear_from_0": LinearBetaVP(0.0, 20.0),
        "cosine": CosineVP(),
        "cosine_offset": CosineVP(0.008),
        "sigmoid": SigmoidVP(),
        "sigmoid_cold": SigmoidVP(-3.0, 3.0, 0.3),
        "laplace": LaplaceVP(),
        "laplace_smooth": LaplaceVP(0.4, 2.0),
        "geometric": GeometricVP(),
        "edm": EDM(),
        "edm_from_0": EDM(0.0, 80.0),
        "exploding": VarianceExploding(),
        "sub_vp": SubVP(),
        "flow": LinearFlow(),
        "ddpm": BetaTable(ddpm_betas()),
        "wavegrad": BetaTable(wavegrad_betas()),
        "diffwave": BetaTable(diffwave_betas()),
        "langevin": CriticallyDamped(),
        "langevin_cold": CriticallyDamped(2.0, 0.0, 0.0, 20.0),
    }
    # One base for each way that a transformation can meet the ends.
    to_shift = ("linear", "cosine", "sigmoid", "edm", "edm_from_0", "sub_vp", "flow", "ddpm")
    to_rescale = ("linear", "linear_from_0", "sigmoid", "laplace_smooth", "ddpm", "diffwave")
    shifted = {f"shifted_{name}": Shifted(plain[name], 3.0) for name in to_shift}
    zero = {f"zero_{name}": ZeroTerminalSNR(plain[name]) for name in to_rescale}
    return plain | shifted | zero | {"shifted_zero_ddpm": Shifted(zero["zero_ddpm"], 0.5)}
