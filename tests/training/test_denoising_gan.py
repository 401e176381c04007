"""The game of a denoising diffusion GAN in the trainer: two optimizers, the lazy penalty, exact resuming."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmdiff.diffusion.adversarial import (
    draw_step,
    gradient_penalty,
    logistic_critic,
    logistic_generator,
    reverse_step,
)
from mmdiff.diffusion.grids import make_grid
from mmdiff.diffusion.schedules import BetaTable, vp_betas
from mmdiff.errors import InputError
from mmdiff.training import Part, Trainer
from mmdiff.training.checkpoint import latest_checkpoint
from mmdiff.training.data import step_seed
from mmdiff.training.denoising_gan import DenoisingGAN

EXAMPLE = Path(__file__).parents[2] / "examples" / "denoising_gan.py"
SCHEDULE = BetaTable(vp_betas(3))
GRID = make_grid("uniform", SCHEDULE, 3)
PLAYERS = {"denoiser": (1e-2, (0.9, 0.99), 0.5), "critic": (3e-3, (0.5, 0.9), 0.2)}
EVERY, PENALTY = 3, 0.8


class Pairs:
    """Item n: two numbers on a circle."""

    def __getitem__(self, index: int) -> Tensor:
        angle = torch.rand((), generator=torch.Generator().manual_seed(index)) * 7
        return torch.stack((angle.cos(), angle.sin()))


class Layers(nn.Module):
    """All arguments side by side through two layers."""

    def __init__(self, inputs: int, outputs: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(inputs, 8), nn.SiLU(), nn.Linear(8, outputs))

    def forward(self, *arguments: Tensor, **named: Tensor) -> Tensor:
        columns = [a[:, None] if a.ndim == 1 else a for a in (*arguments, *named.values())]
        return self.net(torch.cat(columns, 1)).squeeze(1)


def game(**options) -> DenoisingGAN:
    settings = {"latents": 2, "penalty": PENALTY, "every": EVERY, **options}
    return DenoisingGAN(Layers(5, 2, 1), Layers(5, 1, 2), SCHEDULE, GRID, **settings)


def make_trainer(folder: Path, steps: int = 11) -> Trainer:
    rate, betas, clip = PLAYERS["denoiser"]
    return Trainer(
        folder, game(), Pairs(), steps=steps, batch_size=4, learning_rate=rate, betas=betas, grad_clip=clip,
        parts={"critic": Part(*PLAYERS["critic"])}, lr_schedule="constant", ema=(0.9,), checkpoint_every=4,
        log_every=1, device="cpu", tensorboard=False,
    )  # fmt: skip


def by_two_optimizers(steps: int) -> DenoisingGAN:
    """The same game by two optimizers and two backward passes, each player's written out for itself."""
    players, data = game(), Pairs()
    optimizers = {
        name: torch.optim.AdamW(getattr(players, name).parameters(), rate, betas, weight_decay=0.0)
        for name, (rate, betas, _) in PLAYERS.items()
    }
    for number in range(steps):
        x0 = torch.stack([data[4 * number + i] for i in range(4)])
        generator = torch.Generator().manual_seed(step_seed(0, number, 0, 0, stream=1))
        step = draw_step(SCHEDULE, GRID, x0, generator)
        rest, z = (step.x_t, step.t.float()), torch.randn(4, 2, generator=generator)
        made = reverse_step(SCHEDULE, step, players.denoiser(*rest, z=z), generator)
        losses = {
            "denoiser": logistic_generator(players.critic(made, *rest)),
            "critic": logistic_critic(players.critic(step.x_s, *rest), players.critic(made.detach(), *rest)),
        }
        if number in (0, 3, 6, 9):
            losses["critic"] += EVERY * PENALTY / 2 * gradient_penalty(players.critic, step.x_s, *rest).mean()
        gradients = {
            name: torch.autograd.grad(loss, list(getattr(players, name).parameters()), retain_graph=True)
            for name, loss in losses.items()
        }
        for name, (_, _, clip) in PLAYERS.items():
            own = list(getattr(players, name).parameters())
            for parameter, gradient in zip(own, gradients[name], strict=True):
                parameter.grad = gradient
            nn.utils.clip_grad_norm_(own, clip)
            optimizers[name].step()
    return players


def test_the_trainers_one_pass_equals_two_optimizers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit()
    expected = dict(by_two_optimizers(trainer.steps).named_parameters())
    for name, parameter in trainer.task.named_parameters():
        torch.testing.assert_close(parameter, expected[name], atol=1e-6, rtol=1e-5)


def test_a_game_resumes_exactly_with_its_lazy_penalty(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole").fit()
    make_trainer(tmp_path / "parted", steps=5).fit()
    make_trainer(tmp_path / "parted").fit(resume=True)
    whole, parted = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parted"))
    assert whole is not None
    assert parted is not None
    assert int(parted.weights()["calls"]) == 11
    for one, other in ((whole.weights(), parted.weights()), (whole.average(0), parted.average(0))):
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    states = [checkpoint.training()["optimizer"]["state"] for checkpoint in (whole, parted)]
    for number, state in states[0].items():
        assert all(torch.equal(tensor, states[1][number][name]) for name, tensor in state.items())
    moved = [
        name for name, tensor in whole.average(0).items() if not torch.equal(tensor, whole.weights()[name])
    ]
    assert any(name.startswith("denoiser") for name in moved)


def test_the_lazy_penalty_is_the_diligent_one_on_average() -> None:
    x0 = torch.stack([Pairs()[n] for n in range(8)])

    def mean(every: int) -> list[float]:
        players, losses = game(every=every), []
        for _ in range(12):
            losses.append(float(players(x0, torch.Generator().manual_seed(0))["penalty"]))
        return losses

    lazy, diligent = mean(4), mean(1)
    assert [n for n, loss in enumerate(lazy) if loss > 0] == [0, 4, 8]
    assert sum(lazy) == pytest.approx(sum(diligent))
    step = draw_step(SCHEDULE, GRID, x0, torch.Generator().manual_seed(0))
    squares = gradient_penalty(game().critic, step.x_s, step.x_t, step.t.float())
    assert diligent[0] == pytest.approx(PENALTY / 2 * float(squares.mean().detach()))


def test_a_guide_shows_the_critic_clean_data_and_passes_gradients_on() -> None:
    guide = Layers(3, 2, 3)
    players = game(guide=guide, every=1)
    players.critic = Layers(7, 1, 2)
    x0 = torch.stack([Pairs()[n] for n in range(16)])
    losses = players(x0, torch.Generator().manual_seed(0))
    losses["loss"].backward()

    generator = torch.Generator().manual_seed(0)
    step = draw_step(SCHEDULE, GRID, x0, generator)
    assert {float(s) for s in step.s} >= {0.0, 2 / 3}
    told, z = step.t.float(), torch.randn(16, 2, generator=generator)
    made = reverse_step(SCHEDULE, step, players.denoiser(step.x_t, told, z=z), generator)

    def clean(x_s: Tensor) -> Tensor:
        return torch.where(step.s[:, None] > 0, guide(x_s, step.s.float()), x_s)

    def score(x_s: Tensor, planes: Tensor) -> Tensor:
        return players.critic(x_s, step.x_t, told, planes=planes)

    deceived = logistic_generator(score(made, clean(made)))
    torch.testing.assert_close(losses["deceived"], deceived.detach())
    for own in ("denoiser", "critic"):
        if own == "critic":
            real = (step.x_s.clone().requires_grad_(), clean(step.x_s).detach().requires_grad_())
            slopes = torch.autograd.grad(score(*real).sum(), real, create_graph=True)
            penalty = PENALTY / 2 * sum(slope.square().sum(1) for slope in slopes).mean()
            torch.testing.assert_close(losses["penalty"], penalty.detach())
            deceived = penalty + logistic_critic(score(*real), score(made.detach(), clean(made.detach())))
        parameters = list(getattr(players, own).parameters())
        for parameter, grad in zip(parameters, torch.autograd.grad(deceived, parameters), strict=True):
            torch.testing.assert_close(parameter.grad, grad)
    assert all(parameter.grad is None for parameter in guide.parameters())


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_the_critic_waits_while_the_generator_learns_by_the_distance_alone(weight: float) -> None:
    x0, waiting = torch.stack([Pairs()[n] for n in range(8)]), game(begin=2, distance=weight)
    for number in range(3):
        waiting.zero_grad()
        losses = waiting(x0, torch.Generator().manual_seed(number))
        losses["loss"].backward()
        if number < 2:
            made, step = waiting.make(x0, torch.Generator().manual_seed(number), {})
            signal = SCHEDULE(step.t).alpha ** 2
            error = (signal[:, None].float() * (made - x0) ** 2).mean()
            torch.testing.assert_close(losses["loss"], (weight or 1.0) * error)
        slopes = [p.grad.abs().max() for p in waiting.critic.parameters()]  # none is missing
        assert all((slope > 0) == (number == 2) for slope in slopes)
    assert ("distance" in losses) == (weight > 0)
    with pytest.raises(InputError, match="begin=-1"):
        game(begin=-1)


def test_each_player_is_told_its_own_conditions() -> None:
    def read(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict, dict]:
        return batch, {"label": batch[:, :1]}, {"planes": batch[:, 1:]}

    players = DenoisingGAN(
        Layers(6, 2, 1), Layers(6, 1, 2), SCHEDULE, GRID, latents=2, read=read, penalty=0.1
    )
    outputs = players(torch.stack([Pairs()[n] for n in range(4)]), torch.Generator().manual_seed(0))
    total = outputs["deceived"] + outputs["critical"] + outputs["penalty"]
    torch.testing.assert_close(outputs["loss"].detach(), total)
    outputs["loss"].backward()
    assert all(p.grad is not None for p in players.parameters())
    with pytest.raises(InputError, match="every"):
        game(every=0)


@pytest.mark.slow
def test_four_steps_find_all_peaks_of_a_circle_where_those_of_a_mean_find_hardly_one() -> None:
    results = runpy.run_path(str(EXAMPLE))["main"]()
    peaks, precision = results["generator"]
    assert peaks >= 7
    assert precision > 0.7
    peaks, precision = results["least squares"]
    assert peaks <= 1
    assert precision < 0.2
