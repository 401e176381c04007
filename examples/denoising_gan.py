"""Four reverse steps, Gaussian or not: how many of 8 peaks a network finds as a mean, and as a generator.

Run ``python examples/denoising_gan.py``. Data are points about 8 peaks on a circle. The same small network learns x0
from x_t once by least squares, as denoisers do, and once as the generator of a denoising diffusion GAN (Xiao et al.
2022, arXiv:2112.07804), which is told random numbers besides; both then take the same four steps.
"""

from __future__ import annotations

import itertools
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import with_latents
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.objectives import Objective
from mmdiff.diffusion.samplers import sample
from mmdiff.diffusion.schedules import BetaTable, vp_betas
from mmdiff.diffusion.solver_tools import DenoiserFn
from mmdiff.diffusion.times import TablePoints
from mmdiff.nn import LatentNetwork
from mmdiff.training import Part, Trainer, load_weights
from mmdiff.training.denoising_gan import DenoisingGAN

STEPS, LATENTS, WIDTH = 4, 8, 128
SCHEDULE = BetaTable(vp_betas(STEPS))
GRID = make_grid("uniform", SCHEDULE, STEPS)
ANGLES = torch.arange(8) * torch.pi / 4
PEAKS, SPREAD = 2**0.5 * torch.stack((ANGLES.cos(), ANGLES.sin()), 1), 0.05


class Batches:
    """Item n: 256 points."""

    def __getitem__(self, n: int) -> Tensor:
        """Draw them."""
        generator = torch.Generator().manual_seed(n)
        which = torch.randint(len(PEAKS), (256,), generator=generator)
        return PEAKS[which] + SPREAD * torch.randn(256, 2, generator=generator)


def layers(*widths: int) -> nn.Sequential:
    """Linear layers that leaky ReLUs precede."""
    pairs = itertools.pairwise(widths)
    return nn.Sequential(*(module for pair in pairs for module in (nn.LeakyReLU(0.2), nn.Linear(*pair))))


class Points(nn.Module):
    """From noisy points (B, 2), the number of the step and a vector to points."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.step = nn.Linear(2, WIDTH), nn.Embedding(STEPS, WIDTH)
        self.layers = layers(WIDTH, WIDTH, WIDTH, 2)

    def forward(self, x: Tensor, level: Tensor, *, vector: Tensor) -> Tensor:
        """Evaluate."""
        return self.layers(self.read(x) + self.step(level.long()) + vector)


class Critic(nn.Module):
    """Score a step from x_t to x_s, whose place it is told by sines too."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.step = nn.Linear(12, WIDTH), nn.Embedding(STEPS, WIDTH)
        self.layers = layers(WIDTH, WIDTH, WIDTH, 1)

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Evaluate."""
        waves = [wave(factor * x_s) for factor in (3, 6) for wave in (torch.sin, torch.cos)]
        level = (t * STEPS).round().long() - 1
        return self.layers(self.read(torch.cat((x_s, x_t, *waves), 1)) + self.step(level))[:, 0]


class LeastSquares(nn.Module):
    """Train a denoiser to the mean of x0, at the times of the four steps."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.objective = Objective(SCHEDULE, target="x0", times=TablePoints(STEPS))

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss."""
        x0 = batch.flatten(0, 1)
        losses = self.objective(self.denoiser, x0, generator=generator, z=x0.new_zeros(len(x0), LATENTS))
        return {"loss": losses.mean()}


def read(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict, dict]:
    """Say what of a batch is data, and what the players are told: nothing."""
    return batch.flatten(0, 1), {}, {}


def report(
    name: str, denoiser: DenoiserFn, generator: torch.Generator, count: int = 5000
) -> tuple[int, float]:
    """Print and return how many peaks are found, and what share of the points lies at one."""
    points = sample(denoiser, (count, 2), schedule=SCHEDULE, sampler="ddpm", grid=GRID, generator=generator)
    distance, nearest = torch.cdist(points, PEAKS).min(1)
    near = distance < 3 * SPREAD
    found = torch.bincount(nearest[near], minlength=len(PEAKS)) >= 0.2 * count / len(PEAKS)
    covered, precision = int(found.sum()), float(near.float().mean())
    print(f"{name:15} {covered} of {len(PEAKS)} peaks covered, precision {precision:.3f}")
    return covered, precision


def main(updates: int = 6000) -> dict[str, tuple[int, float]]:
    """Train both, and print what their samples are like."""
    torch.manual_seed(0)
    mean, generator = (
        Denoiser(LatentNetwork(Points(), LATENTS, WIDTH), SCHEDULE, prediction="x0", noise_input="index")
        for _ in range(2)
    )
    tasks = {
        "least squares": LeastSquares(mean),
        "generator": DenoisingGAN(
            generator, Critic(), SCHEDULE, GRID, latents=LATENTS, penalty=0.3, read=read
        ),
    }
    results = {}
    for name, task in tasks.items():
        parts = {"critic": Part(1e-3, (0.5, 0.9), None)} if name == "generator" else None
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                Path(folder), task, Batches(), steps=updates, batch_size=1, learning_rate=1e-3,
                betas=(0.5, 0.9), grad_clip=None, parts=parts, ema=(0.995,), checkpoint_every=0,
                log_every=max(1, updates // 4), device="cpu", tensorboard=False,
            )  # fmt: skip
            load_weights(task, trainer.fit())
        source = torch.Generator().manual_seed(1)
        draw = with_latents(task.denoiser, LATENTS, source)
        nothing = partial(task.denoiser, z=torch.zeros(5000, LATENTS))
        results[name] = report(name, draw if name == "generator" else nothing, source)
    return results


if __name__ == "__main__":
    main()
