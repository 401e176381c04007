"""The core without media: sample two peaks, whose exact denoiser is known, and watch samplers converge.

Run ``python examples/core.py``. For data that is an equal mixture of N(-2, 0.3²) and N(2, 0.3²) the posterior
mean E[x0 | x_t] has a closed form, so whatever error is left is the sampler's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import CosineVP

CENTRE, WIDTH = 2.0, 0.3
SCHEDULE = CosineVP()


def denoiser(x: Tensor, t: Tensor) -> Tensor:
    """Compute E[x0 | x_t]: each peak's own linear answer, weighted by the peak's probability."""
    alpha, sigma = (level.view(-1, 1, 1) for level in SCHEDULE(t)[:2])
    variance = (alpha * WIDTH) ** 2 + sigma**2
    right = torch.sigmoid(2 * alpha * CENTRE * x / variance)
    near = [c + alpha * WIDTH**2 / variance * (x - alpha * c) for c in (-CENTRE, CENTRE)]
    return (1 - right) * near[0] + right * near[1]


def main(items: int = 2000) -> None:
    """Print, for each sampler and number of steps, the distance from the exact solution of its equation."""
    settings = {"schedule": SCHEDULE, "seeds": range(items), "dtype": torch.float64}
    exact = sample(denoiser, (items, 1, 1), sampler="rk4", steps=400, **settings)
    print(
        f"mean |x| {exact.abs().mean():.3f} (exactly {CENTRE}), on the left {(exact < 0).double().mean():.3f}"
    )
    for sampler in ("ddim", "heun", "dpmpp_2m", "unipc"):
        errors = [
            (sample(denoiser, (items, 1, 1), sampler=sampler, steps=steps, **settings) - exact).abs().mean()
            for steps in (5, 10, 20, 40)
        ]
        print(f"{sampler:9}", "  ".join(f"{error:.5f}" for error in errors), " for 5, 10, 20, 40 steps")


if __name__ == "__main__":
    main()
