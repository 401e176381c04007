"""The methods side by side: equal minutes on one core, one network, one loader, one judge; two small tasks.

Spoken digits as spectrograms and moving handwritten digits as clips are learned by diffusion of every kind, and by what
it is measured against. What each method makes is judged after a quarter, a half and all of its minutes; then samples
are timed in turn. ``RUN/compare.json`` has every number, ``RUN/compare.md`` the tables, ``RUN/compare.png`` a picture.
Run it with one of

    mmdiff run compare.tiny                                        # a minute; shows that everything works
    mmdiff run compare --data data/digits-16k                      # five minutes for each method and task
    mmdiff run compare --tasks [video] --methods [diffusion,gan]   # some of it
    mmdiff run compare --seeds [0,1]                               # twice, and the means
    mmdiff run compare --resume true                               # go on after an interruption, or with more seeds
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdiff.bench.contest import COLUMNS, REAL, Draw, Method, Rules, contest, report, shared_settings
from mmdiff.bench.small_results import RowFile
from mmdiff.bench.small_tasks import SmallTask, moving_digits, spoken_digits
from mmdiff.diffusion.adversarial import with_latents
from mmdiff.diffusion.building import build_denoiser, build_objective, usual_grid
from mmdiff.diffusion.denoiser import Denoiser
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.importance import Importance, time_of_noise
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.likelihood_ode import ode_likelihood
from mmdiff.diffusion.samplers import CountEvaluations, sample
from mmdiff.diffusion.schedules import BetaTable, CosineVP, LinearFlow, Schedule, vp_betas
from mmdiff.errors import InputError, RecipeError
from mmdiff.latent.autoencoder import Autoencoder
from mmdiff.latent.cross_entropy import CrossEntropy
from mmdiff.latent.joint import JointTask
from mmdiff.latent.likelihood import by_ode, pair_bound
from mmdiff.latent.tasks import AutoencoderTask
from mmdiff.nn import LatentNetwork
from mmdiff.training import Part
from mmdiff.training.denoising import DenoisingTask
from mmdiff.training.denoising_gan import DenoisingGAN

LATENTS = 64  # random numbers of generators and of the VAE
DEVIATION = 0.2  # of pixels about what is decoded, where its training begins: from 1 it would take minutes to come here
CODES = 4  # latents of LSGM for each cell of pixels
LEAST_NOISE = 0.02  # σ/α where likelihoods end: about a step of the pixels


def sampled(
    item: tuple[int, ...],
    denoiser: Denoiser,
    sampler: str,
    steps: int,
    grid: str = "uniform",
    latents: int = 0,
) -> Draw:
    """Run a sampler of the library for items of a shape."""

    @torch.no_grad()
    def make(count: int, generator: torch.Generator) -> Tensor:
        denoise = with_latents(denoiser, latents, generator) if latents else denoiser
        shape, schedule = (count, *item), denoiser.schedule
        return sample(
            denoise, shape, schedule=schedule, sampler=sampler, steps=steps, grid=grid, generator=generator
        )

    shape, schedule = (1, *item), denoiser.schedule
    counted = CountEvaluations(lambda x, t, **cond: torch.zeros(shape))  # the last step of some takes fewer
    sample(counted, shape, schedule=schedule, sampler=sampler, steps=steps, grid=grid)
    return Draw(counted.calls, make)


def denoised(task: SmallTask, schedule: Schedule, prediction: str, **samplers: tuple) -> Method:
    """Make a method of a schedule and what the network says; samplers by name."""
    denoiser = build_denoiser(task.network(), schedule, prediction, "log_snr")
    draws = {name: sampled(task.shape, denoiser, *how) for name, how in samplers.items()}
    bits = partial(flow_bits, task, denoiser)
    return Method(DenoisingTask(denoiser, build_objective(schedule, target=prediction)), draws, bits)


def flow_bits(task: SmallTask, denoiser: Denoiser, x: Tensor, generator: torch.Generator) -> Tensor:
    """Bits per dimension of whole-numbered pixels under the probability-flow ODE: a continuous normalising flow.

    Beside pixels that of pairs carries a velocity, which is drawn.
    """
    schedule = denoiser.schedule
    end = time_of_noise(schedule, LEAST_NOISE)
    options = {"steps": 24, "t_min": end, "quantised": task.quantised, "generator": generator}
    return ode_likelihood(denoiser, x, schedule, **options).bits


def diffusion(task: SmallTask) -> Method:
    """One training, several samplers: DDPM, DDIM and DPM-Solver++."""
    return denoised(
        task, CosineVP(), "v",
        **{"DPM-Solver++ 20": ("dpmpp_2m", 20, "log_snr"), "DPM-Solver++ 10": ("dpmpp_2m", 10, "log_snr"),
           "DDIM 20": ("ddim", 20), "DDIM 50": ("ddim", 50), "DDPM 50": ("ddpm", 50)},
    )  # fmt: skip


def flow_matching(task: SmallTask) -> Method:
    """Straight paths from noise to data; with its likelihood, the continuous normalising flow of the comparison."""
    draws = {"Euler 20": ("euler", 20), "Heun 10": ("heun", 10), "Euler 10": ("euler", 10)}
    return denoised(task, LinearFlow(), "velocity", **draws)


def langevin(task: SmallTask) -> Method:
    """Critically damped Langevin diffusion by hybrid score matching."""
    schedule = CriticallyDamped()
    how = {"SSCS 20": ("sscs", 20), "SSCS 50": ("sscs", 50), "Euler-Maruyama 50": ("langevin_em", 50)}
    draws = {name: (*draw, usual_grid(schedule, "uniform")) for name, draw in how.items()}
    return denoised(task, schedule, "v", **draws)


def denoising_gan(task: SmallTask, steps: int = 4) -> Method:
    """Play the game of four large reverse steps."""
    schedule = BetaTable(vp_betas(steps))
    return _game(task, schedule, task.critic(), f"{steps} steps", steps)


def gan(task: SmallTask) -> Method:
    """Play the same game in one step from pure noise, with a critic that is not shown the noise: a plain GAN."""
    return _game(task, CosineVP(), OfItems(task.critic()), "1 step", 1)


def _game(task: SmallTask, schedule: Schedule, critic: nn.Module, name: str, steps: int) -> Method:
    network = LatentNetwork(task.network(vector=LATENTS), LATENTS, LATENTS)
    denoiser = build_denoiser(network, schedule, "x0", "log_snr")
    grid = make_grid("uniform", schedule, steps)
    game = DenoisingGAN(denoiser, critic, schedule, grid, latents=LATENTS)
    draws = {name: sampled(task.shape, denoiser, "ddpm", steps, latents=LATENTS)}
    return Method(game, draws, rate=5e-4, betas=(0.5, 0.9), parts={"critic": Part(5e-4, (0.5, 0.9))})


class OfItems(nn.Module):
    """A critic of items: of steps, it sees where they end."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x_s: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Score x_s."""
        return self.critic(x_s, torch.zeros_like(x_t), t)


def vae(task: SmallTask) -> Method:
    """Encode an item as 64 random numbers; the decoder draws in one pass."""
    autoencoder = Autoencoder(len(task.shape) - 1, 1, LATENTS, **task.autoencoder_settings)
    nn.init.constant_(autoencoder.log_deviation, math.log(DEVIATION))

    @torch.no_grad()
    def make(count: int, generator: torch.Generator) -> Tensor:
        places = [n // factor for n, factor in zip(task.shape[1:], autoencoder.factor, strict=True)]
        return autoencoder.decode(torch.randn(count, LATENTS, *places, generator=generator))

    @torch.no_grad()
    def bits(x: Tensor, generator: torch.Generator) -> Tensor:
        x = task.quantised.dequantise(x, generator)
        posterior = autoencoder.encode(x)
        nats = autoencoder.nll(x, autoencoder.decode(posterior.sample(generator))) + posterior.kl_standard()
        return nats / (x[0].numel() * math.log(2)) - math.log2(task.quantised.step)

    return Method(AutoencoderTask(autoencoder, nn.Identity()), {"decoder": Draw(1, make)}, bits)


def lsgm(task: SmallTask) -> Method:
    """Learn latents, and a diffusion of these in the place of their prior, together from the beginning.

    The network that others show cells of pixels is shown a place of latents for each.
    """
    cell, still = task.network_settings["patch"], (1,) * (len(task.shape) - 3)
    autoencoder = Autoencoder(
        len(task.shape) - 1, 1, CODES, widths=(48,), factors=((*still, cell, cell),), kernel=(*still, 3, 3)
    )
    nn.init.constant_(autoencoder.log_deviation, math.log(DEVIATION))
    schedule, network = CosineVP(), task.network(CODES, patch=1)
    denoiser = build_denoiser(network, schedule, "v", "log_snr", mixed=CODES)
    end = time_of_noise(schedule, LEAST_NOISE)
    item = (CODES, *(n // f for n, f in zip(task.shape[1:], autoencoder.factor, strict=True)))

    def decoded(steps: int) -> Draw:
        draw = sampled(item, denoiser, "dpmpp_2m", steps, "log_snr")
        return draw._replace(make=torch.no_grad()(lambda *how: autoencoder.decode(draw.make(*how))))

    @torch.no_grad()
    def bits(x: Tensor, generator: torch.Generator) -> Tensor:
        prior = by_ode(denoiser, schedule, steps=24, t_min=end)
        return pair_bound(autoencoder, prior, x, quantised=task.quantised, generator=generator).total

    both = JointTask(autoencoder, denoiser, CrossEntropy(schedule, times=Importance(first=end)))
    draws = {f"DPM-Solver++ {steps}": decoded(steps) for steps in (20, 10)}
    return Method(both, draws, bits)


METHODS: dict[str, Callable[[SmallTask], Method]] = {
    "diffusion": diffusion,
    "flow_matching": flow_matching,
    "langevin": langevin,
    "lsgm": lsgm,
    "denoising_gan": denoising_gan,
    "vae": vae,
    "gan": gan,
}


def main(
    data: Path = Path("data/digits-16k"),
    run_dir: Path = Path("runs/compare"),
    minutes: float = 5.0,
    tasks: tuple[str, ...] = ("audio", "video"),
    methods: tuple[str, ...] = tuple(METHODS),
    shares: tuple[float, ...] = (0.25, 0.5, 1.0),
    samples: int = 400,
    measured_bits: int = 32,
    repeats: int = 5,
    train_items: int = 4096,
    batch_size: int = 16,
    widths: tuple[int, ...] | None = None,
    checkpoint_every: int = 200,
    seeds: tuple[int, ...] = (0,),
    resume: bool = False,
) -> None:
    """Train, judge and time.

    Args:
        data: Folder of ``mmdiff fetch digits-16k``, for the audio task.
        run_dir: Gets a folder for each task and method, and the results.
        minutes: Of the processor, that each method is trained for on each task.
        tasks: audio, video or both.
        methods: Some of those in this script.
        shares: Parts of the minutes after which it is judged, ending with 1.
        samples: Made each time, and as many real ones to compare with.
        measured_bits: Held-out items whose likelihood is measured.
        repeats: Of the timing.
        train_items: How many there are to learn from.
        batch_size: Items per update.
        widths: Of the network's levels, instead of each task's own.
        checkpoint_every: Updates between checkpoints.
        seeds: Of weights, order of the data and noise. All is done for each of them; tables show the means.
        resume: Go on with what there is in ``run_dir``.
    """
    arguments = dict(locals())
    known = set(tasks) <= {"audio", "video"} and set(methods) <= set(METHODS)
    given = tasks and methods and seeds and len({*seeds}) == len(seeds)
    if not known or not given or min(train_items, batch_size, samples) < 1:
        raise InputError(
            f"tasks={tasks} must be audio or video or both, methods={methods} some of {', '.join(METHODS)}, "
            f"seeds={seeds} one or more different ones, and train_items={train_items}, batch_size={batch_size} and "
            f"samples={samples} at least 1"
        )
    rules = [
        Rules(minutes, shares, samples, measured_bits, repeats, batch_size, checkpoint_every, seed)
        for seed in seeds
    ]
    file = run_dir / "compare.json"
    if file.exists() and not resume:
        raise RecipeError(f"{file} is there already: go on with --resume true, or begin in another --run_dir")
    rows = RowFile(file, COLUMNS, shared_settings(rules[0]) | {"train_items": train_items, "widths": widths})
    size = {} if widths is None else {"widths": widths}
    for name in tasks:
        task = (
            moving_digits(train_items, samples, **size)
            if name == "video"
            else spoken_digits(data, train_items, samples, **size)
        )
        for rule in rules:
            contest(task, {name: METHODS[name] for name in methods}, rule, run_dir, rows)
        text = report(rows, _command(arguments, rows))
    print(text)


def _command(given: dict[str, Any], rows: RowFile) -> str:
    """The command that makes all that is in a file of results, in one run or several."""
    given = {
        name: given[name] for name in given if name not in ("data", "run_dir", "checkpoint_every", "resume")
    }
    for name, of in (("tasks", "task"), ("methods", "method"), ("seeds", "seed")):
        found = (
            score.about[of] for score in rows.scores if of in score.about and score.about["method"] != REAL
        )
        given[name] = tuple(dict.fromkeys((*found, *given[name])))
    usual = {name: parameter.default for name, parameter in inspect.signature(main).parameters.items()}
    told = {name: value for name, value in given.items() if value != usual[name]}
    texts = (f"[{','.join(map(str, v))}]" if isinstance(v, (tuple, list)) else str(v) for v in told.values())
    return " ".join(["mmdiff run compare", *(f"--{n} {text}" for n, text in zip(told, texts, strict=True))])


if __name__ == "__main__":
    from mmdiff.recipes import run_main

    run_main(main)
