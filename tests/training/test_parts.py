"""Parts of a task with settings of their own, and two players in one update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmdiff.errors import CheckpointError, InputError
from mmdiff.training import Part, Trainer
from mmdiff.training.adversarial import critic_hinge, feature_distance, frozen, generator_hinge
from mmdiff.training.checkpoint import latest_checkpoint
from mmdiff.training.data import step_seed
from mmdiff.training.optim import make_adamw, split_parameters

PARTS = {"critic": Part(3e-3, (0.5, 0.9), 0.2)}


class Numbers:
    """Item n: four numbers about 2."""

    def __getitem__(self, index: int) -> Tensor:
        return 2 + torch.randn(4, generator=torch.Generator().manual_seed(index))


class Game(nn.Module):
    """A generator of four numbers, and a critic of them."""

    def __init__(self) -> None:
        super().__init__()
        state = torch.random.get_rng_state()
        torch.manual_seed(3)
        self.generator = nn.Linear(2, 4)
        self.critic = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 1))
        torch.random.set_rng_state(state)

    def forward(self, batch: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        made = self.generator(torch.randn(len(batch), 2, generator=generator))
        deceived = generator_hinge([frozen(self.critic)(made)])
        critical = critic_hinge([self.critic(batch)], [self.critic(made.detach())])
        return {"loss": deceived + critical, "critical": critical}


def make_trainer(folder: Path, steps: int = 12, parts: dict[str, Part] | None = None) -> Trainer:
    return Trainer(
        folder, Game(), Numbers(), steps=steps, batch_size=4, learning_rate=1e-2, warmup_steps=3, weight_decay=0.1,
        lr_schedule="constant", grad_clip=0.5, parts=PARTS if parts is None else parts, ema=(0.9,),
        checkpoint_every=5, log_every=1, device="cpu", tensorboard=False,
    )  # fmt: skip


def by_two_optimizers(steps: int) -> Game:
    """The same game by two optimizers and two backward passes, as such training is usually written."""
    game, data = Game(), Numbers()
    players = {"generator": (1e-2, (0.9, 0.99), 0.5), "critic": (3e-3, (0.5, 0.9), 0.2)}
    optimizers = {}
    for name, (rate, betas, _) in players.items():
        own = getattr(game, name)
        groups = [
            {"params": [p for p in own.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in own.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizers[name] = torch.optim.AdamW(groups, lr=rate, betas=betas)
    for step in range(steps):
        batch = torch.stack([data[4 * step + i] for i in range(4)])
        generator = torch.Generator().manual_seed(step_seed(0, step, 0, 0, stream=1))
        made = game.generator(torch.randn(4, 2, generator=generator))
        of_generator = (1 - game.critic(made)).relu().mean()
        of_critic = (1 - game.critic(batch)).relu().mean() + (1 + game.critic(made.detach())).relu().mean()
        grads = {
            "generator": torch.autograd.grad(of_generator, list(game.generator.parameters())),
            "critic": torch.autograd.grad(of_critic, list(game.critic.parameters())),
        }
        for name, (rate, _, clip) in players.items():
            own = list(getattr(game, name).parameters())
            for parameter, grad in zip(own, grads[name], strict=True):
                parameter.grad = grad
            nn.utils.clip_grad_norm_(own, clip)
            for group in optimizers[name].param_groups:
                group["lr"] = rate * min(1.0, (step + 1) / 3)
            optimizers[name].step()
    return game


def test_one_pass_for_two_players_equals_two_optimizers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.fit()
    for name, expected in by_two_optimizers(trainer.steps).state_dict().items():
        torch.testing.assert_close(trainer.task.state_dict()[name], expected, atol=1e-6, rtol=1e-5)


def test_a_game_resumes_exactly_and_not_with_another_critic(tmp_path: Path) -> None:
    make_trainer(tmp_path / "whole").fit()
    make_trainer(tmp_path / "parted", steps=7).fit()
    make_trainer(tmp_path / "parted").fit(resume=True)
    whole, parted = (latest_checkpoint(tmp_path / name / "checkpoints") for name in ("whole", "parted"))
    assert whole is not None
    assert parted is not None
    assert all(torch.equal(tensor, parted.weights()[name]) for name, tensor in whole.weights().items())
    states = [checkpoint.training()["optimizer"]["state"] for checkpoint in (whole, parted)]
    for number, state in states[0].items():
        assert all(torch.equal(tensor, states[1][number][name]) for name, tensor in state.items())
    with pytest.raises(CheckpointError, match="parts"):
        make_trainer(tmp_path / "parted", parts={"critic": Part(1e-3)}).fit(resume=True)
    with pytest.raises(CheckpointError, match=r"parts=None must be \{'critic'"):
        make_trainer(tmp_path / "parted", parts={}).fit(resume=True)


@pytest.mark.parametrize("wrong", [{"learning_rate": -1e-3}, {"betas": (1.5, 0.9)}, {"grad_clip": 0.0}])
def test_settings_that_cannot_train_a_part_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))}="):
        Part(**{"learning_rate": 1e-3, **wrong})


def test_both_gradients_are_logged_and_clipped_apart(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=1)
    batch = torch.stack([Numbers()[i] for i in range(4)])
    totals, bad, _ = trainer._updater(0, iter([batch]), learning_rate=0.0)
    assert not bad
    assert {"grad_norm", "grad_norm_critic", "critical"} <= totals.keys()


def test_parts_split_parameters_and_must_exist() -> None:
    game = Game()
    split = split_parameters(game, PARTS)
    assert [len(split[name]) for name in ("", "critic")] == [2, 4]
    adamw = make_adamw(game, learning_rate=1e-2, betas=(0.9, 0.99), weight_decay=0.1, parts=PARTS)
    assert [group["rate"] for group in adamw.param_groups] == pytest.approx([1, 1, 0.3, 0.3])
    with pytest.raises(InputError, match="critics"):
        split_parameters(game, {"critics": Part(1e-3)})
    game.critic.requires_grad_(False)
    with pytest.raises(InputError, match="critic"):
        split_parameters(game, PARTS)


def test_hinges_and_features_have_their_closed_forms() -> None:
    real, made = (
        [torch.tensor([0.5, 2.0]), torch.tensor([[-1.0]])],
        [torch.tensor([-3.0, 0.0]), torch.tensor([[1.0]])],
    )
    assert float(critic_hinge(real, made)) == pytest.approx(((0.25 + 0.5) + (2.0 + 2.0)) / 2)
    assert float(generator_hinge(made)) == pytest.approx(((4.0 + 1.0) / 2 + 0.0) / 2)
    one = torch.full((2, 3), 2.0, requires_grad=True)
    copy = (1.5 * one.detach()).requires_grad_()
    distance = feature_distance([one], [copy])
    assert float(distance.detach()) == pytest.approx(0.5)
    distance.backward()
    assert one.grad is None


def test_a_frozen_critic_passes_gradients_on_and_keeps_none() -> None:
    critic, made = nn.Linear(3, 1), torch.ones(2, 3, requires_grad=True)
    frozen(critic)(made).sum().backward()
    torch.testing.assert_close(made.grad, critic.weight.detach().expand(2, 3))
    assert all(p.grad is None for p in critic.parameters())
